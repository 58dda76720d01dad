"""The preset of VBench: what is computed, what is not and why, and the result of an evaluation of videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_judges
import torch
from torch import Tensor

from macedance.errors import CheckpointError, ConfigError, DataError, DependencyError
from macedance.metrics.appearance.temporal import TemporalFlickering
from macedance.metrics.appearance.vbench import NO_AMT, VBENCH_KEYS, vbench_preset
from macedance.metrics.protocol_result import read_protocol, write_protocol
from macedance.metrics.video_protocol import VideoPreset, evaluate_videos
from macedance.vision.interpolation import AmtInterpolator
from macedance.vision.networks import Networks
from macedance.vision.video import Video


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_judges.write_all(tmp_path_factory.mktemp("weights"))


def clip(name: str, frames: int, seed: int, fps: float = 25.0, size: tuple[int, int] = (40, 48)) -> Video:
    generator = np.random.default_rng(seed)
    drift = np.cumsum(generator.integers(-20, 20, (frames, *size, 3)), axis=0)
    return Video.from_frames(np.clip(128 + drift, 0, 255).astype(np.uint8), fps, name)


VIDEOS = [clip("a", 3, 0), clip("b", 9, 1), clip("c", 1, 2)]


class Midpoint:
    name, fingerprint = "midpoint", "f" * 64
    settings: dict[str, Any] = {}

    def to(self, device: torch.device | str) -> Midpoint:
        return self

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return (first + second) / 2


def test_without_weights_one_dimension_is_left_and_the_others_say_why(tmp_path: Path) -> None:
    preset = vbench_preset(tmp_path)
    result = evaluate_videos([preset], VIDEOS)
    entries = result.presets["vbench"]
    assert tuple(entries) == VBENCH_KEYS
    assert [key for key, entry in entries.items() if entry["value"] is not None] == ["temporal_flickering"]
    assert entries["motion_smoothness"]["reason"] == NO_AMT
    for key, names in {
        "imaging_quality": ["musiq_spaq"],
        "aesthetic_quality": ["clip_vit_l14", "aesthetic_head"],
        "subject_consistency": ["dino_vitb16"],
        "background_consistency": ["clip_vit_b32"],
    }.items():
        assert entries[key]["value"] is None
        assert entries[key]["n"] == 0
        for name in names:
            assert f"--download {name}" in entries[key]["reason"]
            assert str(tmp_path / name) in entries[key]["reason"]
    assert result.weights == {}


def test_what_has_weights_is_computed_and_its_weights_are_listed(root: Path) -> None:
    preset = vbench_preset(root, amt_checkout=root / "checkout", resamples=20)
    result = evaluate_videos([preset], VIDEOS, settings={"resamples": 20})
    entries = result.presets["vbench"]
    assert tuple(entries) == VBENCH_KEYS
    assert [key for key, entry in entries.items() if entry["value"] is None] == ["imaging_quality"]
    for key in ("subject_consistency", "background_consistency", "motion_smoothness", "temporal_flickering"):
        assert 0 < entries[key]["value"] <= 100
        assert (entries[key]["n"], entries[key]["n_undefined"]) == (2, 1)
        assert len(entries[key]["ci95"]) == 2
    assert entries["aesthetic_quality"]["n_frames"] == 13
    assert set(result.weights) == {"aesthetic_head", "clip_vit_l14", "clip_vit_b32", "dino_vitb16", "amt_s"}
    assert all(len(sha) == 64 for sha in result.weights.values())
    assert result.conventions["vbench"]["motion_smoothness"] == {"aggregate": "video", "scale": 1.0}
    assert np.isnan(result.per_clip["vbench"]["subject_consistency"]["c"])
    assert set(result.per_clip["vbench"]["aesthetic_quality"]) == {"a", "b", "c"}


def test_the_published_average_of_consistency_is_over_frames(root: Path) -> None:
    ours = evaluate_videos([vbench_preset(root)], VIDEOS)
    theirs = evaluate_videos([vbench_preset(root, averaging="published")], VIDEOS)
    for key, counts in (("subject_consistency", [2, 8]), ("background_consistency", [2, 8])):
        values = [ours.per_clip["vbench"][key][name] for name in "ab"]
        assert ours.presets["vbench"][key]["value"] == pytest.approx(np.mean(values))
        assert theirs.presets["vbench"][key]["value"] == pytest.approx(np.average(values, weights=counts))
    for key in ("aesthetic_quality", "temporal_flickering"):
        assert ours.presets["vbench"][key] == theirs.presets["vbench"][key]
    assert ours.hash != theirs.hash
    with pytest.raises(ConfigError, match="'frames'"):
        vbench_preset(root, averaging="frames")  # type: ignore[arg-type]


def test_another_interpolator_does_not_take_amts_place(tmp_path: Path) -> None:
    entries = evaluate_videos([vbench_preset(tmp_path, interpolator=Midpoint())], VIDEOS).presets["vbench"]
    assert entries["motion_smoothness"] == {"value": None, "n": 0, "reason": NO_AMT}
    assert entries["motion_smoothness_midpoint"]["n"] == 2


def test_a_checkout_without_weights_says_what_is_missing(root: Path, tmp_path: Path) -> None:
    preset = vbench_preset(tmp_path, amt_checkout=root / "checkout")
    assert "--download amt_s" in preset.unavailable["motion_smoothness"]
    broken = vbench_preset(root, amt_checkout=tmp_path)
    assert "no checkout of AMT" in broken.unavailable["motion_smoothness"]
    assert isinstance(AmtInterpolator.from_checkout(root / "checkout", root / "amt_s"), AmtInterpolator)


def test_weights_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "musiq_spaq"
    folder.mkdir()
    torch.save({"head.weight": torch.zeros(1)}, folder / "musiq_spaq_ckpt-358bb6af.pth")
    with pytest.raises(CheckpointError, match="not the published file"):
        vbench_preset(tmp_path)


def test_networks_are_loaded_once(root: Path) -> None:
    networks = Networks(root)
    assert networks.dino is networks.dino
    first, second = vbench_preset(networks), vbench_preset(networks)
    shared = {key: [preset.metrics[0] for preset in (first, second)] for key in ("aesthetic_quality",)}
    assert shared["aesthetic_quality"][0].network is shared["aesthetic_quality"][1].network  # type: ignore[union-attr]
    with pytest.raises(DependencyError, match="musiq_spaq"):
        _ = networks.musiq


def test_the_reference_stands_beside_under_its_own_keys(tmp_path: Path) -> None:
    preset = VideoPreset("vbench", [TemporalFlickering(resamples=10)], {"imaging_quality": "no weights"})
    seen: list[tuple[int, int]] = []
    result = evaluate_videos(
        [preset],
        VIDEOS[:2],
        reference=[clip("b", 5, 7), clip("d", 6, 8)],
        left_out={"generated": {"x.mp4": "broken"}},
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert list(result.presets["vbench"]) == ["temporal_flickering", "imaging_quality", "temporal_flickering_reference"]
    assert set(result.per_clip["vbench"]["temporal_flickering_reference"]) == {"b", "d"}
    alone = evaluate_videos([preset], [clip("b", 5, 7), clip("d", 6, 8)])
    expected = alone.presets["vbench"]["temporal_flickering"]
    assert result.presets["vbench"]["temporal_flickering_reference"] == expected
    assert result.inputs["kind"] == "video"
    assert result.inputs["clips"] == {"generated": 2, "reference": 2}
    assert result.inputs["unmatched"] == {"generated": ["a"], "reference": ["d"]}
    assert result.inputs["left_out"] == {"generated": {"x.mp4": "broken"}, "reference": {}}
    assert result.inputs["resolution"] == [48, 40]
    assert result.inputs["seconds_per_clip"]["generated"] == {"min": 0.12, "median": 0.24, "max": 0.36}
    write_protocol(tmp_path / "r.json", result)
    assert read_protocol(tmp_path / "r.json").presets == result.presets


def test_the_hash_depends_on_how_was_measured_and_not_on_the_values() -> None:
    preset = VideoPreset("vbench", [TemporalFlickering()])
    first = evaluate_videos([preset], VIDEOS[:2])
    same = evaluate_videos([preset], [clip("x", 3, 5), clip("y", 9, 6)])
    faster = evaluate_videos([preset], [clip("x", 3, 5, fps=50.0), clip("y", 9, 6, fps=50.0)])
    assert first.hash == same.hash != faster.hash


def test_impossible_requests_are_one_error() -> None:
    preset = VideoPreset("vbench", [TemporalFlickering()])
    with pytest.raises(DataError, match="no videos"):
        evaluate_videos([preset], [])
    with pytest.raises(DataError, match="'a'"):
        evaluate_videos([preset], [VIDEOS[0], VIDEOS[0]])
    with pytest.raises(ConfigError, match="two presets"):
        evaluate_videos([preset, preset], VIDEOS)
    with pytest.raises(ConfigError, match="temporal_flickering"):
        VideoPreset("vbench", [TemporalFlickering(), TemporalFlickering()])
