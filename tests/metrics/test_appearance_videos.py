"""Metrics of single videos: averages, ids, undefined values, devices and networks that are in no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from macedance.errors import ConfigError, DataError
from macedance.metrics.statistics import bootstrap_mean
from macedance.metrics.videos import PerVideoMetric, VideoScore, score_videos
from macedance.vision.frozen import FrozenNetwork
from macedance.vision.video import Video


class Brightness(PerVideoMetric):
    """Mean of the frames, and the number of the first bright one, NaN without any."""

    keys = ("brightness", "first_bright")
    undefined = {"first_bright": "no bright frame"}

    def __init__(self, network: FrozenNetwork | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.network = network
        self.portions: list[int] = []

    def scorer(self, video: Video) -> BrightnessScorer:
        return BrightnessScorer(self)


class BrightnessScorer:
    def __init__(self, metric: Brightness) -> None:
        self.metric, self.means = metric, []  # type: ignore[var-annotated]

    def add(self, frames_TCHW: Tensor) -> None:
        assert frames_TCHW.dtype == torch.uint8
        assert frames_TCHW.shape[1] == 3
        self.metric.portions.append(len(frames_TCHW))
        self.means += frames_TCHW.double().mean(dim=(1, 2, 3)).tolist()

    def result(self) -> Mapping[str, tuple[float, int]]:
        bright = [i for i, mean in enumerate(self.means) if mean > 200]
        first = (float(bright[0]), 1) if bright else (float("nan"), 0)
        return {"brightness": (float(np.mean(self.means)), len(self.means)), "first_bright": first}


def video(*levels: int, name: str = "", fps: float = 30.0) -> Video:
    frames = np.stack([np.full((4, 6, 3), level, dtype=np.uint8) for level in levels])
    return Video.from_frames(frames, fps, name)


VIDEOS = [video(0, 100, name="a"), video(250, name="b"), video(*range(0, 80, 2), name="c")]


def test_the_mean_over_videos_and_over_frames() -> None:
    by_video, by_frame = Brightness(), Brightness(aggregate="frame")
    score_videos([by_video, by_frame], VIDEOS)
    entry = by_video.compute()["brightness"]
    assert entry == {"value": pytest.approx((50 + 250 + 39) / 3), "n": 3, "n_frames": 43}
    assert by_frame.compute()["brightness"]["value"] == pytest.approx((100 + 250 + 39 * 40) / 43)
    assert by_video.per_video()["brightness"] == {0: 50.0, 1: 250.0, 2: 39.0}


def test_a_video_comes_in_portions_and_once_for_all_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    chunks = Video.chunks

    def counted(self: Video, *args: Any) -> Any:
        opened.append(self.name)
        return chunks(self, *args)

    monkeypatch.setattr(Video, "chunks", counted)
    metrics = [Brightness(), Brightness()]
    seen: list[tuple[int, int]] = []
    score_videos(metrics, VIDEOS, progress=lambda done, total: seen.append((done, total)))
    assert opened == ["a", "b", "c"]
    assert metrics[0].portions == metrics[1].portions == [2, 1, 32, 8]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_videos_without_a_value_are_counted_and_not_averaged() -> None:
    metric = Brightness()
    score_videos([metric], VIDEOS)
    entry = metric.compute()["first_bright"]
    assert entry == {"value": 0.0, "n": 1, "n_frames": 1, "n_undefined": 2, "reason": "no bright frame"}
    assert np.isnan(metric.per_video()["first_bright"][0])
    dark = Brightness()
    score_videos([dark], VIDEOS[:1])
    assert dark.compute()["first_bright"] == {
        "value": None, "n": 0, "n_frames": 0, "n_undefined": 1, "reason": "no bright frame",
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_videos_have_no_value() -> None:
    assert Brightness().compute()["brightness"] == {"value": None, "n": 0, "n_frames": 0, "reason": "no videos"}
    assert Brightness().per_video()["brightness"] == {}


def test_a_video_that_comes_twice_counts_once() -> None:
    once, twice = Brightness(resamples=50), Brightness(resamples=50)
    score_videos([once], VIDEOS, [5, 3, 9])
    score_videos([twice], [*VIDEOS, VIDEOS[1], VIDEOS[0]], [5, 3, 9, 3, 5])
    assert twice.compute() == once.compute()
    assert twice.per_video()["brightness"] == {3: 250.0, 5: 50.0, 9: 39.0}


def test_intervals_resample_videos() -> None:
    by_video, by_frame = Brightness(resamples=200, seed=1), Brightness(aggregate="frame", resamples=200, seed=1)
    score_videos([by_video, by_frame], VIDEOS)
    expected = bootstrap_mean(np.array([50.0, 250.0, 39.0]), resamples=200, seed=1)
    assert by_video.compute()["brightness"]["ci95"] == pytest.approx(expected)
    low, high = by_frame.compute()["brightness"]["ci95"]
    assert low == pytest.approx(39.0)
    assert low < by_frame.compute()["brightness"]["value"] < high
    one = Brightness(resamples=200)
    score_videos([one], VIDEOS[:1])
    assert "ci95" not in one.compute()["brightness"]


def test_frames_as_a_tensor_and_a_score_that_was_made_elsewhere() -> None:
    metric = Brightness()
    metric.update(torch.full((3, 3, 4, 6), 10, dtype=torch.uint8), 0)
    assert metric.compute()["brightness"]["value"] == 10.0
    metric.update(VideoScore({"brightness": (20.0, 3), "first_bright": (float("nan"), 0)}), 1)
    assert metric.compute()["brightness"] == {"value": 15.0, "n": 2, "n_frames": 6}
    with pytest.raises(DataError, match="no video"):
        metric.update(torch.zeros(0, 3, 4, 6, dtype=torch.uint8), 2)
    assert metric.compute()["brightness"]["n"] == 2


def test_a_reset_forgets() -> None:
    metric = Brightness()
    score_videos([metric], VIDEOS)
    metric.compute()
    metric.reset()
    score_videos([metric], VIDEOS[:1])
    assert metric.per_video()["brightness"] == {0: 50.0}


def test_frozen_networks_are_in_no_checkpoint_and_shared_by_copies() -> None:
    network = FrozenNetwork(nn.Linear(3, 3), name="net", fingerprint="abc")
    metric = Brightness(network)
    metric.persistent(True)
    score_videos([metric], VIDEOS[:1])
    assert set(metric.state_dict()) == {"video_ids", "scores", "terms"}
    assert list(metric.parameters()) == []
    assert list(metric.modules()) == [metric]
    copied = metric.clone()
    assert copied.network is network
    score_videos([copied], VIDEOS[1:2], [7])
    assert metric.compute()["brightness"]["n"] == 1
    assert copied.compute()["brightness"]["n"] == 2


def test_numbers_are_kept_in_double_precision() -> None:
    metric = Brightness().half()
    metric.update(VideoScore({"brightness": (1.0 + 1e-12, 1), "first_bright": (0.0, 1)}), 2**40 + 1)
    assert metric.compute()["brightness"]["value"] == 1.0 + 1e-12
    assert list(metric.per_video()["brightness"]) == [2**40 + 1]


def test_impossible_requests_are_one_error() -> None:
    with pytest.raises(ConfigError, match="'frames'"):
        Brightness(aggregate="frames")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="2 ids for 3 videos"):
        score_videos([Brightness()], VIDEOS, [1, 2])
    with pytest.raises(DataError, match="-1 resamples"):
        Brightness(resamples=-1)


def test_a_video_that_breaks_off_is_counted_by_no_metric() -> None:
    class Broken(Video):
        def chunks(self, frames: int = 32) -> Any:
            yield np.zeros((2, 4, 6, 3), dtype=np.uint8)
            raise DataError("the video breaks off")

    metrics = [Brightness(), Brightness()]
    with pytest.raises(DataError, match="breaks off"):
        score_videos(metrics, [VIDEOS[0], Broken("x", 30.0, 6, 4)])
    assert [metric.compute()["brightness"]["n"] for metric in metrics] == [1, 1]
