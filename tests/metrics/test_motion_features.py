"""Kinetic and geometric features against frame-by-frame evaluations, and what they are blind to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import random_joints

from macedance.errors import DataError
from macedance.metrics.functional.geometric import HUMERUS_M, geometric_features
from macedance.metrics.functional.kinetic import kinetic_features, kinetic_features_convolved
from macedance.metrics.presets import CLEAN, MotionPreset


def slow_kinetic(p: np.ndarray, dt: float, half: int, published: bool) -> np.ndarray:
    """The loop of the released code, one joint and frame at a time."""
    frames, joints, _ = p.shape
    features = []
    for j in range(joints):
        horizontal = vertical = acceleration = 0.0
        for i in range(1, frames):
            speeds, rates = [], []
            for k in range(i - half, i + half + 1):
                if k - 1 >= 0 and k < frames:
                    speeds.append((p[k, j] - p[k - 1, j]) / dt)
                if k - 1 >= 0 and k + 1 < frames:
                    before = p[k, j] - p[k - 1, j] / dt if published else (p[k, j] - p[k - 1, j]) / dt
                    rates.append(((p[k + 1, j] - p[k, j]) / dt - before) / dt)
            v = np.mean(speeds, axis=0)
            horizontal += v[0] ** 2 + v[2] ** 2
            vertical += v[1] ** 2
            acceleration += np.linalg.norm(np.mean(rates, axis=0)) if rates else 0.0
        features += [horizontal, vertical, acceleration]
    return np.array(features) / (frames - 1)


@pytest.mark.parametrize("acceleration", ["correct", "published"])
@pytest.mark.parametrize(("frames", "half"), [(20, 2), (3, 2), (5, 1), (9, 4)])
def test_kinetic_features_equal_the_loop(acceleration: str, frames: int, half: int) -> None:
    joints = random_joints(1, frames)
    features = kinetic_features(torch.from_numpy(joints), 1 / 30, acceleration=acceleration, half_window=half)  # type: ignore[arg-type]
    expected = slow_kinetic(joints, 1 / 30, half, acceleration == "published")
    np.testing.assert_allclose(features.numpy(), expected, rtol=1e-9)


def test_kinetic_features_of_known_motion() -> None:
    t = torch.arange(30, dtype=torch.float64) / 30
    joints = torch.zeros(30, 24, 3, dtype=torch.float64)
    joints[:, 3, 0], joints[:, 3, 2] = 0.3 * t, 0.4 * t  # 0.5 m/s in the plane
    joints[:, 5, 1] = 2 * t
    joints[:, 7, 1] = 1.5 * t * t  # 3 m/s^2
    features = kinetic_features(joints, 1 / 30).reshape(24, 3)
    torch.testing.assert_close(features[3], torch.tensor([0.25, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(features[5], torch.tensor([0.0, 4.0, 0.0], dtype=torch.float64))
    assert features[7, 2].item() == pytest.approx(3.0)
    assert features[[0, 1, 2, 4]].abs().max() == 0
    assert kinetic_features(joints, 1 / 30, up_axis=0).reshape(24, 3)[3, 1].item() == pytest.approx(0.09)


def test_features_of_a_batch_are_those_of_its_clips() -> None:
    joints = torch.from_numpy(np.stack([random_joints(seed) for seed in range(3)]))
    for features in (
        lambda x: kinetic_features(x, 1 / 30),
        lambda x: kinetic_features_convolved(x, 1 / 30),
        lambda x: geometric_features(x, 1 / 30),
    ):
        torch.testing.assert_close(features(joints), torch.stack([features(clip) for clip in joints]))


def test_convolved_features_attenuate_the_ends() -> None:
    t = torch.arange(50, dtype=torch.float64) / 30
    joints = torch.zeros(50, 24, 3, dtype=torch.float64)
    joints[:, 0, 1] = t
    # 46 frames see 1 m/s, the two at each end 0.6 and 0.8.
    expected = (46 + 2 * (0.36 + 0.64)) / 50
    assert kinetic_features_convolved(joints, 1 / 30)[1].item() == pytest.approx(expected)


def test_geometric_features_answer_known_poses() -> None:
    standing = torch.from_numpy(random_joints(0, 10, scale=0.0))
    rest = geometric_features(standing, 1 / 30)
    assert rest[[12, 13, 21, 22, 31]].abs().max() == 0  # nothing is fast
    assert rest[[6, 7, 19, 20]].abs().max() == 0  # straight elbows and knees
    assert rest[[29, 30]].abs().max() == 0  # hands far above the floor
    assert rest[8] == 1  # hands wide apart
    low = standing.clone()
    low[:, 20] = low[:, 10] + torch.tensor([0.0, 0.1, 0.0])
    assert geometric_features(low, 1 / 30)[30] == 1
    assert geometric_features(low, 1 / 30)[29] == 0
    bent = standing.clone()
    bent[:, 21] = bent[:, 17] + torch.tensor([0.0, 0.05, 0.0])
    assert geometric_features(bent, 1 / 30)[6] == 1


def test_speeds_of_geometric_features_are_per_second() -> None:
    joints = torch.from_numpy(random_joints(0, 12, scale=0.0))
    joints[:, :, 0] += torch.arange(12)[:, None] * (2.4 * HUMERUS_M / 30)
    assert geometric_features(joints, 1 / 30)[[31, 21]].tolist() == [1.0, 0.0]  # above 2.3, below 2.5
    assert geometric_features(joints, 1 / 25)[[31, 21]].tolist() == [0.0, 0.0]
    assert geometric_features(joints, 1 / 120)[[31, 21]].tolist() == [1.0, 1.0]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    yaw=st.floats(-np.pi, np.pi),
    shift=st.tuples(*[st.floats(-50, 50) for _ in range(3)]),
)
def test_clean_features_ignore_place_and_heading(seed: int, yaw: float, shift: tuple[float, float, float]) -> None:
    joints = random_joints(seed, 40)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    moved = torch.from_numpy(joints @ turn.T + np.array(shift))
    here = torch.from_numpy(joints)
    torch.testing.assert_close(CLEAN.kinetic(moved, 30), CLEAN.kinetic(here, 30), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(CLEAN.geometric(moved, 30), CLEAN.geometric(here, 30))


def test_published_acceleration_does_not_ignore_place() -> None:
    here = torch.from_numpy(random_joints(0, 40))
    published = MotionPreset("published", acceleration="published", centring="none")
    assert (published.kinetic(here + 1.0, 30) - published.kinetic(here, 30)).abs().max() > 100


def test_clean_features_hardly_depend_on_the_frame_rate() -> None:
    t = np.arange(241) / 120
    phase = np.random.default_rng(0).uniform(0, 6, (24, 3))
    joints = torch.from_numpy(np.sin(2 * np.pi * 0.7 * t[:, None, None] + phase) * 0.3)
    slow, fast = CLEAN.kinetic(joints[::4], 30), CLEAN.kinetic(joints[::2], 60)
    assert ((fast - slow).abs() / slow).max() < 0.1
    assert (CLEAN.geometric(joints[::4], 30) - CLEAN.geometric(joints[::2], 60)).abs().max() < 0.05


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="3 frames"):
        kinetic_features(torch.zeros(2, 24, 3), 1 / 30)
    with pytest.raises(DataError, match="J >= 22"):
        geometric_features(torch.zeros(5, 17, 3), 1 / 30)
