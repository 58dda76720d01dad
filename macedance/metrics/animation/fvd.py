"""Fréchet and kernel video distances as metrics: windows of videos through a frozen network, on any number of ranks.

Shapes: W windows of a clip, T frames, H rows, W columns, D features, N rows of all clips.

Source: Unterthiner et al., "Towards Accurate Generative Models of Video: A New Metric & Challenges" (2018).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from macedance.errors import ConfigError, DataError
from macedance.metrics.animation.pairs import as_tensor
from macedance.metrics.animation.presets import STYLEGANV, AnimationPreset
from macedance.metrics.animation.video_sets import KEYS, Reporting, set_entries, small_reason
from macedance.metrics.animation.windows import WindowCollector, WindowSampling, frame_count
from macedance.metrics.functional.video_frechet import FeatureSet, frechet_of_moments, moments_of_sums
from macedance.metrics.gathered import GatheredMetric, first_of_each
from macedance.metrics.statistics import Entry
from macedance.metrics.videos import TENSOR_FPS
from macedance.vision.video import Video
from macedance.vision.video_network import VideoNetwork

_SETS = ("generated", "reference")


class VideoFeatureMetric:
    """What the metrics below share: the network, and which windows of a video it sees.

    Args:
        network: Frozen; may be shared with other metrics.
        preset: How frames become squares, and which covariance.
        sampling: Which windows.

    Raises:
        ConfigError: Windows shorter than the network can see.
    """

    def __init__(self, network: VideoNetwork, preset: AnimationPreset, sampling: WindowSampling) -> None:
        if sampling.frames < network.min_frames:
            raise ConfigError(
                f"windows of {sampling.frames} frames", expected=f"at least {network.min_frames} for {network.name}"
            )
        self.network, self.preset, self.sampling = network, preset, sampling

    def windows(self, video: Video, clip: int, num_frames: int | None = None) -> WindowCollector:
        """What picks the windows out of a video's frames, which come in portions.

        Args:
            video: The video.
            clip: Its number.
            num_frames: Only so many of its frames; None: all.

        Raises:
            DataError: A number below 0, or the video's frame rate is below that of the windows.
        """
        where = video.path or video.name or f"clip {clip}"
        if clip < 0:
            raise DataError(f"a clip of number {clip}", where=where, expected="an integer from 0")
        frames = frame_count(video) if num_frames is None else num_frames
        try:
            return WindowCollector(self.sampling.frames_of(frames, video.fps, clip))
        except DataError as error:
            raise DataError(error.what, where=where, expected=error.expected, fix=error.fix) from error

    def picked(self, video: Video, clip: int) -> Iterable[Tensor]:
        """The windows (T, 3, H, W) uint8 of a video, which is decoded in portions.

        Raises:
            DataError: The video cannot be decoded, or as ``windows``.
        """
        collector = self.windows(video, clip)
        for chunk in video.chunks():
            collector.add(as_tensor(chunk))
        return collector.windows()

    def features(self, windows: Iterable[Tensor], device: torch.device) -> Tensor:
        """Features (W, D) float32 of windows (T, 3, H, W) uint8."""
        network = self.network.to(device)
        rows = [network(window[None], self.preset.fit) for window in windows]
        return torch.cat(rows) if rows else torch.zeros(0, network.num_features, device=device)


class FrechetVideoDistance(GatheredMetric):
    """``fvd``, ``fvd_inf`` and ``kvd`` of generated against reference videos.

    Keeps the features of every window (of 10 000 windows, 16 MB), so that clips seen twice count once and intervals,
    the floor and the extrapolation can be computed. The time of the kernel distance, and of its interval and floor,
    grows with the square of the number of windows. See ``StreamedVideoDistance`` for sets without bound.

    Args:
        network: Frozen; not part of the metric's state.
        preset: How frames become squares, and which covariance.
        sampling: Which windows of a video.
        reporting: What is reported beside the values.
        kwargs: As torchmetrics.Metric.

    Raises:
        ConfigError: Windows shorter than the network can see.
    """

    def __init__(
        self,
        network: VideoNetwork,
        preset: AnimationPreset = STYLEGANV,
        *,
        sampling: WindowSampling | None = None,
        reporting: Reporting | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.looking = VideoFeatureMetric(network, preset, sampling or WindowSampling())
        self.reporting = reporting or Reporting()
        self._short: dict[bool, list[int]] = {}
        for which in _SETS:
            # Of each window the clip and its number in it; of each clip how many windows it has.
            self.add_rows(f"{which}_windows", 2, dtype=torch.int64)
            self.add_rows(f"{which}_features", network.num_features, dtype=torch.float32)
            self.add_rows(f"{which}_clips", 2, dtype=torch.int64)

    @property
    def weights(self) -> dict[str, str]:
        """Network -> sha256 of its weights."""
        return {self.looking.network.name: self.looking.network.fingerprint}

    def update(
        self, video: Video | Tensor | Iterable[Tensor], video_id: int, *, real: bool, fps: float = TENSOR_FPS
    ) -> None:
        """Take a video into account.

        Args:
            video: A video, its frames (T, 3, H, W) uint8 RGB, or its windows (each (T, 3, H, W) uint8) as picked by
                ``looking.windows``.
            video_id: Integer of the video, from 0, unique over all ranks within its set. The generated and the true
                video of one clip have the same one: their windows stand at the same places.
            real: It is one of the reference.
            fps: Frame rate of bare frames.

        Raises:
            DataError: The video cannot be decoded, or its frame rate is below that of the windows.
        """
        which = _SETS[real]
        features = self.looking.features(self._windows_of(video, video_id, fps), self.device)
        numbers = torch.stack([torch.full((len(features),), video_id), torch.arange(len(features))], dim=1)
        self.append_rows(f"{which}_windows", numbers)
        self.append_rows(f"{which}_features", features)
        self.append_rows(f"{which}_clips", torch.tensor([[video_id, len(features)]]))

    def compute(self) -> dict[str, Entry]:
        """``fvd``, ``fvd_inf`` and ``kvd``, see ``set_entries``.

        Clips too short for a window are counted as ``too_short`` and ``too_short_reference``.
        """
        generated, reference = (self._feature_set(which) for which in _SETS)
        self._short = {bool(real): self._clips_without_window(which) for real, which in enumerate(_SETS)}
        short = {"too_short": len(self._short[False]), "too_short_reference": len(self._short[True])}
        if not generated.num_clips or not reference.num_clips:
            counts = {"n": len(generated.features), "n_reference": len(reference.features)}
            empty: Entry = {"value": None, "reason": "no windows in a set"} | counts
            return {key: empty | {k: v for k, v in short.items() if v} for key in KEYS}
        entries = set_entries(generated, reference, ddof=self.looking.preset.ddof, reporting=self.reporting)
        return {key: entry | {k: v for k, v in short.items() if v} for key, entry in entries.items()}

    def too_short(self, *, real: bool) -> list[int]:
        """Numbers of the clips of all ranks that are too short for a window; call it on every rank."""
        self.compute()
        return self._short[real]

    def reset(self) -> None:
        """Forget every video."""
        super().reset()
        self._short = {}

    def _feature_set(self, which: str) -> FeatureSet:
        """Features of the windows, each once, in the order of their clips."""
        numbers = self.rows_of(f"{which}_windows")
        chosen = first_of_each(numbers)
        features = torch.from_numpy(self.rows_of(f"{which}_features")[chosen]).double()
        return FeatureSet(features, numbers[chosen, 0])

    def _clips_without_window(self, which: str) -> list[int]:
        return sorted({int(clip) for clip, windows in self.rows_of(f"{which}_clips") if not windows})

    def _windows_of(self, video: Video | Tensor | Iterable[Tensor], clip: int, fps: float) -> Iterable[Tensor]:
        if isinstance(video, Tensor):
            video = Video.from_frames(video.permute(0, 2, 3, 1).cpu().numpy(), fps, str(clip))
        return self.looking.picked(video, clip) if isinstance(video, Video) else video


class StreamedVideoDistance(Metric):
    """``fvd`` from float64 sums alone: D + D * D numbers for a set of any size, added up over ranks.

    A clip that comes twice counts twice, and there is no kernel distance, no interval, no floor and no extrapolation:
    for those, and for sets of up to some 10 000 windows, see ``FrechetVideoDistance``.

    Args:
        network: As FrechetVideoDistance.
        preset: As FrechetVideoDistance.
        sampling: As FrechetVideoDistance.
        allow_small_n: Also of fewer clips than features.
        kwargs: As torchmetrics.Metric.

    Raises:
        ConfigError: Windows shorter than the network can see.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    generated_n: Tensor
    reference_n: Tensor
    generated_clips: Tensor
    reference_clips: Tensor
    generated_sum: Tensor

    def __init__(
        self,
        network: VideoNetwork,
        preset: AnimationPreset = STYLEGANV,
        *,
        sampling: WindowSampling | None = None,
        allow_small_n: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.looking = VideoFeatureMetric(network, preset, sampling or WindowSampling())
        self.allow_small_n = allow_small_n
        dims = network.num_features
        for which in _SETS:
            for count in ("n", "clips"):
                self.add_state(f"{which}_{count}", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
            self.add_state(f"{which}_sum", torch.zeros(dims, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{which}_outer", torch.zeros(dims, dims, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, video: Video, video_id: int, *, real: bool) -> None:
        """Take a video into account, once; see FrechetVideoDistance.update.

        Raises:
            DataError: The video cannot be decoded, or its frame rate is below that of the windows.
        """
        self.add_features(self.looking.features(self.looking.picked(video, video_id), self.device), real=real)

    def add_features(self, features_WD: Tensor, *, real: bool) -> None:
        """Add features (W, D) of the windows of one clip to the sums of a set."""
        x, which = features_WD.double(), _SETS[real]
        for name, more in (("n", len(x)), ("clips", int(len(x) > 0)), ("sum", x.sum(dim=0)), ("outer", x.T @ x)):
            setattr(self, f"{which}_{name}", getattr(self, f"{which}_{name}") + more)

    def compute(self) -> dict[str, Entry]:
        """``fvd``: ``value`` (None with a ``reason``), ``n`` and ``n_reference`` windows of ``n_clips`` and
        ``n_reference_clips`` clips, which may differ.
        """
        n, m = int(self.generated_n), int(self.reference_n)
        clips = int(self.generated_clips), int(self.reference_clips)
        entry: Entry = {"value": None, "n": n, "n_reference": m, "n_clips": clips[0], "n_reference_clips": clips[1]}
        small = small_reason(min(clips), len(self.generated_sum), min(n, m))
        reason = "fewer than 2 windows in a set" if min(n, m) < 2 else small
        if reason and (min(n, m) < 2 or not self.allow_small_n):
            return {"fvd": entry | {"reason": reason}}
        fitted = (
            moments_of_sums(
                count, getattr(self, f"{which}_sum"), getattr(self, f"{which}_outer"), ddof=self.looking.preset.ddof
            )
            for which, count in zip(_SETS, (n, m), strict=True)
        )
        return {"fvd": entry | {"value": frechet_of_moments(*fitted)}}
