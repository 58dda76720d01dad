"""Exports of the Appearance Expert's training, read back by diffusers and by ourselves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from appearance_fakes import TRANSFORMER, VAE, clip, run_config, save_base, write_config
from diffusers import FlowMatchEulerDiscreteScheduler, WanAnimatePipeline, WanAnimateTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from launch.main import main
from launch.run import Run
from launch.training import train
from macedance.diffusion.flow_matching import FlowDraws, FlowMatching
from macedance.errors import CheckpointError, ConfigError
from macedance.models.appearance_expert.network import AppearanceExpert
from macedance.models.appearance_expert.training import training_conditions
from macedance.pipelines.appearance_folder import is_model_folder, load_network, read_config
from macedance.pipelines.appearance_lora import LoraWeights, attach_lora, check_trained_on, read_lora
from macedance.pipelines.appearance_weights import load_source
from macedance.pipelines.export import export_checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def stages(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Both stages, the second from the first."""
    folder = tmp_path_factory.mktemp("stages")
    first = run(folder / "kinematic", run_config("kinematic", base))
    lora = {"rank": 4, "alpha": 6.0}
    config = run_config("aesthetic", base, init_from=first.directory, lora=lora, num_steps=7)
    return first, run(folder / "aesthetic", config)


def run(folder: Path, config: dict[str, Any]) -> Run:
    return train([write_config(folder, config), f"--run_dir={folder / 'run'}"])


@torch.no_grad()
def output(transformer: Any) -> Tensor:
    """What a transformer of diffusers, or a network of ours, makes of one clip."""
    batch = {name: value[None] for name, value in clip(5).items()}
    draws = FlowDraws(torch.tensor([0.5]), torch.zeros(1, 4, 4, 4, 4), torch.tensor([False]), torch.tensor([False]))
    told = training_conditions(batch, draws, 16)
    network = AppearanceExpert(TRANSFORMER, VAE)
    network.transformer = getattr(transformer, "transformer", transformer)
    x0 = torch.cat([told.reference, batch["latents"]], dim=2)
    return network.eval()(x0, torch.tensor([0.5]), told)


def pipeline(base: Path) -> Any:
    """A fresh pipeline of diffusers on the base weights."""
    transformer = WanAnimateTransformer3DModel.from_pretrained(base / "transformer")
    return WanAnimatePipeline(
        tokenizer=None, text_encoder=None, vae=None, image_processor=None, image_encoder=None,
        scheduler=FlowMatchEulerDiscreteScheduler(), transformer=transformer,
    )  # fmt: skip


def test_adapter_and_lora_give_a_fresh_pipeline_the_trained_output(
    base: Path, stages: tuple[Run, Run], tmp_path: Path
) -> None:
    first, second = stages
    adapter = export_checkpoint(first.directory, tmp_path / "adapter", "body_adapter")
    lora = export_checkpoint(second.directory, tmp_path / "lora", "lora")
    assert (adapter.name, lora.name) == ("body_adapter.safetensors", "pytorch_lora_weights.safetensors")
    pipe = pipeline(base)
    untouched = output(pipe.transformer)
    report = pipe.transformer.load_state_dict(load_file(adapter), strict=False)
    assert not report.unexpected_keys
    with_adapter = output(pipe.transformer)
    assert torch.equal(with_adapter, output(first.model.built_network))
    assert not torch.allclose(with_adapter, untouched)

    pipe.load_lora_weights(str(tmp_path / "lora"))
    trained = output(second.model.built_network)
    assert torch.equal(output(pipe.transformer), trained)
    assert not torch.allclose(trained, with_adapter)
    pipe.set_adapters(pipe.get_active_adapters(), [0.0])
    assert torch.equal(output(pipe.transformer), with_adapter), "scale 0 is the base"
    pipe.set_adapters(pipe.get_active_adapters(), [1.0])
    pipe.fuse_lora()
    torch.testing.assert_close(output(pipe.transformer), trained, rtol=0, atol=1e-5)


def test_lora_metadata_says_rank_alpha_layers_and_what_they_were_trained_on(
    base: Path, stages: tuple[Run, Run], tmp_path: Path
) -> None:
    path = export_checkpoint(stages[1].directory, tmp_path / "mine.safetensors", "lora")
    assert path == tmp_path / "mine.safetensors"
    with safe_open(str(path), framework="pt") as file:
        told = file.metadata()
    peft = json.loads(told["lora_adapter_metadata"])
    assert (peft["transformer.r"], peft["transformer.lora_alpha"]) == (4, 6.0)
    assert len(peft["transformer.target_modules"]) == 20
    assert not any("face" in name for name in peft["transformer.target_modules"])
    lora = read_lora(path)
    assert (lora.rank, lora.alpha, len(lora.modules)) == (4, 6.0, 20)
    assert lora.config is not None
    assert lora.config.num_steps == 7
    assert lora.base is not None
    assert lora.base.source.startswith(str(stages[0].directory))


