"""AutoencoderKLWan over a whole clip at once.

Diffusers' own forward passes cut a clip into pieces of four frames, which saves memory, costs time, and reads a clip
whose length is not 1 + a multiple of 4 only in part, whatever the autoencoder's temporal factor. These passes give the
same numbers for the clips that both can read. They change nothing in the autoencoder, and training goes through them.

Shapes: B clips, C channels, T frames, H, W rows and columns; pixels in [-1, 1].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def encode_clip(vae: Any, pixels_BCTHW: Tensor) -> Tensor:
    """Mean and log-variance (B, 2 z, t, h, w) of the latents of clips (B, 3, T, H, W).

    Args:
        vae: An AutoencoderKLWan.
        pixels_BCTHW: Clips of 1 + a multiple of the temporal factor frames.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

    x = pixels_BCTHW if vae.config.patch_size is None else patchify(pixels_BCTHW, patch_size=vae.config.patch_size)
    encoder = vae.encoder
    x = encoder.conv_in(x)
    for layer in encoder.down_blocks:
        x = _block(layer, x)
    x = encoder.mid_block(x)
    x = encoder.conv_out(encoder.nonlinearity(encoder.norm_out(x)))
    moments: Tensor = vae.quant_conv(x)
    return moments


def decode_clip(vae: Any, latents_BCTHW: Tensor, clamp: bool = True) -> Tensor:
    """Clips (B, 3, T, H, W) of latents (B, z, t, h, w).

    Args:
        vae: An AutoencoderKLWan.
        latents_BCTHW: Its own latents, not standardised.
        clamp: Keep the pixels in [-1, 1], as ``vae.decode`` does. What is clamped has no gradient.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

    decoder = vae.decoder
    x = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latents_BCTHW)))
    for layer in decoder.up_blocks:
        x = _block(layer, x)
    x = decoder.conv_out(decoder.nonlinearity(decoder.norm_out(x)))
    if vae.config.patch_size is not None:
        x = unpatchify(x, patch_size=vae.config.patch_size)
    return torch.clamp(x, min=-1.0, max=1.0) if clamp else x


def _block(layer: nn.Module, x: Tensor) -> Tensor:
    """One part of encoder or decoder."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import (
        WanResample,
        WanResidualDownBlock,
        WanResidualUpBlock,
        WanUpBlock,
    )

    if isinstance(layer, WanResample):
        return _resampled(layer, x)
    if isinstance(layer, (WanResidualDownBlock, WanResidualUpBlock, WanUpBlock)):
        inside = _through(layer, x)
        skip = getattr(layer, "avg_shortcut", None)
        if skip is None:
            return inside
        # What the first frame has none before it for is cut off on the way up and filled with zeros on the way down.
        shortcut: Tensor = skip(x, first_chunk=True) if isinstance(layer, WanResidualUpBlock) else skip(x)
        return inside + shortcut
    out: Tensor = layer(x)
    return out


def _through(layer: Any, x: Tensor) -> Tensor:
    for resnet in layer.resnets:
        x = resnet(x)
    samplers = getattr(layer, "upsamplers", None)
    for sampler in samplers or [getattr(layer, name, None) for name in ("downsampler", "upsampler")]:
        x = x if sampler is None else _resampled(sampler, x)
    return x


def _resampled(layer: Any, x: Tensor) -> Tensor:
    """Up or down, in space and in time; the first frame stays alone in time."""
    if layer.mode == "upsample3d" and x.shape[2] > 1:
        # The first frame is not among what the later ones see of the past: diffusers leaves it out.
        batch, channels, frames, rows, columns = x[:, :, 1:].shape
        pairs = layer.time_conv(x[:, :, 1:]).view(batch, 2, channels, frames, rows, columns)
        later = pairs.permute(0, 2, 3, 1, 4, 5).reshape(batch, channels, 2 * frames, rows, columns)
        x = torch.cat([x[:, :, :1], later], dim=2)
    x = _each_frame(layer.resample, x)
    if layer.mode == "downsample3d" and x.shape[2] > 1:
        x = torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2)
    return x


def _each_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of pictures over the frames of clips."""
    batch, _, frames = x.shape[:3]
    pictures = layer(x.transpose(1, 2).flatten(0, 1))
    out: Tensor = pictures.unflatten(0, (batch, frames)).transpose(1, 2)
    return out
