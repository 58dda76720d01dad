"""The skeleton's tables and forward kinematics against a joint-by-joint evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from macedance.motion.rotations import matrix_from_axis_angle
from macedance.motion.skeleton import (
    FOOT_JOINTS,
    JOINT_NAMES,
    LEAVES,
    MIRROR,
    NUM_JOINTS,
    OFFSETS_M,
    PARENTS,
    PELVIS_REST_M,
    forward_kinematics,
    global_rotations,
    joints_from_poses,
    rest_offsets,
)


def slow_kinematics(poses: np.ndarray, trans: np.ndarray) -> np.ndarray:
    """One frame, scipy rotations, recursion over parents."""
    offsets = np.array(OFFSETS_M)
    positions, turned = [trans], [Rotation.from_rotvec(poses[0])]
    for joint in range(1, NUM_JOINTS):
        parent = PARENTS[joint]
        positions.append(positions[parent] + turned[parent].apply(offsets[joint]))
        turned.append(turned[parent] * Rotation.from_rotvec(poses[joint]))
    return np.stack(positions)


def random_motion(*leading: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    poses = torch.randn(*leading, NUM_JOINTS, 3, generator=generator, dtype=torch.float64)
    return poses, torch.randn(*leading, 3, generator=generator, dtype=torch.float64)


def test_tables_agree_with_each_other() -> None:
    assert len(JOINT_NAMES) == len(PARENTS) == len(OFFSETS_M) == len(MIRROR) == NUM_JOINTS
    assert all(parent < joint for joint, parent in enumerate(PARENTS))
    assert [JOINT_NAMES[j] for j in FOOT_JOINTS] == ["lankle", "rankle", "ltoes", "rtoes"]
    assert [JOINT_NAMES[j] for j in LEAVES] == ["ltoes", "rtoes", "head", "lhand", "rhand"]
    for joint, mirrored in enumerate(MIRROR):
        name = JOINT_NAMES[joint]
        swapped = {"l": "r", "r": "l"}[name[0]] + name[1:] if mirrored != joint else name
        assert JOINT_NAMES[mirrored] == swapped
        # Left and right bones differ by less than 3 cm once mirrored: the table has no row out of place.
        flipped = np.array(OFFSETS_M[mirrored]) * (-1, 1, 1)
        assert np.abs(flipped - OFFSETS_M[joint]).max() < 0.03


def test_rest_pose_stands_upright_with_the_left_hand_on_positive_x() -> None:
    joints = joints_from_poses(torch.zeros(24, 3), torch.zeros(3))
    assert joints[15, 1] > joints[0, 1] > joints[7, 1] > joints[10, 1]
    assert joints[22, 0] > 0.5
    assert joints[10, 2] > joints[7, 2]  # toes before the ankle: it faces +z


@pytest.mark.parametrize("leading", [(), (3,), (2, 5), (2, 1, 4)])
def test_forward_kinematics_equals_recursion_for_any_leading_shape(leading: tuple[int, ...]) -> None:
    poses, trans = random_motion(*leading)
    joints = joints_from_poses(poses, trans)
    assert joints.shape == (*leading, NUM_JOINTS, 3)
    flat_poses, flat_trans = poses.reshape(-1, 24, 3).numpy(), trans.reshape(-1, 3).numpy()
    expected = np.stack([slow_kinematics(p, t) for p, t in zip(flat_poses, flat_trans, strict=True)])
    np.testing.assert_allclose(joints.reshape(-1, 24, 3).numpy(), expected, atol=1e-12)


def test_forward_kinematics_of_float32_is_exact_to_a_micrometre() -> None:
    poses, trans = random_motion(4, 7)
    exact = joints_from_poses(poses, trans)
    joints = joints_from_poses(poses.float(), trans.float())
    assert joints.dtype == torch.float32
    assert (joints.double() - exact).abs().max() < 5e-6


def test_bone_lengths_do_not_depend_on_the_pose() -> None:
    poses, trans = random_motion(10)
    joints = joints_from_poses(poses, trans)
    lengths = (joints[:, 1:] - joints[:, PARENTS[1:]]).norm(dim=-1)
    expected = rest_offsets(torch.float64)[1:].norm(dim=-1)
    torch.testing.assert_close(lengths, expected.expand_as(lengths))


def test_leaf_rotations_move_no_joint_and_every_other_does() -> None:
    poses, trans = random_motion()
    joints = joints_from_poses(poses, trans)
    for joint in range(NUM_JOINTS):
        changed = poses.clone()
        changed[joint] += 0.5
        moved = (joints_from_poses(changed, trans) - joints).abs().max().item() > 1e-6
        assert moved == (joint not in LEAVES)


def test_smplx_pelvis_is_offset_by_a_constant_that_does_not_turn() -> None:
    poses, trans = random_motion(6)
    difference = joints_from_poses(poses, trans, pelvis="smplx") - joints_from_poses(poses, trans)
    expected = torch.tensor(PELVIS_REST_M, dtype=torch.float64)
    torch.testing.assert_close(difference, expected.expand_as(difference))


def test_global_rotations_turn_the_offsets_of_children() -> None:
    poses, trans = random_motion(3)
    rotations = matrix_from_axis_angle(poses)
    joints, turned = forward_kinematics(rotations, trans), global_rotations(rotations)
    offsets = rest_offsets(torch.float64)
    for joint in range(1, NUM_JOINTS):
        bone = (turned[:, PARENTS[joint]] @ offsets[joint].unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(joints[:, joint] - joints[:, PARENTS[joint]], bone)


def test_forward_kinematics_is_differentiable() -> None:
    poses, trans = random_motion(2, seed=3)
    assert torch.autograd.gradcheck(
        lambda p, t: joints_from_poses(p, t)[..., (7, 15, 22), :], (poses.requires_grad_(), trans.requires_grad_())
    )
