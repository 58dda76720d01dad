"""Distances between two sets of feature vectors, and the spread of one.

Shapes: n or m clips, D features. Everything is in float64.

Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (NeurIPS 2017), eq. 6, for the Fréchet distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from macedance.errors import DataError


@dataclass(frozen=True)
class Standardization:
    """Mean and scale of a reference set.

    Args:
        mean: (D,) of all features.
        scale: (D,) what the centred features are divided by.
        kept: (D,) bool; False for dead dimensions, which ``apply`` leaves out.
    """

    mean: Tensor
    scale: Tensor
    kept: Tensor

    @property
    def num_dropped(self) -> int:
        """Number of dead dimensions."""
        return int((~self.kept).sum())

    def apply(self, features: Tensor) -> Tensor:
        """Features (n, D) standardised, dead dimensions left out: (n, D - num_dropped)."""
        return ((features.double() - self.mean) / self.scale)[:, self.kept]


def standardization(
    reference: Tensor, *, ddof: int = 1, eps: float = 0.0, dead_std: float | None = 1e-6
) -> Standardization:
    """Standardisation by the statistics of ``reference`` (n, D).

    Args:
        reference: Features.
        ddof: 1 for the unbiased standard deviation, 0 for the population's.
        eps: Added to the standard deviation, as published code does.
        dead_std: Dimensions whose standard deviation is below this are dead and dropped; None keeps all.

    Raises:
        DataError: Fewer than two clips, or numbers that are not finite.
    """
    reference = _checked(reference, "reference", minimum=2)
    std = reference.std(dim=0, correction=ddof)
    kept = torch.ones_like(std, dtype=torch.bool) if dead_std is None else std >= dead_std
    return Standardization(mean=reference.mean(0), scale=torch.where(kept, std + eps, torch.ones_like(std)), kept=kept)


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Fréchet distance of Gaussians fitted to x (n, D) and y (m, D); covariances are unbiased.

    |mean_x - mean_y|^2 + tr(C_x) + tr(C_y) - 2 tr((C_x C_y)^1/2). With C = R^T R from a QR decomposition of the centred
    features, the square roots of the eigenvalues of C_x C_y are the singular values of R_x R_y^T: exact and real for
    singular covariances too, where a matrix square root is neither.

    Raises:
        DataError: Fewer than two clips, different D, or numbers that are not finite.
    """
    x, y = _checked(x, "generated", minimum=2), _checked(y, "reference", minimum=2)
    if x.shape[1] != y.shape[1]:
        raise DataError(f"{x.shape[1]} features against {y.shape[1]}", expected="the same number in both sets")
    if x.shape[1] == 0:
        return 0.0
    r_x, r_y = _covariance_factor(x), _covariance_factor(y)
    overlap = torch.linalg.svdvals(r_x @ r_y.T).sum()
    mean = (x.mean(0) - y.mean(0)).square().sum()
    return max(0.0, float(mean + r_x.square().sum() + r_y.square().sum() - 2.0 * overlap))


def mean_pairwise_distance(x: Tensor) -> float:
    """Mean Euclidean distance over all pairs of x (n, D): the diversity of a set.

    Raises:
        DataError: Fewer than two clips, or numbers that are not finite.
    """
    x = _checked(x, "features", minimum=2)
    if x.shape[1] == 0:
        return 0.0
    return float(torch.pdist(x).mean())


def _covariance_factor(x: Tensor) -> Tensor:
    """R with R^T R = the unbiased covariance of x (n, D)."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R


def _checked(features: Tensor, name: str, minimum: int) -> Tensor:
    if features.ndim != 2 or len(features) < minimum:
        raise DataError(f"{name} features have shape {tuple(features.shape)}", expected=f"(n, D) with n >= {minimum}")
    features = features.double()
    if not torch.isfinite(features).all():
        raise DataError(f"{name} features have NaN or infinite numbers", expected="finite numbers")
    return features
