"""Reading of BVH files of any hierarchy, and writing of ours.

Shapes: J joints of the file, T frames, K rotations of a joint. Angles in a file are degrees; lengths are in whatever
unit and axes the file uses: ``retarget`` finds out which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from macedance.errors import DataError
from macedance.motion.atomic import write_atomically
from macedance.motion.bvh_syntax import NOT_BVH, BvhJoint, parse_frames, parse_hierarchy
from macedance.motion.files import Motion
from macedance.motion.rotations import matrix_from_axis_angle
from macedance.motion.skeleton import JOINT_NAMES, OFFSETS_M, PARENTS

Array = NDArray[np.float64]

_AXES = {"x": 0, "y": 1, "z": 2}

#: Tips of the leaf joints in our own files, metres: Blender and others draw a leaf bone to its End Site.
_TIPS_M: dict[int, tuple[float, float, float]] = {
    10: (0.0, -0.02, 0.06), 11: (0.0, -0.02, 0.06), 15: (0.0, 0.18, 0.02), 22: (0.08, 0.0, 0.0), 23: (-0.08, 0.0, 0.0),
}  # fmt: skip


@dataclass(frozen=True)
class BvhClip:
    """A motion as its BVH file holds it.

    Attributes:
        names: J joint names in file order, parents before children.
        parents: Number of each joint's parent; the root's is -1.
        offsets_J3: Offset of each joint from its parent, file units.
        tips: Offset of a joint's End Site, for those that have one.
        rotations_TJ33: Local rotation matrices.
        locations_TJ3: Position of each joint in its parent's frame: its position channels, or its offset.
        fps: Frames per second.
        source: File name, for messages.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets_J3: Array
    tips: dict[int, Array]
    rotations_TJ33: Array
    locations_TJ3: Array
    fps: float
    source: str = field(default="")

    @property
    def num_frames(self) -> int:
        """Number of frames T."""
        return len(self.rotations_TJ33)

    def world(self) -> tuple[Array, Array]:
        """World rotations (T, J, 3, 3) and positions (T, J, 3) in file units, in the file's own axes."""
        return _chain(self.parents, self.rotations_TJ33, self.locations_TJ3)

    def rest_positions(self) -> Array:
        """Positions (J, 3) with every rotation zero and the root at the origin, file units."""
        offsets = self.offsets_J3.copy()
        offsets[self.parents.index(-1)] = 0.0
        rotations = np.broadcast_to(np.eye(3), (1, len(self.names), 3, 3))
        return _chain(self.parents, rotations, offsets[None])[1][0]


def _chain(parents: tuple[int, ...], rotations_TJ33: Array, locations_TJ3: Array) -> tuple[Array, Array]:
    rotations = np.empty(rotations_TJ33.shape)
    positions = np.empty(locations_TJ3.shape)
    for joint, parent in enumerate(parents):
        if parent < 0:
            rotations[:, joint], positions[:, joint] = rotations_TJ33[:, joint], locations_TJ3[:, joint]
        else:
            rotations[:, joint] = rotations[:, parent] @ rotations_TJ33[:, joint]
            moved = rotations[:, parent] @ locations_TJ3[:, joint, :, None]
            positions[:, joint] = positions[:, parent] + moved[..., 0]
    return rotations, positions


def euler_matrices(angles_TK: Array, axes: str) -> Array:
    """Matrices (T, 3, 3) of K successive rotations about the named axes, the first one outermost, radians."""
    result = np.broadcast_to(np.eye(3), (len(angles_TK), 3, 3)).copy()
    for column, axis in enumerate(axes):
        i = _AXES[axis]
        j, k = (i + 1) % 3, (i + 2) % 3
        cos, sin = np.cos(angles_TK[:, column]), np.sin(angles_TK[:, column])
        turn = np.zeros((len(angles_TK), 3, 3))
        turn[:, i, i] = 1.0
        turn[:, j, j] = turn[:, k, k] = cos
        turn[:, j, k], turn[:, k, j] = -sin, sin
        result = result @ turn
    return result


