"""The Appearance Expert's network and what it is told, against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import WanAnimatePipeline
from torch import Tensor

from macedance.errors import CheckpointError, ConfigError
from macedance.models.appearance_expert.conditions import Conditions, known_mask, no_face, transformer_input
from macedance.models.appearance_expert.geometry import LatentGeometry
from macedance.models.appearance_expert.network import AppearanceExpert

VAE = {"z_dim": 4, "scale_factor_spatial": 4, "scale_factor_temporal": 1}
TRANSFORMER: dict[str, Any] = {
    "patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 6, "freq_dim": 16,
    "ffn_dim": 32, "num_layers": 2, "image_dim": None, "added_kv_proj_dim": None, "rope_max_seq_len": 32,
    "inject_face_latents_blocks": 2, "motion_encoder_size": 16, "motion_style_dim": 8, "motion_dim": 4,
    "motion_encoder_dim": 8, "face_encoder_hidden_dim": 16, "face_encoder_num_heads": 2,
    "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
}  # fmt: skip


def conditions(batch: int, frames: int, network: AppearanceExpert) -> Conditions:
    generator = torch.Generator().manual_seed(1)

    def latents(count: int) -> Tensor:
        return torch.randn(batch, 4, count, 8, 8, generator=generator)

    text = torch.randn(batch, 3, 6, generator=generator)
    return Conditions(latents(1), latents(frames), no_face(batch, frames, network.face_size), text, latents(frames))


@pytest.fixture(scope="module")
def network() -> AppearanceExpert:
    torch.manual_seed(0)
    return AppearanceExpert(TRANSFORMER, VAE).eval()


@torch.no_grad()
def test_it_predicts_a_velocity_and_listens_to_every_condition(network: AppearanceExpert) -> None:
    told = conditions(2, 3, network)
    noisy = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    sigma = torch.tensor([0.3, 0.9])
    velocity = network(noisy, sigma, told)
    assert velocity.shape == noisy.shape
    assert torch.allclose(velocity[:1], network(noisy[:1], sigma[:1], conditions_row(told, 0)), atol=1e-5)
    from dataclasses import replace

    for name in ("reference", "pose", "text", "known"):
        changed = replace(told, **{name: getattr(told, name) + 1})
        assert not torch.allclose(velocity, network(noisy, sigma, changed)), name
    assert not torch.allclose(velocity, network(noisy, sigma, replace(told, known_frames=1)))
    assert not torch.allclose(velocity, network(noisy, sigma * 0.5, told))


def conditions_row(told: Conditions, row: int) -> Conditions:
    from dataclasses import fields, replace

    rows: dict[str, Any] = {
        f.name: value[row : row + 1] for f in fields(told) if isinstance(value := getattr(told, f.name), Tensor)
    }
    return replace(told, **rows)


@pytest.mark.parametrize("known", [0, 1, 5])
def test_the_mask_is_that_of_the_published_pipeline(known: int) -> None:
    geometry = LatentGeometry(16, 8, 4)
    theirs = WanAnimatePipeline.get_i2v_mask(
        SimpleNamespace(vae_scale_factor_temporal=4), 2, 6, 3, 5, known, None, torch.float32, "cpu"
    )
    assert torch.equal(known_mask(geometry, 2, 6, 3, 5, known), theirs)


def test_the_mask_of_another_autoencoder_marks_the_same_frames() -> None:
    for temporal in (1, 2, 8):
        geometry = LatentGeometry(4, 4, temporal)
        frames = geometry.frames(4)
        mask = known_mask(geometry, 1, 4, 1, 1, 3)[0, :, :, 0, 0]
        for latent in range(4):
            first, count = (0, 1) if latent == 0 else (1 + (latent - 1) * temporal, temporal)
            share = min(max(3 - first, 0), count) / count
            assert mask[:, latent].mean() == pytest.approx(share, abs=0.5 / min(4, count))
        assert known_mask(geometry, 1, 4, 1, 1, frames).min() == 1


def test_the_input_is_laid_out_as_in_the_published_pipeline(network: AppearanceExpert) -> None:
    told = conditions(1, 3, network)
    noisy = torch.randn(1, 4, 4, 8, 8)
    laid = transformer_input(noisy, told, network.geometry)
    assert laid.shape == (1, 12, 4, 8, 8)
    assert torch.equal(laid[:, :4], noisy)
    assert (laid[:, 4:8, 0] == 1).all()
    assert (laid[:, 4:8, 1:] == 0).all()
    assert torch.equal(laid[:, 8:, :1], told.reference)
    assert torch.equal(laid[:, 8:, 1:], told.known)


def test_dropped_rows_lose_text_and_face(network: AppearanceExpert) -> None:
    from dataclasses import replace

    told = replace(conditions(2, 3, network), face=torch.zeros(2, 3, 9, 16, 16))
    dropped = told.dropped(torch.tensor([True, False]))
    assert (dropped.text[0] == 0).all()
    assert (dropped.face[0] == -1).all()
    assert torch.equal(dropped.text[1], told.text[1])
    assert torch.equal(dropped.face[1], told.face[1])
    assert torch.equal(dropped.pose, told.pose)


def test_weights_come_from_a_folder_of_the_model_or_of_its_transformer(
    network: AppearanceExpert, tmp_path: Path
) -> None:
    network.transformer.save_pretrained(tmp_path / "model" / "transformer")
    for folder in (tmp_path / "model", tmp_path / "model" / "transformer"):
        loaded = AppearanceExpert(TRANSFORMER, VAE, weights=str(folder)).eval()
        ours, theirs = network.state_dict(), loaded.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(CheckpointError, match="num_layers 2, not 4"):
        AppearanceExpert({**TRANSFORMER, "num_layers": 4}, VAE, weights=str(tmp_path / "model"))
    with pytest.raises(CheckpointError, match="no such folder"):
        AppearanceExpert(TRANSFORMER, VAE, weights=str(tmp_path / "absent"))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="in_channels is 36"):
        AppearanceExpert({**TRANSFORMER, "in_channels": 36}, VAE)
    with pytest.raises(ConfigError, match="multiple of 2"):
        AppearanceExpert({**TRANSFORMER, "num_layers": 3}, VAE)
    geometry = LatentGeometry(16, 8, 4)
    assert geometry.latent_shape(77, 480, 832) == (16, 20, 60, 104)
    assert geometry.tokens(77, 480, 832) == 32760
    with pytest.raises(ConfigError, match=r"multiples of 16.*fix: 848 x 480"):
        geometry.check(77, 480, 840 + 4)
    with pytest.raises(ConfigError, match=r"78 frames.*fix: 81"):
        geometry.check(78, 480, 832)


def test_the_released_architecture_is_counted_on_the_meta_device() -> None:
    released = {"added_kv_proj_dim": 5120, "image_dim": 1280}
    with torch.device("meta"):
        network = AppearanceExpert(released, {"z_dim": 16, "scale_factor_spatial": 8, "scale_factor_temporal": 4})
    assert sum(p.numel() for p in network.parameters()) == 17_274_816_884
    assert sum(p.numel() for n, p in network.named_parameters() if "pose_patch_embedding" in n) == 332_800
