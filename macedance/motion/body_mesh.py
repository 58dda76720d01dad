"""A low-poly dancer on the SMPL-24 skeleton: what the videos and the GLB files show.

Shapes: V vertices, F triangles, J = 24 joints, T frames. Metres, y-up, facing +z, rest pose of ``skeleton`` with the
pelvis at the origin; the soles lie TOE_HEIGHT_M below the toe joints, so that a grounded motion stands on y = 0.
The body is made by code from the skeleton's own joint positions: no scanned data, no licence attached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from macedance.motion.mesh_primitives import (
    Array,
    Surface,
    chain_weights,
    ellipsoid,
    path_lengths,
    resample_stations,
    smooth_normals,
    smooth_step,
    sweep,
)
from macedance.motion.skeleton import NUM_JOINTS, OFFSETS_M, PARENTS, TOE_HEIGHT_M

GROUP_NAMES: tuple[str, ...] = ("skin", "shirt", "trousers", "shoes", "hair", "eyes")
SKIN, SHIRT, TROUSERS, SHOES, HAIR, EYES = range(6)

#: sRGB colour of each group, 0..1.
GROUP_COLOURS: tuple[tuple[float, float, float], ...] = (
    (0.87, 0.67, 0.55),
    (0.84, 0.30, 0.27),
    (0.20, 0.26, 0.42),
    (0.95, 0.95, 0.93),
    (0.20, 0.13, 0.10),
    (0.08, 0.07, 0.08),
)


@dataclass(frozen=True)
class Mesh:
    """A skinned triangle mesh in the rest pose, pelvis at the origin.

    Attributes:
        vertices_V3: float32 positions, metres.
        faces_F3: int32 vertex numbers, counter-clockwise from outside.
        normals_V3: float32 unit normals.
        joints_V4: int32 numbers of the joints that move each vertex.
        weights_V4: float32 shares of those joints, falling, sum 1; unused places are joint 0 with share 0.
        groups_V: int32 index into GROUP_NAMES and GROUP_COLOURS; no triangle mixes two groups.
    """

    vertices_V3: NDArray[np.float32]
    faces_F3: NDArray[np.int32]
    normals_V3: NDArray[np.float32]
    joints_V4: NDArray[np.int32]
    weights_V4: NDArray[np.float32]
    groups_V: NDArray[np.int32]

    def colours_V3(self) -> NDArray[np.float32]:
        """SRGB colour of each vertex, 0..1."""
        return np.asarray(GROUP_COLOURS, dtype=np.float32)[self.groups_V]


def rest_joints() -> Array:
    """Joint positions (24, 3) of the rest pose with the pelvis at the origin, metres."""
    joints = np.zeros((NUM_JOINTS, 3))
    for joint in range(1, NUM_JOINTS):
        joints[joint] = joints[PARENTS[joint]] + OFFSETS_M[joint]
    return joints


def skin_vertices(
    mesh: Mesh, rotations_TJ33: NDArray[np.floating], joints_TJ3: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Posed vertices and normals, both (T, V, 3) float32, by linear blend skinning.

    Args:
        mesh: The mesh in its rest pose.
        rotations_TJ33: World rotation of each joint (skeleton.global_rotations).
        joints_TJ3: World position of each joint, metres.
    """
    rest_J3 = rest_joints().astype(np.float32)
    rotations = np.asarray(rotations_TJ33, dtype=np.float32)
    joints = np.asarray(joints_TJ3, dtype=np.float32)
    shift_TJ3 = joints - np.einsum("tjab,jb->tja", rotations, rest_J3)
    vertices = np.zeros((len(joints), len(mesh.vertices_V3), 3), dtype=np.float32)
    normals = np.zeros_like(vertices)
    for place in range(4):
        used = np.flatnonzero(mesh.weights_V4[:, place] > 0)
        owner, share = mesh.joints_V4[used, place], mesh.weights_V4[used, place, None]
        for joint in np.unique(owner):
            chosen = used[owner == joint]
            part = share[owner == joint]
            turn = rotations[:, joint].transpose(0, 2, 1)
            vertices[:, chosen] += part * (mesh.vertices_V3[chosen] @ turn + shift_TJ3[:, joint, None])
            normals[:, chosen] += part * (mesh.normals_V3[chosen] @ turn)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-8)
    return vertices, normals


