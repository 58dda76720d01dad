"""The small autoencoder: whole clips at once, its first weights, and the statistics of its latents."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from macedance.errors import ConfigError
from macedance.models.appearance_expert.codec import LatentCodec
from macedance.models.appearance_expert.initialisation import prefer_channels_last, preserve_variance
from macedance.models.appearance_expert.linear_start import patch_components
from macedance.models.appearance_expert.one_pass import decode_clip, encode_clip
from macedance.models.appearance_expert.video_vae import VideoVae

LATENTS: dict[str, Any] = {"z_dim": 4, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
PATCHED: dict[str, Any] = {"patch_size": 2, "in_channels": 12, "out_channels": 12}
#: One level of patches, as the shipped toy autoencoder has it.
FLAT: dict[str, Any] = {
    **LATENTS, "base_dim": 24, "dim_mult": [1], "num_res_blocks": 1, "temperal_downsample": [], "attn_scales": [],
    "patch_size": 4, "in_channels": 48, "out_channels": 48, "scale_factor_spatial": 4, "scale_factor_temporal": 1,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "four in time": {"dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [True, True],
                     "scale_factor_temporal": 4, "scale_factor_spatial": 4},
    "two in time": {"dim_mult": [1, 2, 2], "num_res_blocks": 2, "temperal_downsample": [False, True],
                    "scale_factor_temporal": 2, "scale_factor_spatial": 4},
    "each frame": {**PATCHED, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [False],
                   "scale_factor_temporal": 1, "scale_factor_spatial": 4},
    "shortcuts of Wan 2.2": {**PATCHED, "dim_mult": [1, 2, 2], "num_res_blocks": 2, "is_residual": True,
                             "temperal_downsample": [False, True], "decoder_base_dim": 16, "scale_factor_temporal": 2,
                             "scale_factor_spatial": 8},
}  # fmt: skip


def clips(frames: int = 9, side: int = 16, seed: int = 0) -> torch.Tensor:
    """Two smooth clips: waves of some directions and colours."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.arange(side) / side * 6.28
    angles, colours = torch.rand(2, 3, generator=generator) * 3, torch.rand(2, 3, 1, 1, 1, generator=generator)
    wave = torch.stack([
        torch.stack([torch.sin(grid[:, None] * a[0] + grid[None] * a[1] + t * a[2]) for t in range(frames)])
        for a in angles
    ])  # fmt: skip
    return wave[:, None] * (2 * colours - 1)


@pytest.mark.parametrize("kind", list(KINDS))
def test_one_pass_gives_what_the_pieces_give(kind: str) -> None:
    torch.manual_seed(0)
    vae: Any = AutoencoderKLWan(base_dim=8, **LATENTS, **KINDS[kind]).eval()
    pixels = clips()
    with torch.no_grad():
        pieces = vae.encode(pixels).latent_dist
        moments = encode_clip(vae, pixels)
        assert torch.allclose(torch.cat([pieces.mean, pieces.logvar], dim=1), moments, atol=2e-6)
        decoded = vae.decode(pieces.mean, return_dict=False)[0]
        assert decoded.shape == pixels.shape
        assert torch.allclose(decoded, decode_clip(vae, pieces.mean), atol=1e-5)
        assert torch.allclose(decode_clip(vae, 50 * pieces.mean, clamp=False).clamp(-1, 1),
                              decode_clip(vae, 50 * pieces.mean), atol=1e-5)  # fmt: skip


def test_frames_that_are_no_pieces_of_four_are_not_left_out() -> None:
    torch.manual_seed(0)
    codec = LatentCodec(AutoencoderKLWan(base_dim=8, **LATENTS, **KINDS["each frame"]))
    latents = codec.encode(clips(7))
    assert latents.shape == (2, 4, 7, 4, 4)
    assert codec.decode(latents).shape == (2, 3, 7, 16, 16)
    assert torch.allclose(latents[:, :, :5], codec.encode(clips(5)), atol=1e-5), "the past does not see the future"


