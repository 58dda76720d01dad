"""Distances between two sets of videos, each given by features of some windows of its clips.

Windows of one clip are alike: whatever is resampled, split or left out here are clips, never windows.

Shapes: n or m windows, D features, R resamples. Everything is in float64 and seeded.

Sources: Unterthiner et al., "Towards Accurate Generative Models of Video" (2018) for the Fréchet and kernel video
distances; Binkowski et al., "Demystifying MMD GANs" (ICLR 2018), eq. 4, for the unbiased kernel distance; Chong and
Forsyth, "Effectively Unbiased FID" (CVPR 2020) for the extrapolation to infinitely many samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from macedance.errors import DataError

#: Sizes of subsamples through which the extrapolation's line goes, and draws at each but the whole.
INFINITY_SIZES = 5
INFINITY_DRAWS = 10
#: Subsamples are never smaller than this share of the whole, nor than the number of features.
_SMALLEST_SHARE = 0.5
#: Of the kernel of all pairs of windows, what is made at once.
_PORTION_BYTES = 2**26
#: The line needs sizes that differ: the whole must be so much larger than the number of features.
_LEAST_SPREAD = 1.2


@dataclass(frozen=True)
class FeatureSet:
    """Features of the windows of a set of videos.

    Args:
        features: (n, D).
        clips: (n,) number of the clip that each window is of; equal numbers in two sets are clips that belong together,
            such as a generated video and the true one.
    """

    features: Tensor
    clips: np.ndarray

    @property
    def numbers(self) -> np.ndarray:
        """Numbers of the clips, each once, ascending."""
        return np.unique(self.clips)

    @property
    def num_clips(self) -> int:
        """Number of clips."""
        return len(self.numbers)

    def window_counts(self, clip_counts: np.ndarray) -> np.ndarray:
        """(n,) how often each window counts where the clips, in the order of ``numbers``, count so often."""
        return np.asarray(clip_counts)[np.searchsorted(self.numbers, self.clips)]

    def of_clips(self, positions: np.ndarray) -> FeatureSet:
        """The windows of some clips, named by their positions in ``numbers``."""
        rows = np.flatnonzero(np.isin(self.clips, self.numbers[positions]))
        return FeatureSet(self.features[torch.from_numpy(rows).to(self.features.device)], self.clips[rows])


@dataclass(frozen=True)
class Moments:
    """A Gaussian fitted to n windows.

    Args:
        n: Windows.
        mean: (D,).
        covariance: (D, D).
    """

    n: int
    mean: Tensor
    covariance: Tensor


def moments(x: Tensor, *, ddof: int = 1, weights: Tensor | None = None) -> Moments:
    """Mean and covariance of features (n, D).

    Args:
        x: Features.
        ddof: 1: the unbiased covariance, as numpy.cov; 0: the population's, as StyleGAN-V.
        weights: (n,) how many times each window counts; None: once.

    Raises:
        DataError: Fewer than two windows, or numbers that are not finite.
    """
    x = checked(x)
    weights = x.new_ones(len(x)) if weights is None else weights.double()
    total = float(weights.sum())
    mean = (weights @ x) / total
    centred = (x - mean) * weights.sqrt()[:, None]
    return Moments(round(total), mean, centred.T @ centred / (total - ddof))


def moments_of_sums(n: int, total_D: Tensor, outer_DD: Tensor, *, ddof: int = 1) -> Moments:
    """The same from streamed float64 sums: of n windows, of their features and of the features' outer products.

    Raises:
        DataError: Fewer than two windows, or sums that are not finite.
    """
    if n < 2 or not (torch.isfinite(total_D).all() and torch.isfinite(outer_DD).all()):
        raise DataError(f"sums over {n} windows", expected="finite sums over at least 2")
    mean = total_D / n
    return Moments(n, mean, (outer_DD - n * torch.outer(mean, mean)) / (n - ddof))


def frechet_of_moments(x: Moments, y: Moments) -> float:
    """Fréchet distance of two Gaussians.

    tr((C_x C_y)^1/2) is the sum of the square roots of the eigenvalues of C_x^1/2 C_y C_x^1/2, which are real: a matrix
    square root of the product is neither needed nor, for singular covariances, defined.

    Raises:
        DataError: Different numbers of features.
    """
    _check_alike(x.mean, y.mean)
    values, vectors = torch.linalg.eigh(x.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ y.covariance @ root).clamp(min=0).sqrt().sum()
    mean = (x.mean - y.mean).square().sum()
    return max(0.0, float(mean + x.covariance.trace() + y.covariance.trace() - 2.0 * overlap))


def frechet(x: Tensor, y: Tensor, *, ddof: int = 1) -> float:
    """Fréchet distance of features x (n, D) and y (m, D); see moments for ``ddof``."""
    return frechet_of_moments(moments(x, ddof=ddof), moments(y, ddof=ddof))


def kernel_distance(x: FeatureSet, y: FeatureSet) -> float:
    """Squared maximum mean discrepancy of two sets under the kernel (x.y / D + 1)^3, without bias.

    Pairs of windows of clips of one number, in one set or across both, are no independent draws and left out, like
    those of a window with itself. Without bias means that the value of two like sets scatters around 0, below it too.

    Raises:
        DataError: Fewer than two clips in a set, or numbers that are not finite.
    """
    if min(x.num_clips, y.num_clips) < 2:
        raise DataError(f"{x.num_clips} and {y.num_clips} clips", expected="at least 2 in each set")
    kernels = KernelSums.of(x, y)
    return float(kernels.distances(np.ones((1, x.num_clips)), np.ones((1, y.num_clips)))[0])


@dataclass(frozen=True)
class KernelSums:
    """Distances of resampled clips, from sums of the kernel over the windows of each two clips.

    The kernel of all pairs of windows is never held: it is made and summed in portions of some 64 MB, again for each
    call of ``distances``. The time grows with the square of the number of windows.

    Args:
        x: One set, windows in the order of their clips.
        y: The other.
    """

    x: _Sorted
    y: _Sorted

    @classmethod
    def of(cls, x: FeatureSet, y: FeatureSet) -> KernelSums:
        """The sums of two sets of features.

        Raises:
            DataError: Different numbers of features, or numbers that are not finite.
        """
        _check_alike(x.features, y.features)
        return cls(_Sorted.of(x), _Sorted.of(y))

    def distances(self, x_counts: np.ndarray, y_counts: np.ndarray) -> np.ndarray:
        """Distances (R,) where the clips of the sets count x_counts (R, X) and y_counts (R, Y) times."""
        within = _kernel_means(self.x, self.x, x_counts, x_counts) + _kernel_means(self.y, self.y, y_counts, y_counts)
        return within - 2.0 * _kernel_means(self.x, self.y, x_counts, y_counts)


@dataclass(frozen=True)
class _Sorted:
    """Features (n, D) in the order of their clips; numbers, first windows and numbers of windows (C,) of these."""

    features: np.ndarray
    numbers: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, x: FeatureSet) -> _Sorted:
        order = np.argsort(x.clips, kind="stable")
        numbers, starts, sizes = np.unique(np.asarray(x.clips)[order], return_index=True, return_counts=True)
        return cls(checked(x.features).cpu().numpy()[order], numbers, starts, sizes)

    def portions(self, windows: int) -> Iterator[tuple[int, int]]:
        """First and last clip (exclusive) of portions of about so many windows, at least one clip in each."""
        ends, first = self.starts + self.sizes, 0
        while first < len(ends):
            last = max(first + 1, int(np.searchsorted(ends, self.starts[first] + windows, side="right")))
            yield first, last
            first = last


def _kernel_means(a: _Sorted, b: _Sorted, a_counts: np.ndarray, b_counts: np.ndarray) -> np.ndarray:
    """Mean kernel (R,) of the windows of clips of different numbers, each clip counted so often."""
    total = np.zeros(len(a_counts))
    for first, last in a.portions(max(1, _PORTION_BYTES // (8 * len(b.features)))):
        start, end = a.starts[first], a.starts[last - 1] + a.sizes[last - 1]
        kernel = a.features[start:end] @ b.features.T
        kernel /= a.features.shape[1]
        kernel += 1.0
        kernel *= np.square(kernel)
        by_clip = np.add.reduceat(kernel, b.starts, axis=1)
        by_clip = np.add.reduceat(by_clip, a.starts[first:last] - start, axis=0)
        by_clip[a.numbers[first:last, None] == b.numbers[None]] = 0.0
        total += np.einsum("rb,rb->r", a_counts[:, first:last] @ by_clip, b_counts)
    _, of_a, of_b = np.intersect1d(a.numbers, b.numbers, assume_unique=True, return_indices=True)
    alike = (a_counts[:, of_a] * b_counts[:, of_b]) @ (a.sizes[of_a] * b.sizes[of_b])
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / ((a_counts @ a.sizes) * (b_counts @ b.sizes) - alike)


@dataclass(frozen=True)
class Extrapolated:
    """A Fréchet distance extrapolated to infinitely many clips.

    Args:
        value: Where the line meets 1 / N = 0.
        shares: Shares of the clips that were tried.
        values: Mean distance at each.
    """

    value: float
    shares: list[float]
    values: list[float]


def extrapolated_frechet(
    x: FeatureSet, y: FeatureSet, *, ddof: int = 1, draws: int = INFINITY_DRAWS, seed: int = 0
) -> Extrapolated | None:
    """Fréchet distance without the bias of few samples: a line through the distances of subsamples over 1 / N.

    The bias is linear in 1 / N only where the windows outnumber the features (of 400 features in 500 windows, a line
    from a fifth of them leaves up to two thirds of the bias). Subsamples are therefore no smaller than the number of
    features, nor than half of all.

    Args:
        x: One set.
        y: The other, of about as many windows.
        ddof: See moments.
        draws: Subsamples of each size.
        seed: Of the draws.

    Returns:
        The extrapolation, or None where there are less than 1.2 windows for each feature (``infinity_needs``).
    """
    n, dims = min(len(x.features), len(y.features)), x.features.shape[1]
    if n < infinity_needs(dims):
        return None
    shares = np.linspace(max(dims / n, _SMALLEST_SHARE), 1.0, INFINITY_SIZES)
    generator = np.random.default_rng(seed)
    values = []
    for share in shares:
        drawn = []
        for _ in range(draws if share < 1.0 else 1):
            x_order, y_order = orders(x, y, generator)
            x_some = x.of_clips(x_order[: _rounded_up(share * x.num_clips)])
            y_some = y.of_clips(y_order[: _rounded_up(share * y.num_clips)])
            drawn.append(frechet(x_some.features, y_some.features, ddof=ddof))
        values.append(float(np.mean(drawn)))
    slope_and_value = np.polyfit(1.0 / shares, values, 1)
    return Extrapolated(float(slope_and_value[1]), shares.tolist(), values)


def infinity_needs(dims: int) -> int:
    """The fewest windows that ``extrapolated_frechet`` takes for D features."""
    return int(np.ceil(_LEAST_SPREAD * dims))


def orders(x: FeatureSet, y: FeatureSet, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random order of the clips of each set; the same one where both sets have clips of the same numbers."""
    first = generator.permutation(x.num_clips)
    return first, first if np.array_equal(x.numbers, y.numbers) else generator.permutation(y.num_clips)


def checked(features: Tensor) -> Tensor:
    """Features (n, D) in float64.

    Raises:
        DataError: Fewer than two windows, or numbers that are not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise DataError(f"features have shape {tuple(features.shape)}", expected="(windows, D), at least 2 windows")
    features = features.double()
    if not torch.isfinite(features).all():
        raise DataError("features have NaN or infinite numbers", expected="finite numbers")
    return features


def _check_alike(x: Tensor, y: Tensor) -> None:
    if x.shape[-1] != y.shape[-1]:
        raise DataError(
            f"{x.shape[-1]} features against {y.shape[-1]}", expected="the features of one network in both sets"
        )


def _rounded_up(number: float) -> int:
    return int(np.ceil(number - 1e-9))
