"""What each stage of the Appearance Expert's training changes, and what its checkpoints hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from appearance_fakes import TRANSFORMER, VAE, run_config, save_base, write_config
from safetensors.torch import load_file
from torch import Tensor

from launch.run import Run
from launch.training import train
from lightning_modules.stages import stage_settings
from macedance.errors import CheckpointError, ConfigError
from macedance.models.appearance_expert.network import ANIMATE_ADAPTER, LORA_TARGETS, AppearanceExpert
from macedance.nn import recomputation
from macedance.nn.trainable import LoraSettings
from macedance.pipelines.export import export_checkpoint
from macedance.pipelines.whole_checkpoint import read_checkpoint

BLOCKS = ["transformer.blocks.*", "transformer.face_adapter.*"]
#: Bytes of a checkpoint that are no numbers: names, configuration, Lightning's counters.
OVERHEAD = 60_000


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


def fit(folder: Path, config: dict[str, Any], *arguments: str) -> Run:
    return train([write_config(folder, config), f"--run_dir={folder / 'run'}", *arguments])


def newest(run: Run) -> Path:
    return (run.directory / "checkpoints" / "last.ckpt").resolve()


def base_weights(folder: Path) -> dict[str, Tensor]:
    return dict(AppearanceExpert(TRANSFORMER, VAE, weights=str(folder)).state_dict())


def changed(run: Run, before: dict[str, Tensor]) -> set[str]:
    """Names, without adapters, of the base's weights that are other bits now."""
    after = {name.replace(".base_layer.", "."): value for name, value in run.model.built_network.state_dict().items()}
    assert before.keys() <= after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def adapters(run: Run) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in run.model.built_network.named_parameters() if ".lora_" in n}


