"""Keypoints: orders, missing ones, torso lengths; what mace2d is blind to and clean sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import random_keypoint_clips, random_keypoints

from macedance.errors import DataError
from macedance.metrics.functional.geometric import geometric_features
from macedance.metrics.functional.planar import planar_geometric_features, planar_kinetic_features
from macedance.metrics.keypoints import (
    COCO_25,
    LAYOUTS,
    TORSO_M,
    KeypointClip,
    body_in_torso_lengths,
    coco_keypoints,
    smpl_like,
    uncertain_keypoints,
)
from macedance.metrics.motion import evaluate_clips
from macedance.metrics.presets import CLEAN_KEYPOINTS, MACE2D


def test_layouts_and_axes_give_one_body() -> None:
    points = random_keypoints(0)
    wide = KeypointClip(points, 16.0)
    small = KeypointClip(points[:, COCO_25], 16.0)
    swapped = KeypointClip(points[..., [1, 0, 2]], 16.0, axes="yx")
    assert (wide.layout, small.layout) == (LAYOUTS["coco_25"], LAYOUTS["coco_17"])
    for clip in (small, swapped):
        np.testing.assert_allclose(body_in_torso_lengths(clip), body_in_torso_lengths(wide), atol=1e-6)
    # The order that the published scripts assume puts other joints there.
    wrong = replace(wide, layout=LAYOUTS["coco_17_plus_8"])
    assert np.abs(coco_keypoints(wrong) - coco_keypoints(wide)).max() > 50


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 100),
    zoom=st.floats(0.2, 5),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
)
def test_clean_ignores_resolution_and_place(seed: int, zoom: float, shift: tuple[float, float]) -> None:
    clip = KeypointClip(random_keypoints(seed, 40), 16.0)
    moved = clip.keypoints.astype(np.float64)
    moved[..., :2] = moved[..., :2] * zoom + np.array(shift)
    here, there = body_in_torso_lengths(clip), body_in_torso_lengths(replace(clip, keypoints=moved))
    np.testing.assert_allclose(there, here, atol=2e-3)


def test_the_torso_is_one_long_and_up_is_up() -> None:
    body = body_in_torso_lengths(KeypointClip(random_keypoints(0, 40, scale=0.0), 16.0))
    torso = body[:, (5, 6)].mean(1) - body[:, (11, 12)].mean(1)
    np.testing.assert_allclose(np.linalg.norm(torso, axis=1), 1.0, rtol=1e-5)
    assert (torso[:, 1] > 0.99).all()
    np.testing.assert_allclose(body[0, (11, 12)].mean(0), 0.0, atol=1e-9)
    assert 0.5 < TORSO_M < 0.6


def test_uncertain_keypoints_are_filled_in_from_their_own_frames_and_counted() -> None:
    points = random_keypoints(0, 40)
    clip = KeypointClip(points, 16.0)
    broken = points.copy()
    broken[10, 10] = (0, 0, 0.1)  # one wrist in one frame, and a frame without a person
    broken[20] = 0
    broken[:, 18] = (7, 7, 0.0)  # an ankle that is never seen
    body = body_in_torso_lengths(replace(clip, keypoints=broken))
    whole = body_in_torso_lengths(clip)
    assert uncertain_keypoints(replace(clip, keypoints=broken)) == 1 + 17 + 39
    wrist = 9  # COCO's row of easy_ViTPose's 10
    np.testing.assert_allclose(body[10, wrist], (body[9, wrist] + body[11, wrist]) / 2, atol=1e-9)
    np.testing.assert_allclose(body[:, 16], body[:, (11, 12)].mean(1), atol=1e-9)
    kept = [t for t in range(40) if t not in (10, 20)]
    np.testing.assert_allclose(body[kept][:, :16], whole[kept][:, :16], atol=5e-3)  # the median torso shifts


def test_clips_without_a_torso_are_refused_by_name() -> None:
    points = random_keypoints(0)
    points[:, 6, 2] = 0.1
    with pytest.raises(DataError, match="no frame shows both shoulders and both hips; at dancer"):
        body_in_torso_lengths(KeypointClip(points, 16.0, name="dancer"))
    with pytest.raises(DataError, match="torso has no length; at dancer"):
        body_in_torso_lengths(KeypointClip(np.ones((5, 17, 3)), 16.0, name="dancer"))
    with pytest.raises(DataError, match="coco_17"):
        KeypointClip(np.ones((5, 24, 3)), 16.0)


def test_flat_bodies_answer_the_geometric_questions_that_need_no_depth() -> None:
    body = body_in_torso_lengths(KeypointClip(random_keypoints(0, 20, scale=0.0), 16.0))
    features = geometric_features(torch.from_numpy(smpl_like(body) * TORSO_M), 1 / 16)
    assert features[[6, 7, 19, 20]].abs().max() == 0  # straight elbows and knees
    assert features[8] == 1  # hands wide apart
    body[:, 9] = body[:, 5] + 0.1  # the left wrist at its shoulder
    assert geometric_features(torch.from_numpy(smpl_like(body) * TORSO_M), 1 / 16)[7] == 1


def slow_planar_kinetic(points: np.ndarray, dt: float = 1 / 30) -> np.ndarray:
    """One keypoint and frame at a time: repeat the first, smooth with zeros beyond the ends, twice."""
    relative = points - (points[:, 11] + points[:, 12])[:, None] / 2

    def smooth(values: np.ndarray) -> np.ndarray:
        padded = np.concatenate([np.zeros(2), values, np.zeros(2)])
        return np.array([padded[i : i + 5].sum() / 5 for i in range(len(values))])

    features = []
    for joint in range(25):
        speeds, rates = [], []
        for axis in range(2):
            x = relative[:, joint, axis]
            step = [(x[i + 1] - x[i]) / dt for i in range(len(x) - 1)]
            speed = smooth(np.array([step[0], *step]))
            rate = [(speed[i + 1] - speed[i]) / dt for i in range(len(speed) - 1)]
            speeds.append(speed)
            rates.append(smooth(np.array([rate[0], *rate])))
        features += [(speeds[0] ** 2).mean(), (speeds[1] ** 2).mean(), np.hypot(*rates).mean()]
    return np.array(features)


def test_published_kinetic_features_equal_the_loop() -> None:
    points = random_keypoints(4, 20)
    np.testing.assert_allclose(
        planar_kinetic_features(torch.from_numpy(points)).numpy(), slow_planar_kinetic(points[..., :2]), rtol=1e-9
    )


def test_published_geometric_features_are_dead_where_planes_are_needed() -> None:
    points = torch.from_numpy(np.stack([random_keypoints(seed) for seed in range(8)]))
    features = planar_geometric_features(points)
    dead = [2, 3, 8, 14, 15, 16, 17, 18, 27, 29, 30]
    assert features[:, dead].abs().max() == 0
    assert len(dead) == 11
    assert (features.std(0) > 0).sum() >= 6
    leap = points.clone()
    leap[:, 1::2, (9,), 0] += 1e4  # a wrist that jumps in every frame
    assert planar_geometric_features(leap)[:, 13].min() == 1


def test_mace2d_is_blind_to_how_large_the_movements_are() -> None:
    """Each clip's displacement from its own mean pose, five times as large: no zoom, another dance."""
    generated, reference = random_keypoint_clips(90, seed=1, scale=0.3), random_keypoint_clips(90, seed=2, scale=0.3)

    def exaggerated(clip: KeypointClip) -> KeypointClip:
        points = clip.keypoints.astype(np.float64)
        mean = points.mean(0, keepdims=True)
        points[..., :2] = (mean + 5 * (points - mean))[..., :2]
        return replace(clip, keypoints=points)

    large = [exaggerated(clip) for clip in generated]
    for preset, low, high in ((MACE2D, 0.98, 1.02), (CLEAN_KEYPOINTS, 10.0, np.inf)):
        before, after = (evaluate_clips(c, reference, preset=preset)["fid_k"]["value"] for c in (generated, large))
        assert low < after / before < high, preset.name
