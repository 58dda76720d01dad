"""How a foreign skeleton stands: its up axis, its unit, and the turn between each of its joints and SMPL's.

Shapes: T frames, J source joints. A *turn* of a source joint is the matrix that takes a vector from that joint's own
axes to SMPL's rest axes (y-up, facing +z, arms out), so that ``world rotation @ turn.T`` is the world rotation of the
SMPL joint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from macedance.errors import DataError
from macedance.motion.bvh import BvhClip
from macedance.motion.joint_names import BodyJoints
from macedance.motion.skeleton import OFFSETS_M

Array = NDArray[np.float64]
SIDES = ("left", "right")

#: Metres per file unit, and what the unit is called. CMU's is one inch / 0.45.
UNITS: tuple[tuple[float, str], ...] = (
    (1.0, "metres"), (0.3048, "feet"), (0.1, "decimetres"), (0.0254 / 0.45, "CMU units (0.05644 m)"),
    (0.0254, "inches"), (0.01, "centimetres"), (0.001, "millimetres"),
)  # fmt: skip
#: Hip to ankle of the people that motion capture records, metres.
LEG_RANGE_M = (0.6, 1.1)
_UP_AXES = {"x": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1), "-x": (-1, 0, 0), "-y": (0, -1, 0), "-z": (0, 0, -1)}

#: SMPL joint of each part of a limb, left and right; the next part's joint is where its bone ends.
SMPL_LIMBS: dict[str, tuple[int, int]] = {
    "hip": (1, 2), "knee": (4, 5), "ankle": (7, 8), "toe": (10, 11),
    "collar": (13, 14), "shoulder": (16, 17), "elbow": (18, 19), "wrist": (20, 21), "hand": (22, 23),
}  # fmt: skip
NEXT_PART = {
    "hip": "knee", "knee": "ankle", "ankle": "toe",
    "collar": "shoulder", "shoulder": "elbow", "elbow": "wrist", "wrist": "hand",
}  # fmt: skip


def unit(vectors: Array) -> Array:
    """Vectors (..., 3) at length one; zero stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)


def smallest_turn(start: Array, end: Array) -> Array:
    """Matrices (..., 3, 3) that turn direction ``start`` (..., 3) to ``end`` by the smallest angle."""
    a, b = np.broadcast_arrays(unit(start), unit(end))
    axis = np.cross(a, b)
    cos = (a * b).sum(-1)[..., None, None]
    cross = np.zeros((*axis.shape, 3))
    cross[..., 0, 1], cross[..., 0, 2], cross[..., 1, 2] = -axis[..., 2], axis[..., 1], -axis[..., 0]
    cross -= np.swapaxes(cross, -1, -2)
    turn = np.eye(3) + cross + cross @ cross / np.maximum(1.0 + cos, 1e-12)
    # Opposite directions: half a turn about any axis across them.
    helper = np.where(np.abs(a[..., :1]) < 0.9, np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]))
    across = unit(np.cross(a, helper))
    half = 2.0 * across[..., :, None] * across[..., None, :] - np.eye(3)
    return np.where(cos < -1.0 + 1e-9, half, turn)


def nearest_rotation(matrix: Array) -> Array:
    """The rotation (3, 3) nearest to a matrix."""
    u, _, vt = np.linalg.svd(matrix)
    return u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt


def axes_turn(lateral: Array, up: Array) -> Array:
    """The turn that takes ``lateral`` to +x exactly and ``up`` as near to +y as it can."""
    x = unit(lateral)
    y = unit(up - (up @ x) * x)
    return np.stack([x, y, np.cross(x, y)])


@dataclass(frozen=True)
class SourceFacts:
    """What was found out about a BVH file's frame of reference.

    Attributes:
        up: Its up axis: "y", "z", or another with its sign.
        unit_m: Metres per file unit.
        unit_name: What that unit is; "unknown" where the legs fit none and were scaled to SMPL's.
        leg_m: Length of its leg, hip to ankle, metres.
        standing: Whether the pose of all zero rotations is a standing person, which then fixes the turns.
    """

    up: str
    unit_m: float
    unit_name: str
    leg_m: float
    standing: bool

    def sentence(self) -> str:
        """One line for the user."""
        rest = "rest pose standing" if self.standing else "no standing rest pose: turns taken from the motion"
        return f"{self.up}-up, {self.unit_name} ({self.unit_m:.5g} m), legs {self.leg_m:.2f} m, {rest}"


