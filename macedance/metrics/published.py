"""What papers printed, table by table, and whether a result of ours may be put beside it.

The numbers live in ``published.json``, as printed, each with its source; a section is the part of a printed table that
one convention made. Nothing is comparable by default: a result has to be measured under the section's convention, at
its frame rate, on its data, and its reference has to give what the table prints for the ground truth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal

from macedance.errors import ConfigError
from macedance.metrics.protocol_result import ProtocolResult
from macedance.metrics.statistics import Entry

Level = Literal["yes", "with caution", "no"]
#: A reference gives the printed ground truth when it is at most so many units of the last printed digit off, and at
#: most this share of the number; one unit always passes. A share alone says nothing of quantities in which all systems
#: of a table lie within it.
_UNITS, _SHARE = 5, 0.02
_SECONDS_TOLERANCE = 0.05
_ROUNDING = 1e-6
#: The preset whose numbers rise with the frame rate, whatever was measured.
_RISES_WITH_FPS = "vbench"


@dataclass(frozen=True)
class Column:
    """One quantity of the tables.

    Args:
        key: Its name in results, or one of its own where the protocol has no such number.
        printed: As papers print it.
        better: ``lower``, ``higher``, ``reference`` (the nearer to the reference the better) or ``unclear``.
        unit: Empty for a number without one.
        most: What it cannot exceed, None where nothing bounds it.
    """

    key: str
    printed: str
    better: str
    unit: str = ""
    most: float | None = None

    @property
    def title(self) -> str:
        """Heading of its column: printed name, unit and an arrow to the better side."""
        arrow = {"lower": " ↓", "higher": " ↑"}.get(self.better, "")
        return f"{self.printed}{f' ({self.unit})' if self.unit else ''}{arrow}"


@dataclass(frozen=True)
class PublishedRow:
    """One system of a table.

    Args:
        name: As printed.
        values: Key -> the number as printed.
        note: What a reader must know.
        uncertain: Keys whose place in the printed table could not be told for certain.
        source: Where the row is from, if not where its table is.
    """

    name: str
    values: Mapping[str, str]
    note: str = ""
    uncertain: tuple[str, ...] = ()
    source: str | None = None


@dataclass(frozen=True)
class Section:
    """The part of a printed table that one convention made.

    Args:
        id: Name.
        source: Key of Published.sources.
        table: Where in the source.
        title: What it compares.
        dataset: Key of Published.datasets.
        preset: Whose convention it follows, as far as is known; None: the protocol has no such numbers.
        status: ``conditional``: comparable under the conditions of ``judge``. ``unverified``: at best with caution.
            ``never``: with nothing of ours.
        why: The reason of that, or what to mind.
        n: What is known of the number of clips.
        ground_truth: Name of the row of the reference, None where the table has none.
        columns: Keys of Published.columns in order.
        rows: The systems.
        presets: Preset of the columns that follow another one.
        counts: Numbers of clips that are stated.
        fps: Frame rate, where it is not the preset's published one.
        seconds: Length of a clip, where the numbers depend on it.
    """

    id: str
    source: str
    table: str
    title: str
    dataset: str
    preset: str | None
    status: Literal["conditional", "unverified", "never"]
    why: str
    n: str
    ground_truth: str | None
    columns: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    presets: Mapping[str, str] = field(default_factory=dict)
    counts: tuple[int, ...] = ()
    fps: float | None = None
    seconds: float | None = None

    def entry(self, result: ProtocolResult, key: str, suffix: str = "") -> Entry | None:
        """The result's entry of a column under the section's preset, None where it was not measured."""
        preset = self.presets.get(key, self.preset)
        return None if preset is None else result.presets.get(preset, {}).get(key + suffix)


@dataclass(frozen=True)
class Published:
    """All published numbers: columns by key, sources by key (``cite``, ``url``), names of data sets, sections."""

    columns: Mapping[str, Column]
    sources: Mapping[str, Mapping[str, str]]
    datasets: Mapping[str, str]
    sections: tuple[Section, ...]

    def cite(self, section: Section) -> str:
        """Where a section is from."""
        return f"{self.sources[section.source]['cite']}, {section.table}"


@dataclass(frozen=True)
class Verdict:
    """Whether a result may be put beside a section, and every reason why not or why only with caution."""

    level: Level
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Agreement:
    """One number of the reference: as printed for the ground truth, and as our reference gives it.

    Args:
        key: The quantity.
        printed: The number in the table.
        ours: The reference's.
        tolerance: How far apart they may be.
    """

    key: str
    printed: float
    ours: float
    tolerance: float

    @property
    def difference(self) -> float:
        """Relative to the printed one."""
        return (self.ours - self.printed) / abs(self.printed)

    @property
    def holds(self) -> bool:
        """Whether it is the same number, as far as the print tells."""
        return abs(self.ours - self.printed) <= self.tolerance + _ROUNDING


def published() -> Published:
    """Everything in ``published.json``."""
    content = json.loads(files("macedance.metrics").joinpath("published.json").read_text(encoding="utf-8"))
    sections = []
    for section in content["sections"]:
        rows = tuple(PublishedRow(**(row | {"uncertain": tuple(row.get("uncertain", ()))})) for row in section["rows"])
        lists = {name: tuple(section.get(name, ())) for name in ("columns", "counts")}
        sections.append(Section(**(section | lists | {"rows": rows})))
    columns = {key: Column(key, **column) for key, column in content["columns"].items()}
    return Published(columns, content["sources"], content["datasets"], tuple(sections))


def ground_truth_tolerance(printed: str) -> float:
    """How far a reference may be from a printed cell that it reproduces."""
    unit = 10.0 ** -len(printed.partition(".")[2])
    return max(unit, min(_UNITS * unit, _SHARE * abs(float(printed))))


def check_dataset(name: str, known: Published) -> str:
    """The name of a data set as given by the user.

    Raises:
        ConfigError: It is not one of those that papers report on.
    """
    if name not in known.datasets:
        listed = ", ".join(f"{key} ({text})" for key, text in known.datasets.items())
        raise ConfigError(f"unknown data set {name!r}", expected=f"one of {listed}")
    return name


def ground_truth_agreement(section: Section, result: ProtocolResult) -> list[Agreement]:
    """The printed ground truth beside what the result's reference gives, for every number that both have."""
    truth = next((row for row in section.rows if row.name == section.ground_truth), None)
    if truth is None:
        return []
    found = []
    for key, printed in truth.values.items():
        entry = section.entry(result, key, "_reference")
        if entry is not None and entry["value"] is not None and key not in truth.uncertain:
            found.append(Agreement(key, float(printed), float(entry["value"]), ground_truth_tolerance(printed)))
    return found


