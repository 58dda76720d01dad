"""The person in a reference picture: where they are, and how the picture is cut to a video's size round them.

Shapes: H rows, W columns; K = 20 points of BODY_20, 17 of COCO; x, y in pixels and a confidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from macedance.errors import DataError
from macedance.rendering.body_points import COCO_ROWS
from macedance.rendering.pose_drawing import BODY_20, MIN_CONFIDENCE
from macedance.vision.keypoints import VideoKeypoints
from macedance.vision.pictures import fit_picture
from macedance.vision.video import Video

_NECK, _SHOULDERS = BODY_20.index("neck"), [BODY_20.index("lshoulder"), BODY_20.index("rshoulder")]
_HIPS = [BODY_20.index("lhip"), BODY_20.index("rhip")]
#: Air round a person's points, as a share of their height: hair, fingers, shoes.
_AIR = 0.08
#: Points that must be seen before they are a person.
_MIN_POINTS = 4


class FindsKeypoints(Protocol):
    """Finds COCO's 17 in a video; a KeypointSource."""

    def __call__(self, video: Video) -> VideoKeypoints:
        """The keypoints of a video's dancer."""


@dataclass(frozen=True)
class Reference:
    """A reference picture as the network takes it.

    Attributes:
        image_HW3: uint8, of the video's size.
        points_K3: The person's points (20, 3) in it, or None where nobody looked for them.
    """

    image_HW3: np.ndarray
    points_K3: np.ndarray | None = None


def body_from_coco(coco_TK3: np.ndarray) -> np.ndarray:
    """BODY_20 (..., 20, 3) of COCO's keypoints (..., 17, 3): the neck between the shoulders, no toes."""
    coco_TK3 = np.asarray(coco_TK3)
    body = np.zeros((*coco_TK3.shape[:-2], len(BODY_20), 3), dtype=coco_TK3.dtype)
    body[..., COCO_ROWS, :] = coco_TK3
    shoulders = body[..., _SHOULDERS, :]
    body[..., _NECK, :2] = shoulders[..., :2].mean(axis=-2)
    body[..., _NECK, 2] = shoulders[..., 2].min(axis=-1)
    return body


def coco_from_body(body_TK3: np.ndarray, width: int, height: int) -> np.ndarray:
    """COCO's keypoints (..., 17, 3) of BODY_20 (..., 20, 3); confidence 0 outside a picture of this size."""
    coco = np.array(np.asarray(body_TK3)[..., COCO_ROWS, :])
    inside = (coco[..., :2] >= 0).all(axis=-1) & (coco[..., :2] < (width, height)).all(axis=-1)
    coco[..., 2] *= inside
    return coco


def frames_outside(body_TK3: np.ndarray, width: int, height: int) -> int:
    """Frames in which the middle of the hips of BODY_20 (T, 20, 3) is outside a picture of this size."""
    middle_T2 = np.asarray(body_TK3)[:, _HIPS, :2].mean(axis=1)
    return int(((middle_T2 < 0) | (middle_T2 >= (width, height))).any(axis=1).sum())


def find_person(image_HW3: np.ndarray, source: FindsKeypoints, where: str | None = None) -> np.ndarray:
    """The points (20, 3) of the person in a picture (H, W, 3).

    Args:
        image_HW3: uint8, RGB.
        source: Finds COCO's keypoints.
        where: Name of the picture, for the message.

    Raises:
        DataError: Nobody is seen, or too little of them.
    """
    found = source(Video.from_frames(image_HW3[None], 1.0, where or "picture"))
    points = body_from_coco(found.keypoints[0].astype(np.float64))
    if found.missing[0] or (points[:, 2] >= MIN_CONFIDENCE).sum() < _MIN_POINTS:
        raise DataError(
            "no person is seen in the picture",
            where=where,
            expected="one person, best from head to feet",
            fix="take another picture, or do not look for the person",
        )
    return points


def place_reference(image_HW3: np.ndarray, width: int, height: int, points_K3: np.ndarray | None = None) -> Reference:
    """The picture at a video's size, and its person's points in it.

    The picture covers the video's frame and what sticks out is cut off: evenly, or round the person where they are
    known. A person who would be cut is kept whole instead, with black bars beside the picture, which is how Wan-Animate
    brings pictures to another shape.

    Args:
        image_HW3: uint8.
        width: Of the video, pixels; ``height`` likewise.
        height: Of the video.
        points_K3: The person's points in the picture, or None.
    """
    rows, columns = image_HW3.shape[:2]
    box = None if points_K3 is None else _box(points_K3, columns, rows)
    if points_K3 is None or box is None:
        return Reference(fit_picture(image_HW3, width, height), None)
    scale = max(width / columns, height / rows)
    cut_w, cut_h = min(columns, width / scale), min(rows, height / scale)
    left, top, right, bottom = box
    if right - left > cut_w + 1 or bottom - top > cut_h + 1:
        return _with_bars(image_HW3, width, height, points_K3)
    x = round(min(max((left + right - cut_w) / 2, 0), columns - cut_w))
    y = round(min(max((top + bottom - cut_h) / 2, 0), rows - cut_h))
    part = image_HW3[y : y + max(1, round(cut_h)), x : x + max(1, round(cut_w))]
    placed = np.array(points_K3, dtype=np.float64)
    placed[:, :2] = (placed[:, :2] - (x, y)) * scale
    return Reference(fit_picture(part, width, height), placed)


def _with_bars(image_HW3: np.ndarray, width: int, height: int, points_K3: np.ndarray) -> Reference:
    rows, columns = image_HW3.shape[:2]
    scale = min(width / columns, height / rows)
    size = max(1, min(width, round(columns * scale))), max(1, min(height, round(rows * scale)))
    x, y = (width - size[0]) // 2, (height - size[1]) // 2
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    canvas[y : y + size[1], x : x + size[0]] = fit_picture(image_HW3, *size)
    placed = np.array(points_K3, dtype=np.float64)
    placed[:, :2] = placed[:, :2] * scale + (x, y)
    return Reference(canvas, placed)


def _box(points_K3: np.ndarray, width: int, height: int) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of a person with some air round them, inside the picture."""
    seen = points_K3[points_K3[:, 2] >= MIN_CONFIDENCE, :2]
    if not len(seen):
        return None
    (left, top), (right, bottom) = seen.min(axis=0), seen.max(axis=0)
    air = _AIR * max(bottom - top, 1.0)
    return max(0.0, left - air), max(0.0, top - 2 * air), min(width, right + air), min(height, bottom + air)
