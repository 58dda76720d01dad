"""BlazePose's landmarks: 33 points of the body in a turned square of a picture, and the square to look at next.

Bazarevsky et al., BlazePose: On-device Real-time Body Pose Tracking, 2020; decoding as in the released graph
(pose_landmark_by_roi, refine_landmarks_from_heatmap with a kernel of 9).

Shapes: L = 39 landmarks (33 of the body, the middle of the hips, a point on the body's circle, 4 more), S = 64 cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from macedance.vision.blazepose_detector import Network, Roi

INPUT_PX = 256
NUM_LANDMARKS, NUM_BODY = 39, 33
_CENTRE, _RIM = 33, 34
_REACH = 4
_SURE = 0.5
#: Landmark of each of COCO's 17.
COCO_LANDMARKS: tuple[int, ...] = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)


@dataclass(frozen=True)
class Landmarks:
    """One person's landmarks in a picture.

    Args:
        points: (39, 2) pixels of the picture.
        visibility: (39,) in [0, 1]: in the picture and not hidden.
        presence: (39,) in [0, 1]: in the square.
        score: That there is a person in the square.
    """

    points: np.ndarray
    visibility: np.ndarray
    presence: np.ndarray
    score: float

    @property
    def roi(self) -> Roi:
        """Where to look for this person in the next frame."""
        return Roi.around(self.points[_CENTRE], self.points[_RIM])

    @property
    def box(self) -> np.ndarray:
        """Left, top, right and bottom (4,) of the body's landmarks, pixels."""
        body = self.points[:NUM_BODY]
        return np.concatenate([body.min(axis=0), body.max(axis=0)])


class BlazePoseLandmarker:
    """Finds the landmarks of the person in a square.

    Args:
        network: (1, 256, 256, 3) in [0, 1] -> (1, 195) landmarks, (1, 1) score, a mask, (1, S, S, 39) heat maps, and
            landmarks in metres, which are not used.
    """

    def __init__(self, network: Network) -> None:
        self._network = network

    def __call__(self, frame: np.ndarray, roi: Roi) -> Landmarks:
        """The landmarks in a square of a picture (H, W, 3) uint8 RGB; ``score`` says whether to believe them."""
        picture = roi.cut(frame, INPUT_PX, outside="edge").astype(np.float32) / 255
        raw, score, _, heat, _ = self._network(picture[None])
        values = raw.reshape(NUM_LANDMARKS, 5).astype(np.float64)
        points = refined(values[:, :2] / INPUT_PX, heat[0])
        return Landmarks(
            roi.to_picture(points), _sigmoid(values[:, 3]), _sigmoid(values[:, 4]), float(score.reshape(-1)[0])
        )


def refined(points_L2: np.ndarray, heat_SSL: np.ndarray) -> np.ndarray:
    """Points (L, 2) in units of the square, moved to the centre of mass of the heat map around them.

    Points outside the square, and those around which no cell is above one half, stay.
    """
    rows, columns = heat_SSL.shape[:2]
    result = points_L2.copy()
    cells = np.trunc(points_L2 * (columns, rows)).astype(np.int64)
    for mark in range(len(points_L2)):
        column, row = cells[mark]
        if not (0 <= column < columns and 0 <= row < rows):
            continue
        top, left = max(0, row - _REACH), max(0, column - _REACH)
        weights = _sigmoid(heat_SSL[top : row + _REACH + 1, left : column + _REACH + 1, mark].astype(np.float64))
        if weights.max() < _SURE:
            continue
        total = weights.sum()
        result[mark, 0] = (weights.sum(axis=0) @ np.arange(left, left + weights.shape[1])) / total / columns
        result[mark, 1] = (weights.sum(axis=1) @ np.arange(top, top + weights.shape[0])) / total / rows
    return result


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -100.0, 100.0)))
