"""Foot contact labels."""

from __future__ import annotations

import pytest
import torch

from macedance.motion.contacts import foot_contacts
from macedance.motion.skeleton import FOOT_JOINTS


def sliding_joints(speed_m_s: float, fps: float, frames: int = 6) -> torch.Tensor:
    """All joints move along x at a speed."""
    x = torch.arange(frames) * speed_m_s / fps
    joints = torch.zeros(frames, 24, 3)
    joints[..., 0] = x[:, None]
    return joints


@pytest.mark.parametrize("fps", [15.0, 30.0, 60.0])
def test_threshold_is_a_speed_whatever_the_frame_rate(fps: float) -> None:
    assert (foot_contacts(sliding_joints(0.29, fps), fps) == 1).all()
    assert (foot_contacts(sliding_joints(0.31, fps), fps)[:-1] == 0).all()


def test_last_frame_counts_as_contact() -> None:
    contacts = foot_contacts(sliding_joints(2.0, 30.0), 30.0)
    assert contacts.shape == (6, 4)
    assert (contacts[-1] == 1).all()
    assert (contacts[:-1] == 0).all()


def test_each_channel_is_its_own_joint_in_any_direction() -> None:
    for channel, joint in enumerate(FOOT_JOINTS):
        joints = torch.zeros(2, 3, 24, 3)
        joints[1, 1:, joint, channel % 3] = 0.1
        contacts = foot_contacts(joints, 30.0)
        expected = torch.ones(2, 3, 4)
        expected[1, 0, channel] = 0
        torch.testing.assert_close(contacts, expected)


def test_single_frame_is_contact() -> None:
    assert (foot_contacts(torch.zeros(1, 24, 3), 30.0) == 1).all()
