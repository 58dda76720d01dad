"""Small made-up dances."""

from __future__ import annotations

import numpy as np

from macedance.motion.files import Motion


def make_dance(num_frames: int = 30, fps: float = 30.0) -> Motion:
    """A dancer on the spot who raises one arm after the other, bends the knees and sways; grounded."""
    time_s = np.arange(num_frames) / fps
    swing = np.sin(2 * np.pi * time_s)
    poses = np.zeros((num_frames, 24, 3), np.float32)
    poses[:, 16, 2], poses[:, 17, 2] = -0.9 + 0.9 * swing, 0.9 + 0.9 * swing
    poses[:, 18, 1], poses[:, 19, 1] = -0.9 - 0.4 * swing, 0.9 - 0.4 * swing
    poses[:, 1, 0], poses[:, 4, 0] = -0.35 - 0.25 * swing, 0.7 + 0.5 * swing
    poses[:, 2, 0], poses[:, 5, 0] = -0.35 + 0.25 * swing, 0.7 - 0.5 * swing
    trans = np.zeros((num_frames, 3), np.float32)
    trans[:, 0], trans[:, 1] = 0.2 * swing, 0.95
    return Motion(poses, trans, fps).grounded()


def standing(num_frames: int = 1) -> Motion:
    """The rest pose on the floor: arms stretched to the sides, facing +z."""
    poses = np.zeros((num_frames, 24, 3), np.float32)
    return Motion(poses, np.tile(np.float32([0.0, 0.95, 0.0]), (num_frames, 1)), 30.0).grounded()
