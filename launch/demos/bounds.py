"""What a demo must reach, and how it is told: on the terminal and on the page."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from macedance.report.page import Page

Numbers = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Bound:
    """A promise about a number: ``limit`` is computed from the other numbers, ``above`` says on which side to stay."""

    name: str
    text: str
    limit: Callable[[dict[str, float]], float]
    above: bool
    value: Callable[[dict[str, float]], float] | None = None

    def check(self, values: dict[str, float]) -> tuple[float, float, bool]:
        """(value, limit, met)."""
        value = self.value(values) if self.value else values[self.name]
        limit = self.limit(values)
        return value, limit, value >= limit if self.above else value <= limit


def check_bounds(numbers: Numbers, bounds: Sequence[Bound]) -> list[dict[str, Any]]:
    """Each bound with its value, its limit and whether it is met; ``met`` is None where a number is missing."""
    values = {name: entry["value"] for name, entry in numbers.items() if entry.get("value") is not None}
    rows = []
    for bound in bounds:
        row: dict[str, Any] = {"name": bound.name, "bound": bound.text, "value": None, "limit": None, "met": None}
        with contextlib.suppress(KeyError):
            row["value"], row["limit"], row["met"] = bound.check(values)
        rows.append(row)
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def bounds_table(numbers: Mapping[str, Mapping[str, Any]], bounds: Sequence[Mapping[str, Any]]) -> str:
    """Each bound with its value, its limit, met or missed, as text."""
    lines = [f"{'bound':<42}{'value':>10}{'limit':>10}  "]
    for row in bounds:
        verdict = {True: "met", False: "MISSED", None: "not measured"}[row["met"]]
        lines.append(f"{row['name']:<42}{_number(row['value']):>10}{_number(row['limit']):>10}  {verdict}")
    for name, entry in numbers.items():
        if "range" in entry:
            low, high = entry["range"]
            lines.append(f"{name:<42}{_number(entry['value']):>10}  over seeds {_number(low)} to {_number(high)}")
    return "\n".join(lines)


def add_bounds(page: Page, bounds: Sequence[Mapping[str, Any]]) -> None:
    """The rows of `check_bounds` on a page."""
    page.add_heading("What it must reach")
    page.add_table(
        ("number", "bound", "value", "limit", ""),
        [(b["name"], b["bound"], b["value"], b["limit"], b["met"]) for b in bounds],
    )


def add_numbers(
    page: Page, numbers: Mapping[str, Mapping[str, Any]], explained: Sequence[tuple[str, str]], note: str = ""
) -> None:
    """The numbers that have an explanation on a page, in its order."""
    page.add_heading("Numbers")
    page.add_table(
        ("number", "value", "clips", "what it is"),
        [
            (name, numbers[name].get("value"), numbers[name].get("n"), text)
            for name, text in explained
            if name in numbers
        ],
        note,
    )
