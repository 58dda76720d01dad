"""Plots of the leaderboard: where a result lies among the published ones."""

from __future__ import annotations

from pathlib import Path

from macedance.report.leaderboard import GROUND_TRUTH, Table
from macedance.report.plots import COLOURS, _panels, _save, _styled

_PUBLISHED, _TRUTH = "#5d6579", "#1f2433"
_LINE_IN, _MARGIN_IN = 0.24, 0.75
_LEVELS = {"yes": "o", "with caution": "D", "no": "x"}


@_styled
def standing(table: Table, out: Path | str) -> Path:
    """One panel for each column: the published numbers as dots, ours by colour, what is not comparable as a cross.

    Args:
        table: A section with at least one number.
        out: The picture to write, ``.png`` or ``.svg``.
    """
    keys = [
        (index, title)
        for index, title in enumerate(table.header)
        if any(row.values[index] is not None for row in table.rows)
    ]
    height = _MARGIN_IN + _LINE_IN * len(table.rows)
    figure, panels = _panels(len(keys), 3, width=3.4, height=height)
    names = [row.name for row in table.rows]
    for axes, (index, title) in zip(panels, keys, strict=True):
        truth = next((row.values[index] for row in table.rows if row.origin == GROUND_TRUTH), None)
        if truth is not None:
            axes.axvline(truth, color=_TRUTH, linewidth=0.9, linestyle=":")
        ours = 0
        for line, row in enumerate(table.rows):
            value = row.values[index]
            if row.origin == "ours":
                colour, marker = COLOURS[ours % len(COLOURS)], _LEVELS[row.comparable]
                ours += 1
            else:
                colour, marker = (_TRUTH if row.origin == GROUND_TRUTH else _PUBLISHED), "o"
            if value is not None:
                axes.plot([value], [line], marker, color=colour, markersize=5.5)
        axes.set_yticks(range(len(names)), names, fontsize=7.5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_title(title)
    return _save(figure, out)
