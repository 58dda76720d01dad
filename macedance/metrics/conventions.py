"""What every preset decides: beats, windows, standardisation; presets.py holds the presets themselves.

Shapes: B clips of equal length, T frames, J = 24 joints, K keypoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from macedance.errors import DataError
from macedance.metrics.functional.beat import SMOOTHING_S as BEAT_SMOOTHING_S
from macedance.metrics.functional.beat import TOLERANCE_S, mean_joint_speed, speed_minima, within
from macedance.metrics.functional.frechet import Standardization, standardization
from macedance.metrics.functional.geometric import NUM_FEATURES
from macedance.metrics.keypoints import KeypointClip
from macedance.motion.files import JointClip

Clip = JointClip | KeypointClip

#: Per-clip numbers of a row behind its features; NaN where a preset has none.
SCALARS = ("skating_left", "skating_right", "pfc", "pbc", "jerk", "bone_length_variation", "floor_penetration_m")


@dataclass(frozen=True)
class BeatConvention:
    """How beats are found and compared; the defaults are those of ``clean``.

    Args:
        smoothing: Width of the Gaussian over the speed.
        tolerance: Width of the Gaussian that scores a distance.
        in_frames: Widths and beats are in frames, whatever the frame rate, and music beats are floored to frames;
            otherwise in seconds.
        whole_song: Music beats after the dance's end count too, as misses.
        reference_music: A generated dance is judged by the beats of the reference clip of its name.
    """

    smoothing: float = BEAT_SMOOTHING_S
    tolerance: float = TOLERANCE_S
    in_frames: bool = False
    whole_song: bool = False
    reference_music: bool = False

    def motion_beats(self, points: np.ndarray, fps: float) -> list[np.ndarray]:
        """For each clip of points (B, T, K, 3), the times at which its mean speed has a minimum."""
        minima = speed_minima(mean_joint_speed(points, fps), self.smoothing * (1.0 if self.in_frames else fps))
        found = [np.flatnonzero(mask).astype(np.float64) for mask in minima]
        return found if self.in_frames else [(frames + 0.5) / fps for frames in found]

    def music_beats(self, clip: Clip, num_frames: int) -> np.ndarray:
        """Beats of the clip's music that count for its first ``num_frames`` frames; empty where it has none."""
        if clip.music_beats_s is None:
            return np.zeros(0)
        beats = np.floor(clip.music_beats_s * clip.fps) if self.in_frames else clip.music_beats_s
        return within(beats, self.end(num_frames, clip.fps))

    def end(self, num_frames: int, fps: float) -> float:
        """Up to where music beats count, in the unit of the beats."""
        return float("inf") if self.whole_song else self.extent(num_frames, fps)

    def extent(self, num_frames: int, fps: float) -> float:
        """Length of a clip in the unit of the beats."""
        return float(num_frames) if self.in_frames else num_frames / fps


@dataclass(frozen=True)
class Window:
    """The part of a clip that a published convention looks at; a clip that is no longer is used whole.

    Args:
        frames: Length; None: always the whole clip.
        stride: Frames from one window to the next; None: the first window only.
        whole_reference: Reference clips are never cut.
        leave_out_shorter: Clips below ``frames`` are left out and counted.
    """

    frames: int | None = None
    stride: int | None = None
    whole_reference: bool = False
    leave_out_shorter: bool = False

    def starts(self, num_frames: int, *, reference: bool = False) -> list[int]:
        """First frames of the windows of a clip; none where it is left out."""
        if self.frames is None or num_frames <= self.frames or (reference and self.whole_reference):
            short = self.frames is not None and num_frames < self.frames
            return [] if short and self.leave_out_shorter else [0]
        return [0] if self.stride is None else list(range(0, num_frames - self.frames + 1, self.stride))

    def cut(self, clip: Clip, *, reference: bool = False) -> list[Clip]:
        """The windows of a clip, each with the beats shifted to it; the clip itself where it is used whole."""
        points = points_of(clip)
        starts = self.starts(len(points), reference=reference)
        if self.frames is None or len(points) <= self.frames or (reference and self.whole_reference):
            return [clip] if starts else []
        return [_slice(clip, start, start + self.frames) for start in starts]


