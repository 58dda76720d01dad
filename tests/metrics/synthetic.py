"""Dances for the metric tests: smooth random ones, and ones whose metrics are known."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from macedance.metrics.keypoints import KeypointClip
from macedance.motion.files import JointClip, Motion


@cache
def rest_joints() -> np.ndarray:
    """(1, 24, 3): the rest pose with the pelvis one metre up."""
    return Motion(np.zeros((1, 24, 3)), np.array([[0, 1.0, 0]]), 30).joint_positions()


def random_joints(seed: int, frames: int = 60, scale: float = 1.0) -> np.ndarray:
    """(T, 24, 3) float64: a standing body, its joints wandering smoothly and its root further."""
    rng = np.random.default_rng(seed)
    rest = rest_joints()
    wander = gaussian_filter1d(rng.standard_normal((frames, 24, 3)), 4, axis=0)
    path = gaussian_filter1d(rng.standard_normal((frames, 1, 3)), 8, axis=0)
    return rest + scale * (0.25 * wander + 0.8 * path)


def random_clips(
    count: int, seed: int = 0, frames: int = 60, songs: int | None = None, **options: Any
) -> list[JointClip]:
    """Clips with beats at 120 BPM of a random phase; ``songs`` clips in turn share a song."""
    rng = np.random.default_rng(seed)
    clips = []
    for index in range(count):
        joints = random_joints(seed * 100_003 + index, frames, **options)
        beats = np.arange(rng.uniform(0, 0.5), frames / 30, 0.5)
        song = f"song{index % songs if songs else index}"
        clips.append(JointClip(joints, 30.0, music_beats_s=beats, name=f"{seed}-{index}", song=song))
    return clips


def pulsing_joints(fps: float, duration_s: float, period_s: float, first_rest_s: float) -> np.ndarray:
    """(T, 24, 3): all joints move along x and come to rest at first_rest_s + k period_s, and at no other time.

    A micrometre of noise: a rest exactly on a frame would leave two equal speeds beside it, and no strict minimum.
    """
    t = np.arange(round(fps * duration_s)) / fps
    # The speed 1 - cos has its minima, zero, at the rests; this is its integral.
    angle = 2 * np.pi * (t - first_rest_s) / period_s
    x = 0.2 * (t - np.sin(angle) * period_s / (2 * np.pi))
    joints = np.zeros((len(t), 24, 3))
    joints[..., 0] = x[:, None] + np.arange(24) * 0.1
    joints += np.random.default_rng(0).normal(0, 1e-6, joints.shape)
    return joints


def standing_joints(frames: int, foot_speed_m_s: float = 0.0, fps: float = 30.0) -> np.ndarray:
    """(T, 24, 3): a body standing on the floor, the whole of it sliding sideways at a speed."""
    motion = Motion(np.zeros((frames, 24, 3)), np.zeros((frames, 3)), fps).grounded()
    joints = motion.joint_positions().astype(np.float64)
    joints[..., 0] += (np.arange(frames) * foot_speed_m_s / fps)[:, None]
    return joints


def random_keypoints(seed: int, frames: int = 64, scale: float = 1.0) -> np.ndarray:
    """(T, 25, 3): the random dance seen from the front, 200 pixels a metre, in the layout coco_25."""
    joints = random_joints(seed, frames, scale)
    coco = joints[:, [15, 15, 15, 15, 15, 16, 17, 18, 19, 20, 21, 1, 2, 4, 5, 7, 8]]
    points = np.zeros((frames, 25, 3))
    rows = (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18)
    points[:, rows, :2] = coco[..., :2]
    points[:, 5, :2] = joints[:, 12, :2]
    points[:, 14, :2] = joints[:, 0, :2]
    points[:, 19:22, :2] = joints[:, 10:11, :2]
    points[:, 22:, :2] = joints[:, 11:, :2][:, :1]
    points[..., :2] = points[..., :2] * np.array([200.0, -200.0]) + np.array([320.0, 500.0])
    points[..., 2] = 0.9
    return points


def random_keypoint_clips(count: int, seed: int = 0, frames: int = 64, **options: Any) -> list[KeypointClip]:
    """Clips at 16 fps with beats at 120 BPM of a random phase."""
    rng = np.random.default_rng(seed)
    clips = []
    for index in range(count):
        points = random_keypoints(seed * 100_003 + index, frames, **options)
        beats = np.arange(rng.uniform(0, 0.5), frames / 16, 0.5)
        clips.append(KeypointClip(points, 16.0, music_beats_s=beats, name=f"{seed}-{index}", song=f"song{index}"))
    return clips


def approx(entries: dict[str, Any]) -> dict[str, Any]:
    """Entries of an evaluation to compare others with."""
    return {
        key: {k: pytest.approx(v) if isinstance(v, float) else v for k, v in e.items()} for key, e in entries.items()
    }
