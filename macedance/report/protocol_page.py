"""The page of an evaluation: one writer for every result of the protocol, whatever was judged.

Values with intervals, numbers of clips, the reference's own values, floors and chance levels; every reason and note;
how the values are spread over the clips; and what exactly was measured.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from macedance.metrics.protocol_result import ProtocolResult
from macedance.metrics.statistics import Entry
from macedance.report.metric_texts import PRESET_TEXTS, text_of, unit_of
from macedance.report.page import Cell, Page, format_cell
from macedance.report.protocol_remarks import reasons_of, remarks_of, together
from macedance.report.protocol_text import shortened

_REFERENCE, _SHUFFLED = "_reference", "_shuffled"
_OTHERS = "reference, other songs"
#: Longer sentences, which list names of clips, are cut on the page; the JSON has them whole.
_MOST_CHARACTERS = 700
_MOST_ROWS = 60
_COLUMNS = ("metric", "value", "95% interval", "clips", "reference", "floor", "other songs", "what it is")
_ARROWS = {"lower": " ↓", "higher": " ↑", "as reference": " ≈", "": ""}
_LEGEND = (
    "↓ lower is better, ↑ higher is better, ≈ like the reference is best. floor: what two samples of the reference "
)
_LEGEND += "are apart. other songs: the same dances against other songs' beats, the level of chance."


def write_protocol_page(
    result: ProtocolResult,
    folder: str | Path,
    *,
    title: str = "Evaluation",
    subtitle: str = "",
    command: str = "",
    before: Callable[[Page], None] | None = None,
    after: Callable[[Page], None] | None = None,
) -> Path:
    """Write ``index.html`` and its plots (``plots/<preset>.png``) into a folder.

    Args:
        result: What was measured.
        folder: The folder; made where it is missing.
        title: Title of the page.
        subtitle: One line under it.
        command: The command that made it, shown at the end.
        before: Adds to the page above the presets, for example videos.
        after: Adds to the page below the presets.

    Returns:
        The page.

    Raises:
        DataError: The folder cannot be written, or a picture that was added is not there.
    """
    folder = Path(folder)
    page = Page(title, subtitle)
    add_summary(page, result)
    if before is not None:
        before(page)
    add_presets(page, result, folder / "plots")
    if after is not None:
        after(page)
    add_measured(page, result)
    if command:
        page.add_code(command)
    return page.write(folder / "index.html")


def add_summary(page: Page, result: ProtocolResult) -> None:
    """What was judged at a glance, and the files that were left out, with their reasons."""
    inputs = result.inputs
    facts: dict[str, Cell] = {"kind": str(inputs.get("kind", ""))} if inputs.get("kind") else {}
    for name, count in _by_set(inputs.get("clips")).items():
        facts[f"{name} clips".strip()] = count
    for name, rates in _by_set(inputs.get("fps")).items():
        facts[f"{name} fps".strip()] = ", ".join(format_cell(float(rate)) for rate in _list(rates))
    for name, seconds in _by_set(inputs.get("seconds_per_clip")).items():
        median = seconds.get("median") if isinstance(seconds, Mapping) else seconds
        if isinstance(median, int | float):
            facts[f"{name} seconds, median".strip()] = float(median)
    left_out = [
        (name, file, why)
        for name, files in _by_set(inputs.get("left_out")).items()
        if isinstance(files, Mapping)
        for file, why in files.items()
    ]
    if left_out:
        facts["left out"] = len(left_out)
    page.add_facts(facts)
    if left_out:
        page.add_table(("set", "file", "why"), _few(left_out), "Files that were left out of the evaluation.")


def add_presets(page: Page, result: ProtocolResult, plots: str | Path) -> None:
    """A part for each preset: table, remarks, notes, distributions over the clips; pictures go into ``plots``."""
    notes, kind = result.inputs.get("notes", {}), str(result.inputs.get("kind", ""))
    for preset, entries in result.presets.items():
        page.add_heading(f"Preset {preset}")
        if preset in PRESET_TEXTS:
            page.add_text(PRESET_TEXTS[preset])
        add_entries(page, entries, result.floor.get(preset, {}), kind=kind)
        for note in _stillness(preset, result):
            page.add_text(note)
        for note in notes.get(preset, []) if isinstance(notes, Mapping) else []:
            page.add_text(shortened(note, _MOST_CHARACTERS))
        add_distributions(page, result.per_clip.get(preset, {}), Path(plots) / f"{preset}.png", kind=kind)
    others = [] if not isinstance(notes, Mapping) else [name for name in notes if name not in result.presets]
    if any(notes[name] for name in others):
        page.add_heading("Notes")
        for name in others:
            for note in notes[name]:
                page.add_text(shortened(note, _MOST_CHARACTERS))


def add_entries(page: Page, entries: Mapping[str, Entry], floor: Mapping[str, Entry], *, kind: str = "") -> None:
    """The table of one preset and, below it, what must be known of its numbers; columns without content are left out.

    A key is followed by its companions in its own row: ``<key>_reference``, ``<key>_shuffled`` and the floor.
    """
    companions = {f"{key}{suffix}" for key in entries for suffix in (_REFERENCE, _SHUFFLED, f"{_SHUFFLED}{_REFERENCE}")}
    own = [key for key in entries if key not in companions]
    rows: list[list[Cell]] = []
    for key in own:
        text = text_of(key)
        unit = unit_of(key, kind)
        name = key + _ARROWS[text.better] + (f" ({unit})" if unit else "")
        rows.append(
            [
                name,
                _value(entries[key]),
                _interval(entries[key]),
                _counts(entries[key]),
                _value(entries.get(f"{key}{_REFERENCE}")),
                _value(floor.get(key)),
                _chance(entries, key),
                text.text,
            ]
        )
    used = [column for column, name in enumerate(_COLUMNS) if column < 2 or any(row[column] for row in rows)]
    page.add_table([_COLUMNS[c] for c in used], [[row[c] for c in used] for row in rows], _LEGEND)
    remarks = [(key, remark) for key in entries for remark in remarks_of(key, entries, floor)]
    remarks += [(f"floor of {key}", remark) for key, entry in floor.items() for remark in reasons_of(entry)]
    if remarks:
        page.add_table(("metric", "remark"), together(remarks), "What must be known of these numbers.")


def add_distributions(
    page: Page, values: Mapping[str, Mapping[str, float]], picture: str | Path, *, kind: str = ""
) -> None:
    """Histograms of the clips' values, generated and reference, and the clips at either end of each."""
    from macedance.report.plots import histograms

    panels: dict[str, dict[str, list[float]]] = {}
    extremes: list[list[Cell]] = []
    for key, clips in values.items():
        base, which = _set_of(key, values)
        finite = {name: value for name, value in clips.items() if math.isfinite(value)}
        # Of the companions, chance is drawn for the generated dances alone: four sets in a panel cannot be read.
        if not finite or which == _OTHERS:
            continue
        unit = unit_of(base, kind)
        panels.setdefault(f"{base} ({unit})" if unit else base, {})[which] = list(clips.values())
        if which == "generated" and len(finite) > 1:
            ordered = sorted(finite, key=finite.__getitem__)
            middle = statistics.median(finite.values())
            low, high = (f"{format_cell(float(finite[name]))} · {name}" for name in (ordered[0], ordered[-1]))
            extremes.append([key, low, float(middle), high])
    if panels:
        page.add_image(histograms(panels, picture), "How the values are spread over the clips; a line is the median.")
    if extremes:
        page.add_table(("metric", "lowest", "median", "highest"), extremes, "The clips to look at.")


