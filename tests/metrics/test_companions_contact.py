"""Foot contact in a video against the motion that drives it, on dances seen by a camera."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from macedance.demo.corpus import make_clips, plan_corpus
from macedance.errors import DataError
from macedance.metrics.honest.contact import (
    contact_error,
    contact_error_of_video,
    contact_iou,
    contact_mask_of_joints,
    contact_mask_of_keypoints,
    skate_speed,
)
from macedance.rendering.motion_to_video import MeshDancer

FPS = 30.0


@cache
def dance() -> tuple[np.ndarray, np.ndarray]:
    """Joints (T, 24, 3) of a dance and its keypoints (T, 17, 3) as a camera that stands still sees them."""
    _, clips = make_clips(plan_corpus(16, 3)[0])
    motion = clips[1][1].slice(0, 120)
    return motion.joint_positions().astype(np.float64), MeshDancer(180, 320).driving_keypoints(motion)


def standing(frames: int = 60) -> np.ndarray:
    joints = dance()[0][:1].repeat(frames, axis=0)
    joints[:, (7, 8, 10, 11), 1] = (0.08, 0.08, 0.02, 0.02)
    return joints


def test_projected_joints_agree_with_the_motion_that_they_come_from() -> None:
    joints, keypoints = dance()
    wanted = contact_mask_of_joints(joints, FPS)
    assert 0.5 < wanted.mean() < 0.8, "a dance in which feet come and go"
    error = contact_error_of_video(joints, keypoints, FPS)
    assert error < 0.1
    always = contact_error(wanted, np.ones_like(wanted))
    assert error < 0.3 * always


def test_a_foot_that_stands_slides_jumps() -> None:
    still = standing()
    assert contact_mask_of_joints(still, FPS).all()
    sliding, jumping = still.copy(), still.copy()
    sliding[:, (7, 10), 0] += np.arange(60)[:, None] * 0.02
    jumping[20:30, :, 1] += 0.3
    assert not contact_mask_of_joints(sliding, FPS)[:, 0].any()
    assert contact_mask_of_joints(sliding, FPS)[:, 1].all()
    mask = contact_mask_of_joints(jumping, FPS)
    assert not mask[20:30].any()
    assert mask[:18].all()
    assert mask[32:].all()


def test_slid_feet_in_a_video_raise_error_and_skate_speed() -> None:
    joints, keypoints = dance()
    wanted = contact_mask_of_joints(joints, FPS)
    slid = keypoints.copy()
    # Both legs glide sideways by a tenth of the body's height, once a second, over the standing feet.
    slid[:, 11:, 0] += 12 * np.sin(np.arange(len(slid)) / FPS * 2 * np.pi)[:, None]
    clean, skating = (skate_speed(points, wanted, FPS) for points in (keypoints, slid))
    assert clean < 0.1
    assert skating > clean + 0.2
    assert contact_error_of_video(joints, slid, FPS) > contact_error_of_video(joints, keypoints, FPS) + 0.2


def test_a_moving_camera_is_taken_out() -> None:
    _, keypoints = dance()
    shifts = np.full((len(keypoints) - 1, 2), (3.0, -1.0))
    panned = keypoints.copy()
    panned[1:, :, :2] += np.cumsum(shifts, axis=0)[:, None]
    steady = contact_mask_of_keypoints(keypoints, FPS)
    assert np.array_equal(contact_mask_of_keypoints(panned, FPS, shifts), steady)
    assert contact_iou(contact_mask_of_keypoints(panned, FPS), steady) < 0.5


def test_the_size_of_the_picture_does_not_matter() -> None:
    _, keypoints = dance()
    large = keypoints * np.array([4.0, 4.0, 1.0])
    assert np.array_equal(contact_mask_of_keypoints(large, FPS), contact_mask_of_keypoints(keypoints, FPS))


def test_overlap_of_masks() -> None:
    left, both = np.array([[True, False]] * 4), np.ones((4, 2), bool)
    assert contact_iou(left, left) == 1.0
    assert contact_iou(left, both) == 0.5
    assert contact_error(left, both) == 0.5
    assert contact_iou(left, ~left) == 0.0
    assert np.isnan(contact_iou(np.zeros((4, 2)), np.zeros((4, 2)))), "nobody stands in either: nothing to agree on"
    assert np.isnan(skate_speed(dance()[1], np.zeros((120, 2), bool), FPS))


def test_what_cannot_be_compared_is_refused() -> None:
    joints, keypoints = dance()
    with pytest.raises(DataError, match="contact masks of shapes"):
        contact_error_of_video(joints[:50], keypoints, FPS)
    with pytest.raises(DataError, match="camera movement of shape"):
        contact_mask_of_keypoints(keypoints, FPS, np.zeros((4, 2)))
    with pytest.raises(DataError, match="joints have shape"):
        contact_mask_of_joints(joints[:2], FPS)
    with pytest.raises(DataError, match="NaN"):
        contact_mask_of_joints(np.full((4, 24, 3), np.nan), FPS)
    with pytest.raises(DataError, match="no frame shows both shoulders"):
        contact_mask_of_keypoints(np.zeros((9, 17, 3)), FPS)
