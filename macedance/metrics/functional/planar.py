"""Features of 2-D keypoints as MACE-Dance's released protocol computes them, flaws included.

Shapes: ... any leading dimensions, T frames, K = 25 keypoints; coordinates in pixels, as (..., T, K, 3) with a last
column that is ignored. Features are in float64.

Source: the evaluation scripts released with MACE-Dance. Their table of names assumes the COCO-17 order with extras
behind it; whatever stands in these rows is read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from macedance.errors import DataError
from macedance.metrics.functional.geometric import NUM_FEATURES
from macedance.metrics.functional.kinetic import kinetic_features_convolved

NUM_KEYPOINTS = 25
#: The scripts' frame time, though the videos have 16 fps.
FRAME_S = 1.0 / 30.0

_ROWS: dict[str, tuple[int, ...]] = {
    "root": (11, 12), "neck": (5, 6), "lshoulder": (5,), "rshoulder": (6,), "lelbow": (7,), "relbow": (8,),
    "lwrist": (9,), "rwrist": (10,), "lhip": (11,), "rhip": (12,), "lknee": (13,), "rknee": (14,),
    "lankle": (15,), "rankle": (16,),
}  # fmt: skip
# (feature number from 1, point, multiple of the shoulder width): every speed is of the first point named, in pixels per
# frame, whatever the published feature compares.
_SPEEDS: tuple[tuple[int, str, float], ...] = (
    (1, "neck", 1.8), (2, "neck", 1.8), (5, "root", 1.8), (6, "root", 1.8), (10, "lwrist", 1.4), (11, "rwrist", 1.4),
    (12, "lwrist", 1.4), (13, "rwrist", 2.5), (14, "lwrist", 2.5), (22, "rankle", 2.5), (23, "lankle", 2.5),
    (32, "root", 2.3),
)  # fmt: skip
# (feature number, from a to b, from c to d, degrees): the only features that say something. "zero" to "down" is +y.
_ANGLES: tuple[tuple[int, str, float, float], ...] = (
    (7, "relbow rshoulder relbow rwrist", 0, 110),
    (8, "lelbow lshoulder lelbow lwrist", 0, 110),
    (20, "rknee rhip rknee rankle", 0, 110),
    (21, "lknee lhip lknee lankle", 0, 110),
    (24, "neck root rshoulder relbow", 25, 180),
    (25, "neck root lshoulder lelbow", 25, 180),
    (26, "neck root rhip rknee", 50, 180),
    (27, "neck root lhip lknee", 50, 180),
    (29, "neck root zero down", 70, 110),
)


def planar_kinetic_features(keypoints: Tensor) -> Tensor:
    """Kinetic features (..., 75): x energy, y energy and acceleration of each keypoint, relative to the frame's hips.

    Raises:
        DataError: Not 25 keypoints, or fewer than three frames.
    """
    points = _plane(keypoints, 3)
    points = points - points[..., _ROWS["root"], :].mean(-2, keepdim=True)
    flat = torch.cat([points, torch.zeros_like(points[..., :1])], dim=-1)
    # Without a third axis the "horizontal" energy of kinetic_features_convolved is that of x.
    return kinetic_features_convolved(flat, FRAME_S, half_window=2, up_axis=1)


def planar_geometric_features(keypoints: Tensor) -> Tensor:
    """Geometric features (..., 32), shares of the frames 1..T-1; those with planes are always 0.

    Raises:
        DataError: Not 25 keypoints, or fewer than two frames.
    """
    points = _plane(keypoints, 2)
    named = {name: points[..., rows, :].mean(-2) for name, rows in _ROWS.items()}
    named["zero"] = torch.zeros_like(named["root"])
    named["down"] = named["zero"] + torch.tensor([0.0, 1.0], dtype=points.dtype, device=points.device)
    shoulders = (named["lshoulder"] - named["rshoulder"])[..., :1, :].norm(dim=-1)
    features = points.new_zeros(*points.shape[:-3], NUM_FEATURES)
    for number, name, multiple in _SPEEDS:
        speed = named[name].diff(dim=-2).norm(dim=-1)
        features[..., number - 1] = (speed > multiple * shoulders).double().mean(-1)
    for number, names, low, high in _ANGLES:
        a, b, c, d = (named[name] for name in names.split())
        angle = _angle_degrees(b - a, d - c)[..., 1:]
        features[..., number - 1] = ((angle > low) & (angle < high)).double().mean(-1)
    return features


def _plane(keypoints: Tensor, minimum: int) -> Tensor:
    shape = tuple(keypoints.shape)
    if keypoints.ndim < 3 or shape[-2] != NUM_KEYPOINTS or shape[-1] < 2 or shape[-3] < minimum:
        raise DataError(f"keypoints have shape {shape}", expected=f"(..., T, {NUM_KEYPOINTS}, 3) with T >= {minimum}")
    return keypoints[..., :2].double()


def _angle_degrees(first: Tensor, second: Tensor) -> Tensor:
    cosine = (first * second).sum(-1) / (first.norm(dim=-1) * second.norm(dim=-1) + 1e-12)
    return torch.rad2deg(torch.acos(cosine.clamp(-1.0, 1.0)))
