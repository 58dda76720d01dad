"""VBench's six dimensions against their formulas written out, with small stand-ins for the networks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from macedance.metrics.appearance.consistency import BackgroundConsistency, SubjectConsistency
from macedance.metrics.appearance.quality import AestheticQuality, ImagingQuality
from macedance.metrics.appearance.temporal import MotionSmoothness, TemporalFlickering
from macedance.metrics.videos import PerVideoMetric, score_videos
from macedance.vision.video import Video


class Stand:
    """A network of the shape that the metrics ask for."""

    name, fingerprint = "stand_in", "0" * 64
    settings: dict[str, Any] = {}
    weights = {"stand_in": "0" * 64}

    def __init__(self, judge: Any) -> None:
        self.judge = judge

    def to(self, device: torch.device | str) -> Stand:
        return self

    def __call__(self, *arguments: Tensor) -> Tensor:
        return self.judge(*arguments)


def means(frames: Tensor) -> Tensor:
    """Features that point in other directions: means of the rows, in [-1, 1]."""
    return (frames.float().mean(dim=(1, 3)) / 127.5 - 1)[:, :5]


def clip(frames: int, seed: int = 0, size: tuple[int, int] = (10, 14)) -> Video:
    generator = np.random.default_rng(seed)
    drift = np.cumsum(generator.integers(-40, 40, (frames, *size, 3)), axis=0)
    start = generator.integers(0, 256, (1, *size, 3))
    return Video.from_frames(np.clip(start + drift, 0, 255).astype(np.uint8), 25.0, f"clip-{seed}-{frames}")


def inverted(video: Video) -> Video:
    """A video whose second half is its negative: cosines below 0."""
    frames = video.frames()
    return Video.from_frames(np.concatenate([frames, 255 - frames]), 25.0, "inverted")


def still(frames: int) -> Video:
    return Video.from_frames(np.repeat(clip(1).frames(), frames, axis=0), 25.0, "still")


def value(metric: PerVideoMetric, *videos: Video) -> float:
    metric.reset()
    score_videos([metric], videos)
    return float(metric.compute()[metric.keys[0]]["value"])


def published_consistency(video: Video) -> list[float]:
    """The loop of the published script."""
    features = means(torch.from_numpy(video.frames()).permute(0, 3, 1, 2))
    features = torch.nn.functional.normalize(features, dim=-1)
    scores = []
    for i in range(1, len(features)):
        to_previous = max(0.0, torch.nn.functional.cosine_similarity(features[i - 1], features[i], dim=0).item())
        to_first = max(0.0, torch.nn.functional.cosine_similarity(features[0], features[i], dim=0).item())
        scores.append((to_previous + to_first) / 2)
    return scores


@pytest.mark.parametrize("dimension", [SubjectConsistency, BackgroundConsistency])
def test_consistency_is_the_mean_of_previous_and_first(dimension: Any) -> None:
    videos = [clip(40, 1), clip(3, 2), inverted(clip(35, 3))]
    scores = [published_consistency(video) for video in videos]
    assert min(map(min, scores)) == 0.0, "the clamp must have something to do"
    by_video = value(dimension(Stand(means)), *videos)
    assert by_video == pytest.approx(100 * np.mean([np.mean(s) for s in scores]), rel=1e-6)
    by_frame = value(dimension(Stand(means), aggregate="frame"), *videos)
    assert by_frame == pytest.approx(100 * np.mean(np.concatenate(scores)), rel=1e-6)
    assert abs(by_frame - by_video) > 0.1


def test_consistency_keeps_features_and_not_frames() -> None:
    scorer = SubjectConsistency(Stand(means)).scorer(clip(2))
    for _ in range(3):
        scorer.add(torch.randint(0, 256, (32, 3, 10, 14), dtype=torch.uint8))
    kept = [tensor for tensor in vars(scorer).values() if isinstance(tensor, Tensor)]
    assert sum(tensor.numel() for tensor in kept) == 10


def test_portions_of_any_size_give_the_same() -> None:
    video = clip(37)
    frames = torch.from_numpy(video.frames()).permute(0, 3, 1, 2)
    metrics: list[PerVideoMetric] = [
        SubjectConsistency(Stand(means)),
        ImagingQuality(Stand(lambda x: x.float().mean(dim=(1, 2, 3)))),
        AestheticQuality(Stand(lambda x: x.float().std(dim=(1, 2, 3)))),
        TemporalFlickering(),
        MotionSmoothness(Stand(lambda a, b: (a + b) / 2)),
    ]
    for metric in metrics:
        results = []
        for size in (1, 2, 5, 37):
            scorer = metric.scorer(video)
            for portion in frames.split(size):
                scorer.add(portion)
            results.append(scorer.result()[metric.keys[0]])
        assert {count for _, count in results} == {results[0][1]}
        np.testing.assert_allclose([score for score, _ in results], results[0][0], rtol=1e-9)


def test_a_still_video_is_perfect_wherever_frames_are_compared() -> None:
    for metric in (
        SubjectConsistency(Stand(means)),
        BackgroundConsistency(Stand(means)),
        TemporalFlickering(),
        MotionSmoothness(Stand(lambda a, b: (a + b) / 2)),
    ):
        assert value(metric, still(9)) == pytest.approx(100.0, abs=1e-9)
        assert value(metric, still(9)) <= 100.0


def test_a_frame_alone_has_no_neighbour() -> None:
    for metric, frames in (
        (SubjectConsistency(Stand(means)), 1),
        (BackgroundConsistency(Stand(means)), 1),
        (TemporalFlickering(), 1),
        (MotionSmoothness(Stand(lambda a, b: a)), 2),
    ):
        score_videos([metric], [still(frames), clip(8)])
        entry = metric.compute()[metric.keys[0]]
        assert entry["n"] == 1
        assert entry["n_undefined"] == 1
        assert "no " in entry["reason"]


def test_flicker_is_the_mean_difference_of_neighbours() -> None:
    video = clip(40)
    frames = video.frames().astype(np.float32)
    expected = (255.0 - np.mean([np.mean(np.abs(a - b)) for a, b in itertools.pairwise(frames)])) / 255.0
    assert value(TemporalFlickering(), video) == pytest.approx(100 * expected, rel=1e-6)
    blink = np.zeros((4, 2, 2, 3), dtype=np.uint8)
    blink[1::2] = 255
    assert value(TemporalFlickering(), Video.from_frames(blink, 25.0)) == 0.0


@pytest.mark.parametrize("frames", [3, 4, 7, 40, 41])
def test_smoothness_compares_the_odd_frames(frames: int) -> None:
    video = clip(frames)
    pairs: list[tuple[Tensor, Tensor]] = []

    def midpoint(first: Tensor, second: Tensor) -> Tensor:
        pairs.append((first, second))
        return (first + second) / 2 + 0.01

    metric = MotionSmoothness(Stand(midpoint))
    found = value(metric, video)
    pictures = video.frames()
    differences = []
    for i in range(0, frames - 2, 2):
        middle = (pictures[i].astype(np.float32) / 255 + pictures[i + 2].astype(np.float32) / 255) / 2 + np.float32(
            0.01
        )
        guess = np.clip(middle * 255.0, 0, 255).astype(np.uint8)
        differences.append(np.abs(guess.astype(int) - pictures[i + 1].astype(int)).mean())
    assert metric.compute()[metric.keys[0]]["n_frames"] == -(-frames // 2) - 1 == len(differences)
    assert found == pytest.approx(100 * (255 - np.mean(differences)) / 255, rel=1e-9)
    assert all(x.min() >= 0 and x.max() <= 1 and x.shape == (1, 3, 10, 14) for x in pairs[0])


def test_guesses_are_cut_off_and_not_rounded() -> None:
    video = Video.from_frames(np.zeros((3, 4, 4, 3), dtype=np.uint8), 25.0)
    just_below = value(MotionSmoothness(Stand(lambda a, b: a + 1.9 / 255)), video)
    assert just_below == pytest.approx(100 * 254 / 255)
    beyond = value(MotionSmoothness(Stand(lambda a, b: a + 7.0)), video)
    assert beyond == pytest.approx(0.0)


def test_another_interpolator_is_another_key() -> None:
    published, other = Stand(lambda a, b: a), Stand(lambda a, b: a)
    published.name, other.name = "amt_s", "rife"  # type: ignore[misc]
    assert MotionSmoothness(published).keys == ("motion_smoothness",)
    assert MotionSmoothness(other).keys == ("motion_smoothness_rife",)


def test_imaging_quality_shrinks_large_frames_only() -> None:
    sizes: list[tuple[int, ...]] = []

    def judge(frames: Tensor) -> Tensor:
        sizes.append(tuple(frames.shape[-2:]))
        return frames.float().mean(dim=(1, 2, 3))

    metric = ImagingQuality(Stand(judge))
    value(metric, clip(2, size=(60, 1100)), clip(2, size=(300, 200)))
    assert sizes == [(27, 512), (300, 200)]
    assert metric.settings == {"aggregate": "video", "longer_side": 512}


def test_aesthetic_quality_is_ten_times_the_score_of_ten() -> None:
    assert value(AestheticQuality(Stand(lambda x: torch.full((len(x),), 5.2))), clip(3)) == pytest.approx(52.0)
