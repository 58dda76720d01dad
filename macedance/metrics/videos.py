"""Metrics of single videos: one or more values for each video, averaged over videos, right on any number of ranks.

Shapes: T frames, t frames of one portion, H rows, W columns, N videos, K keys.

A video is decoded once for all metrics (``score_videos``) and comes to each of them in portions; what a metric keeps
of it are features or sums, never its pixels, and what stays after it are K numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from macedance.errors import ConfigError, DataError
from macedance.metrics.gathered import GatheredMetric, first_of_each
from macedance.metrics.statistics import Entry, Interval, bootstrap_mean, check_resampling
from macedance.vision.video import Video

Aggregate = Literal["video", "frame"]

#: Frame rate of a clip that is given as a bare tensor.
TENSOR_FPS = 30.0
_COVERED = (0.025, 0.975)


class FrameScorer(Protocol):
    """Looks at one video."""

    def add(self, frames_TCHW: Tensor) -> None:
        """Take the next frames (t, 3, H, W) uint8 RGB into account; they come in order, on the metric's device."""

    def result(self) -> Mapping[str, tuple[float, int]]:
        """Key -> (value of this video, NaN where it has none; number of terms, frames or pairs, behind it)."""


@dataclass(frozen=True)
class VideoScore:
    """What a scorer said of a whole video: see FrameScorer.result."""

    values: Mapping[str, tuple[float, int]]


class PerVideoMetric(GatheredMetric):
    """Base of the metrics that have a value for each video.

    A subclass sets ``keys`` and gives ``scorer``. Videos are identified by an integer, unique over all ranks; a second
    video of the same id is ignored, so that padded and repeated samples count once.

    Args:
        aggregate: ``video``: the mean over videos, whatever their lengths. ``frame``: the mean over the terms of all
            videos, so that long ones weigh more, as some published scripts do.
        resamples: Resamples of the 95% bootstrap intervals (``ci95``), by videos; 0: none.
        seed: Of the resampling.
        kwargs: As torchmetrics.Metric.

    Raises:
        ConfigError: Another aggregate.
    """

    #: What it measures, in the order of reports.
    keys: tuple[str, ...] = ()
    #: Key -> why a video may be without a value.
    undefined: Mapping[str, str] = {}

    video_ids: list[Tensor]
    scores: list[Tensor]
    terms: list[Tensor]

    def __init__(self, *, aggregate: Aggregate = "video", resamples: int = 0, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if aggregate not in ("video", "frame"):
            raise ConfigError(f"an aggregate {aggregate!r}", expected="'video' or 'frame'")
        check_resampling(resamples, 0)
        self.aggregate = aggregate
        self.resamples, self.seed = resamples, seed
        self.add_rows("video_ids", dtype=torch.int64)
        self.add_rows("scores", len(self.keys), dtype=torch.float64)
        self.add_rows("terms", len(self.keys), dtype=torch.int64)
        self._gathered: tuple[np.ndarray, np.ndarray] | None = None

    def scorer(self, video: Video) -> FrameScorer:
        """A scorer of this video, whose frames then come in order."""
        raise NotImplementedError

    @property
    def weights(self) -> dict[str, str]:
        """Network -> sha256 of its weights, of the networks that judge."""
        return {}

    @property
    def settings(self) -> dict[str, Any]:
        """What else makes two results of this metric different ones; part of a result's hash."""
        return {"aggregate": self.aggregate}

    def update(self, video: Video | Tensor | VideoScore, video_id: int, *, fps: float = TENSOR_FPS) -> None:
        """Take a video into account.

        Args:
            video: A video, its frames (T, 3, H, W) uint8 RGB, or what ``scorer`` said of it.
            video_id: Integer of the video, unique over all ranks.
            fps: Frame rate of bare frames; only metrics of speeds depend on it.

        Raises:
            DataError: The video cannot be decoded, or has no frame.
        """
        if isinstance(video, Tensor):
            video = Video.from_frames(video.permute(0, 2, 3, 1).cpu().numpy(), fps, str(video_id))
        score = video if isinstance(video, VideoScore) else _score([self], video)[0]
        found = [score.values[key] for key in self.keys]
        self.append_rows("video_ids", torch.tensor([video_id], dtype=torch.int64))
        self.append_rows("scores", torch.tensor([[value for value, _ in found]], dtype=torch.float64))
        self.append_rows("terms", torch.tensor([[count for _, count in found]], dtype=torch.int64))

    def compute(self) -> dict[str, Entry]:
        """Key -> entry.

        Returns:
            ``value`` (None with a ``reason`` where no video has one), ``n`` videos behind it, ``n_frames`` terms behind
            it, ``ci95`` where asked for; videos without a value are counted as ``n_undefined`` with the ``reason``.
        """
        ids = self.rows_of("video_ids")
        chosen = first_of_each(ids)
        scores, terms = self.rows_of("scores")[chosen], self.rows_of("terms")[chosen]
        self._gathered = ids[chosen], scores
        return {key: self._entry(key, scores[:, k], terms[:, k]) for k, key in enumerate(self.keys)}

    def per_video(self) -> dict[str, dict[int, float]]:
        """Key -> video id -> value, NaN included, of the videos of all ranks; call it on every rank."""
        self.compute()
        assert self._gathered is not None  # compute has just been or was before
        ids, scores = self._gathered
        return {key: dict(zip(ids.tolist(), scores[:, k].tolist(), strict=True)) for k, key in enumerate(self.keys)}

    def reset(self) -> None:
        """Forget every video."""
        super().reset()
        self._gathered = None

    def _entry(self, key: str, values_N: np.ndarray, terms_N: np.ndarray) -> Entry:
        known = ~np.isnan(values_N)
        values, terms = values_N[known], terms_N[known]
        n = len(values)
        entry: Entry = {"value": None, "n": n, "n_frames": int(terms.sum())}
        if n < len(values_N):
            entry["n_undefined"] = len(values_N) - n
            entry["reason"] = self.undefined.get(key, "the video has no value")
        if not n:
            return entry if len(values_N) else entry | {"reason": "no videos"}
        weights = terms.astype(np.float64) if self.aggregate == "frame" else np.ones(n)
        entry["value"] = float((values * weights).sum() / weights.sum())
        interval = self._interval(values, weights)
        return entry if interval is None else entry | {"ci95": list(interval)}

    def _interval(self, values: np.ndarray, weights: np.ndarray) -> Interval | None:
        if not self.resamples:
            return None
        if self.aggregate == "video":
            return bootstrap_mean(values, resamples=self.resamples, seed=self.seed)
        return bootstrap_weighted_mean(values, weights, resamples=self.resamples, seed=self.seed)


def bootstrap_weighted_mean(
    values: np.ndarray, weights: np.ndarray, *, resamples: int, seed: int = 0
) -> Interval | None:
    """95% percentile interval of a weighted mean of n videos, by resampling videos; None below two of them."""
    n = len(values)
    if n < 2:
        return None
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=resamples).astype(np.float64)
    means = (drawn @ (values * weights)) / (drawn @ weights)
    low, high = np.quantile(means, _COVERED)
    return float(low), float(high)