class SourceBody:
    """A source clip with its joints named, turned to y-up: world positions and rotations, bones and tips."""

    def __init__(
        self, clip: BvhClip, joints: BodyJoints, *, up: str | None = None, unit_m: float | None = None
    ) -> None:
        self.clip, self.joints = clip, joints
        rotations, positions = clip.world()
        self.leg = (
            float(np.mean([self._length(positions, part, side) for part in ("hip", "knee") for side in SIDES])) * 2
        )
        if not self.leg > 0:
            raise DataError("the legs have no length", where=clip.source, expected="OFFSETs of knee and ankle above 0")
        if up is not None and up not in _UP_AXES:
            raise DataError(f"up axis '{up}'", where=clip.source, expected="one of " + ", ".join(_UP_AXES))
        axis = self._upward(positions) if up is None else _UP_AXES[up]
        to_y_up = smallest_turn(np.asarray(axis, dtype=np.float64), np.array([0.0, 1.0, 0.0]))
        self.rotations_TJ33 = to_y_up @ rotations
        self.positions_TJ3 = positions @ to_y_up.T
        rest = clip.rest_positions()
        self.rest_turn = self._rest_turn(rest)
        standing = self._stands(rest @ self.rest_turn.T)
        self.facts = self._facts(next(name for name, a in _UP_AXES.items() if a == tuple(axis)), unit_m, standing)

    def _length(self, positions_TJ3: Array, part: str, side: str) -> float:
        start, end = (self.joints.limbs[(p, side)] for p in (part, NEXT_PART[part]))
        return float(np.linalg.norm(positions_TJ3[:, end] - positions_TJ3[:, start], axis=-1).mean())

    def _body_axis(self, positions: Array) -> Array:
        """From the ankles to the top of the trunk (..., 3)."""
        limbs = self.joints.limbs
        top = 0.5 * sum(positions[..., limbs[("shoulder", side)], :] for side in SIDES)
        ankles = 0.5 * sum(positions[..., limbs[("ankle", side)], :] for side in SIDES)
        return np.asarray(top - ankles)

    def _upward(self, positions_TJ3: Array) -> tuple[int, int, int]:
        """The axis along which the body stands, over the whole clip; a person lies down for a part of it at most."""
        mean = unit(self._body_axis(positions_TJ3)).mean(0)
        return max(_UP_AXES.values(), key=lambda axis: float(mean @ np.array(axis)))

    def _rest_turn(self, rest_J3: Array) -> Array:
        """From the file's rest axes to SMPL's: hips to +x, the body's axis to +y; right angles where nearly so."""
        limbs = self.joints.limbs
        along = self._body_axis(rest_J3)
        up = np.array(max(_UP_AXES.values(), key=lambda axis: float(along @ np.array(axis))), dtype=np.float64)
        lateral = rest_J3[limbs[("hip", "left")]] - rest_J3[limbs[("hip", "right")]]
        lateral = lateral - (lateral @ up) * up
        if np.linalg.norm(lateral) < 1e-6 * self.leg:
            return np.eye(3)
        square = np.array(max(_UP_AXES.values(), key=lambda axis: float(lateral @ np.array(axis))), dtype=np.float64)
        # The line of the hips is a few degrees off in many skeletons (SMPL's is): that is shape, not heading.
        return axes_turn(square if unit(lateral) @ square > np.cos(np.radians(15)) else lateral, up)

    def _stands(self, rest_J3: Array) -> bool:
        limbs = self.joints.limbs
        for side in SIDES:
            for part in ("hip", "knee"):
                bone = rest_J3[limbs[(NEXT_PART[part], side)]] - rest_J3[limbs[(part, side)]]
                if not unit(bone)[1] < -0.75:
                    return False
            if not (rest_J3[limbs[("hip", side)]] @ [1, 0, 0]) * (1 if side == "left" else -1) > -1e-3 * self.leg:
                return False
        shoulders = 0.5 * (rest_J3[limbs[("shoulder", "left")]] + rest_J3[limbs[("shoulder", "right")]])
        hips = 0.5 * (rest_J3[limbs[("hip", "left")]] + rest_J3[limbs[("hip", "right")]])
        return bool(unit(shoulders - hips)[1] > 0.75)

    def _facts(self, up: str, unit_m: float | None, standing: bool) -> SourceFacts:
        low, high = LEG_RANGE_M
        if unit_m is not None:
            if not (np.isfinite(unit_m) and low / 2 <= unit_m * self.leg <= high * 2):
                raise DataError(
                    f"with {unit_m:g} m per unit the legs would be {unit_m * self.leg:.3g} m long",
                    where=self.clip.source, expected=f"{low} to {high} m", fix="leave the unit out to have it inferred",
                )  # fmt: skip
            return SourceFacts(up, unit_m, "as given", unit_m * self.leg, standing)
        for metres, name in UNITS:
            if low <= metres * self.leg <= high:
                return SourceFacts(up, metres, name, metres * self.leg, standing)
        return SourceFacts(up, smpl_leg_m() / self.leg, "unknown unit, scaled by the legs", smpl_leg_m(), standing)

    def joint(self, part: str, side: str) -> int | None:
        """Number of a limb's joint, or None."""
        return self.joints.limbs.get((part, side))

    def bone(self, part: str, side: str) -> Array | None:
        """World vectors (T, 3) from a limb's joint to the next part or, lacking that, to its End Site; or None."""
        joint, end = self.joint(part, side), self.joint(NEXT_PART[part], side)
        if joint is None:
            return None
        if end is not None:
            bone = self.positions_TJ3[:, end] - self.positions_TJ3[:, joint]
        elif joint in self.clip.tips:
            bone = self.rotations_TJ33[:, joint] @ self.clip.tips[joint]
        else:
            return None
        return bone if np.linalg.norm(bone, axis=-1).min() > 1e-3 * self.leg else None

    def local(self, joint: int, vectors_T3: Array) -> Array:
        """Mean direction (3,) of world vectors in a joint's own axes."""
        return unit(np.einsum("tba,tb->ta", self.rotations_TJ33[:, joint], vectors_T3).mean(0))


