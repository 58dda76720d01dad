"""What a training step costs is counted, not guessed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from macedance.models.appearance_expert.costs import parameter_counts, state_bytes, step_costs
from macedance.models.appearance_expert.network import BODY_ADAPTER, AppearanceExpert
from macedance.nn.trainable import set_trainable

VAE = {"z_dim": 4, "scale_factor_spatial": 4, "scale_factor_temporal": 1}
SMALL: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 6, "freq_dim": 16, "ffn_dim": 32, "num_layers": 4,
    "image_dim": None, "added_kv_proj_dim": None, "rope_max_seq_len": 32, "inject_face_latents_blocks": 2,
    "motion_encoder_size": 16, "motion_style_dim": 8, "motion_dim": 4, "motion_encoder_dim": 8,
    "face_encoder_hidden_dim": 16, "face_encoder_num_heads": 2,
    "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
}  # fmt: skip


def on_meta(precision: Any = "float32", released: bool = False) -> AppearanceExpert:
    with torch.device("meta"):
        if released:
            wan = {"z_dim": 16, "scale_factor_spatial": 8, "scale_factor_temporal": 4}
            return AppearanceExpert({"added_kv_proj_dim": 5120, "image_dim": 1280}, wan, precision=precision)
        return AppearanceExpert(SMALL, VAE, precision=precision)


def test_longer_clips_cost_more_and_checkpointing_keeps_less() -> None:
    network = on_meta()
    short, long = step_costs(network, 5, 32, 32), step_costs(network, 9, 32, 32)
    assert short.tokens == 6 * 16
    assert long.forward_flops > short.forward_flops
    assert long.activation_bytes > short.activation_bytes
    assert short.checkpointed_bytes < 0.8 * short.activation_bytes


def test_frozen_weights_keep_less() -> None:
    network = on_meta()
    full = step_costs(network, 5, 32, 32)
    set_trainable(network, train_only=list(BODY_ADAPTER))
    assert parameter_counts(network)[1] == sum(
        p.numel() for n, p in network.named_parameters() if "pose_patch_embedding" in n
    )
    assert step_costs(network, 5, 32, 32).activation_bytes < full.activation_bytes


def test_the_released_model_fits_where_the_arithmetic_says() -> None:
    network = on_meta("bfloat16", released=True)
    set_trainable(network, train_only=list(BODY_ADAPTER))
    assert parameter_counts(network) == (17_274_816_884, 332_800)
    costs = step_costs(network, 77, 480, 832)
    assert costs.tokens == 32_760
    # By hand: 4 N^2 d a layer for attention, and 2 N for each weight that every token meets.
    attention = 4 * costs.tokens**2 * 5120 * 40
    assert attention < costs.forward_flops < 3 * attention
    # The blocks' inputs alone: 40 layers of tokens x 5120 in bfloat16.
    inputs = 40 * costs.tokens * 5120 * 2
    assert inputs < costs.checkpointed_bytes < 2.5 * inputs
    assert costs.activation_bytes > 10 * costs.checkpointed_bytes


def test_states_are_divided_as_each_strategy_says() -> None:
    table = state_bytes(1000, 100, 8)
    assert table["ddp"] == {"weights": 2000, "gradients": 200, "optimizer": 1200, "total": 3400}
    assert table["zero1"]["optimizer"] == 150
    assert table["zero2"] == {"weights": 2000, "gradients": 25, "optimizer": 150, "total": 2175}
    assert table["zero3"]["weights"] == 250
    totals = [table[name]["total"] for name in ("ddp", "zero1", "zero2", "zero3")]
    assert totals == sorted(totals, reverse=True)
    assert state_bytes(1000, 100, 1)["zero3"] == state_bytes(1000, 100, 1)["ddp"]


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    from macedance.errors import ConfigError

    with pytest.raises(ConfigError, match="matches no submodule"):
        step_costs(on_meta(), 5, 32, 32, ["transformer.layers.*"])
