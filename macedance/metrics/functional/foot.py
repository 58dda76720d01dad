"""Feet: skating, and the physical-contact scores PFC and PBC.

Shapes: ... any leading dimensions, T frames, J joints in SMPL order. Metres, seconds; results are in float64.

Sources: foot skating, Li et al., "Lodge" (CVPR 2024); PFC, Tseng et al., "EDGE" (CVPR 2023), eq. 9-10; PBC, Luo et al.,
"POPDG" (CVPR 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

from macedance.errors import DataError

# Ankle and toe of the left and the right foot.
ANKLES: tuple[int, int] = (7, 8)
TOES: tuple[int, int] = (10, 11)
ANKLE_CONTACT_M = 0.08
TOE_CONTACT_M = 0.05
SLIDE_SPEED_M_S = 0.3
PUBLISHED_SLIDE_M = 0.01
#: PFC and PBC multiply displacements per frame of 30-fps data; seconds are turned into that unit.
PFC_FRAME_S = 1.0 / 30.0


def foot_skating_counts(joints: Tensor, fps: float, *, up_axis: int = 1) -> tuple[Tensor, Tensor]:
    """Sliding and touching frames, two (...), of joints (..., T, J, 3), both feet pooled.

    The floor is the 1st percentile of the height of both toe joints over the clip. A foot touches it in frame t
    (t = 0..T-2) with its ankle at most 0.08 m and its toe at most 0.05 m above; it slides when, from t to t + 1, ankle
    or toe moves horizontally faster than 0.3 m/s.

    Raises:
        DataError: Fewer than two frames.
    """
    ankle, toe = _feet(joints, 2)
    heights = toe[..., up_axis]
    floor = torch.quantile(heights.flatten(-2), 0.01, dim=-1)[..., None, None]
    touching = (ankle[..., up_axis] - floor <= ANKLE_CONTACT_M) & (heights - floor <= TOE_CONTACT_M)
    touching = touching[..., :-1, :]
    ankle_speed, toe_speed = (_ground_steps(points, up_axis) * fps for points in (ankle, toe))
    sliding = touching & ((ankle_speed > SLIDE_SPEED_M_S) | (toe_speed > SLIDE_SPEED_M_S))
    return sliding.double().sum((-2, -1)), touching.double().sum((-2, -1))


def foot_skating(joints: Tensor, fps: float, *, up_axis: int = 1) -> Tensor:
    """Share (...) in [0, 1] of the touching frames in which a foot slides; NaN where no foot ever touches the floor.

    Raises:
        DataError: Fewer than two frames.
    """
    sliding, touching = foot_skating_counts(joints, fps, up_axis=up_axis)
    return sliding / touching


def foot_skating_published(joints: Tensor) -> Tensor:
    """LODGE's ratio (..., 2) for the left and the right foot of y-up joints (..., T, J, 3); NaN without contact.

    The floor is taken from the first frame's toes: their mean where they differ by less than 0.02 m, else the lower
    one. Speed is per frame, whatever the frame rate, and |(vx + vz) / 2| > 0.01 m: no norm, so that vx = -vz counts as
    still. The last frame counts as contact but cannot slide.

    Raises:
        DataError: Fewer than two frames.
    """
    ankle, toe = _feet(joints, 2)
    first = toe[..., 0, :, 1]
    level = (first[..., 0] - first[..., 1]).abs() < 0.02
    floor = torch.where(level, first.mean(-1), first.amin(-1))[..., None, None]
    touching = (ankle[..., 1] - floor <= ANKLE_CONTACT_M) & (toe[..., 1] - floor <= TOE_CONTACT_M)
    steps = torch.stack([points.diff(dim=-3) for points in (ankle, toe)])
    sliding = (((steps[..., 0] + steps[..., 2]) / 2).abs() > PUBLISHED_SLIDE_M).any(0) & touching[..., :-1, :]
    return sliding.double().sum(-2) / touching.double().sum(-2)


def physical_foot_contact(joints: Tensor, fps: float, *, up_axis: int = 1) -> Tensor:
    """PFC (...) of joints (..., T, J, 3), x 10000: large when the body accelerates while both feet move.

    The acceleration of the root, its downward part left out, is divided by its maximum over the clip and multiplied by
    the smaller horizontal displacement (per 1/30 s) of the left and of the right foot. A clip whose root never
    accelerates scores 0.

    Raises:
        DataError: Fewer than three frames.
    """
    root = _relative_acceleration(joints, 0, fps, upward_axis=up_axis)
    return 10000.0 * (_foot_product(joints, fps, up_axis) * root).mean(-1)


def physical_body_contact(joints: Tensor, fps: float, *, up_axis: int = 1) -> Tensor:
    """PBC (...) of joints (..., T, J, 3), x 10000: POPDG's PFC with the hands and the head.

    0.01 times the smaller displacement of wrist and hand, by the shoulder's relative acceleration, for both arms; plus
    0.1 times the head's by the neck's; minus PFC's term.

    Raises:
        DataError: Fewer than three frames or 24 joints.
    """
    if joints.shape[-2] < 24:
        raise DataError(f"joints have shape {tuple(joints.shape)}", expected="24 joints: PBC reads the hands")
    scale = fps * PFC_FRAME_S
    steps = joints.double()[..., (20, 21, 22, 23, 15), :].diff(dim=-3)[..., 1:, :, :].norm(dim=-1) * scale
    left = torch.minimum(steps[..., 0], steps[..., 2]) * _relative_acceleration(joints, 13, fps)
    right = torch.minimum(steps[..., 1], steps[..., 3]) * _relative_acceleration(joints, 14, fps)
    head = steps[..., 4] * _relative_acceleration(joints, 12, fps)
    feet = _foot_product(joints, fps, up_axis) * _relative_acceleration(joints, 0, fps)
    return 10000.0 * (0.01 * left + 0.01 * right + 0.1 * head - feet).mean(-1)


def _feet(joints: Tensor, minimum: int) -> tuple[Tensor, Tensor]:
    """Ankles and toes (..., T, 2, 3) in float64."""
    if joints.ndim < 3 or joints.shape[-1] != 3 or joints.shape[-2] < 12 or joints.shape[-3] < minimum:
        raise DataError(
            f"joints have shape {tuple(joints.shape)}", expected=f"(..., T, J, 3) with T >= {minimum} in SMPL order"
        )
    return joints[..., ANKLES, :].double(), joints[..., TOES, :].double()


def _ground_steps(points: Tensor, up_axis: int) -> Tensor:
    """Horizontal displacement per frame (..., T - 1, N) of points (..., T, N, 3)."""
    step = points.diff(dim=-3)
    plane = [axis for axis in range(3) if axis != up_axis]
    return step[..., plane].norm(dim=-1)


def _foot_product(joints: Tensor, fps: float, up_axis: int) -> Tensor:
    """Product (..., T - 2) of the two feet's smaller displacements from frame t + 1 to t + 2, each per 1/30 s."""
    ankle, toe = _feet(joints, 3)
    slower = torch.minimum(_ground_steps(ankle, up_axis), _ground_steps(toe, up_axis)) * (fps * PFC_FRAME_S)
    return slower[..., 1:, :].prod(-1)


def _relative_acceleration(joints: Tensor, joint: int, fps: float, upward_axis: int | None = None) -> Tensor:
    """Length of a joint's acceleration (..., T - 2) over its maximum in the clip; of the upward part only if asked."""
    if joints.shape[-3] < 3:
        raise DataError(f"a clip of {joints.shape[-3]} frames", expected="at least 3")
    acceleration = joints[..., joint, :].double().diff(n=2, dim=-2) * fps**2
    if upward_axis is not None:
        parts = list(acceleration.unbind(-1))
        parts[upward_axis] = parts[upward_axis].clamp_min(0.0)
        acceleration = torch.stack(parts, dim=-1)
    length = acceleration.norm(dim=-1)
    return length / length.amax(-1, keepdim=True).clamp_min(1e-12)
