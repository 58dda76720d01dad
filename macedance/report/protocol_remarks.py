"""What must be known of the numbers of an evaluation, in sentences for a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from macedance.metrics.statistics import Entry
from macedance.report.page import Cell, format_cell
from macedance.report.protocol_text import DEAD_DIMS


def remarks_of(key: str, entries: Mapping[str, Entry], floor: Mapping[str, Entry]) -> list[str]:
    """Reasons and counts of a key of a preset, and what it cannot be told apart from: chance, or real dances."""
    entry = entries[key]
    remarks = reasons_of(entry)
    value, chance, least = entry.get("value"), entries.get(f"{key}_shuffled", {}).get("value"), floor.get(key, {})
    interval = entry.get("ci95")
    if value is not None and chance is not None and interval and interval[0] <= chance:
        remarks.append(f"not above chance: other songs' beats give {_number(chance)}")
    comparable = least.get("value") is not None and least.get("n") == entry.get("n")
    if value is not None and comparable and value <= least["value"] + 2 * (least.get("sd") or 0.0):
        remarks.append(
            f"not to be told from real dances: two samples of {least['n']} reference clips are "
            f"{_number(least['value'])} apart"
        )
    return remarks


#: Numbers of an entry that qualify its value, and how they are said.
_COUNTED = {
    "n_undefined": "{} without a value",
    "dropped_dims": "{} feature dimensions do not vary in the reference and were dropped",
    "dead_dims": DEAD_DIMS,
    "shorter_than_window": "{} clips are shorter than the preset's window and were left out",
    "reference_shorter_than_window": "{} reference clips are shorter than the preset's window and were left out",
    "feet_without_contact": "{} feet never touch the floor",
}


def reasons_of(entry: Entry) -> list[str]:
    """What an entry says of itself: why it has no value, what was left out or dropped, notes, the verdict of a gate."""
    left_out = entry.get("left_out")
    reason = str(entry.get("reason", ""))
    said = []
    if reason:
        clips = "clip" if left_out == 1 else "clips"
        where = f"{format_cell(left_out)} {clips} left out: " if isinstance(left_out, int) else ""
        said.append(f"{where}{reason}")
    if entry.get("note"):
        said.append(str(entry["note"]))
    if entry.get("gate") and entry.get("verdict"):
        said.append(f"gate {entry['gate']}: {entry['verdict']}")
    said += [text.format(format_cell(int(entry[name]))) for name, text in _COUNTED.items() if entry.get(name)]
    return said


def together(remarks: Sequence[tuple[str, str]]) -> list[Sequence[Cell]]:
    """One row for each remark, the keys that it holds for side by side."""
    keys: dict[str, list[str]] = {}
    for key, remark in remarks:
        keys.setdefault(remark, []).append(key)
    return [(", ".join(of), remark) for remark, of in keys.items()]


def _number(value: float) -> str:
    return format_cell(float(value))
