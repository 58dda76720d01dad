"""The ``anny`` body (NAVER, code Apache-2.0, shapes CC0 from MakeHuman) dressed and fitted to our skeleton.

Optional: it needs the package ``anny``, whose first use takes minutes and fills a cache of its own. The built-in
mannequin needs nothing and is the default.

Shapes: V vertices, F triangles, J = 24 joints. Metres, y-up, facing +z.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np

from macedance.errors import DependencyError
from macedance.motion.body_mesh import GROUP_NAMES, Mesh, rest_joints
from macedance.motion.mesh_primitives import smooth_normals
from macedance.motion.skeleton import JOINT_NAMES, NUM_JOINTS, TOE_HEIGHT_M
from macedance.rendering.body import body_scale, transforms_from_joints

#: anny's bone for each of our joints, in their order (its "mixamo" rig has them all).
_BONES: tuple[str, ...] = (
    "Hips", "LeftUpLeg", "RightUpLeg", "Spine", "LeftLeg", "RightLeg", "Spine1", "LeftFoot", "RightFoot", "Spine2",
    "LeftToeBase", "RightToeBase", "Neck", "LeftShoulder", "RightShoulder", "Head", "LeftArm", "RightArm",
    "LeftForeArm", "RightForeArm", "LeftHand", "RightHand", "LeftHandMiddle1", "RightHandMiddle1",
)  # fmt: skip
_PREFIX = "mixamorig:"
_FIX = "pip install 'macedance[render]', or draw the built-in mannequin"

_FEET = [JOINT_NAMES.index(name) for name in ("lankle", "rankle", "ltoes", "rtoes")]
_HEAD = JOINT_NAMES.index("head")


@lru_cache(maxsize=1)
def anny_mesh() -> Mesh:
    """The average adult of anny in our skeleton's rest pose, about 13,700 vertices, with painted clothes.

    Raises:
        DependencyError: the package is missing, broken or of a version whose model reads differently.
    """
    try:
        import anny
        import torch

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model: Any = anny.Anny(rig="mixamo")
            posed = model()
        labels = [str(label).removeprefix(_PREFIX) for label in model.bone_labels]
        vertices_V3 = posed["rest_vertices"][0].cpu().numpy()
        heads = posed["rest_bone_heads"][0].cpu().numpy()
        weights = model.dense_vertex_bone_weights
        weights = np.asarray((weights() if callable(weights) else weights).cpu(), dtype=np.float64)
        faces_F3 = np.asarray(model.get_triangular_faces().cpu(), dtype=np.int32)
        order = [labels.index(bone) for bone in _BONES]
    except ImportError as error:
        raise DependencyError(f"the anny body needs the package anny: {error}", fix=_FIX) from error
    except Exception as error:  # another version's interface, a broken cache, no disk space
        raise DependencyError(f"anny's model cannot be built ({error})", fix=_FIX) from error
    # anny is z-up and faces -y.
    turn = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    return fit_to_skeleton(vertices_V3 @ turn.T, faces_F3, heads[order] @ turn.T, _fold_weights(weights, labels))


def _fold_weights(weights_VB: np.ndarray, labels: list[str]) -> np.ndarray:
    """Weights (V, 24) from those of all bones; fingers go with their hand joint, other unknown bones with the head."""
    weights_VJ = np.zeros((len(weights_VB), NUM_JOINTS))
    for bone, label in enumerate(labels):
        if label in _BONES:
            joint = _BONES.index(label)
        elif "Hand" in label:
            joint = JOINT_NAMES.index("lhand" if label.startswith("Left") else "rhand")
        else:
            joint = _HEAD
        weights_VJ[:, joint] += weights_VB[:, bone]
    return weights_VJ / np.maximum(weights_VJ.sum(axis=1, keepdims=True), 1e-9)


def fit_to_skeleton(
    vertices_V3: np.ndarray, faces_F3: np.ndarray, joints_J3: np.ndarray, weights_VJ: np.ndarray
) -> Mesh:
    """Move a body in any rest pose into ours: bones turned and stretched onto the skeleton's, soles on the floor.

    Args:
        vertices_V3: Vertices, metres, y-up, facing +z.
        faces_F3: Triangles, counter-clockwise from outside.
        joints_J3: Where the body's 24 joints are.
        weights_VJ: Skinning weights (V, 24), rows sum to 1.
    """
    ours_J3 = rest_joints()
    scale = body_scale(ours_J3[None].astype(np.float32), joints_J3)
    transforms = transforms_from_joints(ours_J3[None], scale, joints_J3)[0].astype(np.float64)
    fitted = np.zeros_like(vertices_V3, dtype=np.float64)
    for joint in range(NUM_JOINTS):
        moved = ours_J3[joint] + (vertices_V3 - joints_J3[joint]) @ transforms[joint].T
        fitted += weights_VJ[:, joint, None] * moved
    _flatten_soles(fitted, weights_VJ)
    order = np.argsort(-weights_VJ, axis=1, kind="stable")[:, :4]
    share = np.take_along_axis(weights_VJ, order, axis=1)
    share /= share.sum(axis=1, keepdims=True)
    return Mesh(
        vertices_V3=fitted.astype(np.float32),
        faces_F3=np.ascontiguousarray(faces_F3, dtype=np.int32),
        normals_V3=smooth_normals(fitted, faces_F3).astype(np.float32),
        joints_V4=np.where(share > 0, order, 0).astype(np.int32),
        weights_V4=share.astype(np.float32),
        groups_V=_clothes(fitted, weights_VJ),
    )


def _flatten_soles(vertices_V3: np.ndarray, weights_VJ: np.ndarray) -> None:
    """Squeeze the feet below the ankles so that the soles lie TOE_HEIGHT_M under the toe joints, in place."""
    ours_J3 = rest_joints()
    for ankle, toe in zip(_FEET[:2], _FEET[2:], strict=True):
        foot = weights_VJ[:, [ankle, toe]].sum(axis=1) > 0.5
        low = foot & (vertices_V3[:, 1] < ours_J3[ankle, 1])
        if not low.any():
            continue
        top, sole = ours_J3[ankle, 1], ours_J3[toe, 1] - TOE_HEIGHT_M
        stretch = (top - sole) / max(top - vertices_V3[low, 1].min(), 1e-3)
        vertices_V3[low, 1] = top + (vertices_V3[low, 1] - top) * stretch


def _clothes(vertices_V3: np.ndarray, weights_VJ: np.ndarray) -> np.ndarray:
    """Clothes painted by cuts through the rest pose: a shirt with half sleeves, leggings to the ankle, short hair."""
    x, y, z = vertices_V3.T
    joints = rest_joints()
    owner = weights_VJ.argmax(axis=1)
    groups = np.full(len(vertices_V3), GROUP_NAMES.index("skin"), dtype=np.int32)
    half_sleeve = 0.4 * abs(joints[16, 0]) + 0.6 * abs(joints[18, 0])
    collar = joints[12, 1] - 0.01 - 0.35 * (z - joints[12, 2])
    groups[(np.abs(x) < half_sleeve) & (y < collar) & (owner != _HEAD)] = GROUP_NAMES.index("shirt")
    groups[y < joints[0, 1] + 0.03] = GROUP_NAMES.index("trousers")
    groups[y < 0.5 * (joints[7, 1] + joints[8, 1]) + 0.05] = GROUP_NAMES.index("skin")
    skull = vertices_V3 - joints[_HEAD]
    groups[(owner == _HEAD) & (skull[:, 1] > 0.085 + 0.65 * skull[:, 2])] = GROUP_NAMES.index("hair")
    return groups