def smpl_leg_m() -> float:
    """Hip to ankle of the SMPL skeleton, mean of both legs, metres."""
    return 0.5 * sum(float(np.linalg.norm(OFFSETS_M[joint])) for joint in (4, 5, 7, 8))


def smpl_bone(part: str, side: str) -> Array:
    """Rest direction (3,) of the SMPL bone that a limb's part moves."""
    return unit(np.array(OFFSETS_M[SMPL_LIMBS[NEXT_PART[part]][SIDES.index(side)]]))


def _smpl_hinge(upper: str, side: str, angle: float, *, lower: bool) -> Array:
    """Axis (3,) across both bones of a SMPL limb bent by ``angle``, in the rest axes of its upper or lower joint.

    It is near, not at, the axis of the bend (x for knees, y for elbows): SMPL's limbs are not straight at rest.
    """
    axis = np.array([1.0, 0.0, 0.0]) if upper == "hip" else np.array([0.0, -1.0 if side == "left" else 1.0, 0.0])
    first, second = smpl_bone(upper, side), smpl_bone(NEXT_PART[upper], side)
    bent = (
        second * np.cos(angle) + np.cross(axis, second) * np.sin(angle) + axis * (axis @ second) * (1 - np.cos(angle))
    )
    across = unit(np.cross(first, bent))
    if not lower:
        return across
    back = np.cross(across, axis) * np.sin(angle)
    return across * np.cos(angle) + back + axis * (axis @ across) * (1 - np.cos(angle))


