"""Metrics of a video against the true video of the same clip, frame by frame: SSIM, PSNR and LPIPS.

A value is the mean over the frames of a clip, and then over clips. Shapes: t frames of one portion, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from macedance.errors import ConfigError, DataError
from macedance.metrics.functional.image_quality import psnr, ssim
from macedance.metrics.videos import PerVideoMetric, VideoScore
from macedance.vision.perceptual import Lpips
from macedance.vision.video import Video

#: Frames of two pictures each -> one number for each frame.
FrameDistance = Callable[[Tensor, Tensor], Tensor]


#: Frames that are looked at together: of 720p, in float64, 0.2 GB.
_FRAMES_AT_ONCE = 8


class PairScorer(Protocol):
    """Looks at one pair of videos."""

    def add(self, generated_TCHW: Tensor, reference_TCHW: Tensor) -> None:
        """Take the next frames of both (t, 3, H, W) uint8 RGB into account; they come in order."""

    def result(self) -> Mapping[str, tuple[float, int]]:
        """Key -> (value of this pair or NaN, frames behind it)."""


class PairMetric(PerVideoMetric):
    """Base of the metrics of pairs of videos: a subclass sets ``keys`` and gives ``distance``.

    ``compute``, ``per_video`` and the ids are those of PerVideoMetric; pairs come in through ``update_pair``.

    Args:
        skip_frames: First frames of each clip that do not count: the reference picture that the video starts from.
        kwargs: As PerVideoMetric.

    Raises:
        ConfigError: A negative number of frames.
    """

    undefined: Mapping[str, str] = {}

    def __init__(self, *, skip_frames: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if skip_frames < 0:
            raise ConfigError(f"{skip_frames} frames to skip", expected="0 or more")
        self.skip_frames = skip_frames
        self.undefined = {key: f"no frame after the first {skip_frames}" for key in self.keys}

    @property
    def settings(self) -> dict[str, Any]:
        """Part of a result's hash."""
        return super().settings | {"skip_frames": self.skip_frames}

    def distance(self, generated_TCHW: Tensor, reference_TCHW: Tensor) -> Tensor:
        """Values (t,) of frames (t, 3, H, W) uint8 RGB."""
        raise NotImplementedError

    def scorer(self, video: Video) -> Any:
        """There is none for a single video.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"{type(self).__name__} of a single video", expected="two videos, through update_pair", where=video.name
        )

    def pair_scorer(self) -> PairScorer:
        """A scorer of one pair."""
        return _MeanOverFrames(self.keys[0], self.distance, self.skip_frames)

    def update_pair(self, generated: Video, reference: Video, video_id: int) -> None:
        """Take a pair of videos of one size and length into account; a second pair of an id is ignored.

        Raises:
            DataError: They cannot be decoded, or differ in size or length.
        """
        scorer = self.pair_scorer()
        for x, y in together(generated, reference):
            scorer.add(x.to(self.device), y.to(self.device))
        self.take(scorer, video_id)

    def take(self, scorer: PairScorer, video_id: int) -> None:
        """Take what a scorer found, after the last frames of its pair, into account."""
        self.update(VideoScore(scorer.result()), video_id)


class Ssim(PairMetric):
    """``ssim``: structural similarity, 1 for equal frames; colours by channel, values in [0, 1], Gaussian window.

    Args:
        padded: False: over the pixels whose window lies inside the frame, as scikit-image and most papers. True: over
            all, the frame continued by reflection, as torchmetrics.
        kwargs: As PairMetric.
    """

    keys = ("ssim",)

    def __init__(self, *, padded: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padded = padded

    @property
    def settings(self) -> dict[str, Any]:
        """Part of a result's hash."""
        return super().settings | {"ssim_padded": self.padded}

    def distance(self, generated_TCHW: Tensor, reference_TCHW: Tensor) -> Tensor:
        """Values (t,) float64, -1 to 1."""
        return ssim(generated_TCHW.double() / 255.0, reference_TCHW.double() / 255.0, padded=self.padded)


class Psnr(PairMetric):
    """``psnr``: mean over frames of each frame's ratio in dB, 100 for equal ones (pooled errors are another metric)."""

    keys = ("psnr",)

    def distance(self, generated_TCHW: Tensor, reference_TCHW: Tensor) -> Tensor:
        """Values (t,) float64, dB."""
        return psnr(generated_TCHW.double() / 255.0, reference_TCHW.double() / 255.0)


class LpipsMetric(PairMetric):
    """``lpips``: perceptual distance, 0 for equal frames.

    Args:
        network: Frozen; may be shared.
        kwargs: As PairMetric.
    """

    keys = ("lpips",)

    def __init__(self, network: Lpips, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network

    @property
    def weights(self) -> dict[str, str]:
        """Network -> sha256 of its weights."""
        return {self.network.name: self.network.fingerprint}

    def distance(self, generated_TCHW: Tensor, reference_TCHW: Tensor) -> Tensor:
        """Values (t,) float32, from 0."""
        return self.network.to(self.device)(generated_TCHW, reference_TCHW)


class _MeanOverFrames:
    """Mean of a distance over the frames after the first ``skip``."""

    def __init__(self, key: str, distance: FrameDistance, skip: int) -> None:
        self._key, self._distance, self._skip = key, distance, skip
        self._sum, self._count = 0.0, 0

    def add(self, generated_TCHW: Tensor, reference_TCHW: Tensor) -> None:
        left = min(self._skip, len(generated_TCHW))
        self._skip -= left
        portions = (frames[left:].split(_FRAMES_AT_ONCE) for frames in (generated_TCHW, reference_TCHW))
        for x, y in zip(*portions, strict=True):
            values = self._distance(x, y).double()
            self._sum += float(values.sum())
            self._count += len(values)

    def result(self) -> Mapping[str, tuple[float, int]]:
        return {self._key: (self._sum / self._count if self._count else float("nan"), self._count)}


def together(generated: Video, reference: Video, *, num_frames: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The frames of two videos in equal portions, both (t, 3, H, W) uint8 RGB.

    Args:
        generated: A video.
        reference: The true one, of the same size unless who looks at them brings them to one.
        num_frames: Only so many; None: all, of which both must have equally many.

    Raises:
        DataError: One ends before the other or before ``num_frames``, or a file cannot be decoded.
    """
    done = 0
    for x, y in zip_longest(generated.chunks(), reference.chunks()):
        size = min(0 if chunk is None else len(chunk) for chunk in (x, y))
        wanted = size if num_frames is None else min(size, num_frames - done)
        if wanted:
            yield as_tensor(x[:wanted]), as_tensor(y[:wanted])
        done += wanted
        if num_frames is not None and done == num_frames:
            return
        if x is None or y is None or len(x) != len(y):
            raise DataError(
                f"one of the two videos ends after {done} frames",
                where=generated.name or None,
                expected="both of one length" if num_frames is None else f"{num_frames} frames in both",
            )


def as_tensor(frames_THWC: np.ndarray) -> Tensor:
    """Frames (t, H, W, 3) as a tensor (t, 3, H, W) of the same memory."""
    return torch.from_numpy(np.ascontiguousarray(frames_THWC)).permute(0, 3, 1, 2)
