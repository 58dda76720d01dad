"""Geometric features: 32 yes-or-no questions about a pose, each answered by the share of frames in which it holds.

Shapes: ... any leading dimensions, T frames, J joints of which the first 22 are SMPL's body. Metres, seconds, degrees;
features are in float64.

Source: Müller et al., "Efficient content-based retrieval of motion capture data" (SIGGRAPH 2005), with the joints and
thresholds of the extractor that AIST++ and Bailando released. Questions 5 and 6 are the same there (the wrist they name
is not used) and stay so here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from macedance.errors import DataError
from macedance.motion.skeleton import JOINT_NAMES

#: Lengths in metres that the thresholds are multiples of: humerus, shoulder width, hip width.
HUMERUS_M = 0.2568381
SHOULDERS_M = 0.3908484
HIPS_M = 0.1192471
NUM_FEATURES = 32
MIN_JOINTS = 22

# Points that are no joints: the origin, one metre up, one metre down, and the lowest joint's height on the up axis.
_VIRTUAL = ("zero", "up", "down", "lowest")
_INDEX = {name: i for i, name in enumerate((*_VIRTUAL, *JOINT_NAMES))}

# (feature number from 1, points by name, threshold). Speeds in m/s, lengths in m, angles in degrees.
# The speed of c relative to a, along a -> b.
_MOVE: tuple[tuple[int, str, float], ...] = (
    (5, "belly chest chest", 1.8 * HUMERUS_M),
    (6, "belly chest chest", 1.8 * HUMERUS_M),
    (10, "lwrist rwrist rwrist", 1.4 * HUMERUS_M),
    (11, "rwrist root lwrist", 1.4 * HUMERUS_M),
    (12, "lwrist root rwrist", 1.4 * HUMERUS_M),
)
# The speed of d relative to a, along the normal (c - a) x (b - a).
_NORMAL_MOVE: tuple[tuple[int, str, float], ...] = (
    (1, "neck rhip lhip rwrist", 1.8 * HUMERUS_M),
    (2, "neck lhip rhip lwrist", 1.8 * HUMERUS_M),
)
# The distance of d from the plane through a with the normal (c - a) x (b - a).
_PLANE: tuple[tuple[int, str, float], ...] = (
    (15, "root lhip ltoes rankle", 0.38 * HUMERUS_M),
    (16, "root rhip rtoes lankle", 0.38 * HUMERUS_M),
    (28, "rankle neck lankle root", 0.5 * HUMERUS_M),
)
# The distance of d from c along a -> b.
_AXIS: tuple[tuple[int, str, float], ...] = (
    (3, "chest neck neck rwrist", 0.2 * HUMERUS_M),
    (4, "chest neck neck lwrist", 0.2 * HUMERUS_M),
    (9, "lshoulder rshoulder lwrist rwrist", 2.5 * SHOULDERS_M),
    (17, "zero up lowest rankle", 1.2 * HUMERUS_M),
    (18, "zero up lowest lankle", 1.2 * HUMERUS_M),
    (19, "lhip rhip lankle rankle", 2.1 * HIPS_M),
    (30, "zero down lowest rwrist", -1.2 * HUMERUS_M),
    (31, "zero down lowest lwrist", -1.2 * HUMERUS_M),
)
# The angle between a -> b and c -> d, within a range.
_ANGLE: tuple[tuple[int, str, float, float], ...] = (
    (7, "relbow rshoulder relbow rwrist", 0, 110),
    (8, "lelbow lshoulder lelbow lwrist", 0, 110),
    (20, "rknee rhip rknee rankle", 0, 110),
    (21, "lknee lhip lknee lankle", 0, 110),
    (24, "neck root rshoulder relbow", 25, 180),
    (25, "neck root lshoulder lelbow", 25, 180),
    (26, "neck root rhip rknee", 50, 180),
    (27, "neck root lhip lknee", 50, 180),
    (29, "neck root zero up", 70, 110),
)
# The speed of a.
_FAST: tuple[tuple[int, str, float], ...] = (
    (13, "rwrist", 2.5 * HUMERUS_M),
    (14, "lwrist", 2.5 * HUMERUS_M),
    (22, "rankle", 2.5 * HUMERUS_M),
    (23, "lankle", 2.5 * HUMERUS_M),
    (32, "root", 2.3 * HUMERUS_M),
)
_ORDER = [row[0] for table in (_MOVE, _NORMAL_MOVE, _PLANE, _AXIS, _ANGLE, _FAST) for row in table]


def geometric_features(joints: Tensor, frame_time_s: float, *, up_axis: int = 1) -> Tensor:
    """Features (..., 32) in [0, 1] of joints (..., T, J, 3), J >= 22: shares of the frames 1..T-1.

    Args:
        joints: Positions in SMPL order, metres.
        frame_time_s: Seconds between frames. Published code fixes it at 1/120 whatever the data.
        up_axis: 1 for y-up, 2 for z-up.

    Raises:
        DataError: Fewer than two frames or 22 joints.
    """
    if joints.ndim < 3 or joints.shape[-1] != 3 or joints.shape[-2] < MIN_JOINTS or joints.shape[-3] < 2:
        raise DataError(
            f"joints have shape {tuple(joints.shape)}", expected=f"(..., T, J, 3) with T >= 2 and J >= {MIN_JOINTS}"
        )
    points = _with_virtual_points(joints.double(), up_axis)
    now = points[..., 1:, :, :]
    velocity = points.diff(dim=-3) / frame_time_s
    answers = torch.cat(
        [
            _moves(now, velocity),
            _normal_moves(now, velocity),
            _planes(now),
            _axes(now),
            _angles(now),
            _fast(velocity),
        ],
        dim=-1,
    )
    shares = answers.double().mean(dim=-2)
    features = torch.empty_like(shares)
    features[..., [number - 1 for number in _ORDER]] = shares
    return features


def _with_virtual_points(joints: Tensor, up_axis: int) -> Tensor:
    virtual = joints.new_zeros(*joints.shape[:-2], len(_VIRTUAL), 3)
    virtual[..., _INDEX["up"], up_axis] = 1.0
    virtual[..., _INDEX["down"], up_axis] = -1.0
    virtual[..., _INDEX["lowest"], up_axis] = joints[..., up_axis].amin(-1)
    return torch.cat([virtual, joints], dim=-2)


def _points(table: tuple[tuple[int, str, float], ...] | tuple[tuple[int, str, float, float], ...]) -> list[list[int]]:
    """The point indices of a table, one list for each place (a, b, c, d)."""
    rows = [[_INDEX[name] for name in row[1].split()] for row in table]
    return [list(column) for column in zip(*rows, strict=True)]


def _thresholds(table: tuple[tuple[int, str, float], ...], like: Tensor) -> Tensor:
    return torch.tensor([row[2] for row in table], dtype=like.dtype, device=like.device)


def _along(vector: Tensor, direction: Tensor) -> Tensor:
    """Component of vectors (..., 3) along directions (..., 3); 0 along a direction without length."""
    length = torch.linalg.vector_norm(direction, dim=-1)
    return (vector * direction).sum(-1) / length.clamp_min(1e-12)


def _normal(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.linalg.cross(c - a, b - a, dim=-1)


def _moves(now: Tensor, velocity: Tensor) -> Tensor:
    a, b, c = _points(_MOVE)
    speed = _along(velocity[..., c, :] - velocity[..., a, :], now[..., b, :] - now[..., a, :])
    return speed > _thresholds(_MOVE, speed)


def _normal_moves(now: Tensor, velocity: Tensor) -> Tensor:
    a, b, c, d = _points(_NORMAL_MOVE)
    normal = _normal(now[..., a, :], now[..., b, :], now[..., c, :])
    speed = _along(velocity[..., d, :] - velocity[..., a, :], normal)
    return speed > _thresholds(_NORMAL_MOVE, speed)


def _planes(now: Tensor) -> Tensor:
    a, b, c, d = _points(_PLANE)
    normal = _normal(now[..., a, :], now[..., b, :], now[..., c, :])
    distance = _along(now[..., d, :] - now[..., a, :], normal)
    return distance > _thresholds(_PLANE, distance)


def _axes(now: Tensor) -> Tensor:
    a, b, c, d = _points(_AXIS)
    distance = _along(now[..., d, :] - now[..., c, :], now[..., b, :] - now[..., a, :])
    return distance > _thresholds(_AXIS, distance)


def _angles(now: Tensor) -> Tensor:
    a, b, c, d = _points(_ANGLE)
    first, second = now[..., b, :] - now[..., a, :], now[..., d, :] - now[..., c, :]
    cosine = _along(first, second) / torch.linalg.vector_norm(first, dim=-1).clamp_min(1e-12)
    angle = torch.rad2deg(torch.acos(cosine.clamp(-1.0, 1.0)))
    low = torch.tensor([row[2] for row in _ANGLE], dtype=angle.dtype, device=angle.device)
    high = torch.tensor([row[3] for row in _ANGLE], dtype=angle.dtype, device=angle.device)
    return (angle > low) & (angle < high)


def _fast(velocity: Tensor) -> Tensor:
    (a,) = _points(_FAST)
    speed = torch.linalg.vector_norm(velocity[..., a, :], dim=-1)
    return speed > _thresholds(_FAST, speed)
