"""What every evaluation must show: zero for equal sets, growth with damage, no interest in place and heading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import approx, random_clips, random_keypoint_clips

from macedance.metrics.functional.beat import alignment_scores, beat_alignment
from macedance.metrics.keypoints import KeypointClip
from macedance.metrics.motion import evaluate_clips
from macedance.metrics.presets import CLEAN, JOINT_PRESETS, KEYPOINT_PRESETS
from macedance.motion.files import JointClip

REFERENCE = random_clips(76, seed=1, frames=40, scale=0.4)
GENERATED = random_clips(76, seed=2, frames=40, scale=0.4)


def changed(change: Callable[[np.ndarray], np.ndarray]) -> list[JointClip]:
    return [replace(clip, joints=change(clip.joints.astype(np.float64))) for clip in GENERATED]


def fid_k(clips: list[JointClip]) -> float:
    return float(evaluate_clips(clips, REFERENCE)["fid_k"]["value"])


@pytest.mark.parametrize(
    "preset", [*JOINT_PRESETS.values(), *KEYPOINT_PRESETS.values()], ids=lambda p: f"{type(p).__name__}-{p.name}"
)
def test_equal_sets_have_no_distance_under_any_preset(preset: Any) -> None:
    clips: list[Any] = list(REFERENCE)
    if preset in KEYPOINT_PRESETS.values():
        clips = random_keypoint_clips(80)
    values = evaluate_clips(clips, clips, preset=preset)
    assert values["fid_k"]["value"] == pytest.approx(0, abs=1e-6)
    assert values["fid_g"]["value"] == pytest.approx(0, abs=1e-6)
    assert values["div_k"]["value"] == pytest.approx(values["div_k_reference"]["value"])


def test_distance_grows_with_noise() -> None:
    noise = np.random.default_rng(0).standard_normal((40, 24, 3))
    levels = [fid_k(changed(lambda x, s=size: x + s * noise)) for size in (0.0, 0.01, 0.03, 0.1)]  # type: ignore[misc]
    assert levels == sorted(levels)
    assert levels[-1] > 3 * levels[0]


def test_distance_grows_with_time_stretch() -> None:
    def slowed(factor: float) -> Callable[[np.ndarray], np.ndarray]:
        at = np.arange(40) / factor
        low = np.floor(at).astype(int)
        weight = (at - low)[:, None, None]
        return lambda x: (1 - weight) * x[low] + weight * x[np.minimum(low + 1, 39)]

    levels = [fid_k(changed(slowed(factor))) for factor in (1.0, 1.5, 2.5)]
    assert levels == sorted(levels)
    assert levels[-1] > 1.3 * levels[0]


def test_distance_and_skating_grow_with_injected_foot_slide() -> None:
    distances, skating = [], []
    # A pinned, standing body: what slides is all that moves.
    for speed in (0.0, 0.6, 1.2):
        path = np.arange(40) * speed / 30

        def slid(x: np.ndarray, path: np.ndarray = path) -> np.ndarray:
            x = x.copy()
            x[..., 0] += path[:, None]
            return x

        distances.append(fid_k(changed(slid)))
        standing = [replace(c, joints=slid(np.repeat(c.joints[:1], 40, axis=0))) for c in GENERATED[:4]]
        skating.append(evaluate_clips(standing, [])["foot_skating"]["value"])
    assert distances == sorted(distances)
    assert distances[-1] > 2 * distances[0]
    assert skating == [0.0, 1.0, 1.0]


@settings(max_examples=10, deadline=None)
@given(yaw=st.floats(-np.pi, np.pi), shift=st.tuples(*[st.floats(-20, 20) for _ in range(3)]))
def test_clean_values_ignore_place_and_heading(yaw: float, shift: tuple[float, float, float]) -> None:
    clips, reference = GENERATED[:6], REFERENCE[:6]
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    moved = [replace(c, joints=c.joints @ turn.T + np.array(shift)) for c in clips]
    here, there = (evaluate_clips(c, reference, allow_small_n=True) for c in (clips, moved))
    for key, entry in here.items():
        # Joints are kept in float32, and third differences times 27000 show it.
        loose = 0.02 if key == "jerk" else 2e-3
        assert there[key]["value"] == pytest.approx(entry["value"], rel=loose, abs=1e-6), key
        assert there[key]["n"] == entry["n"]


@settings(max_examples=10, deadline=None)
@given(zoom=st.floats(0.3, 4), shift=st.tuples(st.floats(-300, 300), st.floats(-300, 300)))
def test_clean_keypoint_values_ignore_resolution_and_place(zoom: float, shift: tuple[float, float]) -> None:
    clips, reference = random_keypoint_clips(5), random_keypoint_clips(5, seed=1)
    moved: list[KeypointClip] = []
    for clip in clips:
        points = clip.keypoints.astype(np.float64)
        points[..., :2] = points[..., :2] * zoom + np.array(shift)
        moved.append(replace(clip, keypoints=points))
    preset = KEYPOINT_PRESETS["clean"]
    here, there = (evaluate_clips(c, reference, preset=preset, allow_small_n=True) for c in (clips, moved))
    for key in ("fid_k", "fid_g", "div_k", "bas", "bas_motion"):
        assert there[key]["value"] == pytest.approx(here[key]["value"], rel=5e-3, abs=1e-6), key


@settings(max_examples=20, deadline=None)
@given(period=st.floats(0.4, 1.2), phase=st.floats(0, 0.4), seed=st.integers(0, 99))
def test_clicks_on_the_beats_score_one_and_unrelated_ones_the_chance_of_their_density(
    period: float, phase: float, seed: int
) -> None:
    beats = np.arange(phase, 60, period)
    assert beat_alignment(beats, beats) == 1.0
    clicks = np.sort(np.random.default_rng(seed).uniform(0, 60, 90))
    chance = alignment_scores(np.linspace(0, 60, 6001), clicks).mean()
    assert beat_alignment(beats, clicks) == pytest.approx(chance, abs=0.2)
    assert beat_alignment(beats + period / 2, beats) == pytest.approx(np.exp(-((period / 2) ** 2) / 0.02), abs=0.03)


def test_shuffling_the_order_of_clips_changes_nothing() -> None:
    clips = GENERATED[:12]
    assert evaluate_clips(clips[::-1], REFERENCE[:12], preset=CLEAN, allow_small_n=True) == approx(
        evaluate_clips(clips, REFERENCE[:12], preset=CLEAN, allow_small_n=True)
    )
