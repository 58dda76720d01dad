"""BlazePose's detector: where in a picture there are people, and how each is turned.

Its network looks for faces and tells, for each, the middle of the hips and a point whose distance from there is the
radius of the circle around the whole body. Bazarevsky et al., BlazePose: On-device Real-time Body Pose Tracking, 2020;
anchors, thresholds and geometry are those of the released graph (pose_detection_cpu, pose_detection_to_roi).

Shapes: A = 2254 anchors, n people, H rows, W columns; pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

#: A network: one picture (1, H, W, 3) float32 -> its outputs, in the order of the file.
Network = Callable[[np.ndarray], Sequence[np.ndarray]]
Outside = Literal["black", "edge"]

INPUT_PX = 224
_STRIDES = (8, 16, 32, 32, 32)
_ANCHORS_PER_LAYER = 2
_NUM_VALUES = 12
#: Of the four points of a detection: the middle of the hips, and the point on the circle around the body.
_CENTRE, _RIM = 0, 1
_SAME_PERSON = 0.3
_MAX_LOGIT = 100.0
#: The circle's square with the margin that the landmark network was trained with.
ROI_SCALE = 1.25


@dataclass(frozen=True)
class Roi:
    """A turned square in a picture.

    Args:
        x: Its centre, pixels. ``y`` likewise.
        y: Its centre, pixels.
        side: Length of a side, pixels.
        angle: Radians clockwise on the screen from an upright square to this one.
    """

    x: float
    y: float
    side: float
    angle: float

    @classmethod
    def around(cls, centre: np.ndarray, rim: np.ndarray) -> Roi:
        """The square of a body: its centre (2,) and the point (2,) on its circle in the direction of the head."""
        dx, dy = (float(value) for value in rim - centre)
        angle = math.pi / 2 - math.atan2(-dy, dx)
        angle -= 2 * math.pi * math.floor((angle + math.pi) / (2 * math.pi))
        return cls(float(centre[0]), float(centre[1]), 2 * ROI_SCALE * math.hypot(dx, dy), angle)

    def to_picture(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) in units of the square's side from its upper left corner, as pixels of the picture."""
        offset = (points - 0.5) * self.side
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.stack(
            [
                self.x + offset[..., 0] * cos - offset[..., 1] * sin,
                self.y + offset[..., 0] * sin + offset[..., 1] * cos,
            ],
            axis=-1,
        )

    def cut(self, frame: np.ndarray, size: int, *, outside: Outside) -> np.ndarray:
        """The square of a picture (H, W, 3) uint8 as (size, size, 3) uint8, bilinear.

        Args:
            frame: The picture.
            size: Pixels along a side.
            outside: What is seen beyond the picture: ``black``, or its ``edge`` drawn out.
        """
        import cv2

        corners = self.to_picture(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        across, down = (corners[1] - corners[0]) / size, (corners[2] - corners[0]) / size
        return cv2.warpAffine(
            frame,
            np.stack([across, down, corners[0]], axis=1),
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT if outside == "black" else cv2.BORDER_REPLICATE,
        )


@dataclass(frozen=True)
class Detection:
    """One person: score in [0, 1], box of the face (4,) and the four points (4, 2), pixels."""

    score: float
    face: np.ndarray
    points: np.ndarray

    @property
    def roi(self) -> Roi:
        """The square around the whole body."""
        return Roi.around(self.points[_CENTRE], self.points[_RIM])


class BlazePoseDetector:
    """Finds people in a picture.

    Args:
        network: (1, 224, 224, 3) in [-1, 1] -> (1, A, 12) boxes and points, (1, A, 1) logits.
        threshold: Score from which on a detection is a person.
    """

    def __init__(self, network: Network, *, threshold: float = 0.5) -> None:
        self._network, self.threshold = network, threshold
        self._anchors = anchor_centres()

    def __call__(self, frame: np.ndarray) -> list[Detection]:
        """The people in a picture (H, W, 3) uint8 RGB, surest first."""
        height, width = frame.shape[:2]
        whole = Roi(width / 2, height / 2, float(max(height, width)), 0.0)
        picture = whole.cut(frame, INPUT_PX, outside="black").astype(np.float32) * np.float32(2 / 255) - 1
        raw, logits = self._network(picture[None])
        return [
            Detection(score, whole.to_picture(values[:4].reshape(2, 2)).reshape(4), whole.to_picture(_points(values)))
            for score, values in merged(*decoded(raw[0], logits[0, :, 0], self._anchors, self.threshold))
        ]


def anchor_centres() -> np.ndarray:
    """Centres (A, 2) of the anchors, in units of the input: two in each cell of each layer."""
    centres = []
    for stride in sorted(set(_STRIDES)):
        cells = math.ceil(INPUT_PX / stride)
        rows, columns = np.mgrid[:cells, :cells]
        cell = (np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5) / cells
        centres.append(np.repeat(cell, _ANCHORS_PER_LAYER * _STRIDES.count(stride), axis=0))
    return np.concatenate(centres)


def decoded(
    raw_A12: np.ndarray, logits_A: np.ndarray, anchors_A2: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n,) and values (n, 12) of the anchors at or above the threshold, surest first.

    Values are the face's left, top, right and bottom and four points, in units of the input.
    """
    scores = 1 / (1 + np.exp(-np.clip(logits_A.astype(np.float64), -_MAX_LOGIT, _MAX_LOGIT)))
    chosen = np.flatnonzero(scores >= threshold)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    pairs = raw_A12[chosen].astype(np.float64).reshape(-1, _NUM_VALUES // 2, 2) / INPUT_PX
    anchors = anchors_A2[chosen]
    centre, half = pairs[:, 0] + anchors, pairs[:, 1] / 2
    points = pairs[:, 2:] + anchors[:, None]
    values = np.concatenate([(centre - half)[:, None], (centre + half)[:, None], points], axis=1)
    return scores[chosen], values.reshape(-1, _NUM_VALUES)


def merged(scores_n: np.ndarray, values_n12: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Weighted non-maximum suppression: each person's overlapping detections, averaged by their scores.

    Args:
        scores_n: Descending.
        values_n12: See ``decoded``.
    """
    from macedance.vision.people import overlap

    people = []
    left = np.arange(len(scores_n))
    while len(left):
        best = left[0]
        near = overlap(values_n12[best, :4], values_n12[left, :4]) > _SAME_PERSON
        near[0] = True
        group = left[near]
        weights = scores_n[group] / scores_n[group].sum()
        people.append((float(scores_n[best]), weights @ values_n12[group]))
        left = left[~near]
    return people


def _points(values_12: np.ndarray) -> np.ndarray:
    return values_12[4:].reshape(4, 2)
