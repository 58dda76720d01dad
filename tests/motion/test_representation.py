"""The 151-d representation: layout, z-up, round trip."""

from __future__ import annotations

import pytest
import torch

from macedance.errors import DataError
from macedance.motion.contacts import foot_contacts
from macedance.motion.representation import (
    CONTACTS,
    REPRESENTATION_DIM,
    ROOT,
    ROTATIONS,
    decode_motion,
    encode_motion,
    joints_from_representation,
    to_y_up,
    to_z_up,
)
from macedance.motion.rotations import matrix_from_axis_angle
from macedance.motion.skeleton import joints_from_poses


def random_motion(*leading: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*leading, 24, 3, generator=generator), torch.randn(*leading, 3, generator=generator)


def test_channels_are_those_of_the_published_layout() -> None:
    poses, trans = random_motion(2, 8)
    x = encode_motion(poses, trans, 30.0)
    assert x.shape == (2, 8, REPRESENTATION_DIM)
    assert (slice(0, 4), slice(4, 7), slice(7, 151)) == (CONTACTS, ROOT, ROTATIONS)
    torch.testing.assert_close(x[..., 4:7], torch.stack([trans[..., 0], -trans[..., 2], trans[..., 1]], -1))
    # The root rotation is turned by +90 degrees about x, the others are as they were; two rows of each.
    quarter = matrix_from_axis_angle(torch.tensor([torch.pi / 2, 0.0, 0.0]))
    matrices = matrix_from_axis_angle(poses)
    torch.testing.assert_close(x[..., 7:13], (quarter @ matrices[..., 0, :, :])[..., :2, :].flatten(-2))
    torch.testing.assert_close(x[..., 13:19], matrices[..., 1, :2, :].flatten(-2))
    torch.testing.assert_close(x[..., 145:151], matrices[..., 23, :2, :].flatten(-2))
    torch.testing.assert_close(x[..., CONTACTS], foot_contacts(joints_from_poses(poses, trans), 30.0))


def test_round_trip_keeps_every_joint_within_a_tenth_of_a_millimetre() -> None:
    poses, trans = random_motion(4, 50)
    again, trans_again = decode_motion(encode_motion(poses, trans, 30.0))
    error = (joints_from_poses(again, trans_again) - joints_from_poses(poses, trans)).abs().max()
    assert error < 1e-5
    assert again.shape == poses.shape


def test_joints_are_those_of_the_motion_in_the_z_up_world() -> None:
    poses, trans = random_motion(3, 20)
    joints = joints_from_representation(encode_motion(poses, trans, 30.0))
    torch.testing.assert_close(joints, to_z_up(joints_from_poses(poses, trans)), atol=1e-5, rtol=0)
    torch.testing.assert_close(to_y_up(to_z_up(joints)), joints)


def test_standing_dancer_stands_along_z() -> None:
    joints = joints_from_representation(encode_motion(torch.zeros(1, 24, 3), torch.zeros(1, 3), 30.0))
    assert joints[0, 15, 2] > 0.4
    assert joints[0, 10, 1] < 0  # facing +z in the y-up world is facing -y here


def test_joints_from_representation_of_noise_has_gradients_everywhere() -> None:
    x = torch.randn(2, 5, 151, generator=torch.Generator().manual_seed(1)).requires_grad_()
    joints_from_representation(x).square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert (x.grad[..., ROOT] != 0).all()
    assert (x.grad[..., CONTACTS] == 0).all()


def test_wrong_shapes_are_refused() -> None:
    poses, trans = random_motion(5)
    with pytest.raises(DataError, match="24, 3"):
        encode_motion(poses[:, :22], trans, 30.0)
    with pytest.raises(DataError, match="T, 3"):
        encode_motion(poses, trans[:4], 30.0)
    with pytest.raises(DataError, match="151"):
        decode_motion(torch.zeros(5, 139))
    with pytest.raises(DataError, match="151"):
        joints_from_representation(torch.zeros(5, 139))