def test_a_signal_keeps_its_size_through_new_weights() -> None:
    torch.manual_seed(0)
    vae: Any = AutoencoderKLWan(base_dim=16, **LATENTS, **KINDS["four in time"])
    pixels = torch.randn(1, 3, 9, 16, 16)
    with torch.no_grad():
        # Their own start: what comes out is mostly the biases, the same for every clip.
        before = [float(encode_clip(vae, x)[:, :4].std()) for x in (pixels, pixels - pixels)]
        assert before[0] < 0.3
        preserve_variance(vae)
        prefer_channels_last(vae)
        latents = encode_clip(vae, pixels)[:, :4]
        assert 0.4 < float(latents.std()) < 2.5
        assert not encode_clip(vae, pixels - pixels)[:, :4].any()
        assert 0.3 < float(decode_clip(vae, latents, clamp=False).std()) < 2.5
    assert vae.encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert not vae.encoder.mid_block.resnets[0].conv2.weight.any()
    assert not vae.encoder.conv_in.weight[:, :, :-1].any(), "single frames at the start"


def test_it_starts_as_principal_components() -> None:
    torch.manual_seed(0)
    network = VideoVae({**FLAT, "base_dim": 48}).eval()
    pixels = torch.cat([0.5 * clips(5, 32, seed) for seed in range(6)])
    network.start_linear(pixels)
    found = patch_components(pixels, 4, 4)
    assert torch.allclose(found.basis_Pz.t() @ found.basis_Pz, torch.eye(4), atol=1e-5)
    patches = torch.nn.functional.pixel_unshuffle(pixels.transpose(1, 2).flatten(0, 1), 4)
    centred = patches.permute(0, 2, 3, 1).flatten(0, 2)
    centred = centred - centred.mean(dim=0)
    kept = found.std_z.square().sum() / centred.square().sum(dim=1).mean()
    assert 0.85 < float(kept) <= 1.0001, "the strongest ones"
    with torch.no_grad():
        made = network(pixels)
    error = (made.pixels - pixels).square().mean() * 48
    best = centred.square().sum(dim=1).mean() - found.std_z.square().sum()
    # The changing divisor of the normalisation costs little.
    assert float(error) < float(best) + 0.02 * float(centred.square().sum(dim=1).mean())
    assert torch.allclose(made.mean.std(dim=(0, 2, 3, 4)), torch.ones(4), atol=0.15)
    with pytest.raises(ConfigError, match="cannot start from principal components"):
        VideoVae({**LATENTS, "base_dim": 8, **KINDS["two in time"]}).start_linear(pixels)
    with pytest.raises(ConfigError, match="cannot start from principal components"):
        VideoVae({**FLAT, "base_dim": 8}).start_linear(pixels)


def test_latents_may_weigh_what_they_change_in_the_picture() -> None:
    torch.manual_seed(0)
    pixels = 0.5 * clips(5, 32)
    configs = {}
    for weights in ("equal", "picture"):
        network = VideoVae({**FLAT, "base_dim": 48}, weights)  # type: ignore[arg-type]
        network.start_linear(pixels)
        network.train()
        network(pixels)
        configs[weights] = torch.tensor(network.final_config()["latents_std"])
        assert torch.equal(configs[weights], torch.tensor(network.final_config()["latents_std"]))
    power = (configs["equal"] / configs["picture"]).square()
    assert float(power.mean()) == pytest.approx(1.0, abs=1e-3)
    shares = patch_components(pixels, 4, 4).std_z.square()
    assert torch.allclose(power / power.sum(), shares / shares.sum(), atol=0.1)
    with pytest.raises(ConfigError, match="latent_weights"):
        VideoVae(FLAT, "loud")  # type: ignore[arg-type]


def test_pixels_out_of_range_have_a_gradient_in_training_only() -> None:
    torch.manual_seed(0)
    network = VideoVae(FLAT)
    with torch.no_grad():
        network.vae.decoder.conv_out.bias.fill_(3.0)
    pixels = clips()
    assert float(network(pixels).pixels.detach().max()) > 1
    assert float(network.eval()(pixels).pixels.detach().max()) == 1
