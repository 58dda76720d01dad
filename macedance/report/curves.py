"""Reading the numbers that a run leaves behind: metrics.csv and metrics_val.csv."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from macedance.errors import DataError


@dataclass(frozen=True)
class Curve:
    """One quantity over the steps of a run: ``steps`` and ``values`` (N,), gaps left out."""

    name: str
    steps: np.ndarray
    values: np.ndarray


def _rows(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            names = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the numbers of the run cannot be read ({error})", where=path) from error
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(f"no column {', '.join(missing)}", where=path, expected=f"columns {', '.join(needed)}")
    return rows


def _number(text: str | None, path: Path, line: int) -> float:
    if text is None or text == "":
        return float("nan")
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{text!r} is no number", where=f"{path}, line {line}") from error


def _curve(name: str, points: list[tuple[float, float]]) -> Curve:
    array = np.array(points, dtype=np.float64).reshape(-1, 2)
    kept = array[np.isfinite(array).all(axis=1)]
    return Curve(name, kept[:, 0], kept[:, 1])


def read_training(path: Path | str) -> dict[str, Curve]:
    """The columns of a ``metrics.csv`` (``step``, ``train/loss``, ...), by name.

    Raises:
        DataError: the file cannot be read, has no ``step`` or holds something that is no number.
    """
    path = Path(path)
    rows = _rows(path, ("step",))
    names = [name for name in (rows[0] if rows else {}) if name != "step" and name is not None]
    steps = [_number(row["step"], path, line) for line, row in enumerate(rows, start=2)]
    return {
        name: _curve(
            name,
            [
                (step, _number(row[name], path, line))
                for line, (step, row) in enumerate(zip(steps, rows, strict=True), start=2)
            ],
        )
        for name in names
    }


def read_validation(path: Path | str) -> dict[str, Curve]:
    """The quantities of a ``metrics_val.csv`` (``step``, ``name``, ``value``), by name.

    Raises:
        DataError: the file cannot be read, lacks a column or holds something that is no number.
    """
    path = Path(path)
    points: dict[str, list[tuple[float, float]]] = {}
    for line, row in enumerate(_rows(path, ("step", "name", "value")), start=2):
        points.setdefault(row["name"], []).append((_number(row["step"], path, line), _number(row["value"], path, line)))
    return {name: _curve(name, values) for name, values in points.items()}
