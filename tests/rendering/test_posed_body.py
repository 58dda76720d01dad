from __future__ import annotations

import numpy as np
import pytest
from rendering_dances import make_dance, standing

from macedance.demo.songs import GENRES
from macedance.errors import DataError
from macedance.motion.skeleton import PARENTS
from macedance.rendering.body import MannequinBody, body_scale, posed_meshes, transforms_from_joints
from macedance.rendering.frames import as_dance
from macedance.rendering.scene import OUTFITS, outfit_for

ONE_CHILD = [joint for joint in range(24) if PARENTS.count(joint) == 1]


def carried_children(joints: np.ndarray, scale: float) -> np.ndarray:
    """Where each single child lies when its parent's part of the body is put in place, minus where it should be."""
    rest = standing().joint_positions()[0]
    transforms = transforms_from_joints(joints, scale)
    errors = []
    for parent in ONE_CHILD:
        child = PARENTS.index(parent)
        carried = joints[:, parent] + np.einsum("tab,b->ta", transforms[:, parent], rest[child] - rest[parent])
        errors.append(carried - joints[:, child])
    return np.concatenate(errors)


def test_rest_joints_give_no_rotation() -> None:
    transforms = transforms_from_joints(standing(2).joint_positions())
    np.testing.assert_allclose(transforms, np.broadcast_to(np.eye(3), transforms.shape), atol=1e-4)


def test_bones_end_at_their_joints_for_any_positions() -> None:
    joints = make_dance(20).joint_positions()
    assert np.abs(carried_children(joints, 1.0)).max() < 1e-4
    # Another skeleton: larger, arms longer.
    other = joints * 1.3
    other[:, [20, 22]] += 0.3 * (other[:, [20]] - other[:, [18]])
    scale = body_scale(other)
    assert scale == pytest.approx(1.3, rel=0.02)
    assert np.abs(carried_children(other, scale)).max() < 1e-4


def test_a_bone_that_points_backwards_is_turned_half_round() -> None:
    joints = standing().joint_positions()
    joints[:, 22] = 2 * joints[:, 20] - joints[:, 22]
    turned = transforms_from_joints(joints)[0, 20]
    np.testing.assert_allclose(turned @ turned.T, np.eye(3), atol=1e-4)
    assert np.abs(carried_children(joints, 1.0)).max() < 1e-4


def test_joints_alone_pose_the_body_nearly_as_the_rotations_do() -> None:
    motion = make_dance(12)
    body = MannequinBody()
    true = np.stack([vertices for vertices, _ in posed_meshes(body, as_dance(motion))])
    aligned = np.stack([vertices for vertices, _ in posed_meshes(body, as_dance(motion.joint_positions()))])
    distance = np.linalg.norm(true - aligned, axis=-1)
    assert distance.mean() < 0.01
    assert distance.max() < 0.12  # the thickness of a limb: twist about a bone cannot be seen from its ends


def test_body_stands_on_the_floor_and_normals_point_outwards() -> None:
    vertices, normals = next(posed_meshes(MannequinBody(), as_dance(standing())))
    assert vertices[:, 1].min() == pytest.approx(0.0, abs=0.01)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-4)
    front = vertices[:, 2] > np.percentile(vertices[:, 2], 98)
    assert normals[front, 2].mean() > 0.3


def test_only_a_few_frames_are_posed_at_a_time() -> None:
    seen: list[int] = []

    class Watched(MannequinBody):
        def pose(self, joints_TJ3: np.ndarray, rotations_TJ33: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            seen.append(len(joints_TJ3))
            assert len(rotations_TJ33) == len(joints_TJ3)
            return super().pose(joints_TJ3, rotations_TJ33)

    meshes = posed_meshes(Watched(), as_dance(make_dance(500)))
    next(meshes)
    assert len(seen) == 1
    assert seen[0] <= 64


def test_joints_that_are_not_a_person_are_refused() -> None:
    with pytest.raises(DataError, match="metres"):
        as_dance(standing().joint_positions() * 0.001)


def test_outfits_are_stable_by_name_and_change_the_colours() -> None:
    assert outfit_for("hiphop") == outfit_for("hiphop")
    assert outfit_for(None) == OUTFITS[0]
    assert len({outfit_for(genre) for genre in GENRES}) == len(GENRES)
    assert len({outfit_for(name) for name in "abcdefghijklmnopqrstuvwxyz"}) == len(OUTFITS)
    assert not np.array_equal(MannequinBody(OUTFITS[1]).colours_V3, MannequinBody(OUTFITS[2]).colours_V3)