def test_comfyui_s_layout_has_wan_s_names_and_gives_the_same(
    base: Path, stages: tuple[Run, Run], tmp_path: Path
) -> None:
    path = export_checkpoint(stages[1].directory, tmp_path / "comfy.safetensors", "comfyui")
    tensors = load_file(path)
    layers = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.k",
              "cross_attn.v", "cross_attn.o", "ffn.0", "ffn.2")  # fmt: skip
    assert tensors.keys() == {
        f"diffusion_model.blocks.{block}.{layer}.{part}"
        for block in range(2)
        for layer in layers
        for part in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    width = TRANSFORMER["num_attention_heads"] * TRANSFORMER["attention_head_dim"]
    assert tensors["diffusion_model.blocks.0.ffn.0.lora_down.weight"].shape == (4, width)
    assert tensors["diffusion_model.blocks.0.ffn.0.lora_up.weight"].shape == (TRANSFORMER["ffn_dim"], 4)
    assert {float(v) for name, v in tensors.items() if name.endswith("alpha")} == {6.0}

    ours, again = export_checkpoint(stages[1].directory, tmp_path / "d", "lora"), read_lora(path)
    assert again.rank == 4
    assert again.alpha == 4.0  # what was more is multiplied into the pairs
    for name, value in read_lora(ours).tensors.items():
        torch.testing.assert_close(again.tensors[name], value * (1.5 if ".lora_A." in name else 1.0))
    outputs = []
    for file in (ours, path):
        pipe = pipeline(base)
        pipe.load_lora_weights(str(file.parent), weight_name=file.name)
        outputs.append(output(pipe.transformer))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)


def test_the_model_folder_is_the_trained_model(base: Path, stages: tuple[Run, Run], tmp_path: Path) -> None:
    for number, stage in enumerate(stages):
        folder = export_checkpoint(stage.directory, tmp_path / str(number))
        assert is_model_folder(folder)
        config = read_config(folder)
        assert (config.fps, config.frames, config.size) == (16.0, 3, (16, 16))
        assert config.encoders == {"vae": "f" * 64}
        network = load_network(folder)
        assert torch.equal(output(network), output(stage.model.built_network))
    network.transformer.set_adapters("default", 0.0)
    assert torch.equal(output(network), output(stages[0].model.built_network)), "scale 0 is the stage before"
    with pytest.raises(ConfigError, match="exists"):
        export_checkpoint(stages[0].directory, tmp_path / "0")


def test_every_source_starts_a_training(base: Path, stages: tuple[Run, Run], tmp_path: Path) -> None:
    first, second = stages
    adapter = export_checkpoint(first.directory, tmp_path / "adapter", "body_adapter")
    folders = [export_checkpoint(stage.directory, tmp_path / str(n)) for n, stage in enumerate(stages)]
    expected = [output(stage.model.built_network) for stage in stages]
    for weights in (None, str(base)):
        for source, wanted in ((adapter, 0), (folders[0], 0), (folders[1], 1), (second.directory, 1)):
            network = AppearanceExpert(TRANSFORMER, VAE, weights)
            load_source(network, source)
            torch.testing.assert_close(output(network), expected[wanted], rtol=0, atol=0 if wanted == 0 else 1e-5)
    third = run(tmp_path / "third", run_config("aesthetic", base, init_from=adapter))
    assert torch.equal(
        load_network(export_checkpoint(third.directory, tmp_path / "3")).state_dict()[
            "transformer.pose_patch_embedding.weight"
        ],
        load_file(adapter)["pose_patch_embedding.weight"],
    )


def test_encoders_go_with_the_model_folder(base: Path, stages: tuple[Run, Run], tmp_path: Path) -> None:
    (tmp_path / "encoders" / "vae").mkdir(parents=True)
    (tmp_path / "encoders" / "vae" / "config.json").write_text("{}")
    folder = export_checkpoint(stages[1].directory, tmp_path / "model", encoders=tmp_path / "encoders")
    assert (folder / "vae" / "config.json").is_file()
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir()), "nothing half-written stays"
    whole = save_base(tmp_path / "whole")
    (whole / "vae").mkdir()
    (whole / "vae" / "config.json").write_text("{}")
    moved = export_checkpoint(stages[0].directory, tmp_path / "moved", base=whole)
    assert (moved / "vae" / "config.json").is_file()
    with pytest.raises(ConfigError, match="no autoencoder"):
        export_checkpoint(stages[0].directory, tmp_path / "x", encoders=tmp_path)


