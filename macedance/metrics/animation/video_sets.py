"""How two sets of videos differ, from features of their windows: the entries ``fvd``, ``fvd_inf`` and ``kvd``.

Every interval and floor resamples clips, never windows, which are alike within a clip. Shapes: n windows, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from macedance.metrics.functional.video_frechet import (
    FeatureSet,
    KernelSums,
    extrapolated_frechet,
    frechet,
    frechet_of_moments,
    infinity_needs,
    kernel_distance,
    moments,
    orders,
)
from macedance.metrics.statistics import FLOOR_DRAWS, MEAN_RESAMPLES, Entry, check_resampling

KEYS = ("fvd", "fvd_inf", "kvd")
_COVERED = (0.025, 0.975)
#: Groups of clips of which one at a time is left out, and Student's t of their number for a 95% interval.
_JACKKNIFE_GROUPS, _STUDENT_T = 10, 2.262
_JACKKNIFE_DRAWS = 3


@dataclass(frozen=True)
class Reporting:
    """What is reported beside the values.

    Args:
        allow_small_n: Fréchet distances of fewer clips than features too.
        resamples: Of the bootstrap of the kernel distance, a fifth of it for the Fréchet distance; 0: no intervals.
        floor_draws: Pairs of disjoint samples of the reference; 0: no floor.
        seed: Of all draws.

    Raises:
        DataError: A negative number.
    """

    allow_small_n: bool = False
    resamples: int = MEAN_RESAMPLES
    floor_draws: int = FLOOR_DRAWS
    seed: int = 0

    def __post_init__(self) -> None:
        check_resampling(self.resamples, self.floor_draws)


def set_entries(generated: FeatureSet, reference: FeatureSet, *, ddof: int, reporting: Reporting) -> dict[str, Entry]:
    """``fvd``, ``fvd_inf`` and ``kvd`` of two sets.

    For the Fréchet distances, whose bias depends on it, both sets have the same number of windows: of the larger one
    as many as the other has are drawn. The kernel distance has no bias and takes all. Clips are counted to refuse
    Fréchet distances of small sets: windows of one clip are alike, and more of them take little of the noise away.

    Returns:
        Entries with ``value`` (None with a ``reason``), ``n`` and ``n_reference`` windows of ``n_clips`` and
        ``n_reference_clips`` clips, ``ci95``; ``fvd`` and ``kvd`` with a ``floor``.
    """
    x, y = equal_sizes(generated, reference, reporting.seed)
    entries = {"fvd": _counted(x, y), "fvd_inf": _counted(x, y), "kvd": _counted(generated, reference)}
    dims = reference.features.shape[1] if len(reference.features) else generated.features.shape[1]
    n, clips = len(x.features), min(generated.num_clips, reference.num_clips)
    reason = "fewer than 2 windows in a set" if n < 2 else small_reason(clips, dims, n)
    if reason and (n < 2 or not reporting.allow_small_n):
        entries["fvd"] |= {"value": None, "reason": reason}
        entries["fvd_inf"] |= {"value": None, "reason": reason}
    else:
        value = frechet(x.features, y.features, ddof=ddof)
        entries["fvd"] |= {"value": value} | _interval(bootstrap_frechet(x, y, value, ddof=ddof, reporting=reporting))
        entries["fvd_inf"] |= _infinity(x, y, dims, ddof, reporting)
    if min(generated.num_clips, reference.num_clips) < 2:
        entries["kvd"] |= {"value": None, "reason": "fewer than 2 clips in a set"}
    else:
        entries["kvd"] |= {"value": kernel_distance(generated, reference)} | _interval(
            bootstrap_kernel(generated, reference, reporting)
        )
    if reporting.floor_draws:
        for key, floor in reference_floors(reference, generated.num_clips, ddof=ddof, reporting=reporting).items():
            entries[key]["floor"] = floor
    return entries


def small_reason(clips: int, dims: int, windows: int) -> str | None:
    """Why the Fréchet distance of so many clips in ``dims`` features is refused; None where it is not."""
    if clips >= dims:
        return None
    more = f", and their {windows} windows are alike within a clip" if windows > clips else ""
    return f"{clips} clips are fewer than the {dims} features{more}: the distance would be mostly noise"


def equal_sizes(x: FeatureSet, y: FeatureSet, seed: int) -> tuple[FeatureSet, FeatureSet]:
    """Both sets with the number of windows of the smaller one; those of the larger one are drawn by the seed."""
    n = min(len(x.features), len(y.features))
    return _drawn(x, n, seed), _drawn(y, n, seed)


def bootstrap_frechet(
    x: FeatureSet, y: FeatureSet, value: float, *, ddof: int, reporting: Reporting
) -> tuple[float, float] | None:
    """95% interval of the Fréchet distance ``value`` by resampling clips, those of equal numbers together.

    Resampled sets repeat clips, which makes their distances too large: the spread is laid around the value itself. It
    says how much the value would vary with other clips, not how biased it is; see ``fvd_inf`` and the floor.
    """
    resamples = reporting.resamples // 5
    if not resamples or min(x.num_clips, y.num_clips) < 2:
        return None
    x_counts, y_counts = _counts(x, y, resamples, reporting.seed)
    drawn = []
    for x_count, y_count in zip(x_counts, y_counts, strict=True):
        parts = ((x.features, x.window_counts(x_count)), (y.features, y.window_counts(y_count)))
        if all(weights.sum() >= 2 for _, weights in parts):
            fitted = (moments(f, ddof=ddof, weights=torch.from_numpy(w).to(f.device)) for f, w in parts)
            drawn.append(frechet_of_moments(*fitted))
    return _around(value, np.array(drawn), low=0.0)


def bootstrap_kernel(x: FeatureSet, y: FeatureSet, reporting: Reporting) -> tuple[float, float] | None:
    """95% interval of the kernel distance by resampling clips; below 0 too, as it is without bias."""
    if not reporting.resamples or min(x.num_clips, y.num_clips) < 3:
        return None
    values = KernelSums.of(x, y).distances(*_counts(x, y, reporting.resamples, reporting.seed))
    low, high = np.nanquantile(values, _COVERED)
    return float(low), float(high)


def jackknife_infinity(
    x: FeatureSet, y: FeatureSet, value: float, *, ddof: int, seed: int
) -> tuple[float, float] | None:
    """95% interval of the extrapolated distance ``value``, from leaving out a tenth of the clips at a time.

    Repeated clips bend the line that is extrapolated, so there is no bootstrap of it. None where the rest is too small.
    """
    generator = np.random.default_rng(seed)
    values = []
    parts = [np.array_split(order, _JACKKNIFE_GROUPS) for order in orders(x, y, generator)]
    for group in range(_JACKKNIFE_GROUPS):
        rest = [
            features.of_clips(np.concatenate([part for k, part in enumerate(groups) if k != group]))
            for features, groups in zip((x, y), parts, strict=True)
        ]
        found = extrapolated_frechet(rest[0], rest[1], ddof=ddof, draws=_JACKKNIFE_DRAWS, seed=seed)
        if found is None:
            return None
        values.append(found.value)
    groups_less_one = _JACKKNIFE_GROUPS - 1
    half = _STUDENT_T * float(np.sqrt(groups_less_one * np.var(values)))
    return value - half, value + half


def reference_floors(reference: FeatureSet, num_clips: int, *, ddof: int, reporting: Reporting) -> dict[str, Entry]:
    """What two disjoint samples of the reference's clips are apart: what no generator can get below.

    Args:
        reference: The reference.
        num_clips: Clips in each sample, where there are twice as many; otherwise halves, with a ``note``.
        ddof: See moments.
        reporting: Draws, seed, and whether few samples are allowed.

    Returns:
        Entries of ``fvd`` and ``kvd``: ``value`` the mean over the draws, their ``sd``, ``n`` windows of ``n_clips``
        clips in a sample.
    """
    m, dims = reference.num_clips, reference.features.shape[1]
    size = num_clips if m >= 2 * num_clips else m // 2
    entry: Entry = {"value": None, "n_clips": size, "n_reference": len(reference.features)}
    entry["draws"] = reporting.floor_draws
    if size < num_clips:
        entry["note"] = f"disjoint halves: the reference has {m} clips, not twice the {num_clips} generated ones"
    if size < 2:
        reason = {"n": 0, "reason": f"samples of {size} clips: at least 2 are needed"}
        return {"fvd": entry | reason, "kvd": entry | reason}
    sizes = np.unique(reference.clips, return_counts=True)[1]
    generator = np.random.default_rng(reporting.seed)
    splits = [np.split(generator.permutation(m)[: 2 * size], 2) for _ in range(reporting.floor_draws)]
    windows = min(int(sizes[part].sum()) for split in splits for part in split)
    entry["n"] = windows
    reason_small = small_reason(size, dims, windows)
    distances: dict[str, list[float]] = {"fvd": [], "kvd": []}
    for split in splits:
        # One draw at a time: each holds a copy of up to all features.
        a, b = (reference.of_clips(part) for part in split)
        distances["kvd"].append(kernel_distance(a, b))
        if not reason_small or reporting.allow_small_n:
            a, b = equal_sizes(a, b, reporting.seed)
            distances["fvd"].append(frechet(a.features, b.features, ddof=ddof))
    fvd = entry | ({"reason": f"samples of {reason_small}"} if reason_small else {})
    fvd |= _spread(distances["fvd"]) if distances["fvd"] else {}
    return {"fvd": fvd, "kvd": entry | _spread(distances["kvd"])}


def _infinity(x: FeatureSet, y: FeatureSet, dims: int, ddof: int, reporting: Reporting) -> Entry:
    found = extrapolated_frechet(x, y, ddof=ddof, seed=reporting.seed) if len(x.features) else None
    if found is None:
        needs = infinity_needs(dims)
        return {"value": None, "reason": f"{len(x.features)} windows: the line needs {needs} for {dims} features"}
    interval = jackknife_infinity(x, y, found.value, ddof=ddof, seed=reporting.seed) if reporting.resamples else None
    fit = {"shares": [round(share, 4) for share in found.shares], "values": found.values}
    entry: Entry = {"value": found.value, "fit": fit} | _interval(interval)
    if reporting.resamples and interval is None:
        entry["note"] = f"no interval: nine tenths of the windows are fewer than the line needs, {infinity_needs(dims)}"
    return entry


def _counted(x: FeatureSet, y: FeatureSet) -> Entry:
    return {
        "value": None,
        "n": len(x.features),
        "n_reference": len(y.features),
        "n_clips": x.num_clips,
        "n_reference_clips": y.num_clips,
    }


def _drawn(features: FeatureSet, n: int, seed: int) -> FeatureSet:
    if len(features.features) <= n:
        return features
    rows = np.sort(np.random.default_rng(seed).permutation(len(features.features))[:n])
    return FeatureSet(features.features[torch.from_numpy(rows).to(features.features.device)], features.clips[rows])


def _counts(x: FeatureSet, y: FeatureSet, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each clip is drawn in each resample, (R, X) and (R, Y)."""
    generator = np.random.default_rng(seed)

    def draws(clips: int) -> np.ndarray:
        return generator.multinomial(clips, np.full(clips, 1.0 / clips), size=resamples).astype(np.float64)

    first = draws(x.num_clips)
    return first, first if np.array_equal(x.numbers, y.numbers) else draws(y.num_clips)


def _around(value: float, drawn: np.ndarray, low: float) -> tuple[float, float] | None:
    if len(drawn) < 2:
        return None
    bounds = np.quantile(drawn, _COVERED) - drawn.mean() + value
    return max(low, float(bounds[0])), max(low, float(bounds[1]))


def _interval(interval: tuple[float, float] | None) -> Entry:
    return {} if interval is None else {"ci95": list(interval)}


def _spread(values: list[float]) -> Entry:
    return {"value": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}