@lru_cache(maxsize=1)
def mannequin_mesh() -> Mesh:
    """The dancer: about 2,600 vertices and 5,000 triangles, the same on every call; its arrays are read-only."""
    rest = rest_joints()
    parts = [_torso(rest), _head(rest)]
    parts += [_hair(rest), *_face(rest)]
    for left in (True, False):
        parts += [_leg(rest, left), _foot(rest, left), _arm(rest, left), *_hand(rest, left)]
    vertices, faces, normals, weights, groups = [], [], [], [], []
    start = 0
    for surface, weights_VJ in parts:
        vertices.append(surface.vertices_V3)
        faces.append(surface.faces_F3 + start)
        normals.append(smooth_normals(surface.vertices_V3, surface.faces_F3))
        weights.append(weights_VJ)
        groups.append(surface.groups_V)
        start += len(surface.vertices_V3)
    joints_V4, weights_V4 = _four_largest(np.concatenate(weights))
    mesh = Mesh(
        vertices_V3=np.concatenate(vertices).astype(np.float32),
        faces_F3=np.concatenate(faces).astype(np.int32),
        normals_V3=np.concatenate(normals).astype(np.float32),
        joints_V4=joints_V4,
        weights_V4=weights_V4,
        groups_V=np.concatenate(groups).astype(np.int32),
    )
    for array in vars(mesh).values():
        array.flags.writeable = False
    return mesh


Part = tuple[Surface, Array]


def _four_largest(weights_VJ: Array) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    order = np.argsort(-weights_VJ, axis=1, kind="stable")[:, :4]
    weights = np.take_along_axis(weights_VJ, order, axis=1)
    weights[weights < 1e-3] = 0.0
    weights /= weights.sum(1, keepdims=True)
    return np.where(weights > 0, order, 0).astype(np.int32), weights.astype(np.float32)


def _rigid(surface: Surface, joint: int) -> Part:
    weights = np.zeros((len(surface.vertices_V3), NUM_JOINTS))
    weights[:, joint] = 1.0
    return surface, weights


def _torso(rest: Array) -> Part:
    """Pelvis, waist, chest, shoulder slope and neck as one tube from the crotch into the head."""
    rows = resample_stations(
        [  # x, y, z, half width, half depth
            (0.0, -0.150, -0.020, 0.060, 0.060),
            (0.0, -0.115, -0.022, 0.125, 0.094),
            (0.0, -0.060, -0.026, 0.163, 0.114),
            (0.0, 0.010, -0.025, 0.158, 0.110),
            (0.0, 0.080, -0.022, 0.138, 0.097),
            (0.0, 0.150, -0.018, 0.127, 0.091),
            (0.0, 0.220, -0.014, 0.132, 0.096),
            (0.0, 0.300, -0.012, 0.150, 0.109),
            (0.0, 0.370, -0.014, 0.168, 0.112),
            (0.0, 0.430, -0.024, 0.178, 0.101),
            (0.0, 0.475, -0.034, 0.180, 0.082),
            (0.0, 0.505, -0.040, 0.160, 0.066),
            (0.0, 0.523, -0.042, 0.118, 0.059),
            (0.0, 0.545, -0.042, 0.068, 0.054),
            (0.0, 0.570, -0.036, 0.051, 0.051),
            (0.0, 0.610, -0.022, 0.047, 0.050),
            (0.0, 0.660, -0.010, 0.046, 0.050),
        ],
        21,
    )
    middle = 0.5 * (rows[1:, 1] + rows[:-1, 1])
    groups = [TROUSERS if y < 0.02 else SHIRT if y < 0.545 else SKIN for y in middle]
    surface = sweep(rows[:, :3], rows[:, 3:], (1, 0, 0), segments=18, start_cap=0.02, roundness=0.88, groups=groups)
    height = surface.vertices_V3[:, 1]
    weights = chain_weights(
        height, [0, 3, 6, 9, 12, 15], [0.07, 0.19, 0.29, 0.52, 0.62], [0.07, 0.07, 0.05, 0.035, 0.035]
    )
    # The slope from neck to arm goes with the collar bones, so that a shrug or a raised arm lifts it.
    lateral = surface.vertices_V3[:, 0]
    for collar, sign in ((13, 1.0), (14, -1.0)):
        share = 0.8 * smooth_step((sign * lateral - 0.05) / 0.11) * smooth_step((height - 0.36) / 0.1)
        share *= smooth_step((0.54 - height) / 0.05)
        weights *= 1.0 - share[:, None]
        weights[:, collar] += share
    return surface, weights


