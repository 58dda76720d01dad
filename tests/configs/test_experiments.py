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
DEBUG = {"mace_motion": "debug/mace_motion_cpu"}


def family(name: str) -> str:
    return next(f for f in DEBUG if name.startswith(f))


def test_there_are_experiments_and_their_names_have_a_family() -> None:
    assert {"mace_motion_demo", "mace_motion_finedance", "mace_motion_released", "mace_motion_finetune"} <= set(
        EXPERIMENTS
    )
    assert all(family(name) for name in EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_parses_and_builds(name: str) -> None:
    cli = build_cli(resolve_arguments([f"--config={name}"]), kind=ParsingCLI)
    cli.model.init_from = None
    with torch.device("meta"):
        cli.model.configure_model()
    assert sum(p.numel() for p in cli.model.network.parameters()) > 0


@pytest.mark.parametrize("name", [n for n in EXPERIMENTS if "finetune" not in n])
def test_an_experiment_takes_two_steps(name: str, tmp_path: Path, tiny_corpus: Path) -> None:
    run = train(
        [
            f"--config={name}",
            f"--config={DEBUG[family(name)]}",
            f"--run_dir={tmp_path / 'run'}",
            f"--data.shards={tiny_corpus}",
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
