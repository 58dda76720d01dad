"""The result of a cascade comparison on a terminal: the gap of each arm, and what could not be measured."""

from __future__ import annotations

from collections.abc import Sequence

from macedance.metrics.cascade.scores import DISTANCE, GAP_PREFIX, GENERATED, GROUND_TRUTH
from macedance.metrics.protocol_result import ProtocolResult
from macedance.metrics.statistics import Entry
from macedance.report.page import format_cell
from macedance.report.protocol_text import noted, shortened

_MOST_CHARACTERS = 300


def gap_arms(result: ProtocolResult) -> list[str]:
    """The arms that were measured and are compared with the ground truth's; the generated one first."""
    absent = result.inputs.get("absent_arms", {})
    arms = [name.removeprefix(GAP_PREFIX) for name in result.presets if name.startswith(GAP_PREFIX)]
    measured = [arm for arm in arms if arm not in absent]
    return [arm for arm in measured if arm == GENERATED] + [arm for arm in measured if arm != GENERATED]


def measured_keys(result: ProtocolResult) -> list[str]:
    """Keys with a value in some arm, in the order of the result; without the distance of the motions."""
    keys = dict.fromkeys(key for arm in (GROUND_TRUTH, *gap_arms(result)) for key in result.presets[arm])
    valued = {
        key
        for name in (GROUND_TRUTH, *(name for arm in gap_arms(result) for name in (arm, f"{GAP_PREFIX}{arm}")))
        for key, entry in result.presets[name].items()
        if entry.get("value") is not None
    }
    return [key for key in keys if key in valued and key != DISTANCE]


def gap_text(entry: Entry) -> str:
    """A gap with its interval: ``-0.12 (-0.15 .. -0.08)``."""
    value, interval = entry.get("value"), entry.get("ci95")
    if value is None:
        return ""
    text = f"{'+' if value > 0 else ''}{format_cell(float(value))}"
    return text if not interval else f"{text} ({' .. '.join(format_cell(float(end)) for end in interval)})"


def verdict_text(entry: Entry) -> str:
    """The verdict of a gap's gate, with the reason where there is none or pairs are too few."""
    if entry.get("verdict") is None:
        return f"not measured: {entry.get('reason', 'no value')}"
    return f"{entry['verdict']}: {entry['verdict_reason']}" if "verdict_reason" in entry else str(entry["verdict"])


def cascade_table(result: ProtocolResult) -> str:
    """True and generated motion's values and the gap, a line a key; then the verdict of each gate."""
    gaps = result.presets.get(f"{GAP_PREFIX}{GENERATED}", {})
    rows = [("", "true motion", "generated", "gap (95% interval)", "pairs", "p")]
    for key in measured_keys(result):
        values = [result.presets.get(arm, {}).get(key, {}).get("value") for arm in (GROUND_TRUTH, GENERATED)]
        entry = gaps.get(key, {})
        p = entry.get("wilcoxon_p")
        true, generated = ("-" if value is None else format_cell(float(value)) for value in values)
        rows.append(
            (key, true, generated, gap_text(entry) or "-", str(entry.get("n", "")), "" if p is None else f"{p:.2g}")
        )
    lines = _laid_out(rows)
    others = [arm for arm in gap_arms(result) if arm != GENERATED]
    if others:
        lines += ["", f"gaps of {', '.join(others)}: in the JSON and on the page"]
    judged = [f"  {entry['gate']}: {verdict_text(entry)}" for entry in gaps.values() if "gate" in entry]
    return "\n".join([*lines, "", "gates of the generated arm", *judged] if judged else lines)


def cascade_remarks(result: ProtocolResult) -> list[str]:
    """Arms that are missing, keys that nothing judged, clips that were left out, and notes; one line each."""
    lines = [f"no arm {arm}: {why}" for arm, why in result.inputs.get("absent_arms", {}).items()]
    lines += [f"no {', '.join(keys)}: {reason}" for reason, keys in missing_keys(result).items()]
    for arm, clips in result.inputs.get("left_out", {}).items():
        if clips and arm not in result.inputs.get("absent_arms", {}):
            listed = "; ".join(f"{clip}: {why}" for clip, why in clips.items())
            lines.append(shortened(f"left out of {arm}: {listed}", _MOST_CHARACTERS))
    return lines + noted(result, most_characters=_MOST_CHARACTERS)


def missing_keys(result: ProtocolResult) -> dict[str, list[str]]:
    """Why nothing judged some keys in the ground truth's arm and the generated one: reason -> keys."""
    found: dict[str, list[str]] = {}
    arms = [arm for arm in (GROUND_TRUTH, GENERATED) if arm in result.presets]
    for key in dict.fromkeys(key for arm in arms for key in result.presets[arm]):
        entries = [result.presets[arm][key] for arm in arms if key in result.presets[arm]]
        if all(entry.get("value") is None for entry in entries):
            found.setdefault(str(entries[-1].get("reason", "no value")), []).append(key)
    return found


def _laid_out(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