def read_bvh(path: str | Path) -> BvhClip:
    """Read a BVH file of any hierarchy, channel order and rotation order.

    Position channels replace the joint's OFFSET. Where a joint below the root has position channels whose median is
    nearer to zero than to its OFFSET, they are taken as displacements and added to it: exporters do both.

    Raises:
        DataError: Not a BVH, damaged skeleton, zero frames, cut off, a frame with the wrong count of numbers, anything
            that is not a finite number, a frame time not above zero. The message names file and line.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the file ({error.strerror})", where=path) from error
    text = raw.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    if not re.match(r"\s*HIERARCHY\b", text, flags=re.IGNORECASE):
        raise DataError("not a BVH file", where=path, expected=NOT_BVH)
    split = re.search(r"^[^\S\n]*MOTION[^\S\n]*$", text, flags=re.IGNORECASE | re.MULTILINE)
    if split is None:
        raise DataError("the file has no MOTION section", where=path, expected=NOT_BVH, fix="export it with motion")
    joints = parse_hierarchy(text[: split.start()], path)
    num_channels = sum(len(joint.channels) for joint in joints)
    if num_channels == 0:
        raise DataError("no joint has a channel", where=path, expected="CHANNELS with rotations")
    first_line = text[: split.end()].count("\n") + 1
    values, fps = parse_frames(text[split.end() :], first_line, num_channels, path)
    return _clip(joints, values, fps, path)


def _clip(joints: list[BvhJoint], values_TC: Array, fps: float, path: Path) -> BvhClip:
    offsets = np.array([joint.offset for joint in joints], dtype=np.float64)
    rotations = np.broadcast_to(np.eye(3), (len(values_TC), len(joints), 3, 3)).copy()
    locations = np.broadcast_to(offsets, (len(values_TC), *offsets.shape)).copy()
    column = 0
    for index, joint in enumerate(joints):
        block = values_TC[:, column : column + len(joint.channels)]
        column += len(joint.channels)
        turning = [i for i, channel in enumerate(joint.channels) if channel.endswith("rotation")]
        axes = "".join(joint.channels[i][0] for i in turning)
        rotations[:, index] = euler_matrices(np.radians(block[:, turning]), axes)
        moving = [i for i, channel in enumerate(joint.channels) if channel.endswith("position")]
        if moving:
            where = [_AXES[joint.channels[i][0]] for i in moving]
            moved, offset = block[:, moving], offsets[index, where]
            median = np.median(moved, axis=0)
            add = joint.parent >= 0 and np.linalg.norm(median) < np.linalg.norm(median - offset)
            locations[:, index, where] = moved + offset if add else moved
    return BvhClip(
        names=tuple(joint.name for joint in joints),
        parents=tuple(joint.parent for joint in joints),
        offsets_J3=offsets,
        tips={i: np.array(joint.tip) for i, joint in enumerate(joints) if joint.tip is not None},
        rotations_TJ33=rotations,
        locations_TJ3=locations,
        fps=fps,
        source=path.name,
    )


def write_bvh(path: str | Path, motion: Motion) -> None:
    """Write a motion as BVH: SMPL-24 names and rest offsets, metres, y-up, facing +z, exact frame time.

    The root has Xposition Yposition Zposition Zrotation Xrotation Yrotation, every other joint Zrotation Xrotation
    Yrotation, degrees; leaves have End Sites. Blender's importer at scale 1 and "Y up" gives a dancer in metres. The
    file appears whole or not at all.

    Raises:
        DataError: The folder does not exist or cannot be written.
    """
    order = _file_order(0)
    matrices_TJ33 = matrix_from_axis_angle(torch.from_numpy(motion.poses.astype(np.float64))).numpy()
    angles_TJ3 = np.degrees(zxy_angles(matrices_TJ33))[:, order]
    rows = np.concatenate([motion.trans.astype(np.float64), angles_TJ3.reshape(motion.num_frames, -1)], axis=1)
    lines = ["HIERARCHY", *_hierarchy_lines(0, ""), "MOTION", f"Frames: {motion.num_frames}"]
    lines.append(f"Frame Time: {1.0 / motion.fps:.12g}")
    lines += [" ".join(f"{value:.6f}" for value in row) for row in rows]
    write_atomically(path, ("\n".join(lines) + "\n").encode("ascii"))


def _file_order(joint: int) -> list[int]:
    """Joints depth first, the order in which a BVH file nests them."""
    children = [child for child in range(len(PARENTS)) if PARENTS[child] == joint]
    return [joint, *(below for child in children for below in _file_order(child))]


def _hierarchy_lines(joint: int, indent: str) -> list[str]:
    kind = "ROOT" if PARENTS[joint] < 0 else "JOINT"
    channels = "3 Zrotation Xrotation Yrotation"
    if PARENTS[joint] < 0:
        channels = "6 Xposition Yposition Zposition Zrotation Xrotation Yrotation"
    lines = [f"{kind} {JOINT_NAMES[joint]}", "{", f"\tOFFSET {_triple(OFFSETS_M[joint])}", f"\tCHANNELS {channels}"]
    if joint in _TIPS_M:
        lines += ["\tEnd Site", "\t{", f"\t\tOFFSET {_triple(_TIPS_M[joint])}", "\t}"]
    for child in range(len(PARENTS)):
        if PARENTS[child] == joint:
            lines += _hierarchy_lines(child, "\t")
    lines.append("}")
    return [indent + line for line in lines]


def _triple(offset: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.8f}" for value in offset)


def zxy_angles(matrices_TJ33: Array) -> Array:
    """Angles (T, J, 3), radians, with matrix = Rz(first) Rx(second) Ry(third), continuous over time.

    Of the two triples that give a matrix, and of their whole turns, the one nearest to the frame before is taken:
    programs that interpolate the curves between frames then do not spin a limb.
    """
    m = matrices_TJ33
    cos_x = np.hypot(m[..., 0, 1], m[..., 1, 1])
    x = np.arctan2(m[..., 2, 1], cos_x)
    locked = cos_x < 1e-7
    z = np.where(locked, np.arctan2(m[..., 1, 0], m[..., 0, 0]), np.arctan2(-m[..., 0, 1], m[..., 1, 1]))
    y = np.where(locked, 0.0, np.arctan2(-m[..., 2, 0], m[..., 2, 2]))
    first = np.stack([z, x, y], axis=-1)
    second = np.stack([z + np.pi, np.pi - x, y + np.pi], axis=-1)
    angles = first.copy()
    for frame in range(1, len(angles)):
        before = angles[frame - 1]
        options = [o + 2 * np.pi * np.round((before - o) / (2 * np.pi)) for o in (first[frame], second[frame])]
        far = [np.abs(option - before).sum(-1, keepdims=True) for option in options]
        angles[frame] = np.where(far[1] < far[0] - 1e-9, options[1], options[0])
    return angles
