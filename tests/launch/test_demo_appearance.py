"""The Appearance Expert's demo: its smoke run end to end, and the arithmetic of its bounds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from datamodules.streams.shards import open_shards
from launch.demos.appearance_bounds import APPEARANCE_BOUNDS
from launch.demos.appearance_evaluation import compare
from launch.demos.appearance_evaluation import test_clips as clips_of
from launch.demos.appearance_training import ABLATION, PICTURES, TOY
from launch.demos.bounds import check_bounds
from launch.main import main
from macedance.pipelines.appearance_folder import load_network
from macedance.rendering.probe import probe_video

KEYS = {
    "vae_psnr", "vae_psnr_mask", "psnr_mask", "psnr", "psnr_mask_untrained", "psnr_mask_repeat_reference",
    "psnr_mask_wrong_pose",
    *(f"{key}_shifted_{stage}" for key in ("psnr_mask", "val_loss") for stage in ("before", "kinematic", "aesthetic",
                                                                                  "both")),
}  # fmt: skip


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "appearance", "--smoke", "--workers=1", "--out", str(out)]) == 0
    return out


def test_the_smoke_run_makes_everything_the_demo_makes(smoke: Path) -> None:
    metrics = json.loads((smoke / "metrics.json").read_text(encoding="utf-8"))
    assert metrics.keys() >= KEYS
    assert all({"value", "n"} <= metrics[key].keys() for key in KEYS)
    assert set(metrics["animation"]) == set(ABLATION)
    assert all(entry["psnr"]["value"] > 0 for entry in metrics["animation"].values())
    page = (smoke / "index.html").read_text(encoding="utf-8")
    assert "Ablation" in page
    for name in ("dance", "held_out", "shifted"):
        facts = probe_video(smoke / "videos" / f"{name}.mp4")
        assert facts.num_frames == (10 if name == "dance" else 9)


def test_each_stage_of_the_demo_trained_its_own_weights(smoke: Path) -> None:
    networks = {name: load_network(smoke / "models" / name).state_dict() for name in (*ABLATION, "untrained")}
    base = networks["zero_shot"]

    def changed(name: str) -> set[str]:
        plain = {key.replace(".base_layer", ""): value for key, value in networks[name].items() if ".lora_" not in key}
        return {key.split(".")[1] for key, value in plain.items() if not torch.equal(value, base[key])}

    assert changed("wo_aesthetic") == {"pose_patch_embedding"}
    assert changed("wo_kinematic") == set()
    assert changed("all") == {"pose_patch_embedding"}
    assert any(".lora_B." in key and bool(value.any()) for key, value in networks["all"].items())
    assert {"blocks", "patch_embedding", "proj_out"} <= changed("untrained")


def test_clips_are_learnt_on_top_of_pictures(smoke: Path) -> None:
    pictures = open_shards(smoke / "corpora" / "toy-pictures", check=False).manifest
    assert pictures.splits["train"].samples == 8 * PICTURES
    config = yaml.safe_load((smoke / "runs" / "full" / "config.yaml").read_text(encoding="utf-8"))
    assert config["init_from"] == str(smoke / "runs" / "pictures")


def test_psnr_of_a_demo_is_that_of_its_pixels(smoke: Path) -> None:
    clips = clips_of(smoke, TOY)
    true = [clip.window.video_THW3 for clip in clips]
    off = [np.where(video < 250, video + 5, video - 5).astype(np.uint8) for video in true]
    found = compare(off, clips)
    assert found.count == len(clips)
    assert found.whole == pytest.approx(20 * np.log10(255 / 5), abs=1e-3)
    assert found.mask == pytest.approx(found.whole, abs=1e-3)
    # Faults far from the person weigh in the whole frame alone.
    elsewhere = []
    for clip in clips:
        assert clip.window.mask_THW is not None
        video = clip.window.video_THW3.copy()
        free = ~clip.window.mask_THW.any(axis=0)
        free[:, 4:] = False
        video[:, free] = 255 - video[:, free]
        elsewhere.append(video)
    apart = compare(elsewhere, clips)
    assert apart.mask > apart.whole


def test_bounds_are_gains_over_what_they_name() -> None:
    values = {
        "vae_psnr": 28.5, "vae_psnr_mask": 22.0, "psnr_mask": 18.0, "psnr_mask_untrained": 9.0,
        "psnr_mask_repeat_reference": 14.5, "psnr_mask_wrong_pose": 14.0, "val_loss_shifted_before": 0.5,
        "val_loss_shifted_kinematic": 0.44, "val_loss_shifted_both": 0.41, "psnr_mask_shifted_before": 12.0,
        "psnr_mask_shifted_kinematic": 12.8, "psnr_mask_shifted_both": 12.9,
    }  # fmt: skip
    rows = check_bounds({name: {"value": value, "n": 1} for name, value in values.items()}, APPEARANCE_BOUNDS)
    assert [row["met"] for row in rows] == [True, False, True, False, True, True, True, False, False]
    assert rows[6]["value"] == pytest.approx(0.12)


def test_what_a_demo_has_not_made_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["demo", "appearance", "--smoke", "--out", str(tmp_path)]) == 2
    assert "no demo made" in capsys.readouterr().err
