"""Plots of a cascade comparison: how gaps grow with the dose, and with how odd the driving motion is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from macedance.metrics.cascade.scores import DISTANCE, GAP_PREFIX, GENERATED, GROUND_TRUTH
from macedance.metrics.protocol_result import ProtocolResult
from macedance.report.plots import COLOURS, _panels, _save, _styled


def doses(result: ProtocolResult) -> dict[str, dict[int, str]]:
    """Perturbation -> level -> its arm, of those that were measured."""
    absent = result.inputs.get("absent_arms", {})
    kinds: dict[str, dict[int, str]] = {}
    for kind in result.conventions["cascade"].get("perturbations", {}):
        for level in result.conventions["cascade"].get("levels", []):
            arm = f"{kind}_{level}"
            if arm in result.presets and arm not in absent:
                kinds.setdefault(kind, {})[int(level)] = arm
    return kinds


@_styled
def dose_response(result: ProtocolResult, keys: Sequence[str], out: Path | str) -> Path:
    """One panel for each key: its gap over the level of each perturbation, with 95% intervals, and the generated arm's.

    Args:
        result: Of ``evaluate_cascade``.
        keys: Keys with values, at least one.
        out: The picture to write, ``.png`` or ``.svg``.

    Raises:
        DataError: The folder cannot be written.
    """
    figure, panels = _panels(len(keys), 3)
    for axes, key in zip(panels, keys, strict=True):
        for index, (kind, levels) in enumerate(doses(result).items()):
            entries = {0: {"value": 0.0}} | {n: result.presets[f"{GAP_PREFIX}{arm}"][key] for n, arm in levels.items()}
            known = {n: entry for n, entry in entries.items() if entry.get("value") is not None}
            _line(axes, known, COLOURS[(index + 1) % len(COLOURS)], kind)
        entry = result.presets.get(f"{GAP_PREFIX}{GENERATED}", {}).get(key, {})
        if entry.get("value") is not None:
            axes.axhline(entry["value"], color=COLOURS[0], label="generated")
            if entry.get("ci95"):
                axes.axhspan(*entry["ci95"], color=COLOURS[0], alpha=0.12, linewidth=0)
        axes.axhline(0.0, color="#9aa1b3", linewidth=0.8)
        axes.set_title(key)
        axes.set_xlabel("level")
        axes.set_ylabel("gap to the true motion")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=7)
    return _save(figure, out)


@_styled
def gap_over_distance(result: ProtocolResult, keys: Sequence[str], out: Path | str) -> Path:
    """One panel for each key: every clip's difference over its motion's distance from the true one, with the line.

    Args:
        result: Of ``evaluate_cascade``.
        keys: Keys with a regression in the generated arm, at least one.
        out: The picture to write, ``.png`` or ``.svg``.

    Raises:
        DataError: The folder cannot be written.
    """
    figure, panels = _panels(len(keys), 3)
    ours, theirs = (result.per_clip[arm] for arm in (GENERATED, GROUND_TRUTH))
    for axes, key in zip(panels, keys, strict=True):
        x, y = _pairs(ours, theirs, key)
        axes.plot(x, y, "o", color=COLOURS[0], markersize=4, alpha=0.7)
        line = result.presets[f"{GAP_PREFIX}{GENERATED}"][key]["regression"]
        ends = np.array([x.min(), x.max()])
        label = f"slope {line['slope']:.3g}" + ("" if line.get("r") is None else f", r {line['r']:.2f}")
        axes.plot(ends, line["intercept"] + line["slope"] * ends, color=COLOURS[1], label=label)
        axes.axhline(0.0, color="#9aa1b3", linewidth=0.8)
        axes.set_title(key)
        axes.set_xlabel("distance of the motions")
        axes.set_ylabel("generated - true")
        axes.legend(fontsize=7)
    return _save(figure, out)


def _pairs(
    ours: Mapping[str, Mapping[str, float]], theirs: Mapping[str, Mapping[str, float]], key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Distances and differences of the clips that have both."""
    rows = [
        (ours[DISTANCE].get(clip, math.nan), value - theirs[key].get(clip, math.nan))
        for clip, value in ours[key].items()
    ]
    x, y = np.array(rows, dtype=np.float64).T
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def _line(axes: Any, known: Mapping[int, Mapping[str, Any]], colour: str, label: str) -> None:
    levels = sorted(known)
    axes.plot(levels, [known[n]["value"] for n in levels], color=colour, label=label, marker="o", markersize=3.5)
    for n in levels:
        if known[n].get("ci95"):
            axes.plot([n, n], known[n]["ci95"], color=colour, alpha=0.5, linewidth=1.0)
