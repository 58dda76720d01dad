"""Foot skating, PFC, PBC, jerk and plausibility on motions whose values are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import random_joints, standing_joints

from macedance.errors import DataError
from macedance.metrics.functional.foot import (
    foot_skating,
    foot_skating_counts,
    foot_skating_published,
    physical_body_contact,
    physical_foot_contact,
)
from macedance.metrics.functional.plausibility import (
    bone_length_variation,
    floor_penetration_m,
    max_root_speed_m_s,
    mean_speed_m_s,
)
from macedance.metrics.functional.smoothness import mean_jerk


@settings(max_examples=15, deadline=None)
@given(fps=st.sampled_from([20.0, 30.0, 60.0]), height=st.floats(-3, 3))
def test_planted_feet_do_not_skate_and_dragged_ones_always(fps: float, height: float) -> None:
    lift = torch.tensor([0.0, height, 0.0])
    assert foot_skating(torch.from_numpy(standing_joints(40)) + lift, fps) == 0
    assert foot_skating(torch.from_numpy(standing_joints(40, 0.28, fps)) + lift, fps) == 0
    assert foot_skating(torch.from_numpy(standing_joints(40, 0.32, fps)) + lift, fps) == 1


def test_skating_in_every_direction_counts_but_not_in_the_published_one() -> None:
    joints = torch.from_numpy(standing_joints(40))
    step = torch.arange(40)[:, None] * 0.02
    joints[..., 0] += step
    joints[..., 2] -= step
    assert foot_skating(joints, 30.0) == 1
    assert foot_skating_published(joints).tolist() == [0.0, 0.0]
    joints[..., 2] += 2 * step
    # The published count takes in the last frame, which cannot slide.
    assert foot_skating_published(joints).tolist() == pytest.approx([39 / 40, 39 / 40])


def test_lifted_foot_is_no_contact_and_feet_are_pooled() -> None:
    joints = torch.from_numpy(standing_joints(31))
    joints[10:, 7, 1] += 0.3  # the left foot leaves the floor, flying sideways
    joints[10:, 10, 1] += 0.3
    joints[:, (7, 10), 0] += torch.arange(31)[:, None].double() * 0.02
    sliding, touching = foot_skating_counts(joints, 30.0)
    assert (sliding.item(), touching.item()) == (10, 40)
    jumping = joints.clone()
    jumping[:, (7, 8), 1] += 0.5
    assert torch.isnan(foot_skating(jumping, 30.0))


def test_golden_contact_scores_are_reproduced(
    golden_joints: dict[str, torch.Tensor], golden_values: dict[str, dict[str, float]]
) -> None:
    for name, joints in golden_joints.items():
        pfc = physical_foot_contact(joints, 30.0).mean().item()
        assert pfc == pytest.approx(golden_values["pfc_y_up"][name], rel=1e-6)
        ratio = foot_skating_published(joints)
        assert ratio.nanmean(0).mean().item() == pytest.approx(golden_values["fsr_lodge"][name], rel=1e-6)
        assert int(ratio.isnan().sum()) == golden_values["fsr_lodge"][f"nan_{name}"]


def test_contact_scores_of_still_and_of_planted_dancers_are_zero() -> None:
    joints = torch.from_numpy(standing_joints(30))
    assert physical_foot_contact(joints, 30.0) == 0
    assert physical_body_contact(joints, 30.0) == 0
    joints[:, 0, 0] += torch.linspace(0, 2, 30).sin()
    assert physical_foot_contact(joints, 30.0) == 0  # one planted foot explains any acceleration
    joints[:, (8, 11), 0] += torch.linspace(0, 2, 30)[:, None]
    assert physical_foot_contact(joints, 30.0) == 0
    joints[:, (7, 10), 0] += torch.linspace(0, 2, 30)[:, None]
    assert physical_foot_contact(joints, 30.0) > 0


def test_contact_scores_hardly_depend_on_the_frame_rate() -> None:
    t = torch.arange(0, 601, dtype=torch.float64) / 120
    phase = torch.rand(24, 3, generator=torch.Generator().manual_seed(0)) * 6
    joints = torch.sin(2 * torch.pi * 0.5 * t[:, None, None] + phase) * 0.3
    for score in (physical_foot_contact, physical_body_contact):
        assert score(joints[::4], 30.0).item() == pytest.approx(score(joints[::2], 60.0).item(), rel=0.03)


def test_body_contact_is_minus_foot_contact_for_still_hands_and_head() -> None:
    joints = torch.from_numpy(random_joints(0, 40))
    joints[:, (15, 20, 21, 22, 23)] = joints[:1, (15, 20, 21, 22, 23)]
    joints[:, 0, 1] = 1.0  # PFC alone leaves out the root's downward acceleration
    assert physical_body_contact(joints, 30.0).item() == pytest.approx(-physical_foot_contact(joints, 30.0).item())
    joints[:, 15] += torch.linspace(0, 1, 40)[:, None]
    assert physical_body_contact(joints, 30.0) > -physical_foot_contact(joints, 30.0)


@settings(max_examples=20, deadline=None)
@given(
    coefficients=st.lists(st.floats(-5, 5), min_size=12, max_size=12),
    fps=st.sampled_from([10.0, 30.0, 60.0]),
)
def test_jerk_of_a_cubic_is_its_third_derivative(coefficients: list[float], fps: float) -> None:
    c = np.array(coefficients).reshape(4, 3)
    t = np.arange(40)[:, None] / fps
    curve = c[0] + c[1] * t + c[2] * t**2 + c[3] * t**3
    joints = torch.from_numpy(np.repeat(curve[:, None], 24, axis=1))
    # Third differences lose about 1e-16 x size x fps^3.
    tolerance = 1e-14 * fps**3 * (1 + np.abs(curve).max())
    assert mean_jerk(joints, fps).item() == pytest.approx(6 * np.linalg.norm(c[3]), abs=tolerance)


def test_plausibility_of_known_motions() -> None:
    joints = torch.from_numpy(standing_joints(10, 1.5))
    assert bone_length_variation(joints) < 1e-5
    assert floor_penetration_m(joints) == 0
    assert max_root_speed_m_s(joints, 30.0).item() == pytest.approx(1.5)
    assert mean_speed_m_s(joints, 30.0).item() == pytest.approx(1.5)
    stretched = joints.clone()
    stretched[5, 15] += (stretched[5, 15] - stretched[5, 12]) * 0.5
    assert bone_length_variation(stretched).item() == pytest.approx(0.5 / 1.05, rel=1e-3)
    sunk = torch.stack([joints, joints - torch.tensor([0.0, 0.07, 0.0])])
    assert floor_penetration_m(sunk).tolist() == pytest.approx([0.0, 0.05], abs=1e-5)


def test_too_short_clips_are_refused() -> None:
    short = torch.zeros(3, 24, 3)
    with pytest.raises(DataError, match="4 frames"):
        mean_jerk(short, 30.0)
    for call in (
        lambda: physical_foot_contact(short[:2], 30.0),
        lambda: physical_body_contact(short[:2], 30.0),
        lambda: foot_skating(short[:1], 30.0),
        lambda: max_root_speed_m_s(short[:1], 30.0),
        lambda: physical_body_contact(torch.zeros(5, 22, 3), 30.0),
        lambda: bone_length_variation(torch.zeros(5, 22, 3)),
    ):
        with pytest.raises(DataError):
            call()
