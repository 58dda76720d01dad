from __future__ import annotations

import numpy as np
import pytest
from rendering_dances import make_dance, standing

from macedance.rendering.camera import follow_camera, front_direction

SIDE = 160


def turned(joints: np.ndarray, yaw: float) -> np.ndarray:
    cos, sin = np.cos(yaw), np.sin(yaw)
    return joints @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], dtype=np.float32).T


def in_picture(joints: np.ndarray, fps: float, width: int, height: int, flesh_m: float) -> bool:
    path = follow_camera(joints, fps, width, height)
    for frame in range(len(joints)):
        view = path.view(frame)
        around = [joints[frame] + side * flesh_m * axis for axis in (view.right, view.up) for side in (-1, 1)]
        pixels, depth = view.project(np.concatenate(around), width, height)
        if (depth <= 0).any() or (pixels < 0).any() or (pixels > (width, height)).any():
            return False
    return True


@pytest.mark.parametrize("yaw", [0.0, 1.2, -2.5, np.pi])
def test_camera_stands_in_front_of_the_dancer(yaw: float) -> None:
    joints = turned(standing(3).joint_positions(), yaw)
    assert np.cos(front_direction(joints) - yaw) > 0.995
    path = follow_camera(joints, 30.0, SIDE, SIDE)
    to_camera = path.eye_T3[0] - path.target_T3[0]
    front = np.array([np.sin(yaw), 0.0, np.cos(yaw)])
    assert to_camera @ front > 0.95 * np.linalg.norm(to_camera)
    assert path.eye_T3[0, 1] > path.target_T3[0, 1]
    # The dancer's left hand is on the picture's right.
    pixels, _ = path.view(0).project(joints[0], SIDE, SIDE)
    assert pixels[22, 0] > pixels[23, 0] + 40


@pytest.mark.parametrize(("width", "height"), [(160, 160), (90, 160), (240, 120)])
def test_whole_body_stays_in_the_picture_of_a_jumping_travelling_dancer(width: int, height: int) -> None:
    joints = make_dance(150).joint_positions().copy()
    frames = np.arange(150)
    joints[:, :, 1] += np.maximum(0.0, np.sin(frames / 7.0))[:, None] * 0.8
    joints[:, :, 0] += (3.0 * np.sin(frames / 12.0))[:, None]
    joints[:, :, 2] += (2.0 * np.cos(frames / 9.0))[:, None]
    joints[60:62, :, 0] += 1.0
    assert in_picture(joints, 30.0, width, height, flesh_m=0.2)


def test_whole_body_stays_in_the_picture_of_a_dancer_who_turns_and_lies_down() -> None:
    joints = make_dance(60).joint_positions().copy()
    lying = joints[30:, :, [1, 0, 2]] + np.float32([0.0, 0.3, 0.0])
    turning = np.stack([turned(frame[None], 0.3 * i)[0] for i, frame in enumerate(joints[:30])])
    assert in_picture(np.concatenate([turning, lying]), 30.0, SIDE, SIDE, flesh_m=0.2)


def test_camera_moves_smoothly_under_a_shaking_dancer() -> None:
    joints = standing(120).joint_positions() + np.random.default_rng(0).normal(0, 0.03, (120, 1, 3))
    path = follow_camera(joints, 30.0, SIDE, SIDE)
    shake = np.diff(joints[:, 0], n=2, axis=0).std()
    assert np.diff(path.target_T3, n=2, axis=0).std() < 0.02 * shake
    assert np.diff(path.eye_T3, n=2, axis=0).std() < 0.02 * shake


def test_a_jump_moves_the_dancer_and_not_the_camera() -> None:
    joints = standing(90).joint_positions().copy()
    joints[40:50, :, 1] += 0.4
    path = follow_camera(joints, 30.0, SIDE, SIDE)
    heights = [path.view(frame).project(joints[frame, 0], SIDE, SIDE)[0][1] for frame in (10, 45)]
    assert np.ptp(path.target_T3[:, 1]) == 0.0
    assert heights[0] - heights[1] > 15
