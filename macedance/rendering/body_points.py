"""The points of a dancer that a pose drawing shows, in space: body, face, toes and hands from the skeleton's joints.

Our motions have neither faces nor fingers. The points of the face sit on the head as on an average adult, hands are
half-open at the wrists. Shapes: T frames, J = 24 joints. Metres, y-up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from macedance.rendering.body import Dance
from macedance.rendering.pose_drawing import BODY_20

#: Joint of the skeleton behind each point of BODY_20 that is one.
_JOINT_OF: dict[str, int] = {
    "rshoulder": 17, "relbow": 19, "rwrist": 21, "lshoulder": 16, "lelbow": 18, "lwrist": 20, "rhip": 2, "rknee": 5,
    "rankle": 8, "lhip": 1, "lknee": 4, "lankle": 7,
}  # fmt: skip
_HEAD, _LTOES, _RTOES, _LWRIST, _RWRIST = 15, 10, 11, 20, 21
#: Points of the face from the head joint in the rest pose, and where the skin faces there.
_FACE: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "nose": ((0.0, 0.060, 0.118), (0.0, 0.0, 1.0)),
    "leye": ((0.031, 0.092, 0.095), (0.3, 0.0, 0.95)),
    "reye": ((-0.031, 0.092, 0.095), (-0.3, 0.0, 0.95)),
    "lear": ((0.085, 0.078, 0.005), (1.0, 0.0, 0.0)),
    "rear": ((-0.085, 0.078, 0.005), (-1.0, 0.0, 0.0)),
}
#: COCO's 17 points, by their names in BODY_20; those of the face are the first.
COCO_17: tuple[str, ...] = (
    "nose", "leye", "reye", "lear", "rear", "lshoulder", "rshoulder", "lelbow", "relbow", "lwrist", "rwrist", "lhip",
    "rhip", "lknee", "rknee", "lankle", "rankle",
)  # fmt: skip
#: Their rows in BODY_20.
COCO_ROWS = [BODY_20.index(name) for name in COCO_17]
#: Tip between the big and the small toe, from the ball of the foot.
_TOE_TIP_M = np.array([0.0, -0.01, 0.065])
#: An ear is still seen from in front, at the edge of the head: what faces away further than this is hidden.
HIDDEN_BELOW = -0.25


@dataclass(frozen=True)
class BodyPoints:
    """Points of a dancer in space.

    Attributes:
        body: (T, 20, 3) in the order of BODY_20.
        left_hand: (T, 21, 3); ``right_hand`` likewise: wrist, then four points of each finger from the thumb.
        normals: (T, 20, 3) where the skin at a point of the face looks, unit vectors; zero for all other points.
    """

    body: np.ndarray
    left_hand: np.ndarray
    right_hand: np.ndarray
    normals: np.ndarray

    def coco(self) -> tuple[np.ndarray, np.ndarray]:
        """COCO's points (T, 17, 3), and the directions (T, 5, 3) in which those of the face, the first ones, look."""
        return self.body[:, COCO_ROWS], self.normals[:, COCO_ROWS[: len(_FACE)]]


def body_points(dance: Dance) -> BodyPoints:
    """The points of a dance; see BodyPoints."""
    joints_TJ3 = np.asarray(dance.joints_TJ3, dtype=np.float64)
    turned_TJ33 = dance.transforms(slice(None)).astype(np.float64)
    body = np.zeros((len(joints_TJ3), len(BODY_20), 3))
    normals = np.zeros_like(body)
    for row, name in enumerate(BODY_20):
        if name in _JOINT_OF:
            body[:, row] = joints_TJ3[:, _JOINT_OF[name]]
        elif name in _FACE:
            place, normal = (np.array(vector) for vector in _FACE[name])
            body[:, row] = joints_TJ3[:, _HEAD] + turned_TJ33[:, _HEAD] @ place
            normals[:, row] = _unit(turned_TJ33[:, _HEAD] @ normal)
    index = {name: row for row, name in enumerate(BODY_20)}
    body[:, index["neck"]] = (body[:, index["lshoulder"]] + body[:, index["rshoulder"]]) / 2
    for name, joint in (("ltoe", _LTOES), ("rtoe", _RTOES)):
        body[:, index[name]] = joints_TJ3[:, joint] + turned_TJ33[:, joint] @ _TOE_TIP_M
    left_K3 = hand_at_rest()
    right_K3 = left_K3 * np.array([-1.0, 1.0, 1.0])
    hands = [
        joints_TJ3[:, wrist, None] + np.einsum("tab,kb->tka", turned_TJ33[:, wrist], hand_K3)
        for wrist, hand_K3 in ((_LWRIST, left_K3), (_RWRIST, right_K3))
    ]
    return BodyPoints(body, hands[0], hands[1], normals)


def hand_at_rest() -> np.ndarray:
    """A half-open left hand (21, 3), metres from the wrist, in the rest pose: fingers to +x, thumb to +z, palm down."""
    points = [np.zeros(3)]
    points += [np.array(p) for p in ((0.025, -0.006, 0.028), (0.055, -0.011, 0.052), (0.080, -0.015, 0.068))]
    points.append(np.array([0.100, -0.019, 0.078]))
    # Knuckle, sideways direction and lengths of the three bones: index, middle, ring and little finger.
    fingers = (
        ((0.090, 0.0, 0.028), 0.10, (0.040, 0.025, 0.020)),
        ((0.095, 0.0, 0.006), 0.0, (0.045, 0.028, 0.021)),
        ((0.088, 0.0, -0.014), -0.08, (0.041, 0.026, 0.021)),
        ((0.078, 0.0, -0.032), -0.18, (0.032, 0.019, 0.018)),
    )
    for knuckle, sideways, lengths in fingers:
        place = np.array(knuckle)
        points.append(place)
        for length, bend_deg in zip(lengths, (12.0, 30.0, 45.0), strict=True):
            bend = np.radians(bend_deg)
            place = place + length * _unit(np.array([np.cos(bend), -np.sin(bend), sideways]))
            points.append(place)
    return np.stack(points)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
