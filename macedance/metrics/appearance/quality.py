"""Imaging and aesthetic quality: the mean score of a video's frames.

Shapes: t frames of one portion, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from macedance.metrics.videos import PerVideoMetric
from macedance.vision.aesthetic import AestheticPredictor
from macedance.vision.musiq import Musiq
from macedance.vision.resize import shrink_longer_side
from macedance.vision.video import Video

#: Above this many pixels of the longer side frames are shrunk for MUSIQ: VBench's mode ``longer``.
LONGER_SIDE = 512


class MeanScorer:
    """The mean over frames of what a function says of them."""

    def __init__(self, key: str, judge: Callable[[Tensor], Tensor]) -> None:
        self.key, self.judge = key, judge
        self._sum, self._frames = 0.0, 0

    def add(self, frames_TCHW: Tensor) -> None:
        """Take the next frames into account."""
        self._sum += float(self.judge(frames_TCHW).double().sum())
        self._frames += len(frames_TCHW)

    def result(self) -> Mapping[str, tuple[float, int]]:
        """The mean over all frames."""
        return {self.key: (self._sum / self._frames if self._frames else float("nan"), self._frames)}


class ImagingQuality(PerVideoMetric):
    """VBench's imaging quality, 0 to 100: MUSIQ (trained on SPAQ) of every frame, longer side shrunk to 512.

    Older versions of VBench used other sizes, and older papers print other numbers. VBench's own files have 0 to 100
    for single videos and 0 to 1 for their mean.

    Source: Vchitect/VBench, imaging_quality.py, mode ``longer``.

    Args:
        network: MUSIQ.
        options: As PerVideoMetric.
    """

    keys = ("imaging_quality",)

    def __init__(self, network: Musiq | Any, **options: Any) -> None:
        super().__init__(**options)
        self.network = network

    def scorer(self, video: Video) -> MeanScorer:
        """A scorer of this video."""
        network = self.network.to(self.device)
        return MeanScorer(self.keys[0], lambda frames: network(shrink_longer_side(frames, LONGER_SIDE, "bilinear")))

    @property
    def weights(self) -> dict[str, str]:
        """The network's."""
        return {self.network.name: self.network.fingerprint}

    @property
    def settings(self) -> dict[str, Any]:
        """The aggregate and the size."""
        return super().settings | {"longer_side": LONGER_SIDE}


class AestheticQuality(PerVideoMetric):
    """VBench's aesthetic quality: LAION's linear head on CLIP ViT-L/14, of 10, of every frame, x100 (x10 its score).

    Source: Vchitect/VBench, aesthetic_quality.py.

    Args:
        network: The predictor.
        options: As PerVideoMetric.
    """

    keys = ("aesthetic_quality",)

    def __init__(self, network: AestheticPredictor | Any, **options: Any) -> None:
        super().__init__(**options)
        self.network = network

    def scorer(self, video: Video) -> MeanScorer:
        """A scorer of this video."""
        network = self.network.to(self.device)
        return MeanScorer(self.keys[0], lambda frames: 10.0 * network(frames))

    @property
    def weights(self) -> dict[str, str]:
        """The networks'."""
        return dict(self.network.weights)
