"""AppearanceProtocol and CascadeGap in one process, with a renderer and a keypoint source of milliseconds."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from callbacks import video_judges
from callbacks.appearance_protocol import AppearanceProtocol
from callbacks.cascade_gap import CascadeGap
from launch.run import Run
from launch.training import train
from macedance.errors import ConfigError, DependencyError
from macedance.metrics.appearance.vbench import VBENCH_KEYS
from macedance.metrics.honest.preset import HONEST_KEYS
from macedance.metrics.protocol import ProtocolResult, read_protocol
from macedance.rendering.motion_to_video import MeshDancer
from macedance.vision.i3d import InceptionI3d
from macedance.vision.keypoint_sources import best_keypoint_source

SMALL = ["--config=mace_motion_demo", "--config=debug/mace_motion_cpu", "--trainer.limit_val_batches=0"]
SHARED = (
    "max_clips: 2, num_steps: 2, resamples: 20, weights: {weights}, renderer: {{class_path: flat_dancer.FlatDancer}}, "
    "keypoints: {{class_path: flat_dancer.BrightSpots}}"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow I3D of random weights, and nothing else."""
    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    (root / "i3d_kinetics400").mkdir()
    network = InceptionI3d(4, slimness=32)
    save_file(network.state_dict(), root / "i3d_kinetics400" / "i3d_pretrained_400.safetensors")
    return root


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path, weights: Path) -> Run:
    """Appearance at both steps, the gap at the second."""
    shared = SHARED.format(weights=weights)
    return train(
        [
            *SMALL, f"--run_dir={tmp_path_factory.mktemp('videos') / 'run'}", f"--data.shards={tiny_corpus}",
            "--trainer.callbacks+={class_path: callbacks.appearance_protocol.AppearanceProtocol, init_args: "
            f"{{every_n_steps: 1, allow_small_n: true, floor_draws: 2, {shared}}}}}",
            "--trainer.callbacks+={class_path: callbacks.cascade_gap.CascadeGap, init_args: "
            f"{{every_n_steps: 2, perturbations: [noise], levels: [1, 3], keep_videos: true, {shared}}}}}",
        ]
    )  # fmt: skip


def result_of(run: Run, name: str) -> ProtocolResult:
    return read_protocol(run.directory / "protocol" / f"{name}.json")


def callback_of(run: Run, kind: type) -> AppearanceProtocol | CascadeGap:
    return next(c for c in run.trainer.callbacks if isinstance(c, kind))  # type: ignore[attr-defined]


def test_every_key_has_a_value_or_a_reason(judged: Run) -> None:
    result = result_of(judged, "appearance-00000002")
    assert set(result.presets) == {"vbench", "honest", "styleganv"}
    for preset, keys in (("vbench", VBENCH_KEYS), ("honest", HONEST_KEYS), ("styleganv", ("fvd", "fvd_inf", "kvd"))):
        for key in keys:
            entry = result.presets[preset][key]
            assert entry["value"] is not None or entry["reason"], key
    vbench, honest = result.presets["vbench"], result.presets["honest"]
    assert vbench["temporal_flickering"]["n"] == 2
    assert len(vbench["temporal_flickering"]["ci95"]) == 2
    assert "no weights" in vbench["subject_consistency"]["reason"]
    assert honest["person_motion"]["value"] > 0
    assert 0 <= honest["pck_10"]["value"] < 1, "all keypoints at one spot are not where they should be"
    assert honest["missing"]["value"] == 0
    assert result.presets["styleganv"]["fvd"]["value"] > 0
    assert result.weights.keys() >= {"flat", "bright_spots", "i3d_kinetics400"}
    assert result.inputs["kind"] == "video"
    assert result.inputs["training"]["step"] == 2
    assert result.inputs["settings"]["renderer"]["class"] == "FlatDancer"
    assert len(result.per_clip["honest"]["person_motion"]) == 2


def test_the_held_out_dances_are_shown_once(judged: Run) -> None:
    first, second = (result_of(judged, f"appearance-0000000{step}") for step in (1, 2))
    assert first.hash == second.hash
    for preset, key in (("vbench", "temporal_flickering"), ("honest", "person_motion")):
        entries = [result.presets[preset][f"{key}_reference"] for result in (first, second)]
        assert entries[0] == entries[1]
        assert entries[0]["value"] != first.presets[preset][key]["value"]
    assert first.floor == second.floor
    renderer: Any = callback_of(judged, AppearanceProtocol).renderer
    assert renderer.rendered == 2 + 2 * 2
    assert renderer.drawn == renderer.rendered, "each once for all who look"


