from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import standing_joints
from torch import Tensor

from macedance.errors import ConfigError, DataError
from macedance.metrics.functional.foot import foot_skating
from macedance.metrics.functional.smoothness import mean_jerk as jerk
from macedance.metrics.perturbations import PERTURBATIONS, perturb
from macedance.motion.files import JointClip, Motion
from macedance.motion.rotations import matrix_from_axis_angle


@pytest.fixture(scope="module")
def dance() -> Motion:
    """Ten seconds of swinging arms and legs, feet on the floor."""
    time_s = np.arange(300) / 30
    poses = np.zeros((300, 24, 3))
    poses[:, 16, 2] = 0.8 * np.sin(2 * np.pi * time_s)
    poses[:, 1, 0], poses[:, 4, 0] = -0.3 - 0.2 * np.sin(np.pi * time_s), 0.6 + 0.4 * np.sin(np.pi * time_s)
    return Motion(
        poses, np.tile([0.0, 0.95, 0.0], (300, 1)), 30.0, genre="house", music_beats_s=np.arange(0.25, 10, 0.5)
    ).grounded()


def joints_of(dance: Motion | JointClip) -> Tensor:
    return torch.from_numpy(dance.joint_positions() if isinstance(dance, Motion) else dance.joints).double()


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_each_level_is_the_same_disturbance_and_larger(dance: Motion, kind: str) -> None:
    truth = joints_of(dance)
    copies = [perturb(dance, kind, level, seed=3, name="clip") for level in (1, 2, 3)]
    errors = [float((joints_of(copy) - truth).norm(dim=-1).mean()) for copy in copies]
    assert min(errors) > 0.002
    # A dance that repeats itself may come back into step when it is slowed down more.
    assert kind == "time_stretch" or errors[0] < errors[1] < errors[2]
    for copy in copies:
        assert isinstance(copy, Motion)
        assert (copy.num_frames, copy.fps, copy.genre) == (300, 30.0, "house")
        np.testing.assert_array_equal(copy.music_beats_s, dance.music_beats_s)  # type: ignore[arg-type]
    moves = [(joints_of(copy) - truth).flatten() for copy in copies[:2]]
    if kind != "time_stretch":
        assert float(moves[0] @ moves[1] / (moves[0].norm() * moves[1].norm())) > 0.97


@pytest.mark.parametrize("kind", ["noise", "jitter", "foot_slide"])
def test_a_disturbance_depends_on_seed_kind_and_clip_only(dance: Motion, kind: str) -> None:
    first, again = (joints_of(perturb(dance, kind, 2, seed=1, name="a")) for _ in range(2))
    assert torch.equal(first, again)
    for seed, name in ((2, "a"), (1, "b")):
        assert not torch.equal(first, joints_of(perturb(dance, kind, 2, seed=seed, name=name)))


def test_sizes_are_what_they_say(dance: Motion) -> None:
    truth = joints_of(dance)
    for level, size in enumerate(PERTURBATIONS["noise"].sizes, start=1):
        noisy = perturb(dance, "noise", level, name="a")
        assert isinstance(noisy, Motion)
        np.testing.assert_array_equal(noisy.poses[:, 0], dance.poses[:, 0])
        relative = matrix_from_axis_angle(torch.from_numpy(dance.poses)).mT @ matrix_from_axis_angle(
            torch.from_numpy(noisy.poses)
        )
        angle = torch.rad2deg(torch.acos(((relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1)))
        # Three axes of that standard deviation: the length's root mean square is sqrt(3) of it.
        assert float(angle[:, 1:].square().mean().sqrt()) == pytest.approx(size * 3**0.5, rel=0.06)
    for level, size in enumerate(PERTURBATIONS["foot_slide"].sizes, start=1):
        shift = joints_of(perturb(dance, "foot_slide", level, name="a")) - truth
        assert float(shift[..., 1].abs().max()) < 1e-6
        assert float((shift - shift[:, :1]).abs().max()) < 1e-5
        speed = shift[:, 0].diff(dim=0).norm(dim=-1) * 30
        assert float(speed.mean()) == pytest.approx(size, rel=1e-3)
    slow = perturb(dance, "time_stretch", 3)
    np.testing.assert_allclose(joints_of(slow)[::3], truth[:200:2], atol=2e-3)


def test_what_is_made_worse_is_measured_as_worse(dance: Motion) -> None:
    truth = joints_of(dance)
    jerks = [float(jerk(joints_of(perturb(dance, "jitter", level)), 30.0)) for level in (1, 2, 3)]
    assert float(jerk(truth, 30.0)) * 5 < jerks[0] < jerks[1] < jerks[2]
    standing = JointClip(standing_joints(120).astype(np.float32), 30.0)
    slides = [float(foot_skating(joints_of(perturb(standing, "foot_slide", level)), 30.0)) for level in (1, 2, 3)]
    assert float(foot_skating(joints_of(standing), 30.0)) == 0.0
    assert slides[0] < slides[1] < slides[2]
    assert slides[2] > 0.6


def test_joints_alone_slide_and_slow_down_but_have_no_rotations_to_turn() -> None:
    clip = JointClip(standing_joints(30, foot_speed_m_s=0.5).astype(np.float32), 30.0, name="song-1")
    slow = perturb(clip, "time_stretch", 3)
    assert isinstance(slow, JointClip)
    np.testing.assert_allclose(joints_of(slow)[::3], joints_of(clip)[:20:2], atol=1e-5)
    for kind in ("noise", "jitter"):
        with pytest.raises(DataError, match=r"positions only.*song-1"):
            perturb(clip, kind, 1)


def test_joints_of_a_motion_follow_its_disturbed_rotations(dance: Motion) -> None:
    both = replace(dance, joints=dance.joint_positions())
    noisy, slid = perturb(both, "noise", 2), perturb(both, "foot_slide", 2)
    assert isinstance(noisy, Motion)
    assert noisy.joints is None
    assert isinstance(slid, Motion)
    np.testing.assert_allclose(slid.joints, slid.joint_positions(), atol=1e-5)  # type: ignore[arg-type]


def test_short_dances_and_unknown_kinds(dance: Motion) -> None:
    for frames in (1, 2, 5):
        for kind in PERTURBATIONS:
            copy = perturb(dance.slice(0, frames), kind, 3)
            assert len(joints_of(copy)) == frames
            assert joints_of(copy).isfinite().all()
    with pytest.raises(ConfigError, match="unknown perturbation 'typo'; expected one of noise"):
        perturb(dance, "typo", 1)
    with pytest.raises(ConfigError, match="level 4"):
        perturb(dance, "noise", 4)