def add_measured(page: Page, result: ProtocolResult) -> None:
    """What makes this evaluation comparable with another one: settings, unmatched clips, weights, the hash."""
    inputs = result.inputs
    page.add_heading("How it was measured")
    settings = inputs.get("settings", {})
    rows: list[Sequence[Cell]] = [(name, _plain(value)) for name, value in settings.items()]
    rows += [
        (f"{name} seconds per clip".strip(), _plain(value))
        for name, value in _by_set(inputs.get("seconds_per_clip")).items()
    ]
    rows += [
        (f"{name} clips with music".strip(), _plain(value)) for name, value in _by_set(inputs.get("with_music")).items()
    ]
    if inputs.get("resolution"):
        rows.append(("resolution", _plain(inputs["resolution"])))
    for name, names in _by_set(inputs.get("unmatched")).items():
        if names:
            listed = shortened(f"{len(names)}: {', '.join(map(str, names))}", _MOST_CHARACTERS)
            rows.append((f"{name} clips without a partner of their name", listed))
    if rows:
        page.add_table(("setting", "value"), rows)
    if result.weights:
        page.add_table(("network", "sha256"), list(result.weights.items()), "Weights that judged.")
    page.add_text(
        f"Results of one hash were measured alike, and only they can be compared number by number: {result.hash}"
    )


