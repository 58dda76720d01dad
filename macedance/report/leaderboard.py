"""Our results beside the published ones: which rows stand in one table, and what may be concluded from it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from macedance.metrics.published import (
    Agreement,
    Published,
    Section,
    Verdict,
    ground_truth_agreement,
    judge,
)
from macedance.metrics.statistics import Entry, paired_difference
from macedance.report.leaderboard_entrants import Entrant
from macedance.report.page import format_cell

PUBLISHED, GROUND_TRUTH = "published", "published, the reference"
_REFERENCE = "_reference"


@dataclass(frozen=True)
class Row:
    """One line of a table: a published system or one of ours.

    Args:
        name: The system.
        origin: ``published``, ``published, the reference``, or ``ours``.
        cells: Text of each column, empty where there is no number.
        values: The numbers behind them, None where there is none.
        comparable: Of ours: ``yes``, ``with caution`` or ``no``.
        note: What a reader must know.
    """

    name: str
    origin: str
    cells: tuple[str, ...]
    values: tuple[float | None, ...]
    comparable: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A section of the published numbers with ours.

    Args:
        section: The section.
        cite: Where it is from.
        header: Titles of the columns.
        rows: Published rows, then ours where something of it was measured.
        verdicts: Label of the result -> whether it is comparable, and why not.
        checks: Label -> our reference beside the printed ground truth.
    """

    section: Section
    cite: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    verdicts: dict[str, Verdict]
    checks: dict[str, list[Agreement]]

    @property
    def ours(self) -> list[Row]:
        """Our rows."""
        return [row for row in self.rows if row.origin == "ours"]

    @property
    def judged(self) -> list[tuple[str, Verdict]]:
        """Each verdict with the labels of the results that it is of."""
        labels: dict[Verdict, list[str]] = {}
        for label, verdict in self.verdicts.items():
            labels.setdefault(verdict, []).append(label)
        return [(", ".join(of), verdict) for verdict, of in labels.items()]

    def as_json(self) -> dict[str, Any]:
        """The table as plain data."""
        section = self.section
        return {
            "id": section.id,
            "source": self.cite,
            "title": section.title,
            "dataset": section.dataset,
            "preset": section.preset,
            "n": section.n,
            "columns": list(section.columns),
            "rows": [
                {"name": row.name, "origin": row.origin, "values": dict(zip(section.columns, row.values, strict=True))}
                | ({"comparable": row.comparable} if row.comparable else {})
                | ({"note": row.note} if row.note else {})
                for row in self.rows
            ],
            "verdicts": {label: asdict(verdict) for label, verdict in self.verdicts.items()},
        }


def tables(entrants: Sequence[Entrant], known: Published) -> list[Table]:
    """One table for each section of the published numbers, in their order."""
    return [_table(section, entrants, known) for section in known.sections]


def _table(section: Section, entrants: Sequence[Entrant], known: Published) -> Table:
    rows = []
    for row in section.rows:
        values = tuple(float(row.values[key]) if key in row.values else None for key in section.columns)
        cells = tuple(row.values.get(key, "") + ("?" if key in row.uncertain else "") for key in section.columns)
        source = f"From {known.sources[row.source]['cite']}." if row.source else ""
        unsure = "Columns marked ? could not be told apart for certain." if row.uncertain else ""
        note = " ".join(filter(None, (row.note, source, unsure)))
        origin = GROUND_TRUTH if row.name == section.ground_truth else PUBLISHED
        rows.append(Row(row.name, origin, cells, values, note=note))
    verdicts: dict[str, Verdict] = {}
    checks: dict[str, list[Agreement]] = {}
    for entrant in entrants:
        verdict = judge(section, entrant.result, entrant.dataset, known)
        label = _unique(entrant, verdicts)
        verdicts[label] = verdict
        checks[label] = ground_truth_agreement(section, entrant.result)
        entries = [section.entry(entrant.result, key) for key in section.columns]
        if any(entry is not None for entry in entries):
            values = tuple(None if entry is None else entry["value"] for entry in entries)
            rows.append(Row(entrant.label, "ours", tuple(map(entry_text, entries)), values, verdict.level))
    header = tuple(known.columns[key].title for key in section.columns)
    return Table(section, known.cite(section), header, tuple(rows), verdicts, checks)


def _unique(entrant: Entrant, taken: Mapping[str, Verdict]) -> str:
    """A system may have several results, of different presets: all but the first one are told by these."""
    return entrant.label if entrant.label not in taken else f"{entrant.label} ({', '.join(entrant.result.presets)})"


def entry_text(entry: Entry | None) -> str:
    """An entry of a result in a table: value, 95% interval and number of clips, or that it was refused."""
    if entry is None:
        return ""
    n = f"n {entry['n']}" if "n" in entry else ""
    if entry["value"] is None:
        return f"no value ({n})" if n else "no value"
    interval = entry.get("ci95")
    spread = f" [{format_cell(float(interval[0]))}, {format_cell(float(interval[1]))}]" if interval else ""
    return f"{format_cell(float(entry['value']))}{spread}{f' ({n})' if n else ''}"


