"""The dancer's mesh."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from macedance.motion.body_mesh import GROUP_COLOURS, GROUP_NAMES, Mesh, mannequin_mesh, rest_joints, skin_vertices
from macedance.motion.mesh_primitives import chain_weights, ellipsoid, smooth_normals, sweep
from macedance.motion.rotations import matrix_from_axis_angle
from macedance.motion.skeleton import TOE_HEIGHT_M, global_rotations, joints_from_poses


def posed(mesh: Mesh, poses: np.ndarray, trans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    poses_t = torch.from_numpy(poses).double()
    rotations = global_rotations(matrix_from_axis_angle(poses_t)).numpy()
    return skin_vertices(mesh, rotations, joints_from_poses(poses_t, torch.from_numpy(trans).double()).numpy())


def parts(mesh: Mesh) -> list[np.ndarray]:
    """Face numbers of each connected part, vertices at the same place counting as one."""
    _, owner = np.unique(np.round(mesh.vertices_V3, 6), axis=0, return_inverse=True)
    faces = owner.reshape(-1)[mesh.faces_F3]
    label = np.arange(faces.max() + 1)
    for _ in range(200):
        low = label[faces].min(axis=1)
        before = label.copy()
        for corner in range(3):
            np.minimum.at(label, faces[:, corner], low)
        if (label == before).all():
            break
    face_label = label[faces[:, 0]]
    return [np.flatnonzero(face_label == value) for value in np.unique(face_label)]


def test_arrays_fit_together() -> None:
    mesh = mannequin_mesh()
    count = len(mesh.vertices_V3)
    assert 2000 <= len(mesh.faces_F3) <= 5500
    assert mesh.faces_F3.min() >= 0
    assert mesh.faces_F3.max() == count - 1
    assert mesh.normals_V3.shape == (count, 3)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals_V3, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(mesh.weights_V4.sum(1), 1.0, atol=1e-6)
    assert (np.diff(mesh.weights_V4, axis=1) <= 1e-7).all()
    assert (mesh.joints_V4[mesh.weights_V4 == 0] == 0).all()
    assert set(np.unique(mesh.joints_V4)) <= set(range(24))
    groups = mesh.groups_V[mesh.faces_F3]
    assert (groups == groups[:, :1]).all()
    assert set(np.unique(groups)) == set(range(len(GROUP_NAMES)))
    np.testing.assert_allclose(mesh.colours_V3()[0], GROUP_COLOURS[mesh.groups_V[0]])


def test_every_part_is_closed_and_faces_outward() -> None:
    mesh = mannequin_mesh()
    _, owner = np.unique(np.round(mesh.vertices_V3, 6), axis=0, return_inverse=True)
    faces = owner.reshape(-1)[mesh.faces_F3]
    for part in parts(mesh):
        edges = Counter((int(f[i]), int(f[(i + 1) % 3])) for f in faces[part] for i in range(3))
        assert all(edges[(b, a)] == number for (a, b), number in edges.items())
        corners = mesh.vertices_V3[mesh.faces_F3[part]].astype(float)
        volume = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
        assert volume > 0
    corners = mesh.vertices_V3[mesh.faces_F3]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    smooth = mesh.normals_V3[mesh.faces_F3].mean(1)
    assert ((flat * smooth).sum(1) > -1e-9).mean() > 0.99


def test_body_has_the_size_of_a_person_and_stands_on_its_soles() -> None:
    mesh = mannequin_mesh()
    low, high = mesh.vertices_V3.min(0), mesh.vertices_V3.max(0)
    assert 1.65 < high[1] - low[1] < 1.9
    assert 1.6 < high[0] - low[0] < 1.9
    rest = rest_joints()
    for ankle, toe in ((7, 10), (8, 11)):
        foot = mesh.vertices_V3[
            np.isin(mesh.joints_V4[:, 0], (ankle, toe)) & (mesh.groups_V == GROUP_NAMES.index("shoes"))
        ]
        sole = foot[:, 1].min()
        assert sole == pytest.approx(rest[toe, 1] - TOE_HEIGHT_M, abs=1e-5)
        flat = foot[foot[:, 1] < sole + 1e-4]
        # Flat from behind the ankle to in front of the toe joint, as wide as a foot.
        assert flat[:, 2].min() < rest[ankle, 2] - 0.03
        assert flat[:, 2].max() > rest[toe, 2] + 0.03
        assert 0.06 < np.ptp(flat[:, 0]) < 0.16


def test_face_and_toes_show_the_front() -> None:
    mesh = mannequin_mesh()
    rest = rest_joints()
    eyes = mesh.vertices_V3[mesh.groups_V == GROUP_NAMES.index("eyes")]
    assert (eyes[:, 2] > rest[15, 2] + 0.06).all()
    head = mesh.vertices_V3[(mesh.joints_V4[:, 0] == 15) & (mesh.groups_V == GROUP_NAMES.index("skin"))]
    nose = head[head[:, 2].argmax()]
    assert abs(nose[0] - rest[15, 0]) < 0.01
    hair = mesh.vertices_V3[mesh.groups_V == GROUP_NAMES.index("hair")]
    assert hair[:, 2].mean() < head[:, 2].mean()
    # Hair covers the skull: nothing of the head rises above it or stands out behind it.
    assert hair[:, 1].max() > head[:, 1].max()
    assert hair[:, 2].min() < head[:, 2].min()


def test_left_and_right_mirror_each_other() -> None:
    mesh = mannequin_mesh()
    shoes = mesh.vertices_V3[mesh.groups_V == GROUP_NAMES.index("shoes")]
    left, right = shoes[shoes[:, 0] > 0], shoes[shoes[:, 0] < 0]
    assert len(left) == len(right)
    np.testing.assert_allclose(left.mean(0) * [-1, 1, 1], right.mean(0), atol=0.02)


def test_every_limb_is_covered_with_flesh() -> None:
    """No bone shows: each joint and each bone's middle lies inside some part of the body."""
    mesh = mannequin_mesh()
    rest = rest_joints()
    from macedance.motion.skeleton import PARENTS

    for joint in range(1, 24):
        middle = 0.5 * (rest[joint] + rest[PARENTS[joint]])
        inside = False
        for part in parts(mesh):
            a, b, c = (mesh.vertices_V3[mesh.faces_F3[part][:, i]].astype(float) - middle for i in range(3))
            la, lb, lc = (np.linalg.norm(v, axis=1) for v in (a, b, c))
            top = np.einsum("fi,fi->f", a, np.cross(b, c))
            bottom = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
            inside |= bool(2 * np.arctan2(top, bottom).sum() > 2 * np.pi)
        assert inside, joint