def _value(entry: Entry | None) -> Cell:
    if entry is None:
        return ""
    return None if entry.get("value") is None else _number(entry["value"])


def _number(value: float) -> str:
    return format_cell(float(value))


def _interval(entry: Entry) -> str:
    interval = entry.get("ci95")
    # Numbers that belong together stay on one line.
    return f"{_number(interval[0])}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{_number(interval[1])}" if interval else ""


def _counts(entry: Entry) -> str:
    n, reference = entry.get("n"), entry.get("n_reference")
    if n is None:
        return ""
    return (
        format_cell(int(n))
        if reference is None
        else f"{format_cell(int(n))}\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}{format_cell(int(reference))}"
    )


def _chance(entries: Mapping[str, Entry], key: str) -> Cell:
    chance = entries.get(f"{key}{_SHUFFLED}")
    reference = entries.get(f"{key}{_SHUFFLED}{_REFERENCE}", {}).get("value")
    if chance is None or chance.get("value") is None or reference is None:
        return _value(chance)
    return f"{_number(chance['value'])} (ref. {_number(reference)})"


def _stillness(preset: str, result: ProtocolResult) -> list[str]:
    """Beside VBench's scores, which a frozen video tops, how much the person moves at all."""
    if preset != "vbench":
        return []
    for entries in result.presets.values():
        motion = entries.get("person_motion", {})
        if motion.get("value") is not None:
            unit = f"({motion['note']})" if motion.get("note") else unit_of("person_motion")
            return [
                f"Motion amplitude of the person in these videos: {_number(motion['value'])} {unit}. A frozen video "
                "scores 100 on temporal flickering with a motion amplitude of 0."
            ]
    return [
        "The motion amplitude of these videos was not measured; a frozen video scores 100 on temporal flickering "
        "with a motion amplitude of 0."
    ]


def _set_of(key: str, keys: Mapping[str, Any]) -> tuple[str, str]:
    """The panel of a key and the name of its set in it: companions are drawn beside their key."""
    for suffix, which in (
        (f"{_SHUFFLED}{_REFERENCE}", _OTHERS),
        (_REFERENCE, "reference"),
        (_SHUFFLED, "generated, other songs"),
    ):
        base = key.removesuffix(suffix)
        if base != key and base in keys:
            return base, which
    return key, "generated"


def _by_set(value: Any) -> dict[str, Any]:
    """``generated`` and ``reference`` of an input, or the one value that holds for all under the name ''."""
    if isinstance(value, Mapping) and not {"min", "median", "max"} & set(value):
        return dict(value)
    return {} if value is None else {"": value}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _plain(value: Any) -> Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    return ", ".join(str(_plain(part)) for part in _list(value))


def _few(rows: Sequence[tuple[str, ...]]) -> list[Sequence[Cell]]:
    shown: list[Sequence[Cell]] = list(rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        shown.append(("", f"and {len(rows) - _MOST_ROWS} more", "the JSON lists all"))
    return shown
