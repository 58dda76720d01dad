"""Subject and background consistency: how alike the features of a video's frames are.

Shapes: t frames of one portion, T frames of the video, H rows, W columns, D features.

VBench (Vchitect/VBench, subject_consistency.py and background_consistency.py): for every frame but the first, the mean
of its cosines to the frame before and to the first one, each not below 0; their mean over the video, x100. Every frame
is used, so that both rise with the frame rate: compare videos of one frame rate only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from macedance.metrics.videos import PerVideoMetric
from macedance.vision.clip import ClipFeatures
from macedance.vision.dino import DinoFeatures
from macedance.vision.video import Video

PERCENT = 100.0
ONE_FRAME = "a video of one frame has no pair of frames"


class FrameFeatures(Protocol):
    """A frozen network that gives a feature for each frame."""

    name: str
    fingerprint: str

    def to(self, device: torch.device | str) -> Any:
        """Move it."""

    def __call__(self, frames: Tensor) -> Tensor:
        """(t, 3, H, W) uint8 RGB -> (t, D) float32."""


class ConsistencyScorer:
    """Keeps the first and the last feature of a video and a sum."""

    def __init__(self, key: str, features: FrameFeatures) -> None:
        self.key, self.features = key, features
        self._first: Tensor | None = None
        self._last: Tensor | None = None
        self._sum, self._pairs = 0.0, 0

    def add(self, frames_TCHW: Tensor) -> None:
        """Take the next frames into account."""
        # float64: the cosine of a frame with itself is then 1, and of others not above it.
        new_TD = F.normalize(self.features(frames_TCHW).double(), dim=-1)
        if self._first is None or self._last is None:
            self._first = self._last = new_TD[0]
            new_TD = new_TD[1:]
        if not len(new_TD):
            return
        before_TD = torch.cat([self._last[None], new_TD[:-1]])
        to_previous, to_first = (new_TD * before_TD).sum(-1).clamp(min=0), (new_TD @ self._first).clamp(min=0)
        self._sum += float((to_previous + to_first).sum() / 2)
        self._pairs += len(new_TD)
        self._last = new_TD[-1]

    def result(self) -> Mapping[str, tuple[float, int]]:
        """The mean over frames from the second one, x100."""
        mean = PERCENT * self._sum / self._pairs if self._pairs else float("nan")
        return {self.key: (mean, self._pairs)}


class _Consistency(PerVideoMetric):
    def __init__(self, features: FrameFeatures, **options: Any) -> None:
        super().__init__(**options)
        self.features = features

    def scorer(self, video: Video) -> ConsistencyScorer:
        """A scorer of this video."""
        return ConsistencyScorer(self.keys[0], self.features.to(self.device))

    @property
    def weights(self) -> dict[str, str]:
        """The network's."""
        return {self.features.name: self.features.fingerprint}


class SubjectConsistency(_Consistency):
    """VBench's subject consistency, 0 to 100: DINO features of whole frames, not of the subject.

    A frozen video has 100. The published script takes the mean over all frames of all videos on one process and the
    mean over videos on several; ``aggregate`` chooses, and the mean over videos is the default.

    Args:
        features: DINO ViT-B/16.
        options: As PerVideoMetric.
    """

    keys = ("subject_consistency",)
    undefined = {"subject_consistency": ONE_FRAME}

    def __init__(self, features: DinoFeatures | FrameFeatures, **options: Any) -> None:
        super().__init__(features, **options)


class BackgroundConsistency(_Consistency):
    """VBench's background consistency, 0 to 100: CLIP features of the central square, no background masked out.

    In upright videos of dances that square is mostly the dancer. The published script takes the mean over all frames of
    all videos (``aggregate="frame"``).

    Args:
        features: CLIP ViT-B/32.
        options: As PerVideoMetric.
    """

    keys = ("background_consistency",)
    undefined = {"background_consistency": ONE_FRAME}

    def __init__(self, features: ClipFeatures | FrameFeatures, **options: Any) -> None:
        super().__init__(features, **options)
