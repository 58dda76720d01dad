"""Low-rank adapters in the layouts in which they are published for Wan, against diffusers' own loader."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import tiny_appearance as tiny
import torch
from safetensors.torch import save_file
from torch import Tensor

from macedance.errors import CheckpointError
from macedance.models.appearance_expert.conditions import Conditions
from macedance.pipelines.appearance_lora import (
    LoraWeights,
    attach_lora,
    read_lora,
    write_comfyui,
    write_diffusers,
)

#: Layers of a block by Wan's names, and what diffusers calls them: out, in.
WIDE, FFN = 24, 32
LAYERS = {
    **{f"self_attn.{name}": (WIDE, WIDE) for name in "qkvo"},
    **{f"cross_attn.{name}": (WIDE, WIDE) for name in ("q", "k", "v", "o", "k_img", "v_img")},
    "ffn.0": (FFN, WIDE), "ffn.2": (WIDE, FFN),
}  # fmt: skip
#: Channels that the output layer makes: 1 x 2 x 2 of 16.
OUT = 64


def network() -> Any:
    return tiny.make_expert(tiny.make_vae(tiny.WAN_VAE), frames=5, image=True)[0]


def lightx2v(blocks: int = 2, rank: int = 4) -> dict[str, Tensor]:
    """Adapters as they were distilled for few steps: pairs with alpha, differences of biases, norms and the head."""
    torch.manual_seed(3)
    found: dict[str, Tensor] = {}
    for block in range(blocks):
        for layer, (rows, columns) in LAYERS.items():
            name = f"diffusion_model.blocks.{block}.{layer}"
            found[f"{name}.lora_down.weight"] = torch.randn(rank, columns)
            found[f"{name}.lora_up.weight"] = torch.randn(rows, rank) * 0.3
            found[f"{name}.alpha"] = torch.tensor(rank / 2)
            if not layer.endswith("_img"):
                found[f"{name}.diff_b"] = torch.randn(rows) * 0.3
        found[f"diffusion_model.blocks.{block}.norm3.diff"] = torch.zeros(WIDE)
        found[f"diffusion_model.blocks.{block}.norm3.diff_b"] = torch.zeros(WIDE)
    found["diffusion_model.head.head.diff"] = torch.randn(OUT, WIDE) * 0.3
    found["diffusion_model.head.head.diff_b"] = torch.randn(OUT) * 0.3
    found["diffusion_model.time_projection.1.diff_b"] = torch.ones(6 * WIDE)
    found["diffusion_model.patch_embedding.diff_b"] = torch.ones(WIDE)
    return found


def pair() -> dict[str, Tensor]:
    """Adapters of one layer, by our names."""
    name = "blocks.0.attn1.to_q"
    return {f"{name}.lora_A.weight": torch.randn(2, WIDE), f"{name}.lora_B.weight": torch.randn(WIDE, 2)}


@torch.no_grad()
def output(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    told = Conditions(
        reference=noise(1, 16, 1, 4, 6), pose=noise(1, 16, 2, 4, 6), face=torch.full((1, 3, 5, 16, 16), -1.0),
        text=noise(1, 5, 32), known=noise(1, 16, 2, 4, 6), image=noise(1, 5, 32),
    )  # fmt: skip
    return model(noise(1, 16, 3, 4, 6), torch.tensor([0.5]), told)


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


def as_diffusers_loads(path: Path) -> Tensor:
    from diffusers import FlowMatchEulerDiscreteScheduler, WanAnimatePipeline

    model = network()
    pipe: Any = WanAnimatePipeline(
        tokenizer=None, text_encoder=None, vae=None, image_processor=None, image_encoder=None,
        scheduler=FlowMatchEulerDiscreteScheduler(), transformer=model.transformer,
    )  # fmt: skip
    # Else diffusers leaves biases that a file lacks without values.
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, low_cpu_mem_usage=False)
    return output(model)


def test_few_step_adapters_do_what_diffusers_makes_them_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "few_steps.safetensors", lightx2v())
    with caplog.at_level(logging.WARNING):
        lora = read_lora(path)
    assert "6 tensors are left out, as diffusers leaves them out, 2 of them not all zeros" in caplog.text
    assert "norm3.diff" in caplog.text
    model = network()
    untouched = output(model)
    attach_lora(model, lora, path)
    assert torch.equal(output(model), as_diffusers_loads(path))
    model.transformer.set_adapters(["default"], [0.0])
    assert torch.equal(output(model), untouched)


def test_pairs_biases_and_whole_differences_are_added_as_they_say(tmp_path: Path) -> None:
    raw = lightx2v()
    path = write(tmp_path / "few_steps.safetensors", raw)
    adapted, by_hand = network(), network()
    attach_lora(adapted, read_lora(path), path)
    names = {"self_attn": "attn1", "cross_attn": "attn2"}
    leaves = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "k_img": "add_k_proj", "v_img": "add_v_proj",
              "0": "0.proj", "2": "2"}  # fmt: skip
    with torch.no_grad():
        for block in range(2):
            for layer in LAYERS:
                group, _, leaf = layer.partition(".")
                theirs = f"diffusion_model.blocks.{block}.{layer}"
                ours = f"{names.get(group, 'ffn.net')}.{leaves[leaf]}"
                module = by_hand.transformer.get_submodule(f"blocks.{block}.{ours}")
                module.weight += 0.5 * raw[f"{theirs}.lora_up.weight"] @ raw[f"{theirs}.lora_down.weight"]
                if f"{theirs}.diff_b" in raw:
                    module.bias += raw[f"{theirs}.diff_b"]
        by_hand.transformer.proj_out.weight += raw["diffusion_model.head.head.diff"]
        by_hand.transformer.proj_out.bias += raw["diffusion_model.head.head.diff_b"]
    torch.testing.assert_close(output(adapted), output(by_hand), rtol=1e-4, atol=1e-4)


def test_they_go_over_adapters_of_the_model_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "few_steps.safetensors", lightx2v())
    own = pair()
    model, alone = network(), network()
    attach_lora(model, LoraWeights(own, 2, 2.0), "own")
    attach_lora(model, read_lora(path), path, "extra0")
    attach_lora(alone, read_lora(path), path)
    model.transformer.set_adapters(["default", "extra0"], [0.0, 1.0])
    torch.testing.assert_close(output(model), output(alone))
    model.transformer.set_adapters(["default", "extra0"], [1.0, 1.0])
    assert not torch.allclose(output(model), output(alone))


def test_musubi_s_layout_is_read(tmp_path: Path) -> None:
    raw: dict[str, Tensor] = {}
    for name, value in lightx2v().items():
        if name.endswith((".weight", ".alpha")):
            module, _, end = name.removeprefix("diffusion_model.").partition(".lora_")
            module, end = (module.removesuffix(".alpha"), "alpha") if not end else (module, f"lora_{end}")
            raw[f"lora_unet_{module.replace('.', '_')}.{end}"] = value
    path = write(tmp_path / "musubi.safetensors", raw)
    model = network()
    attach_lora(model, read_lora(path), path)
    assert torch.equal(output(model), as_diffusers_loads(path))


def test_what_cannot_be_applied_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    good = lightx2v()
    for more, message in (
        ({"diffusion_model.blocks.0.norm9.lora_down.weight": torch.ones(4, WIDE)}, r"norm9\.lora_down\.weight"),
        ({"diffusion_model.time_embedding.0.diff_b": torch.ones(4)}, r"time_embedding\.0\.lora_down\.weight"),
        ({"text_model.layer.lora_down.weight": torch.ones(4, 4)}, r"text_model\.layer"),
    ):
        with pytest.raises(CheckpointError, match=f"{message}.*bad.safetensors"):
            read_lora(write(path, {**good, **more}))
    with pytest.raises(CheckpointError, match=r"does not hold low-rank adapters.*blocks\.0\.attn1\.to_q\.lokr_w1"):
        read_lora(write(path, {"transformer.blocks.0.attn1.to_q.lokr_w1": torch.ones(2, 2)}))
    larger = read_lora(write(path, lightx2v(blocks=5)))
    with pytest.raises(CheckpointError, match=r"another model: 36 of 61 do not fit, first blocks\.2"):
        attach_lora(network(), larger, path)


def test_a_bias_that_a_layer_has_not_is_named(tmp_path: Path) -> None:
    model = network()
    model.transformer.blocks[0].attn1.to_q.bias = None
    path = write(tmp_path / "few_steps.safetensors", lightx2v())
    with pytest.raises(CheckpointError, match=r"blocks\.0\.attn1\.to_q, whose bias it has not"):
        attach_lora(model, read_lora(path), path)


def test_they_are_no_part_of_a_model_s_folder(tmp_path: Path) -> None:
    lora = read_lora(write(tmp_path / "few_steps.safetensors", lightx2v()))
    for write_as in (write_diffusers, write_comfyui):
        with pytest.raises(CheckpointError, match="several ranks, or biases"):
            write_as(tmp_path / "again.safetensors", lora)
    with pytest.raises(CheckpointError, match="several ranks, or biases"):
        _ = lora.settings


def test_metadata_that_would_have_to_be_followed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    told = {"transformer.lora_alpha": 4, "transformer.use_rslora": True}
    save_file({f"transformer.{k}": v for k, v in pair().items()}, path, {"lora_adapter_metadata": json.dumps(told)})
    with pytest.raises(CheckpointError, match="not known here: use_rslora"):
        read_lora(path)