@pytest.mark.parametrize("checkpointing", [None, BLOCKS], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("stage", ["kinematic", "aesthetic", "full", "animate"])
def test_a_stage_changes_its_own_tensors_and_no_other_bit(
    stage: str, checkpointing: list[str] | None, base: Path, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"train_only": list(ANIMATE_ADAPTER)} if stage == "animate" else {}
    config = run_config(None if more else stage, base, activation_checkpointing=checkpointing, **more)
    run = fit(tmp_path, config)
    before = base_weights(base)
    found, names = changed(run, before), set(before)
    if stage == "kinematic":
        assert found == {f"transformer.pose_patch_embedding.{part}" for part in ("weight", "bias")}
    elif stage == "aesthetic":
        assert not found
        layers = {name.partition(".lora_")[0] for name in adapters(run)}
        # q, k, v, o of two attentions and two layers of the feed-forward pair, in two blocks.
        assert len(layers) == 2 * (8 + 2)
        assert all(re.fullmatch(LORA_TARGETS, name) for name in layers)
        assert all(bool(value.any()) for name, value in adapters(run).items() if ".lora_B." in name)
    elif stage == "full":
        untouched = names - found
        # What a loss on blank faces cannot reach: gradients that are exactly 0.
        assert all("motion_encoder" in name or "face" in name for name in untouched), untouched
    else:
        assert "transformer.pose_patch_embedding.weight" in found
        assert any("face_adapter" in name for name in found)
        assert all(re.match(r"transformer\.(pose_patch_embedding|motion_encoder|face_)", name) for name in found)

    trained = {n: p for n, p in run.model.built_network.named_parameters() if p.requires_grad}
    content = torch.load(newest(run) / "state.ckpt", weights_only=True)
    moments = content["optimizer_states"][0]["state"]
    shapes = sorted(tuple(state["exp_avg"].shape) for state in moments.values())
    assert shapes == sorted(tuple(p.shape) for p in trained.values()), "optimizer state of what trains, and no other"
    if stage != "full":
        assert content["state_dict"].keys() == {f"network.{name}" for name in trained}
    size = sum(file.stat().st_size for file in newest(run).rglob("*") if file.is_file())
    weights = sum(p.numel() * p.element_size() for p in trained.values())
    optimizer = sum(v.numel() * v.element_size() for s in moments.values() for v in s.values() if torch.is_tensor(v))
    assert size <= 2 * weights + optimizer + OVERHEAD


@pytest.mark.parametrize("stage", ["kinematic", "aesthetic"])
def test_checkpointing_changes_no_bit_of_the_result(stage: str, base: Path, tmp_path: Path) -> None:
    runs = [
        fit(tmp_path / str(number), run_config(stage, base, activation_checkpointing=patterns))
        for number, patterns in enumerate((None, BLOCKS))
    ]
    assert losses(runs[0]) == losses(runs[1])
    states = [run.model.built_network.state_dict() for run in runs]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_pretrained_base_is_trained_on_in_the_mode_of_training(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Diffusers loads in eval, in which activations would be kept, whatever the config asks for."""
    again: list[int] = []
    compute = recomputation.checkpoint
    monkeypatch.setattr(recomputation, "checkpoint", lambda *a, **k: again.append(1) or compute(*a, **k))
    run = fit(tmp_path, run_config("kinematic", base, activation_checkpointing=BLOCKS))
    assert all(module.training for module in run.model.built_network.modules())
    assert len(again) == 3 * 3, "two blocks and a face adapter in each of three steps"


def losses(run: Run) -> list[str]:
    rows = (run.directory / "metrics.csv").read_text(encoding="utf-8").splitlines()
    column = rows[0].split(",").index("train/loss")
    return [row.split(",")[column] for row in rows[1:]]


def test_the_second_stage_starts_from_the_first_one_s_adapter(base: Path, tmp_path: Path) -> None:
    first = fit(tmp_path / "first", run_config("kinematic", base))
    adapter = {n: p.detach().clone() for n, p in first.model.built_network.named_parameters() if p.requires_grad}
    before = {**base_weights(base), **adapter}
    for number, (source, weights) in enumerate(((first.directory, base), (newest(first), None))):
        second = fit(tmp_path / str(number), run_config("aesthetic", weights, init_from=source))
        assert not changed(second, before), "the base and the adapter of stage 1 are as they were"
        held = torch.load(newest(second) / "state.ckpt", weights_only=True)["state_dict"]
        assert all(".lora_" in key for key in held)
        read = read_checkpoint(newest(second)).trained("raw")
        own = second.model.built_network.state_dict()
        assert read.keys() == own.keys()
        assert all(torch.equal(value, own[key]) for key, value in read.items())


def test_another_base_is_refused_by_its_name(base: Path, tmp_path: Path) -> None:
    first = fit(tmp_path / "first", run_config("kinematic", base))
    other = save_base(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match=rf"trained on {base}.*are those of {other}"):
        fit(tmp_path / "second", run_config("aesthetic", other, init_from=newest(first)))
    narrow = run_config("aesthetic", None, init_from=newest(first))
    narrow["model"]["init_args"]["network"]["init_args"]["transformer"] = {**TRANSFORMER, "ffn_dim": 16}
    with pytest.raises(CheckpointError, match=r"another network: transformer\.ffn_dim 32, not 16"):
        fit(tmp_path / "third", narrow)
    with pytest.raises(CheckpointError, match="frozen weights are other"):
        fit(tmp_path / "first", run_config("kinematic", other), "--trainer.max_steps=4", "--resume_changed=true")


def test_latents_of_other_encoders_than_the_first_stage_s_are_refused(base: Path, tmp_path: Path) -> None:
    first = fit(tmp_path / "first", run_config("kinematic", base))
    config = run_config("aesthetic", base, init_from=newest(first))
    config["data"]["init_args"]["vae_identity"] = "e" * 64
    with pytest.raises(CheckpointError, match=r"trained with another vae.*expected vae ffffffffffff"):
        fit(tmp_path / "second", config)


def test_the_average_is_what_is_exported_and_started_from(base: Path, tmp_path: Path) -> None:
    config = run_config("kinematic", base)
    config["trainer"]["callbacks"] = [{"class_path": "callbacks.ema.EmaCallback", "init_args": {"decay": 0.5}}]
    first = fit(tmp_path / "first", config)
    content = read_checkpoint(newest(first))
    name = "transformer.pose_patch_embedding.weight"
    assert content.average.keys() == {name, name.replace("weight", "bias")}
    assert not torch.equal(content.average[name], content.tensors[name])
    second = fit(tmp_path / "second", run_config("aesthetic", base, init_from=newest(first)))
    assert torch.equal(second.model.built_network.state_dict()[name], content.average[name])
    adapter = export_checkpoint(first.directory, tmp_path / "adapter", "body_adapter")
    assert torch.equal(load_file(adapter)["pose_patch_embedding.weight"], content.average[name])
    assert not changed(second, {**base_weights(base), **content.average})


def test_a_resumed_stage_goes_on_bit_by_bit(base: Path, tmp_path: Path) -> None:
    first = fit(tmp_path / "first", run_config("kinematic", base))
    config = run_config("aesthetic", base, init_from=newest(first))
    whole = fit(tmp_path / "whole", config, "--trainer.max_steps=5")
    fit(tmp_path / "part", config)
    resumed = fit(tmp_path / "part", config, "--trainer.max_steps=5")
    assert len(losses(resumed)) == 5
    assert losses(resumed) == losses(whole)
    a, b = (run.model.built_network.state_dict() for run in (whole, resumed))
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_a_frozen_base_in_bfloat16_is_found_again(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "launch.training_cli.cpu_multiplies_bf16", lambda: True
    )  # slowly, where it has no such products
    config = run_config("kinematic", base)
    config["model"]["init_args"]["network"]["init_args"]["precision"] = "bfloat16"
    with pytest.raises(ConfigError, match="expected bf16-mixed"):
        fit(tmp_path / "unmixed", config)
    config["trainer"]["precision"] = "bf16-mixed"
    first = fit(tmp_path / "first", config)
    kinds = {n: p.dtype for n, p in first.model.built_network.named_parameters()}
    assert kinds["transformer.patch_embedding.weight"] == torch.bfloat16
    assert kinds["transformer.pose_patch_embedding.weight"] == torch.float32
    read = read_checkpoint(newest(first)).weights("raw")
    own = first.model.built_network.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in read.items())
    adapter = "transformer.pose_patch_embedding.weight"
    assert not torch.equal(own[adapter], own[adapter].to(torch.bfloat16).float())
    source = newest(first)
    for number in range(2):
        config = run_config("aesthetic", base, init_from=source)
        config["model"]["init_args"]["network"]["init_args"]["precision"] = "bfloat16"
        config["trainer"]["precision"] = "bf16-mixed"
        later = fit(tmp_path / f"later{number}", config)
        state = later.model.built_network.state_dict()
        assert torch.equal(state[adapter], own[adapter]), "no stage rounds what the first one has learnt"
        assert state["transformer.patch_embedding.weight"].dtype == torch.bfloat16
        assert state["transformer.blocks.0.attn1.to_q.base_layer.weight"].dtype == torch.bfloat16
        source = newest(later)
        read = read_checkpoint(source).trained("raw")
        assert all(torch.equal(value, read[name]) for name, value in state.items())


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_precision_that_rounds_everything_is_refused(
    precision: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.training_cli.cpu_multiplies_bf16", lambda: True)
    config = run_config("kinematic", base)
    config["trainer"]["precision"] = precision
    with pytest.raises(ConfigError, match=rf"round what trains.*{precision}.*expected bf16-mixed"):
        fit(tmp_path, config)


def test_a_stage_is_short_for_settings_and_refuses_those_of_another() -> None:
    assert stage_settings("aesthetic", None, None)[1] == LoraSettings(32, 32.0, LORA_TARGETS)
    assert stage_settings("aesthetic", None, LoraSettings(8, 8.0))[1] == LoraSettings(8, 8.0, LORA_TARGETS)
    assert stage_settings("kinematic", list(ANIMATE_ADAPTER), None) == (list(ANIMATE_ADAPTER), None)
    assert stage_settings(None, None, None) == (None, None)
    for stage, train_only, lora in (
        ("kinematic", None, LoraSettings()),
        ("full", None, LoraSettings()),
        ("full", ["*"], None),
    ):
        with pytest.raises(ConfigError, match="stage"):
            stage_settings(stage, train_only, lora)  # type: ignore[arg-type]
