"""The results that a leaderboard is made of: which files, under which names, measured on what."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from macedance.errors import ConfigError, DataError
from macedance.metrics.protocol_result import ProtocolResult, read_protocol
from macedance.metrics.published import Published, check_dataset

_STEP = re.compile(r"^(.*?)step[-_]?(\d+)$")


@dataclass(frozen=True)
class Entrant:
    """One result of ours.

    Args:
        label: Its name on the page.
        path: The file.
        result: What is in it.
        dataset: What it was measured on, a key of Published.datasets; None where nobody said it.
    """

    label: str
    path: Path
    result: ProtocolResult
    dataset: str | None = None


@dataclass
class Found:
    """What the arguments of the command led to.

    Args:
        entrants: The results.
        remarks: What was passed over and why, one sentence each.
    """

    entrants: list[Entrant] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def find_entrants(arguments: Sequence[str], datasets: Sequence[str], known: Published) -> Found:
    """Read the results that a user names.

    Args:
        arguments: Files or folders, each with an optional ``NAME=`` before it. Of a folder all results in it are
            taken; of the results of a training run (``protocol/step-*.json``) the newest.
        datasets: ``DATASET`` for all of them, or ``NAME=DATASET``.
        known: The published numbers, whose data sets are known.

    Raises:
        ConfigError: A name that is used twice for the same preset, or an unknown data set or name.
        DataError: Nothing there, or files that are damaged; all are listed.
    """
    found = Found()
    named: list[tuple[str | None, Path, Path]] = []
    for argument in arguments:
        label, root = _split(argument)
        named += [(label, root, path) for path in _files(root, found.remarks)]
    results: dict[Path, ProtocolResult] = {}
    bad: list[str] = []
    for _, root, path in named:
        try:
            results[path] = read_protocol(path)
        except DataError as error:
            if root.is_dir() and error.what == "not the result of an evaluation":
                found.remarks.append(f"{path} was passed over: {error.what}")
            else:
                bad.append(f"{path}: {error.what}")
    if bad:
        raise DataError(f"{len(bad)} of {len(named)} files cannot be used: {'; '.join(bad)}", fix="mend or remove them")
    named = [entry for entry in named if entry[2] in results]
    if not named:
        raise DataError(
            f"no results in {', '.join(arguments)}", expected="files that `macedance evaluate ... --json FILE` wrote"
        )
    labels = _labels(named, results)
    by_label = _datasets(datasets, set(labels), known)
    for label, (_, _, path) in zip(labels, named, strict=True):
        result = results[path]
        found.entrants.append(Entrant(label, path, result, by_label.get(label, _own_dataset(result, known))))
    _refuse_twins(found.entrants)
    return found


def _split(argument: str) -> tuple[str | None, Path]:
    """``NAME=PATH`` as its parts; a path that exists as it stands has no name."""
    name, sign, path = argument.partition("=")
    if sign and name and not Path(argument).exists():
        return name, Path(path)
    return None, Path(argument)


def _files(root: Path, remarks: list[str]) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError("no such file or folder", where=root, expected="a result, or a folder of results")
    folder = root / "protocol" if (root / "protocol").is_dir() else root
    newest: dict[str, tuple[int, Path]] = {}
    series: Counter[str] = Counter()
    others = []
    for path in sorted(folder.glob("*.json")):
        step = _STEP.match(path.stem)
        if step is None:
            others.append(path)
            continue
        series[step[1]] += 1
        newest[step[1]] = max(newest.get(step[1], (-1, path)), (int(step[2]), path))
    for prefix, (step_number, path) in newest.items():
        if series[prefix] > 1:
            remarks.append(f"{path}: the newest of {series[prefix]} results of a run, of step {step_number}")
    return [*others, *(path for _, path in newest.values())]


def _labels(named: Sequence[tuple[str | None, Path, Path]], results: Mapping[Path, ProtocolResult]) -> list[str]:
    """The user's names; else a run's, or its folder's where it holds one result; else the file's, with its folder's."""
    of_root = Counter(root for _, root, _ in named)
    plain = []
    for label, root, path in named:
        if path.parent.name == "protocol":
            own = path.resolve().parent.parent.name
        else:
            own = root.resolve().name if root.is_dir() and of_root[root] == 1 else path.stem
        plain.append(label or own or path.stem)
    # Results of one name and different presets are one system's, and stay so.
    held = Counter(
        (name, preset) for name, (_, _, path) in zip(plain, named, strict=True) for preset in results[path].presets
    )
    clashes = {name for (name, _), count in held.items() if count > 1}
    return [
        f"{path.resolve().parent.name}/{path.stem}" if label is None and name in clashes else name
        for name, (label, _, path) in zip(plain, named, strict=True)
    ]


def _datasets(given: Sequence[str], labels: set[str], known: Published) -> dict[str, str]:
    by_label: dict[str, str] = {}
    for text in given:
        label, sign, name = text.rpartition("=")
        if sign and label not in labels:
            raise ConfigError(
                f"--dataset {text}: there is no result {label!r}", expected=f"one of {', '.join(sorted(labels))}"
            )
        check_dataset(name, known)
        by_label |= {label: name} if sign else {each: name for each in labels if each not in by_label}
    return by_label


def _own_dataset(result: ProtocolResult, known: Published) -> str | None:
    """What the result itself says it was measured on, if papers report on that."""
    name = result.inputs.get("dataset")
    return name if isinstance(name, str) and name in known.datasets else None


def _refuse_twins(entrants: Sequence[Entrant]) -> None:
    holders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entrant in entrants:
        for preset in entrant.result.presets:
            holders[entrant.label, preset].append(str(entrant.path))
    twins = [f"{label} ({preset}): {', '.join(paths)}" for (label, preset), paths in holders.items() if len(paths) > 1]
    if twins:
        raise ConfigError(
            f"several results of one name and preset: {'; '.join(twins)}", fix="name them: NAME=FILE NAME=FILE"
        )
