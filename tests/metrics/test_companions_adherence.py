"""Pose adherence: PCK, OKS, error, what is missing, and jitter, by hand-made keypoints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macedance.errors import DataError
from macedance.metrics.honest.adherence import (
    ADHERENCE_KEYS,
    OKS_SIGMAS,
    body_diagonals,
    jitter_ratio,
    object_keypoint_similarity,
    pose_adherence,
    to_resolution,
)


def body(frames: int = 12, seed: int = 0) -> np.ndarray:
    """(T, 17, 3): a body in a box of exactly 60 x 80 pixels (diagonal 100) that wanders through the picture."""
    rng = np.random.default_rng(seed)
    points = rng.uniform((2, 2), (58, 78), (1, 17, 2)).repeat(frames, axis=0)
    points[:, 0], points[:, 16] = (0, 0), (60, 80)
    path = np.cumsum(rng.standard_normal((frames, 1, 2)) * 3, axis=0)
    return np.concatenate([points + path + 100, np.ones((frames, 17, 1))], axis=-1)


def moved(points: np.ndarray, distance: float, keypoints: slice | list[int] = slice(None)) -> np.ndarray:
    out = points.copy()
    out[:, keypoints, 0] += distance
    return out


def test_the_driving_keypoints_themselves_are_perfect() -> None:
    found = pose_adherence(body(), body())
    assert (found.pck_05, found.pck_10, found.oks, found.keypoint_error, found.missing) == (1, 1, 1, 0, 0)
    assert found.jitter_ratio == pytest.approx(1.0)
    assert set(found.terms()) == set(ADHERENCE_KEYS)
    assert found.terms()["pck_05"] == (1.0, 12 * 17)
    assert found.terms()["oks"] == (1.0, 12)
    assert found.terms()["jitter_ratio"][1] == 9 * 17


def test_distances_are_in_diagonals_of_the_body() -> None:
    assert np.allclose(body_diagonals(body()), 100.0)
    driving = body()
    found = pose_adherence(driving, moved(moved(driving, 4.9, [1, 2]), 7.0, [3]))
    assert found.pck_05 == pytest.approx(16 / 17)
    assert found.pck_10 == 1.0
    assert found.keypoint_error == pytest.approx((2 * 0.049 + 0.07) / 17)
    assert pose_adherence(driving, moved(driving, 5.1)).pck_05 == 0.0
    assert pose_adherence(driving, moved(driving, 10.1)).pck_10 == 0.0


def test_oks_is_cocos() -> None:
    driving = body()
    # One sigma of a keypoint, twice: d = k s with k = 2 sigma gives exp(-1/2).
    side = np.sqrt(0.53 * 60 * 80)
    detected = driving.copy()
    detected[:, :, 1] += 2 * OKS_SIGMAS * side
    assert np.allclose(object_keypoint_similarity(driving, detected), np.exp(-0.5))
    assert OKS_SIGMAS.sum() == pytest.approx(1.138), "COCO's seventeen"


def test_a_hidden_dancer_is_wrong_and_not_left_out() -> None:
    driving = body()
    detected = driving.copy()
    detected[:3] = 0
    detected[3:, 16, 2] = 0.1
    found = pose_adherence(driving, detected)
    seen = 9 * 16
    assert found.pck_10 == pytest.approx(seen / (12 * 17))
    assert found.oks == pytest.approx(seen / 17 / 12)
    assert found.missing == pytest.approx(1 - seen / (12 * 17))
    assert found.keypoint_error == 0.0
    assert found.counts["keypoint_error"] == seen
    assert found.missing_frames == 3
    nobody = pose_adherence(driving, np.zeros_like(driving))
    assert (nobody.pck_10, nobody.oks, nobody.missing, nobody.missing_frames) == (0, 0, 1, 12)
    assert np.isnan(nobody.keypoint_error)
    assert np.isnan(nobody.jitter_ratio)


def test_driving_keypoints_that_cannot_be_seen_do_not_count() -> None:
    driving, detected = body(), body()
    driving[:, 5, 2] = 0
    driving[0, :, 2] = 0
    detected[:, 5, :2] += 50
    detected[0, :, :2] += 50
    found = pose_adherence(driving, detected)
    assert found.pck_05 == 1.0
    assert found.counts["pck_05"] == 11 * 16
    assert found.counts["oks"] == 11


def test_trembling_is_seen_beside_a_steady_motion() -> None:
    driving = body(60)
    trembling = driving.copy()
    trembling[..., :2] += np.random.default_rng(1).standard_normal((60, 17, 2)) * 10
    ratio, terms = jitter_ratio(driving, trembling)
    assert ratio > 2.5
    assert terms == 57 * 17
    steady = driving.copy()
    steady[..., :2] = steady[:1, :, :2]
    assert jitter_ratio(driving, steady)[0] == 0.0
    assert np.isnan(jitter_ratio(steady, driving)[0]), "driving keypoints that stand still have no jerk to divide by"
    assert jitter_ratio(driving[:3], driving[:3])[1] == 0


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.2, 8), dx=st.floats(-300, 300), dy=st.floats(-300, 300), seed=st.integers(0, 50))
def test_size_and_place_of_the_picture_do_not_matter(scale: float, dx: float, dy: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    driving, detected = body(6, seed), body(6, seed)
    detected[..., :2] += rng.standard_normal((6, 17, 2)) * 6
    detected[..., 2] = rng.uniform(0, 1, (6, 17))
    before = pose_adherence(driving, detected)
    for points in (driving, detected):
        points[..., :2] = points[..., :2] * scale + (dx, dy)
    after = pose_adherence(driving, detected)
    for key in ("oks", "keypoint_error", "missing", "jitter_ratio"):
        assert getattr(after, key) == pytest.approx(getattr(before, key), rel=1e-6, nan_ok=True)


def test_keypoints_of_another_size_of_picture_are_scaled() -> None:
    scaled = to_resolution(body(), (320, 640), (160, 320))
    assert np.allclose(scaled[..., :2], body()[..., :2] / 2)
    assert np.array_equal(scaled[..., 2], body()[..., 2])
    with pytest.raises(DataError, match="320 x 640 for a video of 640 x 320"):
        to_resolution(body(), (320, 640), (640, 320))


@pytest.mark.parametrize(
    ("driving", "detected", "message"),
    [
        (body(4), body(5), "4 frames of driving keypoints, 5 of detected ones"),
        (body(4)[:, :16], body(4), r"driving keypoints have shape \(4, 16, 3\)"),
        (body(4), np.full((4, 17, 3), np.nan), "detected keypoints have NaN"),
        (np.zeros((4, 17, 3)), body(4), "no driving keypoint counts"),
    ],
)
def test_what_cannot_be_compared_is_refused(driving: np.ndarray, detected: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pose_adherence(driving, detected)
