"""Plots for the reports, as PNG or SVG by the file's suffix: learning curves, distributions, beats.

Shapes: T frames, J joints, N values. Drawn without any display, and the same input gives the same file.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from macedance.errors import ConfigError, DataError
from macedance.motion.atomic import write_atomically
from macedance.report.curves import Curve, read_training, read_validation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: tuple[str, ...] = ("#d8493c", "#2f6fd0", "#e0a21b", "#2a8f72", "#8257c2", "#d3659c", "#5d6579", "#8a5a2b")
_STYLE: Any = {
    "font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#9aa1b3",
    "axes.grid": True, "grid.color": "#e6e9f2", "axes.titlesize": 10.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 1.6,
    "svg.hashsalt": "macedance",
}  # fmt: skip
_PANEL_WIDTH_IN, _PANEL_HEIGHT_IN = 4.6, 2.9


_Plot = TypeVar("_Plot", bound=Callable[..., Path])


def _styled(plot: _Plot) -> _Plot:
    """Draw in our style without changing anybody else's: matplotlib's settings are the process's."""

    @functools.wraps(plot)
    def wrapper(*args: Any, **kwargs: Any) -> Path:
        from matplotlib import rc_context

        with rc_context(_STYLE):
            return plot(*args, **kwargs)

    return cast(_Plot, wrapper)


def _save(figure: Figure, out: Path | str) -> Path:
    out = Path(out)
    kind = out.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise ConfigError(f"a plot cannot be written as {out.name!r}", expected="a name that ends in .png or .svg")
    data = io.BytesIO()
    # No date and no random identifiers: the same plot is the same file.
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(data, format=kind, dpi=130, metadata=metadata, facecolor="white")
    write_atomically(out, data.getvalue())
    return out


