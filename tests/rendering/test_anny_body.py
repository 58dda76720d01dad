from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from rendering_dances import make_dance

from macedance.errors import DependencyError
from macedance.motion.body_mesh import GROUP_NAMES, mannequin_mesh, rest_joints
from macedance.motion.skeleton import PARENTS, TOE_HEIGHT_M
from macedance.rendering import MannequinBody, anny_body, dance_frames
from macedance.rendering.anny_body import anny_mesh, fit_to_skeleton

FINGER = "mixamorig:LeftHandThumb1"


def a_pose() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mannequin as another package might have it: larger, arms hanging; vertices, joints and weights (V, 24)."""
    mesh, joints = mannequin_mesh(), rest_joints()
    weights = np.zeros((len(mesh.vertices_V3), 24))
    np.add.at(weights, (np.arange(len(weights))[:, None], mesh.joints_V4), mesh.weights_V4)
    vertices, moved = mesh.vertices_V3.astype(float), joints.copy()
    for shoulder, angle in ((16, -0.8), (17, 0.8)):
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        arm = [joint for joint in range(24) if joint == shoulder or _under(joint, shoulder)]
        share = weights[:, arm].sum(axis=1, keepdims=True)
        vertices += share * ((vertices - joints[shoulder]) @ turn.T + joints[shoulder] - vertices)
        moved[arm] = (joints[arm] - joints[shoulder]) @ turn.T + joints[shoulder]
    return 1.1 * vertices, 1.1 * moved, weights


def _under(joint: int, ancestor: int) -> bool:
    while joint > 0:
        joint = PARENTS[joint]
        if joint == ancestor:
            return True
    return False


class FakeAnny:
    """What we use of anny's model: z-up, facing -y, with a thumb bone of its own."""

    def __init__(self, rig: str) -> None:
        assert rig == "mixamo"
        vertices, joints, weights = a_pose()
        back = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
        self._vertices, heads = vertices @ back.T, joints @ back.T
        self.bone_labels = [FINGER, *(f"mixamorig:{bone}" for bone in anny_body._BONES)]
        self._heads = np.concatenate([heads[22:23], heads])
        half = 0.5 * weights[:, 22:23]
        self.dense_vertex_bone_weights = torch.from_numpy(
            np.concatenate([half, weights - half * np.eye(24)[22]], axis=1)
        )

    def get_triangular_faces(self) -> torch.Tensor:
        return torch.from_numpy(np.array(mannequin_mesh().faces_F3))

    def __call__(self) -> dict[str, torch.Tensor]:
        return {
            "rest_vertices": torch.from_numpy(self._vertices)[None],
            "rest_bone_heads": torch.from_numpy(self._heads)[None],
        }


@pytest.fixture(autouse=True)
def forget() -> None:
    anny_mesh.cache_clear()


def test_body_in_another_pose_and_size_is_moved_into_ours() -> None:
    vertices, joints, weights = a_pose()
    mesh, ours = fit_to_skeleton(vertices, mannequin_mesh().faces_F3, joints, weights), mannequin_mesh()
    assert np.abs(vertices - ours.vertices_V3).max() > 0.3
    distance = np.linalg.norm(mesh.vertices_V3 - ours.vertices_V3, axis=1)
    assert distance.mean() < 0.01
    assert distance.max() < 0.05  # the shoulders, where the hanging arm had bent the mesh
    for toe, side in ((10, 1), (11, -1)):
        foot = (mesh.joints_V4[:, 0] == toe) | (mesh.joints_V4[:, 0] == toe - 3)
        assert (np.sign(mesh.vertices_V3[foot, 0]) == side).all()
        assert mesh.vertices_V3[foot, 1].min() == pytest.approx(rest_joints()[toe, 1] - TOE_HEIGHT_M, abs=1e-4)
    np.testing.assert_allclose(mesh.weights_V4.sum(axis=1), 1.0, atol=1e-5)
    assert {GROUP_NAMES[group] for group in np.unique(mesh.groups_V)} == {"skin", "shirt", "trousers", "hair"}


def test_anny_is_turned_upright_and_dances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anny", types.SimpleNamespace(Anny=FakeAnny))
    mesh = anny_mesh()
    assert np.linalg.norm(mesh.vertices_V3 - mannequin_mesh().vertices_V3, axis=1).mean() < 0.01
    assert (np.sort(mesh.joints_V4[mesh.vertices_V3[:, 0] > 0.85], axis=1)[:, -1] == 22).all()
    options = {"backend": "software", "width": 96, "height": 96}
    ours, theirs = (
        next(dance_frames(make_dance(1), 30.0, body=body, **options)).astype(int)  # type: ignore[arg-type]
        for body in (MannequinBody(), MannequinBody(mesh=mesh))
    )
    assert np.abs(ours - theirs).mean() < 4.0


def test_missing_or_foreign_anny_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anny", None)
    with pytest.raises(DependencyError, match=r"needs the package anny.*fix:"):
        anny_mesh()
    monkeypatch.setitem(sys.modules, "anny", types.SimpleNamespace(__version__="9"))
    with pytest.raises(DependencyError, match="cannot be built"):
        anny_mesh()
