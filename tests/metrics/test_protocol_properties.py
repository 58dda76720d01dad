"""Properties of the whole protocol, drawn by hypothesis: what must grow, what must not move, and what mace2d misses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import pulsing_joints, random_clips

from macedance.metrics.conventions import Preset
from macedance.metrics.functional.beat import alignment_scores
from macedance.metrics.keypoints import LAYOUTS, KeypointClip
from macedance.metrics.motion import evaluate_clips
from macedance.metrics.perturbations import perturb
from macedance.metrics.presets import CLEAN, CLEAN_KEYPOINTS, JOINT_PRESETS, MACE2D
from macedance.motion.files import JointClip

SEEDS = st.integers(0, 10_000)
COUNT, FRAMES = 76, 40


def fid_k(clips: list[JointClip], reference: list[JointClip]) -> float:
    return float(evaluate_clips(clips, reference)["fid_k"]["value"])


def test_golden_values_are_this_repositorys_own(golden_values: dict[str, object], golden_motions: object) -> None:
    assert {"bailando_aist", "lodge_finedance", "megadance", "mace3d", "mace2d"} <= set(golden_values)
    assert golden_motions["gt_joints"].shape == (90, 120, 24, 3)  # type: ignore[index]


@settings(max_examples=6, deadline=None)
@given(seed=SEEDS, preset=st.sampled_from([*JOINT_PRESETS.values()]), shift=st.integers(1, COUNT - 1))
def test_equal_sets_are_zero_apart_in_any_order(seed: int, preset: Preset, shift: int) -> None:
    clips = random_clips(COUNT, seed=seed, frames=FRAMES)
    turned = clips[shift:] + clips[:shift]
    values = evaluate_clips(turned, clips, preset=preset)
    # Standardised by a variance that is next to nothing, rounding alone is a distance: relative to the dimensions.
    assert values["fid_k"]["value"] == pytest.approx(0, abs=1e-5)
    assert values["fid_g"]["value"] == pytest.approx(0, abs=1e-5)


@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_distance_grows_with_noise_of_the_joints(seed: int) -> None:
    reference, clips = (random_clips(COUNT, seed=seed + which, frames=FRAMES, scale=0.4) for which in (0, 1))
    rng = np.random.default_rng(seed)
    noise = [rng.standard_normal((FRAMES, 24, 3)) for _ in clips]
    levels = [
        fid_k([replace(c, joints=c.joints + size * n) for c, n in zip(clips, noise, strict=True)], reference)
        for size in (0.0, 0.01, 0.03, 0.1)
    ]
    assert levels == sorted(levels)
    assert levels[-1] > 3 * levels[0]


@settings(max_examples=5, deadline=None)
@given(seed=SEEDS, kind=st.sampled_from(["foot_slide", "time_stretch"]))
def test_distance_grows_with_each_level_of_a_perturbation(seed: int, kind: str) -> None:
    reference, clips = (random_clips(COUNT, seed=seed + which, frames=FRAMES, scale=0.4) for which in (0, 1))
    disturbed = [clips] + [
        [perturb(clip, kind, level, seed=seed, name=clip.name) for clip in clips] for level in (1, 2, 3)
    ]
    levels = [fid_k(some, reference) for some in disturbed]  # type: ignore[arg-type]
    assert levels[1:] == sorted(levels[1:])
    assert levels[-1] > 1.1 * levels[0]


@settings(max_examples=12, deadline=None)
@given(period=st.floats(0.45, 1.0), first=st.floats(0.2, 0.4), fps=st.sampled_from([25.0, 30.0, 60.0]))
def test_dance_that_rests_on_the_clicks_scores_one_and_half_a_beat_later_nothing(
    period: float, first: float, fps: float
) -> None:
    duration_s = 8.0
    joints = pulsing_joints(fps, duration_s, period, first)
    # The outermost beats have their minimum beyond the ends, or next to them.
    beats = np.arange(first + period, duration_s - period, period)
    on = evaluate_clips([JointClip(joints, fps, music_beats_s=beats, song="a")], [])
    off = evaluate_clips([JointClip(joints, fps, music_beats_s=beats + period / 2, song="a")], [])
    assert on["bas"]["value"] > 0.98
    assert off["bas"]["value"] == pytest.approx(np.exp(-((period / 2) ** 2) / 0.02), abs=0.06)


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_unrelated_clicks_score_the_chance_of_the_dances_own_minima(seed: int) -> None:
    rng = np.random.default_rng(seed)
    joints = pulsing_joints(30.0, 30.0, 0.62, 0.3)
    rests = np.arange(0.3, 30.0, 0.62)
    clips = [
        JointClip(joints, 30.0, music_beats_s=np.sort(rng.uniform(0.5, 29.5, 60)), song=str(index))
        for index in range(4)
    ]
    chance = alignment_scores(np.linspace(0.5, 29.5, 4000), rests).mean()
    values = evaluate_clips(clips, [])
    assert values["bas"]["value"] == pytest.approx(chance, abs=0.09)
    assert values["bas_shuffled"]["value"] == pytest.approx(chance, abs=0.09)


@settings(max_examples=6, deadline=None)
@given(yaw=st.floats(-np.pi, np.pi), shift=st.tuples(*[st.floats(-5, 5) for _ in range(3)]), seed=SEEDS)
def test_turning_and_moving_the_generated_set_moves_no_clean_distance(
    yaw: float, shift: tuple[float, float, float], seed: int
) -> None:
    reference, clips = (random_clips(COUNT, seed=seed + which, frames=FRAMES) for which in (0, 1))
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    moved = [replace(clip, joints=clip.joints @ turn.T + np.array(shift)) for clip in clips]
    here, there = (evaluate_clips(some, reference, preset=CLEAN) for some in (clips, moved))
    for key in ("fid_k", "fid_g", "div_k", "div_g"):
        assert there[key]["value"] == pytest.approx(here[key]["value"], rel=2e-3), key


def golden_keypoints(motions: dict[str, np.ndarray], name: str) -> list[KeypointClip]:
    layout = LAYOUTS["coco_17_plus_8"]
    return [
        KeypointClip(points, 16.0, name=str(index), layout=layout)
        for index, points in enumerate(motions[f"{name}_keypoints"])
    ]


def exaggerated(clip: KeypointClip, factor: float) -> KeypointClip:
    """The displacement from the clip's mean pose times a factor: larger movements of the same body, no zoom."""
    points = clip.keypoints.astype(np.float64)
    mean = points[..., :2].mean(axis=0)
    points[..., :2] = mean + factor * (points[..., :2] - mean)
    return replace(clip, keypoints=points)