def _panels(count: int, columns: int = 2, *, width: float = _PANEL_WIDTH_IN, height: float = _PANEL_HEIGHT_IN) -> Any:
    """A figure and ``count`` axes in rows; without pyplot, so that no state is shared."""
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(count)]


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Running mean over about a fortieth of the curve, its ends kept."""
    width = max(1, len(values) // 40)
    padded = np.pad(values, (width, width), mode="edge")
    return np.convolve(padded, np.ones(2 * width + 1) / (2 * width + 1), mode="valid")


def _draw_curve(axes: Axes, curve: Curve, colour: str, label: str, *, smooth: bool) -> None:
    if smooth and len(curve.values) > 80:
        axes.plot(curve.steps, curve.values, color=colour, alpha=0.22, linewidth=0.8)
        axes.plot(curve.steps, _smoothed(curve.values), color=colour, label=label)
    else:
        marker = "o" if len(curve.values) < 30 else None
        axes.plot(curve.steps, curve.values, color=colour, label=label, marker=marker, markersize=3.5)


def _log_if_positive(axes: Axes, curves: Sequence[Curve]) -> None:
    values = np.concatenate([curve.values for curve in curves])
    if values.size and (values > 0).all() and values.max() > 5 * values.min():
        axes.set_yscale("log")


def _base_name(name: str, names: Mapping[str, Curve]) -> str:
    """``val/bas_shuffled`` belongs to ``val/bas``: the longest other name that it extends."""
    owners = [other for other in names if other != name and name.startswith(f"{other}_")]
    return min(owners, key=len) if owners else name


@_styled
def learning_curves(
    metrics_csv: Path | str,
    out: Path | str,
    *,
    validation_csv: Path | str | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """Plot a run: the training loss, its terms, and one panel for each validation quantity with its references.

    Args:
        metrics_csv: The run's ``metrics.csv``: ``step``, ``train/loss``, ``train/<term>``, ...
        out: The picture to write, ``.png`` or ``.svg``.
        validation_csv: The run's ``metrics_val.csv``: ``step``, ``name``, ``value``; may be missing or empty.
        names: The validation quantities to show (``val/bas``, ...); all by default. Those that extend a name, such as
            ``val/bas_shuffled``, are drawn into its panel.

    Raises:
        DataError: a file that cannot be read, or no training loss in it.
        ConfigError: another suffix.
    """
    training = read_training(metrics_csv)
    loss = training.get("train/loss")
    if loss is None or not len(loss.values):
        raise DataError("there is no training loss to plot", where=metrics_csv, expected="a column train/loss")
    terms = [curve for name, curve in training.items() if name.startswith("train/") and name != "train/loss"]
    terms = [curve for curve in terms if len(curve.values)]
    validation: dict[str, Curve] = {}
    if validation_csv is not None and Path(validation_csv).is_file():
        validation = {name: curve for name, curve in read_validation(validation_csv).items() if len(curve.values)}
    held_out = validation.pop("val/loss", None)
    groups: dict[str, list[Curve]] = {}
    for name, curve in validation.items():
        groups.setdefault(_base_name(name, validation), []).append(curve)
    if names is not None:
        groups = {name: groups[name] for name in names if name in groups}

    figure, panels = _panels(1 + bool(terms) + len(groups))
    free = iter(panels)
    axes = next(free)
    _draw_curve(axes, loss, COLOURS[0], "training", smooth=True)
    if held_out is not None:
        _draw_curve(axes, held_out, COLOURS[1], "validation", smooth=False)
        axes.legend()
    axes.set_title("loss")
    _log_if_positive(axes, [loss])
    if terms:
        axes = next(free)
        for index, curve in enumerate(terms):
            label = curve.name.removeprefix("train/")
            _draw_curve(axes, curve, COLOURS[index % len(COLOURS)], label, smooth=True)
        axes.set_title("terms of the training loss")
        _log_if_positive(axes, terms)
        axes.legend(fontsize=8)
    for name, curves in groups.items():
        axes = next(free)
        for index, curve in enumerate(curves):
            label = "generated" if curve.name == name else curve.name.removeprefix(f"{name}_").replace("_", " ")
            _draw_curve(axes, curve, COLOURS[(index + 1) % len(COLOURS)], label, smooth=False)
        axes.set_title(name.removeprefix("val/"))
        if len(curves) > 1:
            axes.legend(fontsize=8)
    for axes in panels:
        axes.set_xlabel("optimizer step")
    return _save(figure, out)


@_styled
def histograms(values: Mapping[str, Mapping[str, Sequence[float] | np.ndarray]], out: Path | str) -> Path:
    """One panel for each quantity: how it is spread over the clips, for example of generated and reference dances.

    Args:
        values: {quantity: {set: (N,) one value a clip}}; values that are not finite are left out and counted in the
            legend.
        out: The picture to write, ``.png`` or ``.svg``.

    Raises:
        DataError: nothing to plot.
    """
    if not values:
        raise DataError("there are no distributions to plot", where=out)
    figure, panels = _panels(len(values))
    for axes, (quantity, sets) in zip(panels, values.items(), strict=True):
        arrays = {name: np.asarray(list(some), dtype=np.float64) for name, some in sets.items()}
        finite = {name: some[np.isfinite(some)] for name, some in arrays.items()}
        pooled = np.concatenate([*finite.values(), np.zeros(0)])
        edges = np.histogram_bin_edges(pooled, bins=24) if pooled.size else np.linspace(0.0, 1.0, 25)
        for index, (name, some) in enumerate(finite.items()):
            left_out = len(arrays[name]) - len(some)
            label = f"{name} (n = {len(some)}" + (f", {left_out} not finite)" if left_out else ")")
            colour = COLOURS[index % len(COLOURS)]
            axes.hist(some, bins=edges, color=colour, alpha=0.35, label=label)
            if len(some):
                axes.axvline(float(np.median(some)), color=colour, linewidth=1.4)
        axes.set_title(quantity)
        axes.set_ylabel("clips")
        axes.legend(fontsize=8)
    return _save(figure, out)


@_styled
def beat_plot(
    joints_TJ3: np.ndarray, fps: float, music_beats_s: np.ndarray, out: Path | str, *, title: str = "beats"
) -> Path:
    """The dancer's mean joint speed over time, where it comes to rest, and the beats of the music.

    Args:
        joints_TJ3: Joints (T, J, 3), metres, at least two frames.
        fps: Frames per second.
        music_beats_s: Beats (N,) in seconds from the first frame.
        out: The picture to write, ``.png`` or ``.svg``.
        title: Heading of the plot; the beat alignment score is added.

    Raises:
        DataError: fewer than two frames.
    """
    from scipy.ndimage import gaussian_filter1d

    from macedance.metrics.functional.beat import (
        SMOOTHING_S,
        beat_alignment,
        mean_joint_speed,
        motion_beats,
        within,
    )

    duration_s = len(joints_TJ3) / fps
    speed = mean_joint_speed(joints_TJ3, fps)
    smooth = gaussian_filter1d(speed, SMOOTHING_S * fps)
    times_s = (np.arange(len(speed)) + 0.5) / fps
    rests_s = motion_beats(joints_TJ3, fps)
    beats_s = within(np.asarray(music_beats_s, dtype=np.float64), duration_s)
    figure, (axes,) = _panels(1, 1, width=9.2, height=2.7)
    axes.plot(times_s, speed, color=COLOURS[1], alpha=0.25, linewidth=0.8)
    axes.plot(times_s, smooth, color=COLOURS[1], label="mean joint speed")
    for index, beat_s in enumerate(beats_s):
        axes.axvline(beat_s, color=COLOURS[0], alpha=0.55, linewidth=1.1, label=None if index else "music beats")
    axes.plot(rests_s, np.interp(rests_s, times_s, smooth), "o", color="#1f2433", markersize=4, label="motion beats")
    score = beat_alignment(beats_s, rests_s)
    axes.set_title(title if math.isnan(score) else f"{title} · alignment {score:.2f}")
    axes.set_xlim(0.0, duration_s)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("m/s")
    axes.legend(fontsize=8, ncols=3, loc="upper right")
    return _save(figure, out)
