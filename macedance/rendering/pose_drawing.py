"""The pose picture that Wan-Animate was trained on: limbs as ellipses, joints and hands as circles, on black.

Source: Wan2.2's animate preprocessing (pose drawing of 20 body points and two hands of 21). Equal to it pixel by
pixel, which tests hold: a fine-tuned network reads limb widths and colours literally.

Shapes: T frames, K keypoints (x, y in pixels, confidence), H rows, W columns.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np

from macedance.errors import DataError

#: Body points in their order; the neck is between the shoulders, a toe between the big and the small one.
BODY_20: tuple[str, ...] = (
    "nose", "neck", "rshoulder", "relbow", "rwrist", "lshoulder", "lelbow", "lwrist", "rhip", "rknee", "rankle",
    "lhip", "lknee", "lankle", "reye", "leye", "rear", "lear", "ltoe", "rtoe",
)  # fmt: skip
#: Points below this confidence are not drawn, nor what hangs on them.
MIN_CONFIDENCE = 0.5
#: Brightness of a limb against its joint's.
_LIMB_SHADE = 0.6

_LIMBS: tuple[tuple[str, str], ...] = (
    ("neck", "rshoulder"), ("neck", "lshoulder"), ("rshoulder", "relbow"), ("relbow", "rwrist"),
    ("lshoulder", "lelbow"), ("lelbow", "lwrist"), ("neck", "rhip"), ("rhip", "rknee"), ("rknee", "rankle"),
    ("neck", "lhip"), ("lhip", "lknee"), ("lknee", "lankle"), ("neck", "nose"), ("nose", "reye"), ("reye", "rear"),
    ("nose", "leye"), ("leye", "lear"), ("lankle", "ltoe"), ("rankle", "rtoe"),
)  # fmt: skip
#: Colour (R, G, B) of each limb and of each joint, in their order.
PALETTE: tuple[tuple[int, int, int], ...] = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255),
    (255, 0, 170), (255, 0, 85), (200, 200, 0), (100, 100, 0),
)  # fmt: skip
#: Hand points: wrist 0, then four of each finger from the thumb.
HAND_POINTS = 21
_FINGERS: tuple[tuple[int, ...], ...] = tuple((0, *range(first, first + 4)) for first in range(1, HAND_POINTS, 4))
_HAND_EDGES: tuple[tuple[int, int], ...] = tuple(
    (finger[i], finger[i + 1]) for finger in _FINGERS for i in range(len(finger) - 1)
)
_HAND_COLOURS = tuple(
    tuple(part * 255 for part in colorsys.hsv_to_rgb(edge / len(_HAND_EDGES), 1.0, 1.0))
    for edge in range(len(_HAND_EDGES))
)
_HAND_POINT_COLOUR = (0, 0, 255)


@dataclass(frozen=True)
class PoseKeypoints:
    """What is drawn of one person over a clip.

    Args:
        body: (T, 20, 3) in the order of BODY_20: x, y in pixels, confidence.
        left_hand: (T, 21, 3), or None where there are no hands.
        right_hand: Likewise.

    Raises:
        DataError: Another shape.
    """

    body: np.ndarray
    left_hand: np.ndarray | None = None
    right_hand: np.ndarray | None = None

    def __post_init__(self) -> None:
        frames = len(self.body)
        for name, points, count in (
            ("body", self.body, len(BODY_20)),
            ("left_hand", self.left_hand, HAND_POINTS),
            ("right_hand", self.right_hand, HAND_POINTS),
        ):
            if points is not None and np.shape(points) != (frames, count, 3):
                raise DataError(f"{name} has shape {np.shape(points)}", expected=f"({frames}, {count}, 3)")

    def __len__(self) -> int:
        return len(self.body)

    def frame(self, index: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Body (20, 3) and hands (21, 3) or None of one frame."""
        left, right = (None if hand is None else hand[index] for hand in (self.left_hand, self.right_hand))
        return self.body[index], left, right


def stick_width(height: int, width: int) -> int:
    """Half the thickness of a limb in pixels, for a picture of this size."""
    return max(int(min(height, width) / 200) - 1, 1)


def draw_pose(
    body_K3: np.ndarray,
    height: int,
    width: int,
    *,
    left_hand_K3: np.ndarray | None = None,
    right_hand_K3: np.ndarray | None = None,
    palette: tuple[tuple[int, int, int], ...] = PALETTE,
) -> np.ndarray:
    """One pose picture (H, W, 3), uint8, RGB.

    Args:
        body_K3: (20, 3) in the order of BODY_20; points outside the picture are drawn as far as they reach into it.
        height: Of the picture, pixels.
        width: Of the picture, pixels.
        left_hand_K3: (21, 3), drawn over the body; None: no hand.
        right_hand_K3: Likewise.
        palette: Colour of each limb and joint; other orders serve experiments.
    """
    import cv2

    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    radius = stick_width(height, width)
    seen = _drawable(body_K3)
    index = {name: i for i, name in enumerate(BODY_20)}
    for (first, second), colour in zip(_LIMBS, palette, strict=False):
        a, b = index[first], index[second]
        if seen[a] and seen[b]:
            shade = tuple(int(part * _LIMB_SHADE) for part in colour)
            cv2.fillConvexPoly(canvas, _limb(body_K3[a], body_K3[b], radius), shade)
    for point, colour, drawn in zip(body_K3, palette, seen, strict=True):
        if drawn:
            cv2.circle(canvas, (int(point[0]), int(point[1])), radius, colour, thickness=-1)
    for hand in (left_hand_K3, right_hand_K3):
        if hand is not None:
            _draw_hand(canvas, hand, max(radius // 2, 1))
    return canvas


def _drawable(points_K3: np.ndarray) -> np.ndarray:
    """Which points (K,) are sure enough, and not so far off that their pixels could not be counted."""
    near = np.abs(points_K3[:, :2]) < 2**15
    return (points_K3[:, 2] >= MIN_CONFIDENCE) & near.all(axis=1)


def _limb(a: np.ndarray, b: np.ndarray, radius: int) -> np.ndarray:
    """Polygon of the ellipse between two points."""
    import cv2

    # From the second point to the first: the angle is cut towards zero, so the direction shows in the pixels.
    dx, dy = float(a[0] - b[0]), float(a[1] - b[1])
    centre = (int((a[0] + b[0]) / 2), int((a[1] + b[1]) / 2))
    axes = (int(math.hypot(dx, dy) / 2), radius)
    return np.asarray(cv2.ellipse2Poly(centre, axes, int(math.degrees(math.atan2(dy, dx))), 0, 360, 1))


def _draw_hand(canvas: np.ndarray, hand_K3: np.ndarray, radius: int) -> None:
    import cv2

    seen = _drawable(hand_K3)
    for edge, (first, second) in enumerate(_HAND_EDGES):
        if seen[first] and seen[second]:
            ends = [(int(hand_K3[i][0]), int(hand_K3[i][1])) for i in (first, second)]
            cv2.line(canvas, ends[0], ends[1], _HAND_COLOURS[edge], thickness=radius)
    for point, drawn in zip(hand_K3, seen, strict=True):
        if drawn:
            cv2.circle(canvas, (int(point[0]), int(point[1])), radius, _HAND_POINT_COLOUR, thickness=-1)
