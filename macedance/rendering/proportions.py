"""Another person's proportions: how long a reference picture says that limbs are, put onto a dancer.

Shapes: T frames, J = 24 joints, K = 20 points of BODY_20 in a picture (x, y in pixels, confidence).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from macedance.motion.skeleton import NUM_JOINTS, PARENTS
from macedance.rendering.body import Dance
from macedance.rendering.pose_drawing import BODY_20, MIN_CONFIDENCE

_ROW = {name: row for row, name in enumerate(BODY_20)}
#: Limb -> its ends on both sides, and the joints whose bones (from their parents) it is.
_LIMBS: dict[str, tuple[tuple[tuple[str, str], ...], tuple[int, ...]]] = {
    "shoulders": ((("lshoulder", "rshoulder"),), (13, 14, 16, 17)),
    "hips": ((("lhip", "rhip"),), (1, 2)),
    "upper_arm": ((("lshoulder", "lelbow"), ("rshoulder", "relbow")), (18, 19)),
    "forearm": ((("lelbow", "lwrist"), ("relbow", "rwrist")), (20, 21)),
    "thigh": ((("lhip", "lknee"), ("rhip", "rknee")), (4, 5)),
    "shin": ((("lknee", "lankle"), ("rknee", "rankle")), (7, 8)),
}
#: A limb of a picture is foreshortened or a mistake when its ratio to ours is outside of this; it then stays ours.
BELIEVED = (0.75, 1.35)


@dataclass(frozen=True)
class Proportions:
    """Length of each limb against the dancer's own, all relative to the torso; 1 where the picture does not tell.

    Attributes:
        ratios: Limb -> ratio, for shoulders, hips, upper_arm, forearm, thigh and shin.
        told: Limbs that the picture tells.
    """

    ratios: dict[str, float]
    told: tuple[str, ...]

    def bone_ratios(self) -> np.ndarray:
        """Ratio (24,) of each joint's bone from its parent."""
        bones = np.ones(NUM_JOINTS)
        for limb, (_, joints) in _LIMBS.items():
            bones[list(joints)] = self.ratios[limb]
        return bones

    def applied(self, dance: Dance) -> Dance:
        """The dance of a dancer of these proportions: every bone keeps its direction, feet keep to the floor.

        The path of the pelvis grows with the legs, so that steps stay steps.
        """
        joints = np.asarray(dance.joints_TJ3, dtype=np.float64)
        bones = self.bone_ratios()
        legs = 0.5 * (self.ratios["thigh"] + self.ratios["shin"])
        grown = np.empty_like(joints)
        grown[:, 0] = joints[:, 0] * np.array([legs, 1.0, legs])
        for joint in range(1, NUM_JOINTS):
            parent = PARENTS[joint]
            grown[:, joint] = grown[:, parent] + bones[joint] * (joints[:, joint] - joints[:, parent])
        # The lowest point of each frame stays where it was: standing feet stand, jumps stay jumps.
        grown[..., 1] += (joints[..., 1].min(axis=1) - grown[..., 1].min(axis=1))[:, None]
        return replace(dance, joints_TJ3=grown.astype(np.float32))


def proportions_of(reference_K3: np.ndarray, dance: Dance) -> Proportions:
    """The proportions of a person in a picture, as far as it shows them.

    A limb's length is measured against the torso's (neck to the middle of the hips); of both sides the longer one
    counts, since a picture makes limbs shorter and never longer. Ratios outside BELIEVED are foreshortening.

    Args:
        reference_K3: (20, 3) in the order of BODY_20.
        dance: The dancer whose limbs are 1.
    """
    torso_px = torso_length_px(reference_K3)
    ratios = dict.fromkeys(_LIMBS, 1.0)
    told = []
    if torso_px is not None:
        joints = np.asarray(dance.joints_TJ3[:1], dtype=np.float64)[0]
        torso_m = float(np.linalg.norm(joints[[16, 17]].mean(0) - joints[[1, 2]].mean(0)))
        for limb, (sides, bones) in _LIMBS.items():
            seen = [length for a, b in sides if (length := _length_px(reference_K3, a, b)) is not None]
            if not seen:
                continue
            ratio = (max(seen) / torso_px) / (_limb_m(joints, limb, bones) / torso_m)
            if BELIEVED[0] <= ratio <= BELIEVED[1]:
                ratios[limb] = ratio
                told.append(limb)
    return Proportions(ratios, tuple(told))


def torso_length_px(points_K3: np.ndarray) -> float | None:
    """Neck to the middle of the hips in pixels; None where they are not seen or fall together."""
    needed = ("neck", "lhip", "rhip")
    if any(points_K3[_ROW[name], 2] < MIN_CONFIDENCE for name in needed):
        return None
    hips = points_K3[[_ROW["lhip"], _ROW["rhip"]], :2].mean(axis=0)
    length = float(np.linalg.norm(points_K3[_ROW["neck"], :2] - hips))
    return length if length > 1.0 else None


def _length_px(points_K3: np.ndarray, first: str, second: str) -> float | None:
    a, b = points_K3[_ROW[first]], points_K3[_ROW[second]]
    return float(np.linalg.norm(a[:2] - b[:2])) if min(a[2], b[2]) >= MIN_CONFIDENCE else None


def _limb_m(joints_J3: np.ndarray, limb: str, bones: tuple[int, ...]) -> float:
    if limb == "shoulders":
        return float(np.linalg.norm(joints_J3[16] - joints_J3[17]))
    if limb == "hips":
        return float(np.linalg.norm(joints_J3[1] - joints_J3[2]))
    return float(np.mean([np.linalg.norm(joints_J3[bone] - joints_J3[PARENTS[bone]]) for bone in bones]))