@settings(max_examples=4, deadline=None)
@given(factor=st.floats(2.5, 8.0))
def test_mace2d_cannot_see_how_large_the_movements_are_and_clean_can(
    golden_motions: dict[str, np.ndarray], factor: float
) -> None:
    generated, reference = (golden_keypoints(golden_motions, name) for name in ("generated", "gt"))
    changes = {}
    for preset in (MACE2D, CLEAN_KEYPOINTS):
        before, after = (
            evaluate_clips(some, reference, preset=preset)["fid_k"]["value"]
            for some in (generated, [exaggerated(clip, factor) for clip in generated])
        )
        changes[preset.name] = after / before
    assert changes["mace2d"] == pytest.approx(1.0, abs=0.02)
    assert changes["clean"] > 2 * factor


def test_fivefold_movements_are_the_published_blindness(golden_motions: dict[str, np.ndarray]) -> None:
    """Below 2% under mace2d, beyond tenfold under clean; diversity under mace2d does not move either."""
    generated, reference = (golden_keypoints(golden_motions, name) for name in ("generated", "gt"))
    large = [exaggerated(clip, 5.0) for clip in generated]
    small, big = (evaluate_clips(some, reference, preset=MACE2D) for some in (generated, large))
    for key in ("fid_k", "div_k"):
        assert abs(big[key]["value"] / small[key]["value"] - 1) < 0.02
    small, big = (evaluate_clips(some, reference, preset=CLEAN_KEYPOINTS) for some in (generated, large))
    assert big["fid_k"]["value"] > 10 * small["fid_k"]["value"]