@dataclass(frozen=True)
class Measured:
    """What a preset takes from B clips: features (B, D), numbers (B, len(SCALARS)) and motion beats of each."""

    kinetic: Tensor
    geometric: Tensor
    scalars: Tensor
    beats: list[np.ndarray]


@dataclass(frozen=True)
class Preset(ABC):
    """What all conventions have; the defaults are those of ``clean``.

    Args:
        name: Name in reports.
        kinetic_dims: Number of kinetic features.
        std_ddof: 1 for the unbiased standard deviation of the reference, 0 for the population's.
        std_eps: Added to it.
        dead_std: Dimensions below it are dropped and counted; None keeps all.
        own_statistics: Each set is standardised by its own statistics.
        beat: How beats are found and compared.
        window: The part of a clip that is looked at.
        published_fps: Frame rate that the convention was published for; another one is warned about.
    """

    name: str
    kinetic_dims: int = 72
    std_ddof: int = 1
    std_eps: float = 0.0
    dead_std: float | None = 1e-6
    own_statistics: bool = False
    beat: BeatConvention = BeatConvention()
    window: Window = Window()
    published_fps: float | None = None

    @property
    def geometric_dims(self) -> int:
        """Number of geometric features."""
        return NUM_FEATURES

    @property
    def width(self) -> int:
        """Length of a clip's row: features and scalars."""
        return self.kinetic_dims + self.geometric_dims + len(SCALARS)

    @property
    def missing_reason(self) -> str | None:
        """Why this preset has none of SCALARS; None where it has."""
        return None

    @abstractmethod
    def check(self, clip: Clip) -> None:
        """Refuse a clip that this preset cannot read.

        Raises:
            DataError: It is of another kind, or holds nothing to measure; says its name.
        """

    @abstractmethod
    def points(self, clip: Clip) -> np.ndarray:
        """What is measured of a clip that passed ``check``, (T, K, 3)."""

    @abstractmethod
    def measure(self, points: Tensor, fps: float) -> Measured:
        """Features, numbers and beats of points (B, T, K, 3), float64."""

    def standardization(self, reference: Tensor) -> Standardization:
        """Standardisation by features (n, D).

        Raises:
            DataError: Fewer than two clips.
        """
        return standardization(reference, ddof=self.std_ddof, eps=self.std_eps, dead_std=self.dead_std)

    def standardized(self, generated: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, int]:
        """Both sets of features standardised, and the number of dead dimensions left out.

        Raises:
            DataError: Fewer than two clips in a set that is standardised by itself.
        """
        by_reference = self.standardization(reference)
        by = self.standardization(generated) if self.own_statistics and len(generated) else by_reference
        return by.apply(generated), by_reference.apply(reference), by_reference.num_dropped

    def unsuitable(self, clip: Clip, expected: str) -> DataError:
        """The error of a clip of the wrong kind."""
        kind = "joints" if isinstance(clip, JointClip) else f"keypoints of {clip.layout.name if clip.layout else '?'}"
        return DataError(f"preset {self.name} cannot read {kind}", where=clip.name or None, expected=expected)


def points_of(clip: Clip) -> np.ndarray:
    """The joints or keypoints (T, K, 3) of a clip as they came."""
    return clip.joints if isinstance(clip, JointClip) else clip.keypoints


def no_scalars(points: Tensor) -> dict[str, Tensor]:
    """A NaN (B,) for each of SCALARS."""
    missing = torch.full((len(points),), float("nan"), dtype=torch.float64)
    return dict.fromkeys(SCALARS, missing)


def _slice(clip: Clip, start: int, stop: int) -> Clip:
    beats = clip.music_beats_s
    # Beats after the window stay: a convention that counts the whole song's decides.
    beats = None if beats is None else beats[beats >= start / clip.fps] - start / clip.fps
    if isinstance(clip, JointClip):
        return replace(clip, joints=clip.joints[start:stop], music_beats_s=beats)
    return replace(clip, keypoints=clip.keypoints[start:stop], music_beats_s=beats)
