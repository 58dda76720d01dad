"""The dancer's body: the mannequin mesh posed by rotations, or by joint positions alone.

Shapes: T frames, J = 24 joints, V vertices, F triangles. Metres, y-up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from macedance.errors import DataError
from macedance.motion.body_mesh import GROUP_NAMES, Mesh, mannequin_mesh, rest_joints, skin_vertices
from macedance.motion.skeleton import NUM_JOINTS, PARENTS
from macedance.rendering.scene import Outfit

#: Joints whose children fix their rotation without a doubt.
_MANY_CHILDREN: tuple[int, ...] = tuple(joint for joint in range(NUM_JOINTS) if PARENTS.count(joint) > 1)
_CHUNK_FRAMES = 32


class Body(Protocol):
    """A triangle mesh that follows the 24 joints.

    Attributes:
        faces_F3: Triangles, counter-clockwise from outside, int32.
        colours_V3: Display colour of each vertex in [0, 1], float32.
    """

    faces_F3: np.ndarray
    colours_V3: np.ndarray

    def pose(self, joints_TJ3: np.ndarray, rotations_TJ33: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices and unit normals, both (T, V, 3) float32."""


class MannequinBody:
    """The built-in dancer of ``motion.body_mesh`` in an outfit.

    Args:
        outfit: Colours; the first outfit by default.
        mesh: Another mesh in the skeleton's rest pose, such as ``anny_body.anny_mesh()``.
    """

    def __init__(self, outfit: Outfit | None = None, mesh: Mesh | None = None) -> None:
        outfit = outfit or Outfit()
        self._mesh = mesh or mannequin_mesh()
        self.faces_F3 = np.ascontiguousarray(self._mesh.faces_F3)
        by_group = {
            "skin": outfit.skin, "shirt": outfit.top, "trousers": outfit.trousers, "shoes": outfit.shoes,
            "hair": outfit.hair, "eyes": outfit.eyes,
        }  # fmt: skip
        palette = np.array([by_group[name] for name in GROUP_NAMES], dtype=np.float32)
        self.colours_V3 = np.ascontiguousarray(palette[self._mesh.groups_V])

    def pose(self, joints_TJ3: np.ndarray, rotations_TJ33: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices and unit normals, both (T, V, 3) float32, by linear blend skinning."""
        return skin_vertices(self._mesh, rotations_TJ33, joints_TJ3)


@dataclass(frozen=True)
class Dance:
    """What is danced: joints, and how the mesh follows them.

    Attributes:
        joints_TJ3: Joint positions, metres, float32.
        poses_TJ3: Local rotations as axis-angle, radians, or None where only positions are known.
        scale: Size of the dancer against the rest skeleton; 1 where the rotations are known.
    """

    joints_TJ3: np.ndarray
    poses_TJ3: np.ndarray | None = None
    scale: float = 1.0

    def transforms(self, frames: slice) -> np.ndarray:
        """World transforms (t, 24, 3, 3) of the joints at some frames, float32."""
        if self.poses_TJ3 is None:
            return transforms_from_joints(self.joints_TJ3[frames], self.scale)
        import torch

        from macedance.motion.rotations import matrix_from_axis_angle
        from macedance.motion.skeleton import global_rotations

        poses = torch.from_numpy(np.ascontiguousarray(self.poses_TJ3[frames], dtype=np.float32))
        return global_rotations(matrix_from_axis_angle(poses)).numpy()

    def take(self, frames: np.ndarray) -> Dance:
        """The dance at some frames."""
        poses = None if self.poses_TJ3 is None else self.poses_TJ3[frames]
        return Dance(self.joints_TJ3[frames], poses, self.scale)


def posed_meshes(body: Body, dance: Dance) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One frame's vertices and normals (V, 3) after the other; a few frames are in memory at a time."""
    for start in range(0, len(dance.joints_TJ3), _CHUNK_FRAMES):
        part = slice(start, start + _CHUNK_FRAMES)
        positions_TV3, normals_TV3 = body.pose(dance.joints_TJ3[part], dance.transforms(part))
        yield from zip(positions_TV3, normals_TV3, strict=True)


def body_scale(joints_TJ3: np.ndarray, rest_J3: np.ndarray | None = None) -> float:
    """Size of the skeleton of joints (T, 24, 3) against the rest skeleton: the median ratio of bone lengths."""
    some = joints_TJ3[:: max(1, len(joints_TJ3) // 256)]
    seen, rest = _bones(some), _bones((rest_joints() if rest_J3 is None else rest_J3)[None])
    ratios = np.linalg.norm(seen[:, 1:], axis=-1) / np.linalg.norm(rest[:, 1:], axis=-1)
    scale = float(np.median(ratios))
    if not scale > 0.05:
        raise DataError(f"the skeleton is {scale:.3f} times the size of a person", expected="joints in metres")
    return scale


def _bones(joints_TJ3: np.ndarray) -> np.ndarray:
    """Vectors (T, 24, 3) from each joint's parent to it; zero for the root."""
    parents = np.maximum(np.array(PARENTS), 0)
    return joints_TJ3 - joints_TJ3[:, parents]


def _swing(start_3: np.ndarray, end_T3: np.ndarray) -> np.ndarray:
    """The smallest rotation (T, 3, 3) that turns unit vectors (T, 3) onto unit vectors (T, 3)."""
    axis = np.cross(start_3, end_T3)
    cosine = (start_3 * end_T3).sum(-1)
    cross = np.zeros((*axis.shape[:-1], 3, 3))
    cross[..., 0, 1], cross[..., 0, 2], cross[..., 1, 2] = -axis[..., 2], axis[..., 1], -axis[..., 0]
    cross[..., 1, 0], cross[..., 2, 0], cross[..., 2, 1] = axis[..., 2], -axis[..., 1], axis[..., 0]
    # Rodrigues: I + K + K^2 / (1 + cos). Opposite vectors have no smallest rotation: half a turn about any axis
    # across them.
    turned = np.eye(3) + cross + (cross @ cross) / np.maximum(1.0 + cosine, 1e-6)[..., None, None]
    opposite = cosine < -1.0 + 1e-5
    if opposite.any():
        vector = start_3[opposite]
        helper = np.where(np.abs(vector[:, :1]) < 0.9, np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]))
        across = np.cross(vector, helper)
        across /= np.linalg.norm(across, axis=-1, keepdims=True)
        turned[opposite] = 2.0 * across[:, :, None] * across[:, None, :] - np.eye(3)
    return turned


def _best_rotation(rest_K3: np.ndarray, seen_TK3: np.ndarray) -> np.ndarray:
    """Least-squares rotations (T, 3, 3) from rest vectors (K, 3) to seen ones (T, K, 3) (Kabsch 1976)."""
    u, _, vt = np.linalg.svd(np.einsum("tka,kb->tab", seen_TK3, rest_K3))
    u[..., :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    return u @ vt


def transforms_from_joints(joints_TJ3: np.ndarray, scale: float = 1.0, rest_J3: np.ndarray | None = None) -> np.ndarray:
    """World transforms (T, 24, 3, 3) that put the rest body, ``scale`` times as large, onto joints (T, 24, 3), metres.

    The rest body is the one whose joints stand at ``rest_J3`` (24, 3), by default the skeleton's rest pose.

    Pelvis and chest take the best rotation of their three children; every other joint turns its parent's rotation by
    the smallest swing that points its bone at its child, so twist is inherited. Bones of another length than the
    scaled rest skeleton's stretch their part of the body along themselves, so that limbs stay attached.
    """
    bones_J3 = _bones((rest_joints() if rest_J3 is None else rest_J3)[None])[0]
    seen_TJ3 = _bones(np.asarray(joints_TJ3, dtype=np.float64))
    lengths_TJ = np.maximum(np.linalg.norm(seen_TJ3, axis=-1), 1e-6)
    ratios_TJ = lengths_TJ / np.maximum(np.linalg.norm(bones_J3, axis=-1), 1e-6)
    rotations = np.empty((len(joints_TJ3), NUM_JOINTS, 3, 3))
    transforms = np.empty_like(rotations)
    for joint in range(NUM_JOINTS):
        children = [child for child in range(NUM_JOINTS) if PARENTS[child] == joint]
        if joint in _MANY_CHILDREN:
            rotations[:, joint] = _best_rotation(bones_J3[children], seen_TJ3[:, children])
            transforms[:, joint] = scale * rotations[:, joint]
            continue
        inherited = rotations[:, PARENTS[joint]]
        if not children:
            rotations[:, joint] = inherited
            transforms[:, joint] = scale * inherited
            continue
        child = children[0]
        along = bones_J3[child] / np.linalg.norm(bones_J3[child])
        rotations[:, joint] = _swing(inherited @ along, seen_TJ3[:, child] / lengths_TJ[:, child, None]) @ inherited
        stretch = np.clip(ratios_TJ[:, child] / scale, 0.25, 4.0) - 1.0
        stretched = np.eye(3) + stretch[:, None, None] * np.outer(along, along)
        transforms[:, joint] = scale * rotations[:, joint] @ stretched
    return transforms.astype(np.float32)
