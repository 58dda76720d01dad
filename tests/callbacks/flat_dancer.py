"""Stand-ins for what draws and what finds keypoints: a flat figure in milliseconds, found where it was drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from macedance.motion.files import JointClip, Motion
from macedance.vision.keypoints import Progress, VideoKeypoints
from macedance.vision.video import Video

_COCO = (15, 15, 15, 15, 15, 16, 17, 18, 19, 20, 21, 1, 2, 4, 5, 7, 8)


class FlatDancer:
    """Draws every joint as a bright square on a dark ground, seen from the front; the first frames of a dance.

    As the mesh dancer, whenever somebody looks: ``rendered`` counts the videos, ``drawn`` how often somebody looked.

    Args:
        size: Width and height in pixels.
        frames: Of a video, at most.
    """

    def __init__(self, size: int = 64, frames: int = 17, fps: float = 16.0) -> None:
        self.size, self.frames, self.fps = size, frames, fps
        self.weights: dict[str, str] = {"flat": "0" * 64}
        self.settings: dict[str, Any] = {"size": [size, size], "frames": frames}
        self.rendered = self.drawn = 0

    def reference_image(self, motion: Motion | JointClip) -> np.ndarray:
        return self._draw(self._pixels(motion)[:1])[0]

    def render(self, motion: Motion | JointClip, reference_image: np.ndarray, *, seed: int = 0) -> Video:
        self.rendered += 1
        pixels = self._pixels(motion)

        def draw() -> Iterator[np.ndarray]:
            self.drawn += 1
            yield from self._draw(pixels)

        return Video("", self.fps, self.size, self.size, len(pixels), drawn=draw)

    def driving_keypoints(self, motion: Motion | JointClip) -> np.ndarray:
        pixels = self._pixels(motion)
        return np.concatenate([pixels, np.ones((*pixels.shape[:2], 1))], axis=-1).astype(np.float32)

    def _pixels(self, motion: Motion | JointClip) -> np.ndarray:
        joints = motion.joint_positions() if isinstance(motion, Motion) else motion.joints
        joints = joints[: self.frames, _COCO] - joints[: self.frames, :1] * (1.0, 0.0, 1.0)
        flat = np.stack([joints[..., 0], 1.8 - joints[..., 1]], axis=-1) * (self.size / 2.4)
        return np.clip(flat + np.array([self.size / 2, self.size * 0.1]), 2, self.size - 3)

    def _draw(self, pixels_TK2: np.ndarray) -> np.ndarray:
        frames = np.full((len(pixels_TK2), self.size, self.size, 3), 20, np.uint8)
        for frame, points in zip(frames, pixels_TK2.round().astype(int), strict=True):
            for x, y in points:
                frame[y - 2 : y + 3, x - 2 : x + 3] = (240, 200, 160)
        return frames


class BrightSpots:
    """Finds the figure's box, and a keypoint at the middle of it for all of them."""

    def __init__(self) -> None:
        self.name, self.layout = "bright_spots", "coco_17"
        self.weights: dict[str, str] = {"bright_spots": "1" * 64}
        self.settings: dict[str, float | int | str] = {}

    def __call__(self, video: Video, progress: Progress | None = None) -> VideoKeypoints:
        frames = video.frames()
        keypoints, boxes = np.zeros((len(frames), 17, 3), np.float32), np.zeros((len(frames), 4), np.float32)
        for number, frame in enumerate(frames):
            rows, columns = np.nonzero(frame[..., 0] > 128)
            boxes[number] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            keypoints[number] = (columns.mean(), rows.mean(), 1.0)
        ones = np.ones(len(frames), np.int64)
        return VideoKeypoints(keypoints, video.fps, video.name, boxes, ones, width=video.width, height=video.height)
