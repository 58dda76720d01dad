"""A video autoencoder that can be trained here: AutoencoderKLWan at any size, with the statistics of its latents.

Shapes: B clips, T frames, H, W rows and columns; z latent channels, t, h, w latent frames, rows and columns; pixels in
[-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from macedance.models.appearance_expert.geometry import LatentGeometry

#: Weight of the past in the latents' statistics, per training step.
_STATISTICS_DECAY = 0.99
_LEAST_STD = 1e-3


class Reconstruction(NamedTuple):
    """What the autoencoder makes of clips.

    Attributes:
        pixels: (B, 3, T, H, W).
        mean: Of the posterior (B, z, t, h, w).
        log_variance: Of the posterior, of the same shape.
    """

    pixels: Tensor
    mean: Tensor
    log_variance: Tensor


class VideoVae(nn.Module):
    """An AutoencoderKLWan being trained.

    Args:
        vae: Its constructor arguments; ``scale_factor_spatial`` and ``scale_factor_temporal`` say its factors.
    """

    vae: Any
    latents_mean: Tensor
    latents_variance: Tensor
    num_updates: Tensor

    def __init__(self, vae: dict[str, Any]) -> None:
        from diffusers import AutoencoderKLWan

        super().__init__()
        self.vae_config = dict(vae)
        self.geometry = LatentGeometry.of(vae)
        self.vae = AutoencoderKLWan(**_arguments(vae))
        self.register_buffer("latents_mean", torch.zeros(self.geometry.channels))
        self.register_buffer("latents_variance", torch.ones(self.geometry.channels))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    def forward(self, pixels_BCTHW: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Encode and decode.

        Args:
            pixels_BCTHW: Clips whose sizes come out even.
            noise: Standard normal (B, z, t, h, w), to sample the posterior with; None: its mean is decoded.
        """
        posterior = self.vae.encode(pixels_BCTHW).latent_dist
        mean, log_variance = posterior.mean, posterior.logvar
        latents = mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise.to(mean)
        if self.training:
            self._observe(mean)
        return Reconstruction(self.vae.decode(latents, return_dict=False)[0], mean, log_variance)

    @torch.no_grad()
    def _observe(self, mean: Tensor) -> None:
        """Take a batch's latents into their statistics; the first steps count alike."""
        self.num_updates += 1
        weight = (1.0 / self.num_updates.float()).clamp(min=1 - _STATISTICS_DECAY)
        values = mean.detach().float().transpose(0, 1).flatten(1)
        self.latents_mean += weight * (values.mean(dim=1) - self.latents_mean)
        self.latents_variance += weight * (values.var(dim=1) - self.latents_variance)

    def final_config(self) -> dict[str, Any]:
        """The autoencoder's arguments with the mean and standard deviation that its latents have come to have."""
        std = self.latents_variance.sqrt().clamp(min=_LEAST_STD)
        return {
            **self.vae_config,
            "latents_mean": [float(v) for v in self.latents_mean],
            "latents_std": [float(v) for v in std],
        }


def _arguments(vae: Mapping[str, Any]) -> dict[str, Any]:
    """Lists where AutoencoderKLWan wants them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vae.items()}
