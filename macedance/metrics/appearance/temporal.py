"""Temporal flickering and motion smoothness: both compare pixels, and both are perfect where nothing moves.

Shapes: t frames of one portion, N frames of the video, H rows, W columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from macedance.metrics.appearance.consistency import ONE_FRAME, PERCENT
from macedance.metrics.videos import PerVideoMetric
from macedance.vision.interpolation import FrameInterpolator
from macedance.vision.video import Video

_WHITE = 255.0
#: The published network of motion smoothness; with another one it is another quantity, and named so.
PUBLISHED_INTERPOLATOR = "amt_s"


class FlickerScorer:
    """Keeps the last frame of a video and a sum."""

    def __init__(self) -> None:
        self._last: Tensor | None = None
        self._sum, self._pairs = 0.0, 0

    def add(self, frames_TCHW: Tensor) -> None:
        """Take the next frames into account."""
        frames = frames_TCHW if self._last is None else torch.cat([self._last[None], frames_TCHW])
        for before, after in itertools.pairwise(frames):
            self._sum += mean_difference(before, after)
            self._pairs += 1
        self._last = frames[-1].clone()

    def result(self) -> Mapping[str, tuple[float, int]]:
        """(255 - mean difference of neighbouring frames) / 255, x100."""
        mean = self._sum / self._pairs if self._pairs else float("nan")
        return {"temporal_flickering": (PERCENT * (_WHITE - mean) / _WHITE, self._pairs)}


class TemporalFlickering(PerVideoMetric):
    """VBench's temporal flickering, 0 to 100: 100 minus the mean difference of neighbouring frames.

    VBench defines it for static scenes and filters for them; papers on dance print it unfiltered, where it measures how
    little moves: a frozen video has 100. Read it beside the motion amplitude and the warp error.

    Source: Vchitect/VBench, temporal_flickering.py.

    Args:
        options: As PerVideoMetric.
    """

    keys = ("temporal_flickering",)
    undefined = {"temporal_flickering": ONE_FRAME}

    def scorer(self, video: Video) -> FlickerScorer:
        """A scorer of this video."""
        return FlickerScorer()


class SmoothnessScorer:
    """Guesses the odd frames of a video from the even ones around them; keeps two frames and a sum."""

    def __init__(self, key: str, interpolate: FrameInterpolator) -> None:
        self.key, self.interpolate = key, interpolate
        self._even: Tensor | None = None
        self._odd: Tensor | None = None
        self._sum, self._guesses = 0.0, 0

    def add(self, frames_TCHW: Tensor) -> None:
        """Take the next frames into account."""
        for frame in frames_TCHW:
            if self._even is None:
                self._even = frame.clone()
            elif self._odd is None:
                self._odd = frame.clone()
            else:
                self._sum += mean_difference(self._odd, self._between(self._even, frame))
                self._guesses += 1
                self._even, self._odd = frame.clone(), None

    def result(self) -> Mapping[str, tuple[float, int]]:
        """(255 - mean difference of guessed and true frames) / 255, x100."""
        mean = self._sum / self._guesses if self._guesses else float("nan")
        return {self.key: (PERCENT * (_WHITE - mean) / _WHITE, self._guesses)}

    def _between(self, before: Tensor, after: Tensor) -> Tensor:
        pair = [frame[None].to(torch.float32) / _WHITE for frame in (before, after)]
        # Cut off and not rounded, as the published script does.
        return (self.interpolate(*pair)[0] * _WHITE).clamp(0, _WHITE).to(torch.uint8).to(before.device)


class MotionSmoothness(PerVideoMetric):
    """VBench's motion smoothness, 0 to 100: how well the frames of even number foretell those between them.

    N frames give ceil(N / 2) - 1 comparisons: the last frame of an even number of them is not looked at. Static and
    blurred videos score high. With another network than AMT-S the key has that network's name at its end, because the
    number is another one.

    Source: Vchitect/VBench, motion_smoothness.py.

    Args:
        interpolator: AMT-S, or any other.
        options: As PerVideoMetric.
    """

    def __init__(self, interpolator: FrameInterpolator, **options: Any) -> None:
        own = interpolator.name == PUBLISHED_INTERPOLATOR
        self.keys = ("motion_smoothness" if own else f"motion_smoothness_{interpolator.name}",)
        self.undefined = {self.keys[0]: "a video of fewer than three frames has no frame between two others"}
        super().__init__(**options)
        self.interpolator = interpolator

    def scorer(self, video: Video) -> SmoothnessScorer:
        """A scorer of this video."""
        return SmoothnessScorer(self.keys[0], self.interpolator.to(self.device))

    @property
    def weights(self) -> dict[str, str]:
        """The interpolator's."""
        return {self.interpolator.name: self.interpolator.fingerprint}

    @property
    def settings(self) -> dict[str, Any]:
        """The aggregate and the interpolator's."""
        return super().settings | self.interpolator.settings


def mean_difference(first: Tensor, second: Tensor) -> float:
    """Mean absolute difference of two uint8 pictures (3, H, W), 0 to 255, exact."""
    return float((first.to(torch.int16) - second.to(torch.int16)).abs().sum(dtype=torch.int64)) / first.numel()
