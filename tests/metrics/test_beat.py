"""Beat alignment: on the beat, off the beat, by chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import pulsing_joints, random_joints

from macedance.metrics.functional.beat import (
    alignment_scores,
    beat_alignment,
    mean_joint_speed,
    motion_beats,
    shuffled_alignment,
    speed_minima,
    within,
)


@settings(max_examples=20, deadline=None)
@given(fps=st.sampled_from([24.0, 30.0, 60.0]), period=st.floats(0.4, 0.8), first=st.floats(0.25, 0.4))
def test_dance_that_rests_on_the_beats_scores_near_one(fps: float, period: float, first: float) -> None:
    joints = pulsing_joints(fps, 6.0, period, first)
    dance = motion_beats(joints, fps)
    beats = np.arange(first, 5.75, period)
    assert len(dance) == pytest.approx(len(beats), abs=1)
    assert beat_alignment(beats[1:-1], dance) > 0.95
    # Half-way between the beats it is at its fastest.
    assert beat_alignment(beats[1:-1] + period / 2, dance) < 0.2


def test_rests_are_found_between_frames_not_a_frame_late() -> None:
    dance = motion_beats(pulsing_joints(30.0, 6.0, 0.5, 0.25), 30.0)
    errors = dance[:, None] - np.arange(0.25, 6, 0.5)
    errors = errors[np.arange(len(dance)), np.abs(errors).argmin(1)]
    assert np.abs(errors).max() < 0.5 / 30 + 1e-9
    assert abs(errors.mean()) < 0.005


def test_unrelated_dances_are_near_chance() -> None:
    beats = np.arange(0.3, 20, 0.5)
    dances = [motion_beats(random_joints(seed, 600), 30.0) for seed in range(20)]
    score = np.mean([beat_alignment(beats, dance) for dance in dances])
    # A fixed beat against minima spread uniformly: the expected value of the tolerance over a random phase.
    phases = np.random.default_rng(0).uniform(0, 20, 4000)
    chance = np.mean([alignment_scores(phases, dance).mean() for dance in dances])
    assert abs(score - chance) < 0.05


def test_speed_is_in_metres_per_second_between_frames() -> None:
    joints = np.zeros((3, 24, 3))
    joints[1:, :12, 0] = 0.1  # half of the joints by 0.1 m within one frame
    np.testing.assert_allclose(mean_joint_speed(joints, 30.0), [1.5, 0.0])


def test_only_strict_minima_count_and_never_the_ends() -> None:
    speed = np.array([1.0, 2, 3, 1, 3, 4, 2, 2, 4, 5, 0])
    assert np.flatnonzero(speed_minima(speed, 1e-3)).tolist() == [3]
    assert not speed_minima(np.zeros(50), 3.0).any()
    batch = np.stack([speed, speed[::-1]])
    assert np.flatnonzero(speed_minima(batch, 1e-3)[1]).tolist() == [7]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=20), st.lists(st.floats(0, 10), min_size=1, max_size=20))
def test_scores_equal_the_nearest_of_all_distances(beats: list[float], targets: list[float]) -> None:
    targets = sorted(targets)
    nearest = np.abs(np.array(beats)[:, None] - np.array(targets)).min(1)
    scores = alignment_scores(np.array(beats), np.array(targets), 0.1)
    np.testing.assert_allclose(scores, np.exp(-(nearest**2) / 0.02), atol=1e-12)


def test_direction_matters() -> None:
    music, dance = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0])
    assert beat_alignment(music, dance) == pytest.approx(0.5)
    assert beat_alignment(dance, music) == pytest.approx(1.0)
    assert beat_alignment(music, np.zeros(0)) == 0.0
    assert np.isnan(beat_alignment(np.zeros(0), dance))


def test_within_keeps_the_beats_of_the_clip_sorted() -> None:
    assert within(np.array([5.0, -0.1, 0.0, 2.0, 3.0]), 5.0).tolist() == [0.0, 2.0, 3.0]


def test_shuffled_alignment_equals_the_double_loop_over_other_songs() -> None:
    rng = np.random.default_rng(0)
    count = 9
    dances = [np.sort(rng.uniform(0, 5, 8)) for _ in range(count)]
    music = [np.sort(rng.uniform(0, 5, rng.integers(0, 9))) for _ in range(count)]
    songs = [i % 3 for i in range(count)]
    durations = rng.uniform(3, 5, count).tolist()
    expected = []
    for i in range(count):
        scores = [
            beat_alignment(within(music[j], durations[i]), dances[i]) for j in range(count) if songs[j] != songs[i]
        ]
        expected.append(np.nanmean(scores))
    np.testing.assert_allclose(shuffled_alignment(dances, music, songs, durations), expected)


def test_shuffled_alignment_without_another_song_is_nan() -> None:
    beats = [np.array([1.0]), np.array([2.0])]
    assert np.isnan(shuffled_alignment(beats, beats, ["a", "a"], [5.0, 5.0])).all()
    assert np.isnan(shuffled_alignment(beats, [np.zeros(0)] * 2, ["a", "b"], [5.0, 5.0])).all()
    assert shuffled_alignment([], [], [], []).size == 0
