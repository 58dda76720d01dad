"""The result of an evaluation on a terminal: a table, and a line for every number that could not be given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from macedance.metrics.protocol_result import ProtocolResult
from macedance.metrics.statistics import Entry
from macedance.report.page import format_cell

_HEADER = ("", "value", "95% interval", "clips", "reference", "floor", "other songs")

#: What an entry's ``dead_dims`` mean.
DEAD_DIMS = (
    "{} feature dimensions do not vary in the reference, and this convention keeps them: a generated clip that does "
    "vary there makes the number as large as it likes (clean drops them)"
)


def protocol_table(result: ProtocolResult) -> str:
    """One line a metric under each preset: value, interval, n, the reference's own, the floor and the chance level."""
    parts = []
    for preset, entries in result.presets.items():
        floor = result.floor.get(preset, {})
        rows = [_row(key, entries, floor) for key in entries if not _is_companion(key, entries)]
        parts.append(_laid_out([(preset, *_HEADER[1:]), *rows]))
    return "\n\n".join(parts)


def missing_values(result: ProtocolResult) -> list[str]:
    """A line for each number that could not be given, with the reason; several of one reason share a line."""
    lines = []
    for preset, entries in result.presets.items():
        keys: dict[str, list[str]] = {}
        floors = {f"floor of {key}": entry for key, entry in result.floor.get(preset, {}).items()}
        for key, entry in (*entries.items(), *floors.items()):
            if entry.get("value") is None:
                keys.setdefault(str(entry.get("reason", "no value")), []).append(key)
        lines += [f"{preset}: no {', '.join(of)}: {reason}" for reason, of in keys.items()]
    return lines


def noted(result: ProtocolResult, *, most_characters: int | None = None) -> list[str]:
    """A line for each sentence that a reader must know, with the presets or numbers that it holds for.

    Args:
        result: The result.
        most_characters: Longer sentences, which list clips, are cut, where the whole is written elsewhere.
    """
    presets: dict[str, list[str]] = {}
    for preset, notes in result.inputs.get("notes", {}).items():
        for note in notes:
            presets.setdefault(note, []).append(preset)
    for preset, entries in result.presets.items():
        for key, entry in entries.items():
            if entry.get("dead_dims"):
                presets.setdefault(DEAD_DIMS.format(entry["dead_dims"]), []).append(f"{preset} {key}")
    return [
        f"{', '.join(of)}: {note if most_characters is None else shortened(note, most_characters)}"
        for note, of in presets.items()
    ]


def shortened(text: str, most_characters: int) -> str:
    """A sentence cut after a whole word; the JSON has it whole."""
    if len(text) <= most_characters:
        return text
    return f"{text[:most_characters].rpartition(' ')[0]} … (the JSON lists all)"


def _is_companion(key: str, entries: Mapping[str, Entry]) -> bool:
    return any(
        key.removesuffix(suffix) != key and key.removesuffix(suffix) in entries
        for suffix in ("_shuffled_reference", "_reference", "_shuffled")
    )


def _row(key: str, entries: Mapping[str, Entry], floor: Mapping[str, Entry]) -> tuple[str, ...]:
    entry = entries[key]
    low_high = entry.get("ci95")
    n, reference = entry.get("n"), entry.get("n_reference")
    return (
        f"  {key}",
        _value(entry) or "-",
        " .. ".join(format_cell(float(end)) for end in low_high) if low_high else "",
        "" if n is None else f"{n}" if reference is None else f"{n}/{reference}",
        _value(entries.get(f"{key}_reference")),
        _value(floor.get(key)),
        _value(entries.get(f"{key}_shuffled")),
    )


def _value(entry: Entry | None) -> str:
    value = None if entry is None else entry.get("value")
    return "" if value is None else format_cell(float(value))


def _laid_out(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first to the left and numbers to the right; those without content are left out."""
    used = [c for c in range(len(rows[0])) if c < 2 or any(row[c] for row in rows[1:])]
    widths = {c: max(len(row[c]) for row in rows) for c in used}
    return "\n".join(
        "  ".join(row[c].ljust(widths[c]) if c == 0 else row[c].rjust(widths[c]) for c in used).rstrip() for row in rows
    )