def test_generated_dances_are_compared_with_the_truth_s(judged: Run) -> None:
    result = result_of(judged, "cascade-00000002")
    assert result.inputs["kind"] == "cascade"
    assert {"ground_truth", "generated", "gap_generated", "noise_1", "gap_noise_3"} <= set(result.presets)
    gap = result.presets["gap_generated"]["person_motion"]
    assert gap["n"] == 2
    assert len(gap["ci95"]) == 2
    arms = [result.presets[arm]["person_motion"]["value"] for arm in ("generated", "ground_truth")]
    assert gap["value"] == pytest.approx(arms[0] - arms[1])
    assert result.presets["gap_real"]["person_motion"]["reason"] == "no true videos were given"
    assert result.inputs["seconds_per_clip"]["reference"]["median"] > 4
    renderer: Any = callback_of(judged, CascadeGap).renderer
    assert renderer.rendered == renderer.drawn == 2 * 4
    videos = judged.directory / "protocol" / "cascade"
    assert sorted(p.name for p in videos.iterdir()) == ["generated", "ground_truth", "noise_1", "noise_3"]
    assert all(len(list(arm.glob("*.mp4"))) == 2 for arm in videos.iterdir())


def test_values_are_in_the_table(judged: Run) -> None:
    with (judged.directory / "metrics_val.csv").open(encoding="utf-8") as file:
        rows = {(row["step"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}
    assert {("1", "val/temporal_flickering"), ("2", "val/fvd"), ("2", "val/pck_05_reference")} <= rows.keys()
    result = result_of(judged, "cascade-00000002")
    assert rows["2", "val/gap/person_motion"] == result.presets["gap_generated"]["person_motion"]["value"]
    assert rows["2", "val/cascade/person_motion"] == result.presets["generated"]["person_motion"]["value"]
    assert not any("noise" in name or "ground_truth" in name for _, name in rows)


def test_networks_that_judge_are_in_no_checkpoint(judged: Run) -> None:
    content = torch.load(judged.directory / "checkpoints" / "last.ckpt" / "state.ckpt", weights_only=True)
    assert content["state_dict"].keys() == judged.model.state_dict().keys()
    assert not any("Conv3d" in name or "metric" in name for name in content["state_dict"])
    assert not any("Appearance" in name or "Cascade" in name for name in content["callbacks"])
    assert not list(callback_of(judged, AppearanceProtocol)._fvd.parameters())  # type: ignore[union-attr]


def test_networks_are_loaded_once_for_both(judged: Run) -> None:
    appearance, gap = (callback_of(judged, kind) for kind in (AppearanceProtocol, CascadeGap))
    assert appearance.judging is gap.judging is not None
    assert appearance._fvd.looking.network is gap._looker.network  # type: ignore[union-attr]


def test_ranks_with_other_judges_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank finds the same difference and none goes on; equal ones do."""
    own = {"vbench.subject_consistency": {"a": 1}, "weights dino": "d", "weights clip": "c"}
    other = {"weights dino": '"e"', "weights clip": '"c"', "weights musiq": '"m"'}

    def two(value: Any) -> list[Any]:
        return [value, other]

    video_judges.judge_alike(own, Path("x.json"))
    monkeypatch.setattr(video_judges, "gather", two)
    with pytest.raises(DependencyError) as caught:
        video_judges.judge_alike(own, Path("x.json"))
    for words in (
        "rank 1 of 2 lacks vbench.subject_consistency; alone has weights musiq; has another weights dino;",
        "at x.json",
        "same weights on every machine",
    ):
        assert words in str(caught.value)
    assert caught.value.on_every_rank
    monkeypatch.setattr(video_judges, "gather", lambda value: [value, dict(value)])
    video_judges.judge_alike(own, Path("x.json"))


def test_by_default_the_mesh_dancer_draws() -> None:
    for protocol in (AppearanceProtocol(), CascadeGap()):
        assert isinstance(protocol.renderer, MeshDancer)
        assert protocol.settings.max_clips == 8
    with pytest.raises(ConfigError, match="max_clips is 0"):
        AppearanceProtocol(max_clips=0)
    with pytest.raises(ConfigError, match="limp, level 4"):
        CascadeGap(perturbations=["noise", "limp"], levels=[1, 4])


def test_without_weights_nothing_finds_keypoints_and_both_reasons_are_given(tmp_path: Path) -> None:
    source, reason = best_keypoint_source(tmp_path, "cpu")
    assert source is None
    assert "RT-DETR" in reason
    assert "BlazePose" in reason
