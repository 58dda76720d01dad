"""Which frames of a video a video network sees: windows of a fixed length at a stated frame rate, drawn by a seed.

Shapes: t frames of one portion, T frames of a window, W windows, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from macedance.errors import ConfigError, DataError
from macedance.vision.video import Video

#: A video that says 15.99 frames per second has 16.
_FPS_TOLERANCE = 1e-2


@dataclass(frozen=True)
class WindowSampling:
    """How windows are drawn from a video.

    A clip of a number has the same windows on every rank and in both sets, where its length is the same.

    Args:
        frames: Frames of a window.
        fps: Frame rate of a window, reached by leaving frames out: the frame nearest to each instant is taken. None:
            consecutive frames, at the video's own rate.
        per_clip: Windows of a clip, each drawn from its own equal part of the possible ones; a clip that has fewer
            possible ones gives all of them.
        seed: Of the draws.

    Raises:
        ConfigError: A number below 1, or a frame rate that is not above 0.
    """

    frames: int = 16
    fps: float | None = 16.0
    per_clip: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames < 1 or self.per_clip < 1:
            raise ConfigError(f"{self.per_clip} windows of {self.frames} frames", expected="at least 1 of each")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise ConfigError(f"windows at {self.fps} frames per second", expected="a number above 0")

    def offsets(self, fps: float) -> np.ndarray:
        """Frames (T,) of a window from its first one, for a video of ``fps`` frames per second.

        Raises:
            DataError: The video has fewer frames per second than a window.
        """
        if self.fps is None:
            return np.arange(self.frames)
        if fps < self.fps - _FPS_TOLERANCE:
            raise DataError(
                f"{fps:g} frames per second, windows have {self.fps:g}",
                expected="at least as many",
                fix="a lower frame rate of the windows, or none: consecutive frames",
            )
        return np.floor(np.arange(self.frames) * max(1.0, fps / self.fps) + 0.5).astype(np.int64)

    def span(self, fps: float) -> int:
        """Frames that a video needs for one window."""
        return int(self.offsets(fps)[-1]) + 1

    def frames_of(self, num_frames: int, fps: float, clip: int) -> np.ndarray:
        """Frames (W, T) of the windows of a clip, in order of time; W is 0 for a clip that is too short.

        Args:
            num_frames: Of the clip.
            fps: Of the clip.
            clip: Its number, at least 0.
        """
        offsets = self.offsets(fps)
        possible = num_frames - int(offsets[-1])
        count = max(0, min(self.per_clip, possible))
        bounds = np.arange(count + 1) * max(0, possible) // max(1, count)
        generator = np.random.default_rng((self.seed, clip))
        starts = generator.integers(bounds[:-1], bounds[1:]) if count else np.zeros(0, dtype=np.int64)
        return starts[:, None] + offsets[None]


class WindowCollector:
    """Picks the frames of windows out of a video that comes in portions.

    Args:
        frames_WT: Frame numbers of the windows.
    """

    def __init__(self, frames_WT: np.ndarray) -> None:
        self._wanted = frames_WT
        self._unique = np.unique(frames_WT)
        self._found: list[Tensor] = []
        self._seen = 0

    def add(self, frames_TCHW: Tensor) -> None:
        """The next frames (t, 3, H, W) uint8."""
        low, high = np.searchsorted(self._unique, [self._seen, self._seen + len(frames_TCHW)])
        rows = torch.from_numpy(self._unique[low:high] - self._seen).to(frames_TCHW.device)
        if len(rows):
            self._found.append(frames_TCHW[rows])
        self._seen += len(frames_TCHW)

    def windows(self) -> Iterator[Tensor]:
        """The windows (T, 3, H, W), one after the other, after the last frame came; can be asked for again.

        Raises:
            DataError: The video ended before the last window; at once.
        """
        if len(self._unique) and self._seen <= self._unique[-1]:
            raise DataError(f"the video ended after {self._seen} frames, before the last of its windows")
        frames = torch.cat(self._found) if self._found else None
        return (self._window(frames, wanted) for wanted in self._wanted if frames is not None)

    def _window(self, frames: Tensor, wanted: np.ndarray) -> Tensor:
        return frames[torch.from_numpy(np.searchsorted(self._unique, wanted)).to(frames.device)]


def frame_count(video: Video) -> int:
    """Number of frames of a video; one whose file does not say it is decoded to be counted.

    Raises:
        DataError: It cannot be decoded.
    """
    if video.num_frames is not None:
        return video.num_frames
    return sum(len(chunk) for chunk in video.chunks())