def _shaped_head(points_V3: Array, rest: Array) -> Array:
    """From the unit sphere to a head: narrow jaw, chin to the front, back of the skull full."""
    x, y, z = points_V3.T
    low = np.clip(-y, 0.0, 1.0)
    width = 0.076 * (1.0 - 0.30 * low**1.5)
    depth = np.where(z > 0, 0.090 * (1.0 - 0.10 * low), 0.100 * (1.0 - 0.38 * low))
    centre = rest[15] + np.array([0.0, 0.083, 0.012])
    return np.stack([x * width, 0.118 * y, z * depth + 0.012 * low], axis=1) + centre


def _head(rest: Array) -> Part:
    surface = ellipsoid((0, 0, 0), (1, 1, 1), rings=9, segments=14, group=SKIN)
    # Where the hair is, the skull gives way, so that no facet of it comes through.
    covered = smooth_step((surface.vertices_V3[:, 1] - _hair_edge(surface.vertices_V3) - 0.05) / 0.25)[:, None]
    surface.vertices_V3 = _shaped_head(surface.vertices_V3 * (1.0 - 0.08 * covered), rest)
    return _rigid(surface, 15)


def _hair_edge(points_V3: Array) -> Array:
    """Height of the hair line on the unit sphere: the brow in front, the neck behind."""
    x, _, z = points_V3.T
    return np.asarray(-0.52 + 1.08 * smooth_step(0.5 + 0.5 * z / np.maximum(np.hypot(x, z), 1e-9)))


def _hair(rest: Array) -> Part:
    """A cap over the skull whose edge is high at the brow and low at the neck; its underside closes inside the head."""
    surface = ellipsoid((0, 0, 0), (1, 1, 1), rings=8, segments=14, group=HAIR)
    x, y, z = surface.vertices_V3.T
    edge = _hair_edge(surface.vertices_V3)
    # Squeeze the whole sphere's heights into [edge, 1]; what was the bottom pole sinks into the head.
    lift = edge + (y + 1.0) * 0.5 * (1.0 - edge)
    spread = np.sqrt(np.maximum(1.0 - lift**2, 0.0)) / np.maximum(np.hypot(x, z), 1e-9)
    shape = np.stack([x * spread, lift, z * spread], axis=1)
    bottom = y < -0.999
    shape[bottom] = (0.0, 0.0, -0.1)
    inner = smooth_step((y + 1.0) / 0.25)[:, None]
    scale = 0.93 + inner * np.array([0.13, 0.12, 0.12])
    surface.vertices_V3 = _shaped_head(shape, rest)
    middle = rest[15] + np.array([0.0, 0.083, 0.0])
    surface.vertices_V3 = middle + (surface.vertices_V3 - middle) * scale
    return _rigid(surface, 15)


def _face(rest: Array) -> list[Part]:
    """Nose, ears and eyes: they show which way the dancer looks."""
    head = rest[15]
    parts = [ellipsoid(head + np.array([0.0, 0.062, 0.103]), (0.0125, 0.024, 0.018), rings=4, segments=6, group=SKIN)]
    for sign in (1.0, -1.0):
        ear = head + np.array([sign * 0.076, 0.078, 0.005])
        eye = head + np.array([sign * 0.031, 0.092, 0.0905])
        parts.append(ellipsoid(ear, (0.012, 0.028, 0.017), rings=4, segments=6, group=SKIN))
        parts.append(ellipsoid(eye, (0.0095, 0.0075, 0.007), rings=3, segments=6, group=EYES))
    return [_rigid(part, 15) for part in parts]


