"""What a training step costs is walked through, not guessed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.stages import AESTHETIC_LORA
from macedance.errors import ConfigError
from macedance.models.appearance_expert.costs import (
    CHECKPOINTED,
    StepCosts,
    clip_inputs,
    step_costs,
    vae_step_costs,
    walk_step,
)
from macedance.models.appearance_expert.memory import LiveBytes, state_bytes
from macedance.models.appearance_expert.network import BODY_ADAPTER, AppearanceExpert
from macedance.models.appearance_expert.video_vae import VideoVae
from macedance.nn.recomputation import recompute_activations
from macedance.nn.trainable import add_lora, set_trainable

VAE = {"z_dim": 4, "scale_factor_spatial": 4, "scale_factor_temporal": 1}
SMALL: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 6, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2,
    "image_dim": None, "added_kv_proj_dim": None, "rope_max_seq_len": 32, "inject_face_latents_blocks": 1,
    "motion_encoder_size": 16, "motion_style_dim": 8, "motion_dim": 4, "motion_encoder_dim": 8,
    "face_encoder_hidden_dim": 16, "face_encoder_num_heads": 2,
    "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
}  # fmt: skip
FRAMES, SIDE = 9, 64


def small(device: str = "meta") -> AppearanceExpert:
    with torch.device(device):
        return AppearanceExpert(SMALL, VAE)


def staged(network: AppearanceExpert, stage: str) -> AppearanceExpert:
    if stage == "kinematic":
        set_trainable(network, train_only=list(BODY_ADAPTER))
    elif stage == "aesthetic":
        add_lora(network, AESTHETIC_LORA)
    return network


def saved_bytes(network: AppearanceExpert) -> int:
    """What autograd saves of a real pass, each memory once, the weights left out."""
    weights = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(*clip_inputs(network, FRAMES, SIDE, SIDE, "cpu"))
    assert output.requires_grad
    return sum(t.untyped_storage().nbytes() for pointer, t in saved.items() if pointer not in weights)


@pytest.mark.parametrize("stage", ["kinematic", "aesthetic", "full"])
def test_the_meta_device_tells_what_a_real_step_holds(stage: str) -> None:
    expected = step_costs(staged(small(), stage), FRAMES, SIDE, SIDE)
    real = staged(small("cpu"), stage)
    inputs = clip_inputs(real, FRAMES, SIDE, SIDE, "cpu")
    walked = walk_step(real, lambda: real(*inputs))
    assert walked.kept_bytes == pytest.approx(expected.kept_bytes, rel=0.02)
    assert walked.peak_bytes == pytest.approx(expected.peak_bytes, rel=0.02)
    # Another witness: what autograd asks to be kept. The rest is the output and what Python still holds.
    assert 0.9 * walked.kept_bytes < saved_bytes(real) <= walked.kept_bytes
    recompute_activations(real, CHECKPOINTED)
    again = walk_step(real, lambda: real(*inputs))
    assert again.kept_bytes == pytest.approx(expected.checkpointed_kept_bytes, rel=0.02)
    assert again.peak_bytes == pytest.approx(expected.checkpointed_peak_bytes, rel=0.02)
    assert all(p.grad is None for p in real.parameters())


def test_live_bytes_are_those_of_tensors_that_live() -> None:
    weight = torch.zeros(100)
    with LiveBytes([weight]) as live:
        a = weight + 1
        view = a[:50].reshape(5, 10)
        assert live.now == 400
        b = torch.cat([a, a])
        del a
        assert live.now == 1200
        del view
        assert (live.now, live.peak) == (800, 1200)
        weight.add_(1)
        del b
    assert (live.now, live.peak) == (0, 1200)


@pytest.fixture(scope="module")
def full() -> StepCosts:
    return step_costs(small(), 5, 32, 32)


def test_longer_clips_cost_more_and_checkpointing_keeps_less(full: StepCosts) -> None:
    network = small()
    long = step_costs(network, 9, 32, 32, checkpointed=())
    assert long.forward_flops > full.forward_flops
    assert long.kept_bytes > full.kept_bytes
    assert full.checkpointed_kept_bytes < 0.75 * full.kept_bytes
    assert full.checkpointed_kept_bytes < full.checkpointed_peak_bytes < full.peak_bytes
    # Counted again where the blocks run twice; nothing of the network is changed by counting.
    assert full.step_flops < full.executed_flops < full.step_flops + full.forward_flops
    assert step_costs(network, 9, 32, 32, checkpointed=()) == long
    assert (long.executed_flops, long.checkpointed_peak_bytes) == (long.step_flops, long.peak_bytes)


def test_what_is_frozen_costs_less(full: StepCosts) -> None:
    adapter = step_costs(staged(small(), "kinematic"), 5, 32, 32, checkpointed=())
    assert adapter.kept_bytes < full.kept_bytes
    assert adapter.forward_flops == full.forward_flops
    # No gradients of weights, and none at all of the frozen face's side.
    assert 1.3 * full.forward_flops < adapter.step_flops < 2.2 * full.forward_flops
    assert 2.7 * full.forward_flops < full.step_flops < 3.3 * full.forward_flops


def test_an_autoencoder_has_costs_too() -> None:
    with torch.device("meta"):
        vae = VideoVae({"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1], "temperal_downsample": [False],
                        "num_res_blocks": 1, "scale_factor_spatial": 2, "scale_factor_temporal": 1})  # fmt: skip
    costs = vae_step_costs(vae, 5, 16, 16)
    assert 2 * costs.forward_flops < costs.step_flops <= 3 * costs.forward_flops
    assert costs.executed_flops == costs.step_flops
    assert costs.kept_bytes > 5 * 16 * 16 * 8 * 4
    half = vae_step_costs(vae.to(torch.bfloat16), 5, 16, 16)
    assert half.forward_flops == costs.forward_flops
    assert half.kept_bytes < 0.7 * costs.kept_bytes


def test_states_are_divided_as_each_strategy_says() -> None:
    table = state_bytes(1000, 100, 8)
    assert vars(table["ddp"]) == {"weights": 2200, "gradients": 400, "optimizer": 800}
    assert vars(table["zero1"]) == {"weights": 2000, "gradients": 200, "optimizer": 150}
    assert vars(table["zero2"]) == {"weights": 2000, "gradients": 25, "optimizer": 150}
    assert vars(table["zero3"]) == {"weights": 250, "gradients": 25, "optimizer": 150}
    totals = [table[name].total for name in ("ddp", "zero1", "zero2", "zero3")]
    assert totals == sorted(totals, reverse=True)
    alone = state_bytes(1000, 100, 1)
    assert {row.total for row in alone.values()} == {2 * 900 + 16 * 100}
    precise = state_bytes(1000, 1000, 1, weight_bytes=4)
    assert (precise["ddp"].total, precise["zero3"].total) == (16_000, 20_000)


def test_a_pattern_or_size_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="matches no submodule"):
        step_costs(small(), 5, 32, 32, ["transformer.layers.*"])
    with pytest.raises(ConfigError, match="does not divide into tokens"):
        step_costs(small(), 5, 30, 32)