def score_videos(
    metrics: Sequence[PerVideoMetric],
    videos: Sequence[Video],
    ids: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Update metrics with videos, each decoded once for all of them.

    Args:
        metrics: Any number; they may be on different devices.
        videos: Videos of any length and size.
        ids: Integer of each video, unique over all ranks; None: their positions (one process only).
        progress: Called with (videos done, videos in all).

    Raises:
        DataError: A video cannot be decoded, which no metric then counts, or not one id for each video.
    """
    ids = range(len(videos)) if ids is None else ids
    if len(ids) != len(videos):
        raise DataError(f"{len(ids)} ids for {len(videos)} videos", expected="one id for each video")
    for done, (video, number) in enumerate(zip(videos, ids, strict=True), start=1):
        for metric, score in zip(metrics, _score(metrics, video), strict=True):
            metric.update(score, number)
        if progress is not None:
            progress(done, len(videos))


def _score(metrics: Sequence[PerVideoMetric], video: Video) -> list[VideoScore]:
    scorers = [metric.scorer(video) for metric in metrics]
    with torch.no_grad():
        for chunk_THWC in video.chunks():
            frames_TCHW = torch.from_numpy(np.ascontiguousarray(chunk_THWC)).permute(0, 3, 1, 2)
            on_device: dict[torch.device, Tensor] = {}
            for metric, scorer in zip(metrics, scorers, strict=True):
                if metric.device not in on_device:
                    on_device[metric.device] = frames_TCHW.to(metric.device)
                scorer.add(on_device[metric.device])
        return [VideoScore(scorer.result()) for scorer in scorers]