class Turns:
    """The turn of every source joint that a SMPL joint follows (see the top of this file).

    A standing rest pose gives the turns directly, limbs by the smallest turn of each bone to SMPL's. Files whose zero
    rotations mean nothing (bones all along one axis) get theirs from geometry and from the clip itself: what a joint
    does on average is its neutral pose. Either way knees and elbows, being hinges, fix the twist of their limb.
    """

    def __init__(self, body: SourceBody) -> None:
        self.body = body
        self.by_joint: dict[int, Array] = {}
        joints = body.joints
        if body.facts.standing:
            for joint in (joints.pelvis, *joints.trunk, *joints.necks):
                self.by_joint[joint] = body.rest_turn
            if joints.head is not None:
                self.by_joint[joints.head] = body.rest_turn
        else:
            self._trunk_from_motion()
        for side in SIDES:
            chest = joints.trunk[-1] if joints.trunk else joints.pelvis
            above = chest
            for part in ("collar", "shoulder", "elbow", "wrist"):
                above = self._limb(part, side, above)
            above = joints.pelvis
            for part in ("hip", "knee", "ankle"):
                above = self._limb(part, side, above)
            for part, parent in (("toe", "ankle"), ("hand", "wrist")):
                end, holder = body.joint(part, side), body.joint(parent, side)
                if end is not None and holder is not None:
                    self.by_joint[end] = self._neutral(end, holder)

    def world(self, joint: int) -> Array:
        """World rotations (T, 3, 3) of a source joint in SMPL's rest axes."""
        return np.asarray(self.body.rotations_TJ33[:, joint] @ self.by_joint[joint].T)

    def _neutral(self, joint: int, holder: int) -> Array:
        """The turn with which a joint is, standing or else on average, in line with the joint that holds it."""
        if self.body.facts.standing:
            return self.by_joint[holder]
        relative = np.swapaxes(self.world(holder), 1, 2) @ self.body.rotations_TJ33[:, joint]
        return nearest_rotation(relative.mean(0))

    def _limb(self, part: str, side: str, above: int) -> int:
        """Set the turn of one part of a limb; returns the joint that holds the next part."""
        body = self.body
        joint = body.joint(part, side)
        if joint is None:
            return above
        turn = self._neutral(joint, above)
        bone = body.bone(part, side)
        if part == "collar" and body.facts.standing:
            turn = body.rest_turn
        elif part == "ankle":
            turn = self._foot(joint, turn, bone, side)
        elif bone is not None:
            turn = smallest_turn(turn @ body.local(joint, bone), smpl_bone(part, side)) @ turn
            turn = self._hinge(joint, turn, part, side)
        self.by_joint[joint] = turn
        return joint

    def _hinge(self, joint: int, turn: Array, part: str, side: str) -> Array:
        """Twist the turn so that the axis about which the knee or elbow bends is SMPL's."""
        upper = {"shoulder": "shoulder", "elbow": "shoulder", "hip": "hip", "knee": "hip"}.get(part)
        if upper is None:
            return turn
        first, second = self.body.bone(upper, side), self.body.bone(NEXT_PART[upper], side)
        if first is None or second is None:
            return turn
        axes_T3 = np.cross(unit(first), unit(second))
        local_T3 = np.einsum("tba,tb->ta", self.body.rotations_TJ33[:, joint], axes_T3)
        bend = np.linalg.norm(local_T3, axis=-1)
        # Too straight, or bending now this way and now that: no evidence of a hinge.
        if bend.mean() < 0.15 or np.linalg.norm(local_T3.mean(0)) < 0.8 * bend.mean():
            return turn
        bone = smpl_bone(part, side)
        wanted = _smpl_hinge(
            upper, side, float(np.arctan2(bend, (unit(first) * unit(second)).sum(-1)).mean()), lower=part != upper
        )
        wanted = unit(wanted - (wanted @ bone) * bone)
        found = turn @ unit(local_T3.mean(0))
        found = unit(found - (found @ bone) * bone)
        if self.body.facts.standing and found @ wanted < 0:
            # A rest pose does not stand with its knees backwards: this hinge was overstretched all along.
            return turn
        return smallest_turn(found, wanted) @ turn

    def _foot(self, joint: int, turn: Array, bone: Array | None, side: str) -> Array:
        """Line up the heading of the foot; a standing rest pose also says how its bone lies when the sole is flat.

        Without one the bone is taken to slope as SMPL's does.
        """
        body = self.body
        smpl = smpl_bone("ankle", side)
        if body.facts.standing:
            turn = body.rest_turn
        if bone is None:
            return turn
        local = body.local(joint, bone)
        found = turn @ local
        if body.facts.standing and found[1] > -0.8:
            level = np.array([1.0, 0.0, 1.0])
            return smallest_turn(found * level, smpl * level) @ turn
        return smallest_turn(found, smpl) @ turn

    def _trunk_from_motion(self) -> None:
        body, joints = self.body, self.body.joints
        rotations, positions = body.rotations_TJ33, body.positions_TJ3
        up = np.array([0.0, 1.0, 0.0])

        def across(part: str) -> Array:
            left, right = (joints.limbs[(part, side)] for side in SIDES)
            return positions[:, left] - positions[:, right]

        pelvis = joints.pelvis
        lateral = body.local(pelvis, across("hip"))
        # The root's own axes are nearly always the world's when it stands; otherwise what was up on average.
        options = [np.eye(3)[axis] * sign for axis in range(3) for sign in (1.0, -1.0)]
        average = np.einsum("tba,b->ta", rotations[:, pelvis], up).mean(0)
        best = max(options, key=lambda axis: float(axis @ average))
        usable = unit(average) @ best > 0.85 and abs(best @ lateral) < 0.3
        self.by_joint[pelvis] = axes_turn(lateral, best if usable else average)
        if joints.trunk:
            chest = joints.trunk[-1]
            shoulders = [joints.limbs[("shoulder", side)] for side in SIDES]
            top = positions[:, joints.necks[0]] if joints.necks else positions[:, shoulders].mean(1)
            above = body.local(chest, top - positions[:, chest])
            self.by_joint[chest] = axes_turn(body.local(chest, across("shoulder")), above)
            for index, joint in enumerate(joints.trunk[:-1]):
                share = (index + 1) / len(joints.trunk)
                between = (1 - share) * self.world(pelvis) + share * self.world(chest)
                self.by_joint[joint] = nearest_rotation((np.swapaxes(between, 1, 2) @ rotations[:, joint]).mean(0))
        holder = joints.trunk[-1] if joints.trunk else pelvis
        for joint in (*joints.necks, *([joints.head] if joints.head is not None else [])):
            self.by_joint[joint] = self._neutral(joint, holder)
