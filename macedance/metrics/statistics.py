"""How far to trust a number: bootstrap intervals, and the distance that two samples of the same set have.

Shapes: n or m clips, D features. Everything is seeded and in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from macedance.errors import DataError
from macedance.metrics.functional.frechet import frechet_distance

if TYPE_CHECKING:
    from macedance.metrics.conventions import Preset

#: One number of an evaluation: "value" (None with a "reason" where there is none), "n", and what qualifies it.
Entry = dict[str, Any]
Interval = tuple[float, float]

MEAN_RESAMPLES = 1000
#: Each resample of a Fréchet distance costs two decompositions.
FRECHET_RESAMPLES = 200
FLOOR_DRAWS = 20
_COVERED = (0.025, 0.975)


def bootstrap_mean(values: np.ndarray, *, resamples: int = MEAN_RESAMPLES, seed: int = 0) -> Interval | None:
    """95% percentile interval of a mean over clips, by resampling clips.

    Args:
        values: (n,) or (n, k): with k columns (feet), the mean of the columns' means. NaN is a missing value.
        resamples: Number of resamples.
        seed: Of the resampling.

    Returns:
        (low, high), or None with fewer than two clips that have a value.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    present = ~np.isnan(values)
    values, present = values[present.any(axis=1)], present[present.any(axis=1)]
    n = len(values)
    if n < 2:
        return None
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=resamples).astype(np.float64)
    sums, counts = weights @ np.where(present, values, 0.0), weights @ present
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.nanmean(np.where(counts > 0, sums / counts, np.nan), axis=1)
    low, high = np.nanquantile(means, _COVERED)
    return float(low), float(high)


def paired_difference(
    first: np.ndarray, second: np.ndarray, *, resamples: int = MEAN_RESAMPLES, seed: int = 0
) -> Entry:
    """Mean of ``first`` - ``second`` (n,) over pairs of clips, with its 95% interval.

    Returns:
        ``value``, ``n``, ``ci95``; pairs of which one value is NaN are counted as ``left_out``.

    Raises:
        DataError: Values of different shapes, which cannot be pairs.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise DataError(f"values of shapes {first.shape} and {second.shape}", expected="(n,) of the same clips")
    difference = first - second
    present = difference[~np.isnan(difference)]
    entry: Entry = {"value": float(present.mean()) if present.size else None, "n": int(present.size)}
    if present.size < difference.size or not difference.size:
        entry |= {"left_out": int(difference.size - present.size), "reason": "no value in one of the two"}
    interval = bootstrap_mean(present, resamples=resamples, seed=seed) if resamples else None
    return entry if interval is None else entry | {"ci95": list(interval)}


def bootstrap_frechet(
    x: Tensor, y: Tensor, value: float, *, resamples: int = FRECHET_RESAMPLES, seed: int = 0
) -> Interval:
    """95% interval of the Fréchet distance ``value`` of x (n, D) to y (m, D), by resampling the clips of both.

    A resample repeats clips, which makes it look narrower than its set: distances of resamples are too large. Their
    spread is therefore laid around the value itself: (low, high) = value + quantiles - mean of the resamples, not below
    0. It says how much the value would vary with other clips, not how biased it is; for that see reference_floor.
    """
    generator = np.random.default_rng(seed)
    drawn = np.array([frechet_distance(_resample(x, generator), _resample(y, generator)) for _ in range(resamples)])
    return _around(value, drawn)


def bootstrap_diversity(x: Tensor, value: float, *, resamples: int = MEAN_RESAMPLES, seed: int = 0) -> Interval | None:
    """95% interval of the mean pairwise distance ``value`` of x (n, D), laid around it as in bootstrap_frechet."""
    n = len(x)
    if n < 3:
        return None
    distances = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").numpy()
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=resamples).astype(np.float64)
    return _around(value, ((weights @ distances) * weights).sum(axis=1) / (n * (n - 1)))


def small_sample_reason(n: int, dims: int) -> str | None:
    """Why the Fréchet distance of n clips in ``dims`` features is refused; None where it is not."""
    return f"{n} clips are fewer than the {dims} features: the distance would be mostly noise" if n < dims else None


def reference_floor(
    reference: Tensor,
    n: int,
    preset: Preset,
    *,
    draws: int = FLOOR_DRAWS,
    seed: int = 0,
    allow_small_n: bool = False,
) -> Entry:
    """The Fréchet distance that two samples of the reference itself have: what no model can get below.

    Args:
        reference: (m, D) features of the reference, one kind.
        n: Number of generated clips.
        preset: Whose standardisation is used: by the whole reference, or each sample by itself.
        draws: Disjoint pairs of samples; the value is their mean.
        seed: Of the draws.
        allow_small_n: Give it below the feature dimension too.

    Returns:
        ``value``, ``n`` (clips in each sample: ``n`` where the reference has twice as many, else half of it with a
        ``note``), ``n_reference``, ``sd`` over draws, ``draws``; ``value`` None with a ``reason`` where there is none.
    """
    m, dims = reference.shape
    size = n if m >= 2 * n else m // 2
    entry: Entry = {"value": None, "n": size, "n_reference": m, "draws": draws}
    if size < n:
        entry["note"] = f"disjoint halves: the reference has {m} clips, not twice the {n} generated ones"
    reason = f"samples of {size} clips: at least 2 are needed" if size < 2 else small_sample_reason(size, dims)
    if size < 2 or (reason and not allow_small_n):
        return entry | {"reason": reason}
    if not preset.own_statistics:
        reference = preset.standardization(reference).apply(reference)
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        order = torch.from_numpy(generator.permutation(m))
        x, y = reference[order[:size]], reference[order[size : 2 * size]]
        if preset.own_statistics:
            x, y, _ = preset.standardized(x, y)
        values.append(frechet_distance(x, y))
    return entry | {"value": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if draws > 1 else None}


def check_resampling(resamples: int, draws: int) -> None:
    """Refuse impossible numbers.

    Raises:
        DataError: A negative number.
    """
    if resamples < 0 or draws < 0:
        raise DataError(f"{resamples} resamples and {draws} draws", expected="numbers from 0")


def _resample(x: Tensor, generator: np.random.Generator) -> Tensor:
    return x[torch.from_numpy(generator.integers(0, len(x), len(x)))]


def _around(value: float, drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, _COVERED) - drawn.mean() + value
    return max(0.0, float(low)), max(0.0, float(high))