def judge(section: Section, result: ProtocolResult, dataset: str | None, known: Published | None = None) -> Verdict:
    """Whether a result may be put beside a section.

    Args:
        section: Of a printed table.
        result: Ours.
        dataset: What it was measured on, a key of Published.datasets; None where nobody said it.
        known: Where the section is from; None: the published numbers of this package.

    Returns:
        ``no`` with every reason; ``with caution`` with every reservation; else ``yes``.
    """
    if section.status == "never":
        return Verdict("no", (section.why,))
    measured = {key: entry for key in section.columns if (entry := section.entry(result, key)) is not None}
    if not measured:
        wanted = sorted({section.preset, *section.presets.values()} - {None})  # type: ignore[type-var]
        return Verdict("no", (f"not measured under the preset {' or '.join(map(str, wanted))}",))
    if all(entry["value"] is None for entry in measured.values()):
        reasons = dict.fromkeys(f"{key} has no value: {entry.get('reason')}" for key, entry in measured.items())
        return Verdict("no", tuple(reasons))
    columns = (published() if known is None else known).columns
    against = [
        *_impossible(section, result, columns),
        *_other_data(section, dataset),
        *_other_format(section, result),
        *_other_reference(section, result),
    ]
    if against:
        return Verdict("no", tuple(against))
    reservations = list(_reservations(section, result, measured))
    return Verdict("with caution" if reservations else "yes", tuple(reservations))


def _other_data(section: Section, dataset: str | None) -> Iterator[str]:
    if dataset is None:
        yield f"nobody said what it was measured on: --dataset {section.dataset} says so if it was"
    elif dataset != section.dataset:
        yield f"measured on {dataset}, not on {section.dataset}"


def _impossible(section: Section, result: ProtocolResult, columns: Mapping[str, Column]) -> Iterator[str]:
    """Values that no video or dance can have: whatever gave them did not measure this."""
    for key in section.columns:
        most = columns[key].most
        if most is None:
            continue
        for suffix in ("", "_reference"):
            value = (section.entry(result, key, suffix) or {}).get("value")
            if value is not None and value > most + _ROUNDING:
                yield f"{key}{suffix} is {value:.6g} and cannot be more than {most:g}"


