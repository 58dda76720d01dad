"""Stand-ins for the networks of a cascade: they see what a test knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from macedance.metrics.cascade import ArmClip, FootContact, Judge, Judges
from macedance.metrics.honest.driven import PoseAdherence
from macedance.metrics.honest.person_motion import VideoMotion
from macedance.motion.files import Motion
from macedance.rendering.motion_to_video import Danced, MeshDancer
from macedance.vision.keypoints import Progress, VideoKeypoints
from macedance.vision.video import Video
from macedance.vision.video_network import VideoNetwork

SIDE = 64


def small_dance(seed: int, frames: int = 8, fps: float = 30.0) -> Motion:
    """Arms and legs that swing with a phase of their own, feet near the floor."""
    time_s = np.arange(frames) / fps
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, 3)
    poses = np.zeros((frames, 24, 3))
    poses[:, 16, 2] = -0.9 + 0.8 * np.sin(2 * np.pi * time_s + phase[0])
    poses[:, 17, 2] = 0.9 + 0.8 * np.sin(2 * np.pi * time_s + phase[1])
    poses[:, 1, 0] = -0.3 - 0.2 * np.sin(2 * np.pi * time_s + phase[2])
    poses[:, 4, 0] = 2 * -poses[:, 1, 0]
    trans = np.tile([0.0, 0.95, 0.0], (frames, 1))
    return Motion(poses, trans, fps, genre="house", music_beats_s=np.array([0.2, 0.5])).grounded()


@dataclass
class Clairvoyant:
    """Finds the keypoints that it was told of, whatever the video shows; nobody in other videos."""

    known: Mapping[str, np.ndarray]
    name: str = "clairvoyant"
    layout: str = "coco_17"
    weights: dict[str, str] = field(default_factory=lambda: {"clairvoyant": "c" * 64})
    settings: dict[str, float | int | str] = field(default_factory=dict)
    looked_at: list[str] = field(default_factory=list)

    def __call__(self, video: Video, progress: Progress | None = None) -> VideoKeypoints:
        self.looked_at.append(video.name)
        frames = sum(len(chunk) for chunk in video.chunks())
        points = np.zeros((frames, 17, 3), np.float32)
        told = self.known.get(video.name)
        if told is not None:
            points[:] = told[:frames]
        there = points[..., 2] > 0
        boxes = np.full((frames, 4), np.nan, np.float32)
        if there.all(axis=1).any():
            boxes = np.concatenate([points[..., :2].min(axis=1), points[..., :2].max(axis=1)], axis=1)
        return VideoKeypoints(
            points, video.fps, video.name, boxes, there.any(axis=1).astype(int), self.layout, video.width, video.height
        )

    def boxes(self, video: Video) -> np.ndarray:
        return self(video).boxes


class HeldDancer(MeshDancer):
    """A mesh dancer that draws each video once: tests look at it several times."""

    def render(self, motion: Danced, reference_image: np.ndarray, *, seed: int = 0) -> Video:
        return Video.from_frames(super().render(motion, reference_image, seed=seed).frames(), self.fps)


class DotDancer(HeldDancer):
    """A mesh dancer that can also be driven by keypoints: it draws a dot for each."""

    def render_keypoints(
        self,
        keypoints_TK3: np.ndarray,
        fps: float,
        reference_image: np.ndarray,
        *,
        keypoint_size: tuple[int, int],
        seed: int = 0,
    ) -> Video:
        keypoints_TK3 = keypoints_TK3 * (self.width / keypoint_size[0], self.height / keypoint_size[1], 1.0)
        frames = np.full((len(keypoints_TK3), self.height, self.width, 3), 30, np.uint8)
        for frame, points in zip(frames, keypoints_TK3, strict=True):
            for x, y, confidence in points:
                if confidence > 0:
                    frame[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = 240
        return Video.from_frames(frames, fps)


def judges_of(source: Clairvoyant) -> Judges:
    """Adherence, contact and motion by a source that is told what it sees."""

    def adherence(clips: list[ArmClip]) -> PoseAdherence:
        return PoseAdherence(source, {clip.name: clip.driving for clip in clips}, sync_on_compute=False)  # type: ignore[misc]

    return Judges(
        [
            Judge(PoseAdherence.keys, adherence, needs_driving=True),  # type: ignore[arg-type]
            Judge(FootContact.keys, lambda clips: FootContact(clips, source, sync_on_compute=False)),
            Judge(("person_motion",), lambda _: VideoMotion(warp=False, sync_on_compute=False)),
        ],
        {"face_similarity": "no weights of AuraFace"},
        dict(source.weights),
        {"pck_10": {"keypoints": source.name}},
        source,
    )


class _Means(nn.Module):
    """Eight features of a window: means and spreads of its colours and of its movement."""

    def forward(self, windows: Tensor) -> Tensor:
        moving = windows.diff(dim=2).abs().flatten(2)
        parts = [windows.flatten(2).mean(-1), windows.flatten(2).std(-1), moving.mean(-1)[:, :1], moving.std(-1)[:, :1]]
        return torch.cat(parts, dim=1)


def tiny_video_network() -> VideoNetwork:
    return VideoNetwork(_Means(), name="means", fingerprint="e" * 64, num_features=8)
