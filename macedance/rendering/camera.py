"""A camera that follows a dancer: smooth, from the dancer's front, the whole body always in the picture.

Shapes: T frames, J joints. World: metres, y-up, right-handed, floor at y = 0; the camera never rolls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: Vertical field of view. A longish lens: limbs that point at the camera are not blown up.
FIELD_OF_VIEW_DEG = 30.0
PITCH_DEG = 9.0
#: Flesh around a joint (the skull above the head joint, fingertips) that must stay in the picture too, and some air.
MARGIN_M = 0.23
MIN_DISTANCE_M = 3.6
TARGET_SMOOTHING_S = 0.7
ZOOM_SMOOTHING_S = 1.2

LEFT_HIP, RIGHT_HIP, LEFT_SHOULDER, RIGHT_SHOULDER = 1, 2, 16, 17


@dataclass(frozen=True)
class View:
    """One frame's camera.

    Attributes:
        eye: Position (3,), metres.
        right, up, forward: Orthonormal axes (3,); ``right`` is horizontal.
        tan_half: Tangent of half the vertical field of view.
    """

    eye: np.ndarray
    right: np.ndarray
    up: np.ndarray
    forward: np.ndarray
    tan_half: float

    def project(self, points: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates (..., 2), x to the right and y down, and depths (...) in metres, of points (..., 3)."""
        relative = points - self.eye
        axes = np.stack([self.right, self.up, self.forward], axis=-1)
        camera = relative @ axes
        depth = camera[..., 2]
        focal_px = 0.5 * height / self.tan_half
        scale = focal_px / np.maximum(depth, 1e-3)
        pixels = np.stack([0.5 * width + camera[..., 0] * scale, 0.5 * height - camera[..., 1] * scale], axis=-1)
        return pixels, depth


@dataclass(frozen=True)
class CameraPath:
    """The camera over a clip: eyes and targets (T, 3) in metres, one fixed heading."""

    eye_T3: np.ndarray
    target_T3: np.ndarray
    tan_half: float

    def __len__(self) -> int:
        return len(self.eye_T3)

    def view(self, frame: int) -> View:
        """The camera of one frame."""
        forward = self.target_T3[frame] - self.eye_T3[frame]
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, np.array([0.0, 1.0, 0.0]))
        right = right / np.linalg.norm(right)
        return View(self.eye_T3[frame], right, np.cross(right, forward), forward, self.tan_half)


def front_direction(joints_TJ3: np.ndarray) -> float:
    """Heading of the dancer's front over the clip, radians about +y from +z; 0 for a dancer who faces +z.

    The mean of the horizontal normals of hips and shoulders; the first frame's where the dancer turns so much that
    there is no mean to speak of.
    """
    across = (joints_TJ3[:, LEFT_HIP] - joints_TJ3[:, RIGHT_HIP]) + (
        joints_TJ3[:, LEFT_SHOULDER] - joints_TJ3[:, RIGHT_SHOULDER]
    )
    # The left side points to +x when the front is +z: front = across x up.
    front_T2 = np.stack([-across[:, 2], across[:, 0]], axis=-1).astype(np.float64)
    front_T2 /= np.maximum(np.linalg.norm(front_T2, axis=-1, keepdims=True), 1e-9)
    mean = front_T2.mean(axis=0)
    if np.linalg.norm(mean) < 0.3:
        mean = front_T2[0]
    return math.atan2(float(mean[0]), float(mean[1]))


def _smooth(values: np.ndarray, sigma_frames: float) -> np.ndarray:
    """Gaussian low-pass along time, without delay; a clip shorter than the kernel is held at its ends."""
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(values, max(sigma_frames, 1e-3), axis=0, mode="nearest", truncate=3.0)


def _needed_distance(
    offsets_TJ3: np.ndarray, right: np.ndarray, up: np.ndarray, forward: np.ndarray, tan_w: float, tan_h: float
) -> np.ndarray:
    """Distance (T,) from the target at which every joint with its margin is inside the picture."""
    sideways = (np.abs(offsets_TJ3 @ right) + MARGIN_M) / tan_w
    upwards = (np.abs(offsets_TJ3 @ up) + MARGIN_M) / tan_h
    return (np.maximum(sideways, upwards) - offsets_TJ3 @ forward).max(axis=1)


def _axes_from(yaw: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right, up and the direction (3,) from the target to a camera that stands in front of a dancer of this heading."""
    pitch = math.radians(PITCH_DEG)
    away = np.array([math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)])
    right = np.cross(-away, np.array([0.0, 1.0, 0.0]))
    right /= np.linalg.norm(right)
    return right, np.cross(right, -away), away


def _target_height_m(joints_TJ3: np.ndarray) -> float:
    top_m = float(np.percentile(joints_TJ3[..., 1].max(axis=1), 90)) + MARGIN_M
    return 0.5 * max(top_m, 1.0)


def fixed_camera(joints_TJ3: np.ndarray, width: int, height: int) -> CameraPath:
    """A camera that stands still and has every joint of joints (T, 24, 3), metres, in the picture in every frame.

    It looks at the middle of the ground that the pelvis covers, from the dancer's front.
    """
    joints_TJ3 = np.asarray(joints_TJ3, dtype=np.float64)
    right, up, away = _axes_from(front_direction(joints_TJ3))
    pelvis_T3 = joints_TJ3[:, 0]
    target = 0.5 * (pelvis_T3.min(axis=0) + pelvis_T3.max(axis=0))
    target[1] = _target_height_m(joints_TJ3)
    tan_h = math.tan(math.radians(0.5 * FIELD_OF_VIEW_DEG))
    needed = _needed_distance(joints_TJ3 - target, right, up, -away, tan_h * width / height, tan_h)
    eye = target + max(float(needed.max()), MIN_DISTANCE_M) * away
    count = len(joints_TJ3)
    return CameraPath(np.tile(eye, (count, 1)), np.tile(target, (count, 1)), tan_h)


def follow_camera(joints_TJ3: np.ndarray, fps: float, width: int, height: int) -> CameraPath:
    """A camera path for joints (T, 24, 3), metres.

    The target is the low-passed pelvis on the ground plane at a constant height, so that a jump is seen as a jump;
    the distance is a smooth curve that never falls below what any frame needs (a running maximum, low-passed by a
    shorter kernel).
    """
    from scipy.ndimage import maximum_filter1d

    joints_TJ3 = np.asarray(joints_TJ3, dtype=np.float64)
    right, up, away = _axes_from(front_direction(joints_TJ3))
    target_T3 = _smooth(joints_TJ3[:, 0], TARGET_SMOOTHING_S * fps)
    target_T3[:, 1] = _target_height_m(joints_TJ3)

    tan_h = math.tan(math.radians(0.5 * FIELD_OF_VIEW_DEG))
    tan_w = tan_h * width / height
    needed = _needed_distance(joints_TJ3 - target_T3[:, None], right, up, -away, tan_w, tan_h)
    needed = np.maximum(needed, MIN_DISTANCE_M)
    # Half-window of three sigmas: the smoothed maximum is an average of values that are each at least what is needed.
    half = max(1, round(3.0 * ZOOM_SMOOTHING_S * fps))
    distance_T = _smooth(maximum_filter1d(needed, 2 * half + 1, mode="nearest"), ZOOM_SMOOTHING_S * fps)
    return CameraPath(target_T3 + distance_T[:, None] * away, target_T3, tan_h)
