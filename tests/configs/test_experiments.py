"""Every shipped experiment parses, builds and takes two steps on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from launch.config_files import resolve_arguments, shipped_configs
from launch.main import main
from launch.summary import summarise
from launch.training import train
from launch.training_cli import ParsingCLI, build_cli

EXPERIMENTS = sorted(shipped_configs("experiments"))
#: The debug file of each model family: constructor names differ.
DEBUG = {
    "mace_motion": "debug/mace_motion_cpu",
    "appearance_tiny_vae": "debug/appearance_vae_cpu",
    "appearance": "debug/appearance_cpu",
}
#: The fixture with each family's corpus.
CORPUS = {"mace_motion": "tiny_corpus", "appearance_tiny_vae": "tiny_clips", "appearance": "tiny_latents"}


def family(name: str) -> str:
    return next(f for f in DEBUG if name.startswith(f))


def test_there_are_experiments_and_their_names_have_a_family() -> None:
    assert {"mace_motion_demo", "mace_motion_finedance", "mace_motion_released", "mace_motion_finetune"} <= set(
        EXPERIMENTS
    )
    stages = ("kinematic480", "kinematic720", "aesthetic720", "wo_kinematic", "wo_aesthetic", "zeroshot")
    assert {f"appearance_{stage}_madata" for stage in stages} <= set(EXPERIMENTS)
    assert all(family(name) for name in EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_parses_and_builds(name: str) -> None:
    cli = build_cli(resolve_arguments([f"--config={name}"]), kind=ParsingCLI)
    cli.model.init_from = None
    with torch.device("meta"):
        cli.model.configure_model()
    assert sum(p.numel() for p in cli.model.network.parameters()) > 0


@pytest.fixture(scope="module")
def tiny_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy clips of dancers."""
    from datamodules.appearance_corpora import build_toy_corpus
    from macedance.appearance_data.toy.corpus import ToySettings

    folder = tmp_path_factory.mktemp("clips") / "corpus"
    build_toy_corpus(folder, ToySettings(train=4, val=1, test=1, width=32, height=32, frames=5, spare_frames=2))
    return folder


@pytest.fixture(scope="module")
def tiny_latents(tiny_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as latents of the debug file's autoencoder."""
    from diffusers import AutoencoderKLWan

    from datamodules.appearance_encoding import EncodeSettings, encode_corpus
    from macedance.models.appearance_expert.codec import LatentCodec
    from macedance.models.appearance_expert.encoders import AppearanceEncoders, HashedText

    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False], patch_size=2,
        in_channels=12, out_channels=12, scale_factor_spatial=4, scale_factor_temporal=1,
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    encoders = AppearanceEncoders(LatentCodec(vae), HashedText(16, 4), None, 16)
    folder = tmp_path_factory.mktemp("latents") / "corpus"
    encode_corpus(tiny_clips, folder, encoders, EncodeSettings(5))
    return folder


@pytest.mark.parametrize("name", [n for n in EXPERIMENTS if "finetune" not in n])
def test_an_experiment_takes_two_steps(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    corpus = request.getfixturevalue(CORPUS[family(name)])
    run = train(
        [
            f"--config={name}",
            f"--config={DEBUG[family(name)]}",
            f"--run_dir={tmp_path / 'run'}",
            f"--data.shards={corpus}",
            *(["--data.mixture=null"] if family(name).startswith("appearance") else []),
        ]
    )
    assert run.trainer.global_step == 2
    rows = (tmp_path / "run" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 3
    assert rows[0].startswith("step,train/loss")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_debug_files_shrink_and_change_nothing_else() -> None:
    allowed = {
        "max_steps", "val_check_interval", "precision", "accelerator", "limit_val_batches", "latent_dim",
        "num_dance_layers", "num_music_layers", "num_heads", "feedforward_dim", "state_dim", "global_batch_size",
        "window_frames", "num_workers",
        # Of the Appearance Expert; weights and the stage before are left out.
        "init_from", "weights", "frames", "buckets", "patch_size", "num_attention_heads", "attention_head_dim",
        "text_dim", "freq_dim", "ffn_dim", "num_layers", "image_dim", "added_kv_proj_dim", "rope_max_seq_len",
        "4", "8", "16", "motion_encoder_size", "motion_style_dim", "motion_dim", "motion_encoder_dim",
        "face_encoder_hidden_dim", "face_encoder_num_heads", "inject_face_latents_blocks", "z_dim",
        "scale_factor_spatial", "scale_factor_temporal", "crop", "compiled",
    }  # fmt: skip

    def leaves(node: object, key: str = "") -> list[str]:
        if isinstance(node, dict):
            return [leaf for k, v in node.items() for leaf in leaves(v, k)]
        return [key]

    for path in shipped_configs("debug").values():
        assert set(leaves(yaml.safe_load(path.read_text(encoding="utf-8")))) <= allowed, path


def test_the_released_configuration_has_the_released_size() -> None:
    summary = summarise(["--config=mace_motion_released"])
    assert summary["parameters"] == summary["trainable_parameters"] == 66_680_983
    # Eight dance and two music layers of width 512 over 1200 frames: tens of GFLOPs forward, three times that a step.
    assert 1e11 < summary["forward_flops_per_sample"] < 4e11
    assert summary["flops_per_sample"] == 3 * summary["forward_flops_per_sample"]


def test_summary_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    assert main(["summary", "--config", "mace_motion_demo", "--json"]) == 0
    assert {"parameters", "trainable_parameters", "flops_per_sample"} <= set(json.loads(capsys.readouterr().out))