def _other_format(section: Section, result: ProtocolResult) -> Iterator[str]:
    fps, found = _stated_fps(section, result), sorted(set(_numbers(result.inputs.get("fps"))))
    if fps is not None and any(abs(rate - fps) > 1e-3 * fps for rate in found):
        rates = ", ".join(f"{rate:g}" for rate in found)
        yield f"clips of {rates} fps, the published numbers are of {fps:g}: they depend on it"
    lengths, wanted = _lengths(result), section.seconds
    if wanted is not None and any(abs(length - wanted) > _SECONDS_TOLERANCE * wanted for length in lengths):
        yield f"clips of {lengths[0]:g} to {lengths[-1]:g} s, the published numbers are of {wanted:g} s"


def _stated_fps(section: Section, result: ProtocolResult) -> float | None:
    """The frame rate of the published numbers, as the section or its preset states it."""
    if section.fps is not None or section.preset is None:
        return section.fps
    stated: float | None = result.conventions.get(section.preset, {}).get("published_fps")
    return stated


def _lengths(result: ProtocolResult) -> list[float]:
    """Seconds of the shortest, the median and the longest clip of each set, ascending; counts of clips are none."""
    by_set = result.inputs.get("seconds_per_clip")
    spreads = list(by_set.values()) if isinstance(by_set, Mapping) else [by_set]
    kept = [
        {name: part for name, part in spread.items() if name != "unknown"} if isinstance(spread, Mapping) else spread
        for spread in spreads
    ]
    return sorted(set(_numbers(kept)))


def _other_reference(section: Section, result: ProtocolResult) -> Iterator[str]:
    for check in ground_truth_agreement(section, result):
        if not check.holds:
            yield (
                f"our reference gives {check.key} {check.ours:.4g}, the table's ground truth is {check.printed:g}: "
                "another convention or other data"
            )


def _reservations(section: Section, result: ProtocolResult, measured: Mapping[str, Entry]) -> Iterator[str]:
    if section.status == "unverified":
        yield section.why
    yield from _unknown_format(section, result, measured)
    if not ground_truth_agreement(section, result):
        yield "nothing of the table's ground truth could be reproduced with our reference, so the convention is assumed"
    for key, entry in measured.items():
        n, dims = entry.get("n"), entry.get("dims")
        if entry["value"] is None:
            yield f"{key} has no value: {entry.get('reason', 'no reason given')}"
        elif n is None:
            yield f"{key} does not say of how many clips it is"
        elif dims is not None and n < dims:
            yield f"{key} is of {n} clips in {dims} dimensions: mostly noise"
    distances = {
        key: entry["n"]
        for key, entry in measured.items()
        if key.startswith(("fid_", "fvd")) and entry["value"] is not None and entry.get("n") is not None
    }
    others = {key: n for key, n in distances.items() if n not in section.counts}
    if others:
        told = ", ".join(f"{n} ({key})" for key, n in others.items())
        yield f"Fréchet distances of {told} clips; published: {section.n}"
    missing = [key for key in section.columns if key not in measured]
    if missing:
        yield f"not measured: {', '.join(missing)}"


def _unknown_format(section: Section, result: ProtocolResult, measured: Mapping[str, Entry]) -> Iterator[str]:
    """What of frame rate and length nobody states, where the numbers depend on it."""
    rates = sorted(set(_numbers(result.inputs.get("fps"))))
    told = f"ours are of {' and '.join(f'{rate:g}' for rate in rates)}" if rates else "ours are not recorded"
    presets = {section.presets.get(key, section.preset) for key in measured}
    if section.fps is None and _RISES_WITH_FPS in presets:
        yield f"numbers of {_RISES_WITH_FPS} rise with the frame rate, which the paper does not state; {told}"
    elif _stated_fps(section, result) is not None and not rates:
        yield "the result does not say the frame rate of its clips"
    if section.seconds is not None and not _lengths(result):
        yield f"the result does not say how long its clips are; the published numbers are of {section.seconds:g} s"


def _numbers(found: Any) -> Iterator[float]:
    """Every number in a value of ``inputs``, however it is nested."""
    if isinstance(found, Mapping):
        found = list(found.values())
    if isinstance(found, list | tuple):
        for part in found:
            yield from _numbers(part)
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield float(found)
