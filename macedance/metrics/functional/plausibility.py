"""Plausibility: the body of a person, on the floor, at the speed of a person.

Shapes: ... any leading dimensions, T frames, J = 24 joints in SMPL order. Metres, seconds; results are in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from macedance.errors import DataError
from macedance.motion.skeleton import PARENTS


def bone_length_variation(joints: Tensor) -> Tensor:
    """Largest relative change (...) of a bone's length over joints (..., T, 24, 3): (max - min) / mean, worst bone.

    Raises:
        DataError: Not 24 joints.
    """
    if joints.shape[-2:] != (len(PARENTS), 3):
        raise DataError(f"joints have shape {tuple(joints.shape)}", expected="(..., T, 24, 3)")
    bones = joints[..., 1:, :].double() - joints[..., PARENTS[1:], :].double()
    length = bones.norm(dim=-1)
    spread = length.amax(-2) - length.amin(-2)
    return (spread / length.mean(-2).clamp_min(1e-9)).amax(-1)


def floor_penetration_m(joints: Tensor, *, floor_m: float = 0.0, up_axis: int = 1) -> Tensor:
    """How far (...) the lowest joint of joints (..., T, J, 3) ever gets below the floor, metres; 0 if it never does."""
    return (floor_m - joints[..., up_axis].double()).flatten(-2).amax(-1).clamp_min(0.0)


def max_root_speed_m_s(joints: Tensor, fps: float) -> Tensor:
    """Largest speed (...) of the root of joints (..., T, J, 3), m/s.

    Raises:
        DataError: Fewer than two frames.
    """
    if joints.shape[-3] < 2:
        raise DataError(f"a clip of {joints.shape[-3]} frames", expected="at least 2")
    return joints[..., 0, :].double().diff(dim=-2).norm(dim=-1).amax(-1) * fps


def mean_speed_m_s(joints: Tensor, fps: float) -> Tensor:
    """Mean speed (...) of all joints (..., T, J, 3), m/s: the energy of a dance in one number.

    Raises:
        DataError: Fewer than two frames.
    """
    if joints.shape[-3] < 2:
        raise DataError(f"a clip of {joints.shape[-3]} frames", expected="at least 2")
    return torch.linalg.vector_norm(joints.double().diff(dim=-3), dim=-1).mean((-2, -1)) * fps
