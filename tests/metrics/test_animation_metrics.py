"""Metrics of videos against the true ones: what counts once, what changes nothing, what is said of short clips."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from macedance.errors import ConfigError, DataError
from macedance.metrics.animation.bundle import AnimationMetrics, Judges, find_judges
from macedance.metrics.animation.evaluation import evaluate_animation
from macedance.metrics.animation.fvd import FrechetVideoDistance, StreamedVideoDistance
from macedance.metrics.animation.pairs import LpipsMetric, Psnr, Ssim, together
from macedance.metrics.animation.presets import CENTER_CROP, STYLEGANV, AnimationPreset, presets_named
from macedance.metrics.animation.video_sets import Reporting
from macedance.metrics.animation.windows import WindowSampling
from macedance.metrics.functional.image_quality import psnr, ssim
from macedance.vision.perceptual import ALEX, Lpips, bundled_heads, read_heads
from macedance.vision.video import Video
from macedance.vision.video_network import FrameFit, VideoNetwork

#: What the network sees does not matter where this stands.
SMALL = AnimationPreset("small", FrameFit(size=16), ddof=0)
QUICK = Reporting(resamples=20, floor_draws=3, allow_small_n=True)


class Averages(nn.Module):
    """Features that are easy to follow: means, how much they change over time, and how a middle row differs."""

    def forward(self, clips_NCTHW: Tensor) -> Tensor:
        means_NCT = clips_NCTHW.mean(dim=(3, 4))
        row_NC = clips_NCTHW[:, :, :, 3, :].mean(dim=(2, 3))
        return torch.cat([means_NCT.mean(dim=2), means_NCT.std(dim=2), row_NC], dim=1)


@pytest.fixture
def network() -> VideoNetwork:
    return VideoNetwork(Averages(), name="averages", fingerprint="f" * 64, num_features=9, min_frames=9)


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    torch.manual_seed(0)
    return Lpips(ALEX.build(), read_heads(bundled_heads(ALEX), ALEX), trunk=ALEX, fingerprint="a" * 64)


@functools.cache
def video(
    seed: int, frames: int = 36, *, noise: float = 0.0, name: str = "", size: tuple[int, int] = (34, 38)
) -> Video:
    """A bright square that moves over a background; ``noise`` is its standard deviation in steps."""
    generator = np.random.default_rng(seed)
    base = generator.uniform(40, 150, 3)
    rows, columns = np.mgrid[: size[0], : size[1]]
    speed = generator.uniform(-1, 1, 2)
    pictures = []
    for t in range(frames):
        inside = (abs(rows - 17 - 8 * np.sin(speed[0] * t / 4)) < 6) & (abs(columns - 19 - speed[1] * t / 2) < 6)
        pictures.append(np.where(inside[..., None], 255 - base, base + columns[..., None]))
    found = np.stack(pictures)
    if noise:
        found = found + np.random.default_rng(seed + 10_000).normal(0, noise, found.shape)
    return Video.from_frames(found.clip(0, 255).astype(np.uint8), 30.0, name or f"clip{seed:02d}")


def values(entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {key: entry["value"] for key, entry in entries.items()}


def fvd_of(network: VideoNetwork, noise: float, **options: Any) -> FrechetVideoDistance:
    metric = FrechetVideoDistance(network, SMALL, reporting=QUICK, **options)
    for clip in range(11):
        metric.update(video(clip), clip, real=True)
        metric.update(video(clip, noise=noise), clip, real=False)
    return metric


def test_equal_videos_are_no_distance_apart_and_noise_makes_it_grow(network: VideoNetwork) -> None:
    found = [values(fvd_of(network, noise).compute()) for noise in (0.0, 20.0, 80.0)]
    assert found[0]["fvd"] == pytest.approx(0.0, abs=1e-9)
    assert found[0]["kvd"] == pytest.approx(0.0, abs=1e-9)
    for key in ("fvd", "kvd"):
        assert found[0][key] < found[1][key] < found[2][key]


def test_clips_that_come_twice_count_once_and_order_is_nothing(network: VideoNetwork) -> None:
    sampling = WindowSampling(per_clip=2)
    once = fvd_of(network, 30.0, sampling=sampling).compute()
    metric = FrechetVideoDistance(network, SMALL, sampling=sampling, reporting=QUICK)
    for clip in [*reversed(range(11)), 3, 3, 0]:
        metric.update(video(clip, noise=30.0), clip, real=False)
        metric.update(video(clip), clip, real=True)
    assert metric.compute() == once
    assert (once["fvd"]["n"], once["fvd"]["n_clips"]) == (22, 11)


def test_frames_as_a_tensor_are_the_same_video(network: VideoNetwork) -> None:
    from_video, from_tensor = (FrechetVideoDistance(network, SMALL, reporting=QUICK) for _ in range(2))
    for clip in range(3):
        for real in (False, True):
            from_video.update(video(clip + 5 * real), clip, real=real)
            frames = torch.from_numpy(video(clip + 5 * real).frames()).permute(0, 3, 1, 2)
            from_tensor.update(frames, clip, real=real)
    assert values(from_tensor.compute()) == values(from_video.compute())


def test_streamed_sums_give_the_same_distance(network: VideoNetwork) -> None:
    rows, streamed = fvd_of(network, 30.0), StreamedVideoDistance(network, SMALL)
    for clip in range(11):
        streamed.update(video(clip), clip, real=True)
        streamed.update(video(clip, noise=30.0), clip, real=False)
    assert streamed.compute()["fvd"]["value"] == pytest.approx(rows.compute()["fvd"]["value"], rel=1e-6)
    assert streamed.compute()["fvd"]["n"] == 11
    small = StreamedVideoDistance(network, SMALL)
    for clip in range(4):
        for real in (False, True):
            small.update(video(clip + 4 * real), clip, real=real)
    assert "4 clips are fewer than the 9 features" in small.compute()["fvd"]["reason"]
    many = StreamedVideoDistance(network, SMALL, sampling=WindowSampling(per_clip=4))
    for clip in range(4):
        for real in (False, True):
            many.update(video(clip + 4 * real), clip, real=real)
    entry = many.compute()["fvd"]
    assert (entry["value"], entry["n"], entry["n_clips"], entry["n_reference_clips"]) == (None, 16, 4, 4)


def test_presets_see_other_parts_of_upright_videos(network: VideoNetwork) -> None:
    found = {}
    for preset in (STYLEGANV, CENTER_CROP):
        metric = FrechetVideoDistance(network, preset, reporting=QUICK)
        for clip in range(10):
            tall = video(clip, size=(64, 36))
            metric.update(tall, clip, real=True)
            # Only the lowest rows differ: the central square does not have them.
            frames = tall.frames().copy()
            frames[:, -10:] = 0
            metric.update(Video.from_frames(frames, 30.0), clip, real=False)
        found[preset.name] = metric.compute()["fvd"]["value"]
    assert found["center_crop"] == pytest.approx(0.0, abs=1e-9)
    assert found["styleganv"] > 1e-3


def test_networks_stay_out_of_checkpoints_and_copies(network: VideoNetwork) -> None:
    metric = FrechetVideoDistance(network, SMALL, reporting=QUICK)
    metric.persistent(True)
    assert not any("module" in key or "network" in key for key in metric.state_dict())
    assert list(metric.parameters()) == []
    assert copy.deepcopy(metric).looking.network is network


def test_empty_sets_and_clips_too_short_for_a_window(network: VideoNetwork) -> None:
    metric = FrechetVideoDistance(network, SMALL, reporting=QUICK)
    assert {entry["reason"] for entry in metric.compute().values()} == {"no windows in a set"}
    metric.update(video(0, frames=20), 0, real=False)
    for clip in range(3):
        metric.update(video(clip), clip, real=True)
    entries = metric.compute()
    assert entries["fvd"]["value"] is None
    assert entries["fvd"]["too_short"] == 1
    assert metric.too_short(real=False) == [0]


def test_impossible_uses(network: VideoNetwork) -> None:
    with pytest.raises(ConfigError, match="at least 9"):
        FrechetVideoDistance(network, SMALL, sampling=WindowSampling(frames=8))
    metric = FrechetVideoDistance(network)
    with pytest.raises(DataError, match="an integer from 0"):
        metric.update(video(0), -1, real=True)
    slow = Video.from_frames(video(0).frames(), 12.0, "slow")
    with pytest.raises(DataError, match="slow"):
        metric.update(slow, 0, real=True)
    with pytest.raises(ConfigError, match="update_pair"):
        Ssim().update(video(0), 0)
    with pytest.raises(ConfigError, match="unknown preset tats"):
        presets_named(["styleganv", "tats"])


def test_values_of_pairs_are_means_over_frames_after_the_first(lpips: Lpips) -> None:
    x, y = video(1, noise=25.0), video(1)
    a, b = (torch.from_numpy(v.frames()).permute(0, 3, 1, 2) for v in (x, y))
    expected = {
        "ssim": float(ssim(a[1:] / 255.0, b[1:] / 255.0).mean()),
        "psnr": float(psnr(a[1:].double() / 255.0, b[1:].double() / 255.0).mean()),
        "lpips": float(lpips(a[1:], b[1:]).double().mean()),
    }
    for metric in (Ssim(), Psnr(), LpipsMetric(lpips)):
        metric.update_pair(x, y, 0)
        key = metric.keys[0]
        entry = metric.compute()[key]
        assert entry["value"] == pytest.approx(expected[key], rel=1e-5)
        assert (entry["n"], entry["n_frames"]) == (1, 35)
    whole = Ssim(skip_frames=0)
    whole.update_pair(x, y, 0)
    assert whole.compute()["ssim"]["n_frames"] == 36


def test_means_are_over_clips_whatever_their_length() -> None:
    metric = Psnr(skip_frames=0)
    pairs = [(video(0, 40, noise=5.0), video(0, 40)), (video(1, 10, noise=60.0), video(1, 10))]
    for clip, (x, y) in enumerate([*pairs, pairs[0]]):
        metric.update_pair(x, y, clip % 2)
    by_clip = metric.per_video()["psnr"]
    assert metric.compute()["psnr"]["value"] == pytest.approx((by_clip[0] + by_clip[1]) / 2)
    assert metric.compute()["psnr"]["n"] == 2


def test_pairs_of_other_lengths_are_refused() -> None:
    x, y = video(0, 40), video(0, 33)
    with pytest.raises(DataError, match="ends after 33 frames"):
        list(together(x, y))
    assert sum(len(a) for a, _ in together(x, y, num_frames=33)) == 33
    with pytest.raises(DataError, match="34 frames in both"):
        list(together(x, y, num_frames=34))


def test_one_evaluation_of_pairs(network: VideoNetwork, lpips: Lpips) -> None:
    metrics = AnimationMetrics(Judges(network, lpips), reporting=QUICK)
    generated = [video(k, noise=15.0, name=f"d{k}") for k in range(6)] + [video(6, frames=1, name="still")]
    reference = [video(k, name=f"d{k}") for k in range(6)] + [video(6, frames=1, name="still")]
    told: list[tuple[int, int]] = []
    result = evaluate_animation(generated, reference, metrics, progress=lambda *done: told.append(done))
    assert told[-1] == (7, 7)
    assert list(result.presets) == ["styleganv", "center_crop"]
    entries = result.presets["styleganv"]
    assert list(entries) == ["fvd", "fvd_inf", "kvd", "ssim", "psnr", "lpips"]
    assert entries["ssim"]["n"] == 6
    assert entries["ssim"]["n_undefined"] == 1
    assert entries["fvd"]["too_short"] == 1
    assert "floor" not in entries["fvd"]
    assert result.floor["styleganv"]["kvd"]["value"] is not None
    assert set(result.weights) == {"averages", "lpips_alex"}
    assert np.isnan(result.per_clip["styleganv"]["ssim"]["still"])
    notes = " ".join(result.inputs["notes"]["styleganv"])
    assert "no ssim, psnr, lpips of 1 clips: still" in notes
    assert "shorter than a window" in notes
    assert result.as_json()["inputs"]["kind"] == "animation"
    again = evaluate_animation(generated, reference, metrics)
    assert again.hash == result.hash
    assert again.presets == result.presets
    other = AnimationMetrics(Judges(network, lpips), reporting=QUICK, skip_frames=0)
    assert evaluate_animation(generated, reference, other).hash != result.hash


def test_videos_of_other_sizes_are_brought_to_one_only_when_asked(lpips: Lpips) -> None:
    generated, reference = [video(0)], [video(0, size=(68, 76), name="clip00")]
    with pytest.raises(DataError, match="38x34"):
        evaluate_animation(generated, reference, AnimationMetrics(Judges(pictures=lpips)))
    metrics = AnimationMetrics(Judges(pictures=lpips), size=(38, 34))
    result = evaluate_animation(generated, reference, metrics)
    assert result.presets["styleganv"]["psnr"]["value"] > 10
    assert "2 sizes" in result.inputs["notes"]["styleganv"][0]


def test_sets_without_pairs(network: VideoNetwork) -> None:
    generated = [video(k, noise=15.0, name=f"ours{k}") for k in range(10)]
    reference = [video(k, name=f"theirs{k}", size=(40, 40)) for k in range(20)]
    result = evaluate_animation(generated, reference, AnimationMetrics(Judges(network), reporting=QUICK), paired=False)
    entries = result.presets["center_crop"]
    assert (entries["kvd"]["n"], entries["kvd"]["n_reference"]) == (10, 20)
    assert entries["ssim"]["reason"] == "the videos are not compared in pairs"
    assert result.per_clip == {}
    assert result.inputs["unmatched"]["generated"] == sorted(v.name for v in generated)
    with pytest.raises(ConfigError, match="nothing can be measured"):
        evaluate_animation(generated, reference, AnimationMetrics(Judges()), paired=False)


def test_absent_networks_are_reasons_and_not_numbers(tmp_path: Path) -> None:
    judges = find_judges(tmp_path)
    result = evaluate_animation([video(0)], [video(0)], AnimationMetrics(judges))
    entries = result.presets["styleganv"]
    for key, what in (("fvd", "i3d_kinetics400"), ("kvd", "i3d_kinetics400"), ("lpips", "alexnet")):
        assert entries[key]["value"] is None
        assert f"--download {what}" in entries[key]["reason"]
    assert entries["ssim"]["value"] == pytest.approx(1.0)
    assert entries["psnr"]["value"] == 100.0


def test_fit_is_named_in_the_conventions(network: VideoNetwork) -> None:
    result = evaluate_animation([video(0)], [video(0)], AnimationMetrics(Judges(network), reporting=QUICK))
    assert result.conventions["center_crop"]["fit"] == {"crop": True, "size": FrameFit().size}
    assert result.conventions["styleganv"]["ddof"] == 0
    assert result.conventions["styleganv"]["windows"]["fps"] == 16.0