def test_what_a_checkpoint_does_not_hold_is_refused(base: Path, stages: tuple[Run, Run], tmp_path: Path) -> None:
    first, second = stages
    with pytest.raises(CheckpointError, match=r"no low-rank adapters.*body_adapter"):
        export_checkpoint(first.directory, tmp_path / "a", "lora")
    with pytest.raises(CheckpointError, match=r"no Body Adapter.*--format lora"):
        export_checkpoint(second.directory, tmp_path / "a", "body_adapter")
    with pytest.raises(CheckpointError, match="not what it was trained on"):
        export_checkpoint(first.directory, tmp_path / "a", base=save_base(tmp_path / "other", seed=5))
    with pytest.raises(CheckpointError, match="no such folder"):
        export_checkpoint(first.directory, tmp_path / "a", base=tmp_path / "nowhere" / "model")
    assert main(["checkpoint", "export", str(first.directory), "--out", str(tmp_path / "a"), "--format", "gguf"]) == 2
    assert not (tmp_path / "a").exists()


def test_adapters_of_another_model_are_refused_by_name(stages: tuple[Run, Run], tmp_path: Path) -> None:
    lora = read_lora(export_checkpoint(stages[1].directory, tmp_path / "lora", "lora"))
    wide = AppearanceExpert({**TRANSFORMER, "ffn_dim": 16}, VAE)
    with pytest.raises(CheckpointError, match=r"another model: transformer\.ffn_dim 32, not 16"):
        attach_lora(wide, lora, "mine.safetensors")
    with pytest.raises(CheckpointError, match=r"another model: 4 of 20 do not fit, first blocks\.0\.ffn"):
        attach_lora(wide, replace(lora, config=None), "mine.safetensors")
    foreign = LoraWeights({"x.lora_A.weight": torch.ones(2, 3), "x.lora_B.weight": torch.ones(3, 2)}, 2, 2.0)
    with pytest.raises(CheckpointError, match="first x"):
        attach_lora(AppearanceExpert(TRANSFORMER, VAE), foreign, "mine.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="cannot read"):
        read_lora(tmp_path / "bad.safetensors")


def test_adapters_of_other_weights_of_the_same_shape_are_told_of(
    base: Path, stages: tuple[Run, Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = export_checkpoint(stages[1].directory, tmp_path / "lora", "lora")
    lora = read_lora(path)
    model = export_checkpoint(stages[0].directory, tmp_path / "model")
    for kind in ("float32", "bfloat16"):
        check_trained_on(load_network(model, kind), lora, path)  # type: ignore[arg-type]
    check_trained_on(load_network(export_checkpoint(stages[1].directory, tmp_path / "second")), lora, path)
    check_trained_on(stages[1].model.built_network, lora, path)  # type: ignore[arg-type]
    assert not caplog.text
    check_trained_on(AppearanceExpert(TRANSFORMER, VAE, str(base)), lora, path)
    assert f"trained on the weights of {stages[0].directory}" in caplog.text
    caplog.clear()
    check_trained_on(load_network(model), read_lora(export_checkpoint(stages[1].directory, tmp_path, "comfyui")), path)
    assert "does not say which model" in caplog.text
    for change in ({"eps": 1e-5}, {"qk_norm": None}, {"num_attention_heads": 1, "attention_head_dim": 24}):
        with pytest.raises(CheckpointError, match=rf"another model: transformer\.{min(change)} "):
            attach_lora(AppearanceExpert({**TRANSFORMER, **change}, VAE), lora, path)


def test_the_command_exports_each_format(
    stages: tuple[Run, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, stage in (("pretrained", 1), ("body_adapter", 0), ("lora", 1), ("comfyui", 1)):
        out = tmp_path / name
        command = ["checkpoint", "export", str(stages[stage].directory), "--out", str(out), "--format", name, "--json"]
        assert main(command) == 0
        written = capsys.readouterr()
        assert ("no autoencoder" in written.err) == (name == "pretrained")
        told = json.loads(written.out)
        assert told["format"] == name
        assert Path(told["model"]).exists()


def test_flow_settings_are_kept(stages: tuple[Run, Run], tmp_path: Path) -> None:
    config = read_config(export_checkpoint(stages[0].directory, tmp_path / "model"))
    assert config.flow == FlowMatching()
    path = tmp_path / "model" / "config.json"
    values = json.loads(path.read_text())
    for change, told in (
        ({"schema": 9}, "schema"), ({"fps": 0}, "fps"), ({"size": [15, 16]}, "divide"), ({"flow": {}}, "damaged"),
        ({"known_frames": 3}, "fewer known"), ({"format": "x"}, "format"),
    ):  # fmt: skip
        path.write_text(json.dumps({**values, **change}))
        with pytest.raises(CheckpointError, match=told):
            read_config(tmp_path / "model")
