"""Smoothness: how much a motion jitters.

Shapes: ... any leading dimensions, T frames, J joints. Metres, seconds; results are in float64.
"""

from __future__ import annotations

from torch import Tensor

from macedance.errors import DataError


def mean_jerk(joints: Tensor, fps: float) -> Tensor:
    """Mean length (...) of the third difference of joints (..., T, J, 3) times fps^3, m/s^3.

    Raises:
        DataError: Fewer than four frames.
    """
    if joints.ndim < 3 or joints.shape[-1] != 3 or joints.shape[-3] < 4:
        raise DataError(f"joints have shape {tuple(joints.shape)}", expected="(..., T, J, 3) with at least 4 frames")
    return joints.double().diff(n=3, dim=-3).norm(dim=-1).mean((-2, -1)) * fps**3