def _leg(rest: Array, left: bool) -> Part:
    hip, knee, ankle = (rest[j] for j in ((1, 4, 7) if left else (2, 5, 8)))
    outward = np.array([1.0 if left else -1.0, 0.0, 0.0])
    top = hip + 0.014 * outward + np.array([0.0, 0.0, -0.006])
    inside = top + np.array([0.0, 0.062, 0.0]) - 0.012 * outward
    rows = resample_stations(
        [
            (*inside, 0.074, 0.086),
            (*top, 0.092, 0.103),
            (*(top + 0.25 * (knee - top)), 0.087, 0.096),
            (*(top + 0.60 * (knee - top)), 0.071, 0.078),
            (*(knee + np.array([0.0, 0.0, 0.004])), 0.058, 0.062),
            (*(knee + 0.30 * (ankle - knee) + np.array([0.0, 0.0, -0.014])), 0.057, 0.064),
            (*(knee + 0.65 * (ankle - knee) + np.array([0.0, 0.0, -0.006])), 0.047, 0.052),
            (*(ankle + np.array([0.0, 0.015, 0.002])), 0.045, 0.050),
        ],
        13,
    )
    surface = sweep(rows[:, :3], rows[:, 3:], (1, 0, 0), segments=12, start_cap=0.03, end_cap=0.012, groups=TROUSERS)
    length = path_lengths(rows[:, :3])[-1]
    into = float(np.linalg.norm(top - inside))
    thigh = into + float(np.linalg.norm(knee - top))
    joints = [0, 1, 4, 7] if left else [0, 2, 5, 8]
    return surface, chain_weights(surface.along_V, joints, [into, thigh, length], [0.06, 0.06, 0.03])


def _foot(rest: Array, left: bool) -> Part:
    """A shoe from the heel to the tip of the toes, with a flat sole TOE_HEIGHT_M below the toe joint."""
    ankle, toe = (rest[7], rest[10]) if left else (rest[8], rest[11])
    heading = (toe - ankle) * np.array([1.0, 0.0, 1.0])
    reach = float(np.linalg.norm(heading))
    heading /= reach
    sole = toe[1] - TOE_HEIGHT_M
    rows = resample_stations(
        [  # distance from the ankle, two unused, half width, height of the upper
            (-0.058, 0, 0, 0.030, 0.062),
            (-0.030, 0, 0, 0.037, 0.098),
            (0.010, 0, 0, 0.040, 0.103),
            (0.055, 0, 0, 0.042, 0.078),
            (reach, 0, 0, 0.048, 0.054),
            (reach + 0.035, 0, 0, 0.044, 0.044),
            (reach + 0.066, 0, 0, 0.030, 0.032),
        ],
        8,
    )
    centres = ankle + rows[:, :1] * heading
    centres[:, 1] = sole + 0.5 * rows[:, 4]
    side = np.cross((0.0, 1.0, 0.0), heading)
    radii = np.stack([rows[:, 3], 0.5 * rows[:, 4]], axis=1)
    level = centres * np.array([1.0, 0.0, 1.0]) + np.array([0.0, sole, 0.0])
    surface = sweep(level, radii, side, segments=12, start_cap=0.014, end_cap=0.014, roundness=0.75, groups=SHOES)
    # The tube was swept along the sole; its upper half becomes the shoe and its lower half the flat bottom.
    height = surface.vertices_V3[:, 1] - sole
    surface.vertices_V3[:, 1] = sole + np.where(height > 0, 2.0 * height, 0.0)
    joints = [7, 10] if left else [8, 11]
    along = (surface.vertices_V3 - ankle) @ heading
    return surface, chain_weights(along, joints, [reach], [0.025])


