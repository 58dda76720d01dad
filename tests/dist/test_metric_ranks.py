"""Metrics on two gloo ranks give what one process gives: uneven shares, padded duplicates, a rank without a clip."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "metrics"))

from synthetic import random_clips, random_keypoint_clips

from macedance.metrics.animation.fvd import FrechetVideoDistance, StreamedVideoDistance
from macedance.metrics.animation.pairs import Psnr, Ssim
from macedance.metrics.animation.video_sets import Reporting
from macedance.metrics.animation.windows import WindowSampling
from macedance.metrics.appearance.consistency import SubjectConsistency
from macedance.metrics.appearance.temporal import TemporalFlickering
from macedance.metrics.genre import GenreAccuracy
from macedance.metrics.honest.person_motion import VideoMotion
from macedance.metrics.motion import MotionMetrics
from macedance.metrics.presets import CLEAN, CLEAN_KEYPOINTS, LODGE_FINEDANCE, MACE2D, MEGADANCE, Preset
from macedance.metrics.videos import PerVideoMetric, score_videos
from macedance.vision.video import Video
from macedance.vision.video_network import VideoNetwork

#: Clips of rank 0 and of rank 1; the last one of a list may be a sampler's padding.
SHARES: tuple[tuple[list[int], list[int]], ...] = (
    ([0, 2, 4, 6, 0], [1, 3, 5]),
    ([0, 1, 2, 3, 4, 5, 6], []),
    ([], [6, 5, 4, 3, 2, 1, 0, 6, 5]),
    ([0, 1, 2, 3], [3, 2, 4, 5, 6]),
)
COUNT = 7


class Projection:
    """A stand-in for DINO: a fixed projection of the mean colours of a grid."""

    name, fingerprint = "projection", "0" * 64

    def to(self, device: torch.device | str) -> Projection:
        return self

    def __call__(self, frames: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(frames.float(), 4).flatten(1)
        return pooled @ torch.randn(48, 8, generator=torch.Generator().manual_seed(0))


class Windows(nn.Module):
    """A stand-in for I3D: six numbers of a window."""

    def forward(self, video_N3THW: Tensor) -> Tensor:
        return torch.cat([video_N3THW.mean((2, 3, 4)), video_N3THW.std((2, 3, 4))], dim=1)


def videos(seed: int) -> list[Video]:
    """Seven videos of different lengths that drift; one has a single frame."""
    rng = np.random.default_rng(seed)
    made = []
    for index, frames in enumerate((20, 24, 1, 31, 18, 22, 40)):
        noise = rng.integers(0, 40, (frames, 24, 32, 3))
        ramp = np.linspace(0, 60 + 10 * index, frames)[:, None, None, None] + 4 * np.arange(32)[None, None, :, None]
        made.append(Video.from_frames((noise + ramp + 40 * seed).astype(np.uint8), 16.0, f"v{index}"))
    return made


def motion(preset: Preset, clips: Sequence[Any], reference: Sequence[Any]) -> Callable[..., dict[str, Any]]:
    def judge(mine: Sequence[int], theirs: Sequence[int]) -> dict[str, Any]:
        metric = MotionMetrics(preset, allow_small_n=True, extras=True, resamples=20, floor_draws=2)
        metric.update([clips[i] for i in mine], ids=mine)
        metric.update([reference[i] for i in theirs], ids=theirs, reference=True)
        return metric.compute()

    return judge


def per_video(make: Callable[[], PerVideoMetric], frames: int = 100) -> Callable[..., dict[str, Any]]:
    def judge(mine: Sequence[int], _: Sequence[int]) -> dict[str, Any]:
        metric = make()
        films = [Video.from_frames(video.frames()[:frames], video.fps, video.name) for video in videos(0)]
        score_videos([metric], [films[i] for i in mine], ids=mine)
        single = {
            key: {str(number): value for number, value in found.items()} for key, found in metric.per_video().items()
        }
        return {"entries": metric.compute(), "per_video": single}

    return judge


def pairs(make: Callable[[], Any]) -> Callable[..., dict[str, Any]]:
    def judge(mine: Sequence[int], _: Sequence[int]) -> dict[str, Any]:
        metric, ours, truth = make(), videos(0), videos(1)
        for i in mine:
            metric.update_pair(ours[i], truth[i], i)
        return metric.compute()

    return judge


def distances(mine: Sequence[int], theirs: Sequence[int]) -> dict[str, Any]:
    network = VideoNetwork(Windows(), name="windows", fingerprint="0" * 64, num_features=6)
    sampling = WindowSampling(frames=8, fps=None, per_clip=1)
    kept = FrechetVideoDistance(
        network, sampling=sampling, reporting=Reporting(resamples=5, floor_draws=2, allow_small_n=True)
    )
    streamed = StreamedVideoDistance(network, sampling=sampling, allow_small_n=True)
    ours, truth = videos(0), videos(1)
    for real, films, ids in ((False, ours, mine), (True, truth, theirs)):
        for i in ids:
            kept.update(films[i], i, real=real)
    # Sums know no clips: each is given once, to one rank, as the callers of the streamed metric must.
    distributed = torch.distributed.is_initialized()
    rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed else (0, 1)
    for real, films in ((False, ours), (True, truth)):
        for i in range(rank, COUNT, world):
            streamed.update(films[i], i, real=real)
    return kept.compute() | {"streamed": streamed.compute()["fvd"], "too_short": {"ids": kept.too_short(real=False)}}


def genres(mine: Sequence[int], _: Sequence[int]) -> dict[str, Any]:
    metric = GenreAccuracy(lambda clips: ["house"] * len(clips))
    clips = [replace(clip, genre="house" if i % 2 else "krump") for i, clip in enumerate(random_clips(COUNT))]
    metric.update([clips[i] for i in mine], ids=mine)
    return {"genre": metric.compute()}


def judges() -> dict[str, Callable[..., dict[str, Any]]]:
    """Every metric on its own data, by name."""
    clips, reference = random_clips(COUNT, songs=3), random_clips(COUNT, seed=1)
    planar = random_keypoint_clips(COUNT)
    for i in (0, 3):
        # mace2d leaves these out, one on either rank.
        planar[i] = replace(planar[i], keypoints=planar[i].keypoints[:40])
    true_planar = random_keypoint_clips(COUNT, seed=1)
    return {
        **{preset.name: motion(preset, clips, reference) for preset in (CLEAN, LODGE_FINEDANCE, MEGADANCE)},
        "keypoints": motion(CLEAN_KEYPOINTS, planar, true_planar),
        "mace2d": motion(MACE2D, planar, true_planar),
        "flicker": per_video(lambda: TemporalFlickering(resamples=20)),
        "flicker by frames": per_video(lambda: TemporalFlickering(aggregate="frame", resamples=20)),
        "subject": per_video(lambda: SubjectConsistency(Projection())),
        "motion": per_video(lambda: VideoMotion(None, warp=True), frames=4),
        "ssim": pairs(Ssim),
        "psnr": pairs(Psnr),
        "distances": distances,
        "genre": genres,
    }


def _run_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(Path(folder) / "store"), world)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    results: list[dict[str, Any]] = []
    for shares in SHARES:
        mine = shares[rank]
        # The reference lies on one rank, as it is read once, and on both the second time.
        theirs = list(range(COUNT)) if rank == len(results) % 2 or len(results) > 1 else []
        results.append({name: judge(mine, theirs) for name, judge in judges().items()})
    (Path(folder) / f"{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """Where two results differ beyond rounding."""
    if isinstance(expected, dict):
        if list(found) != list(expected) and set(found) != set(expected):
            return [f"{where}: keys {sorted(set(found) ^ set(expected))}"]
        return [text for key in expected for text in differences(found[key], expected[key], f"{where}/{key}")]
    if isinstance(expected, list):
        if len(found) != len(expected):
            return [f"{where}: {len(found)} and not {len(expected)}"]
        return [
            t for i, (f, e) in enumerate(zip(found, expected, strict=True)) for t in differences(f, e, f"{where}/{i}")
        ]
    if isinstance(expected, float):
        return (
            []
            if found == pytest.approx(expected, rel=1e-6, abs=1e-9, nan_ok=True)
            else [f"{where}: {found}, {expected}"]
        )
    return [] if found == expected else [f"{where}: {found!r} and not {expected!r}"]


def test_two_ranks_give_what_one_process_gives(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_run_rank, args=(2, str(tmp_path)), nprocs=2)
    expected = json.loads(json.dumps({name: judge(range(COUNT), range(COUNT)) for name, judge in judges().items()}))
    # The comparison is of numbers that are there, and of clips that are counted out.
    assert expected["clean"]["fid_k"]["value"] > 0
    assert expected["mace2d"]["bas"]["shorter_than_window"] == 2
    assert expected["genre"]["genre"] == {"value": pytest.approx(3 / 7), "n": 7}
    assert expected["flicker"]["entries"]["temporal_flickering"]["n_undefined"] == 1
    assert expected["distances"]["too_short"]["ids"] == [2]
    assert expected["distances"]["streamed"]["value"] == pytest.approx(expected["distances"]["fvd"]["value"], rel=1e-6)
    for rank in range(2):
        for shares, found in zip(SHARES, json.loads((tmp_path / f"{rank}.json").read_text()), strict=True):
            wrong = [text for name in expected for text in differences(found[name], expected[name], name)]
            assert not wrong, (rank, shares, wrong[:5])