def test_rest_pose_leaves_the_mesh_alone() -> None:
    mesh = mannequin_mesh()
    vertices, normals = posed(mesh, np.zeros((2, 24, 3)), np.array([[0.0, 0, 0], [1.0, 2, 3]]))
    np.testing.assert_allclose(vertices[0], mesh.vertices_V3, atol=1e-6)
    np.testing.assert_allclose(vertices[1], mesh.vertices_V3 + np.array([1, 2, 3]), atol=1e-5)
    np.testing.assert_allclose(normals[0], mesh.normals_V3, atol=1e-5)


def test_elbow_moves_the_forearm_only() -> None:
    mesh = mannequin_mesh()
    poses = np.zeros((1, 24, 3))
    poses[0, 18, 1] = -1.5
    moved = np.linalg.norm(posed(mesh, poses, np.zeros((1, 3)))[0][0] - mesh.vertices_V3, axis=1) > 1e-5
    elbow = rest_joints()[18]
    assert not moved[mesh.vertices_V3[:, 0] < elbow[0] - 0.06].any()
    assert moved[mesh.vertices_V3[:, 0] > elbow[0] + 0.1].all()


def test_skinning_is_the_weighted_sum_of_the_joints() -> None:
    mesh = mannequin_mesh()
    rng = np.random.default_rng(0)
    poses, trans = rng.normal(0, 0.5, (3, 24, 3)), rng.normal(0, 1, (3, 3))
    vertices, normals = posed(mesh, poses, trans)
    poses_t = torch.from_numpy(poses)
    rotations = global_rotations(matrix_from_axis_angle(poses_t)).numpy()
    joints = joints_from_poses(poses_t, torch.from_numpy(trans)).numpy()
    for vertex in rng.integers(0, len(mesh.vertices_V3), 40):
        expected = np.zeros((3, 3))
        for joint, weight in zip(mesh.joints_V4[vertex], mesh.weights_V4[vertex], strict=True):
            expected += weight * (
                rotations[:, joint] @ (mesh.vertices_V3[vertex] - rest_joints()[joint]) + joints[:, joint]
            )
        np.testing.assert_allclose(vertices[:, vertex], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1.0, atol=1e-4)


def test_same_mesh_every_time_and_read_only() -> None:
    first = mannequin_mesh()
    mannequin_mesh.cache_clear()
    second = mannequin_mesh()
    for name, array in vars(first).items():
        np.testing.assert_array_equal(array, getattr(second, name))
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_tube_and_ellipsoid_have_the_volume_of_their_shapes() -> None:
    def volume(surface: object) -> float:
        corners = surface.vertices_V3[surface.faces_F3]  # type: ignore[attr-defined]
        return float(np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6)

    ball = ellipsoid((1, 2, 3), (0.5, 1.0, 2.0), rings=30, segments=60)
    assert volume(ball) == pytest.approx(4 / 3 * np.pi * 1.0, rel=0.02)
    assert ((smooth_normals(ball.vertices_V3, ball.faces_F3) * (ball.vertices_V3 - [1, 2, 3])).sum(1) > 0).all()
    rod = sweep(np.array([[0, 0, 0], [0, 1, 0], [0, 2.0, 0]]), np.full((3, 2), [1.0, 0.5]), (1, 0, 0), segments=60)
    assert volume(rod) == pytest.approx(np.pi * 1.0 * 0.5 * 2, rel=0.01)
    assert np.ptp(rod.vertices_V3, axis=0) == pytest.approx([2.0, 2.0, 1.0])


def test_tube_of_two_colours_has_a_seam_but_no_gap() -> None:
    tube = sweep(np.array([[0, 0, 0], [0, 1, 0], [0, 2.0, 0]]), np.ones((3, 2)), (1, 0, 0), segments=8, groups=[0, 1])
    assert len(tube.vertices_V3) == 2 + 4 * 8
    groups = tube.groups_V[tube.faces_F3]
    assert (groups == groups[:, :1]).all()


def test_chain_weights_hand_over_at_the_bounds() -> None:
    weights = chain_weights(np.array([0.0, 0.9, 1.0, 1.1, 1.5, 3.0]), [3, 6, 9], [1.0, 2.0], [0.1, 0.2])
    np.testing.assert_allclose(weights.sum(1), 1.0)
    np.testing.assert_allclose(weights[:, 3], [1, 1, 0.5, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(weights[:, 9], [0, 0, 0, 0, 0, 1])
