"""Training on clips of dancers: latents and pixels give the same losses, a stop in the middle changes no bit."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from appearance_fakes import run_config, write_config
from small_clips import FRAMES, tiny_vae, write_clips

from datamodules.appearance_encoding import EncodeSettings, encode_corpus
from launch.run import Run
from launch.training import train
from macedance.models.appearance_expert.encoders import AppearanceEncoders

TEXT_DIM, TOKENS = 6, 16


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of exactly one window, of two sizes."""
    return write_clips(tmp_path_factory.mktemp("clips") / "corpus", train=8, val=2, sizes=((16, 16), (16, 24)))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_vae().save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def latents(clips: Path, encoders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latents") / "corpus"
    made = AppearanceEncoders.from_folder(encoders, text_dim=TEXT_DIM, text_tokens=TOKENS, face_size=16)
    encode_corpus(clips, out, made, EncodeSettings(FRAMES, precision="float32"))
    return out


def fit(folder: Path, shards: Path, *arguments: str, data: dict[str, Any] | None = None, **model: Any) -> Run:
    config = run_config("kinematic", None, **model)
    config["data"] = {
        "class_path": "datamodules.appearance.AppearanceDataModule",
        "init_args": {"shards": str(shards), "global_batch_size": 2, "shuffle_window": 4, **(data or {})},
    }
    config["trainer"]["val_check_interval"] = 2
    return train([write_config(folder, config), f"--run_dir={folder / 'run'}", *arguments])


def losses(run: Run) -> list[float]:
    with (run.directory / "metrics.csv").open(newline="") as stream:
        return [float(row["train/loss"]) for row in csv.DictReader(stream)]


def validations(run: Run) -> list[float]:
    with (run.directory / "metrics_val.csv").open(newline="") as stream:
        return [float(row["value"]) for row in csv.DictReader(stream) if row["name"] == "val/loss"]


def test_latents_and_pixels_train_alike(clips: Path, encoders: Path, latents: Path, tmp_path: Path) -> None:
    precomputed = fit(tmp_path / "latents", latents, "--trainer.max_steps=6")
    factory = {
        "class_path": "macedance.models.appearance_expert.encoder_source.EncodersFrom",
        "init_args": {"source": str(encoders), "text_dim": TEXT_DIM, "text_tokens": TOKENS, "face_size": 16},
    }
    pixels = {"frames": FRAMES, "random_windows": False}
    on_the_fly = fit(tmp_path / "pixels", clips, "--trainer.max_steps=6", data=pixels, encoders=factory)
    assert len(losses(precomputed)) == 6
    assert losses(on_the_fly) == pytest.approx(losses(precomputed), rel=1e-4)
    assert len(validations(precomputed)) == 3
    assert validations(on_the_fly) == pytest.approx(validations(precomputed), rel=1e-4)


def test_a_run_that_stops_within_an_epoch_goes_on_bit_by_bit(latents: Path, tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", latents, "--trainer.max_steps=6")
    fit(tmp_path / "part", latents, "--trainer.max_steps=3")  # an epoch has four steps
    resumed = fit(tmp_path / "part", latents, "--trainer.max_steps=6")
    assert losses(resumed) == losses(whole)
    assert validations(resumed) == validations(whole)
    ours, theirs = (run.model.built_network.state_dict() for run in (resumed, whole))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