def preset_names(entrants: Sequence[Entrant]) -> list[str]:
    """All presets of the results, in the order in which they come."""
    return list(dict.fromkeys(name for entrant in entrants for name in entrant.result.presets))


def own_table(preset: str, entrants: Sequence[Entrant]) -> tuple[list[str], list[list[str]]]:
    """Our results under one preset: titles of the columns, and for each key a row of texts.

    The reference's own values stand in the last columns, one for each reference that differs; a row of the floor
    follows each Fréchet distance that has one.
    """
    held = [entrant for entrant in entrants if preset in entrant.result.presets]
    keys = list(dict.fromkeys(key for entrant in held for key in entrant.result.presets[preset]))
    references: list[tuple[str, dict[str, Entry]]] = []
    for entrant in held:
        own = {key: entry for key, entry in entrant.result.presets[preset].items() if key.endswith(_REFERENCE)}
        if own and all(own != other for _, other in references):
            references.append((f"reference of {entrant.label}" if references else "reference", own))
    rows = []
    for key in keys:
        if key.endswith(_REFERENCE) and key.removesuffix(_REFERENCE) in keys:
            continue
        values = [entry_text(entrant.result.presets[preset].get(key)) for entrant in held]
        rows.append([key, *values, *(entry_text(own.get(key + _REFERENCE)) for _, own in references)])
        floors = [entrant.result.floor.get(preset, {}).get(key) for entrant in held]
        if any(floors):
            rows.append([f"{key}, floor", *map(entry_text, floors), *("" for _ in references)])
    return [*(entrant.label for entrant in held), *(name for name, _ in references)], rows


def reasons_of(preset: str, entrants: Sequence[Entrant]) -> list[str]:
    """Why values of ours are missing or qualified, one sentence for each reason, with the keys and labels it is of."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for entrant in entrants:
        for key, entry in entrant.result.presets.get(preset, {}).items():
            if entry.get("reason"):
                left_out = f", {entry['left_out']} clips" if entry.get("left_out") else ""
                reasons[str(entry["reason"])].append(f"{key} of {entrant.label}{left_out}")
        for note in entrant.result.inputs.get("notes", {}).get(preset, []):
            reasons[str(note)].append(entrant.label)
    return [f"{', '.join(where)}: {reason}" for reason, where in reasons.items()]


def measured_alike(entrants: Sequence[Entrant]) -> list[list[str]]:
    """Labels of the results that were measured in the same way, by their hash; one that stands alone is a group."""
    groups: dict[str, list[str]] = defaultdict(list)
    for entrant in entrants:
        groups[entrant.result.hash].append(entrant.label)
    return list(groups.values())


def paired(preset: str, entrants: Sequence[Entrant]) -> list[tuple[str, str, str, Entry]]:
    """Differences clip by clip of the results to the first one that holds a preset, under the same constants.

    Returns:
        (first, other, key, entry of the mean difference first - other with its 95% interval) for every key that both
        have for at least two clips of the same names.
    """
    held = [entrant for entrant in entrants if entrant.result.per_clip.get(preset)]
    found = []
    for other in held[1:]:
        first = held[0]
        if first.result.conventions.get(preset) != other.result.conventions.get(preset):
            continue
        ours, theirs = first.result.per_clip[preset], other.result.per_clip[preset]
        for key in ours:
            if key.endswith(_REFERENCE) or key not in theirs:
                continue
            names = [
                name
                for name, value in ours[key].items()
                if math.isfinite(value) and math.isfinite(theirs[key].get(name, math.nan))
            ]
            if len(names) > 1:
                values = [np.array([table[key][name] for name in names]) for table in (ours, theirs)]
                found.append((first.label, other.label, key, paired_difference(values[0], values[1])))
    return found


def distributions(preset: str, entrants: Sequence[Entrant]) -> dict[str, dict[str, list[float]]]:
    """Quantity -> set -> the clips' values, for plots; equal references are shown once."""
    panels: dict[str, dict[str, list[float]]] = {}
    references: dict[str, list[list[float]]] = defaultdict(list)
    for entrant in entrants:
        for key, clips in entrant.result.per_clip.get(preset, {}).items():
            values = list(clips.values())
            if not any(map(math.isfinite, values)):
                continue
            if not key.endswith(_REFERENCE):
                panels.setdefault(key, {})[entrant.label] = values
                continue
            base = key.removesuffix(_REFERENCE)
            seen = references[base]
            if not any(np.array_equal(values, other, equal_nan=True) for other in seen):
                name = "reference" if not seen else f"reference of {entrant.label}"
                panels.setdefault(base, {})[name] = values
                seen.append(values)
    labels = {entrant.label for entrant in entrants}
    return {key: dict(sorted(sets.items(), key=lambda entry: entry[0] not in labels)) for key, sets in panels.items()}