def _arm(rest: Array, left: bool) -> Part:
    shoulder, elbow, wrist = (rest[j] for j in ((16, 18, 20) if left else (17, 19, 21)))
    # The tube starts inside the chest and widens on its way out, so that the shoulder is round and has no seam.
    start = shoulder + 0.42 * (rest[13 if left else 14] - shoulder)
    drop = np.array([0.0, -0.010, 0.0])
    sleeve = shoulder + 0.62 * (elbow - shoulder)
    rows = resample_stations(
        [
            (*(start + 2.0 * drop), 0.042, 0.046),
            (*(shoulder + drop), 0.047, 0.051),
            (*(shoulder + 0.26 * (elbow - shoulder) + drop), 0.052, 0.053),
            (*sleeve, 0.049, 0.050),
            (*(elbow - 0.02 * (elbow - shoulder)), 0.037, 0.040),
            (*(elbow + 0.25 * (wrist - elbow)), 0.039, 0.041),
            (*(elbow + 0.70 * (wrist - elbow)), 0.029, 0.031),
            (*wrist, 0.026, 0.022),
        ],
        15,
    )
    lengths = path_lengths(rows[:, :3])
    cuff = float(np.linalg.norm(sleeve - start))
    ring = int(np.argmin(np.abs(lengths - cuff)))
    groups = [SHIRT if span < ring else SKIN for span in range(len(rows) - 1)]
    surface = sweep(rows[:, :3], rows[:, 3:], (0, 0, 1), segments=10, start_cap=0.02, end_cap=0.012, groups=groups)
    joints = [13, 16, 18, 20] if left else [14, 17, 19, 21]
    into = float(np.linalg.norm(shoulder - start)) + 0.012
    bend = float(np.linalg.norm(elbow - start))
    return surface, chain_weights(surface.along_V, joints, [into, bend, lengths[-1]], [0.04, 0.045, 0.02])


def _hand(rest: Array, left: bool) -> list[Part]:
    """A palm facing down, four fingers and a thumb to the front, rigid on the wrist; fingers on the hand joint."""
    wrist, hand = (rest[20], rest[22]) if left else (rest[21], rest[23])
    wrist_joint, hand_joint = (20, 22) if left else (21, 23)
    out = (hand - wrist) / np.linalg.norm(hand - wrist)
    front = np.array([0.0, 0.0, 1.0]) - out[2] * out
    front /= np.linalg.norm(front)
    down = np.cross(out, front) * (-1.0 if left else 1.0)
    down *= np.sign(-down[1])
    rows = resample_stations(
        [
            (*(wrist - 0.008 * out), 0.027, 0.019),
            (*(wrist + 0.030 * out), 0.036, 0.017),
            (*(wrist + 0.092 * out), 0.040, 0.013),
        ],
        5,
    )
    palm = sweep(rows[:, :3], rows[:, 3:], front, segments=10, end_cap=0.008, roundness=0.8, groups=SKIN)
    parts = [_rigid(palm, wrist_joint)]
    spread: Sequence[tuple[float, float]] = ((0.030, 0.072), (0.010, 0.080), (-0.010, 0.074), (-0.029, 0.058))
    for offset, length in spread:
        base = wrist + 0.086 * out + offset * front
        tip_direction = out + 0.25 * offset / 0.03 * 0.3 * front + 0.16 * down
        tip_direction /= np.linalg.norm(tip_direction)
        points = np.stack([base, base + 0.5 * length * tip_direction, base + length * tip_direction + 0.008 * down])
        radii = np.array([[0.0095, 0.0095], [0.0088, 0.0088], [0.0070, 0.0070]])
        parts.append(_rigid(sweep(points, radii, front, segments=5, end_cap=0.006, groups=SKIN), hand_joint))
    base = wrist + 0.022 * out + 0.026 * front
    direction = 0.62 * out + 0.72 * front + 0.25 * down
    points = np.stack([base, base + 0.036 * direction, base + 0.066 * (direction + 0.25 * out)])
    radii = np.array([[0.0135, 0.0135], [0.0110, 0.0110], [0.0080, 0.0080]])
    parts.append(_rigid(sweep(points, radii, down, segments=5, end_cap=0.007, groups=SKIN), wrist_joint))
    return parts
