"""A video autoencoder that can be trained here: AutoencoderKLWan at any size, with the statistics of its latents.

Shapes: B clips, T frames, H, W rows and columns; z latent channels, t, h, w latent frames, rows and columns; pixels in
[-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from macedance.errors import ConfigError
from macedance.models.appearance_expert.geometry import LatentGeometry
from macedance.models.appearance_expert.initialisation import prefer_channels_last, preserve_variance
from macedance.models.appearance_expert.linear_start import patch_components, start_linear
from macedance.models.appearance_expert.one_pass import decode_clip, encode_clip

#: Weight of the past in the latents' statistics, per training step.
_STATISTICS_DECAY = 0.99
_LEAST_STD = 1e-3
#: Pictures, and their latent rows and columns, from which ``picture_change`` is measured.
_PROBES, _PROBE_SIDE = 8, 8
LatentWeights = Literal["equal", "picture"]
#: As diffusers' posterior has it.
_LOG_VARIANCE_RANGE = (-30.0, 20.0)


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
    """An AutoencoderKLWan being trained: whole clips in one pass, weights that keep a signal's size at the start.

    Args:
        vae: Its constructor arguments; ``scale_factor_spatial`` and ``scale_factor_temporal`` say its factors.
        latent_weights: Power of the latents' channels for who standardises them: ``equal``, as Wan has it, or
            ``picture``: as much as a channel changes in the picture, so that an error of the latents weighs what it
            will weigh in pixels. Mean 1 either way.

    Raises:
        ConfigError: Other weights.
    """

    vae: Any
    latents_mean: Tensor
    latents_variance: Tensor
    num_updates: Tensor

    def __init__(self, vae: dict[str, Any], latent_weights: LatentWeights = "equal") -> None:
        from diffusers import AutoencoderKLWan

        super().__init__()
        if latent_weights not in get_args(LatentWeights):
            raise ConfigError(f"latent_weights is {latent_weights!r}", expected=" or ".join(get_args(LatentWeights)))
        self.latent_weights: LatentWeights = latent_weights
        self.vae_config = dict(vae)
        self.geometry = LatentGeometry.of(vae)
        self.vae = AutoencoderKLWan(**_arguments(vae))
        preserve_variance(self.vae)
        prefer_channels_last(self.vae)
        self.register_buffer("latents_mean", torch.zeros(self.geometry.channels))
        self.register_buffer("latents_variance", torch.ones(self.geometry.channels))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    def forward(self, pixels_BCTHW: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Encode and decode. In training, pixels beyond [-1, 1] stay there, so that they have a gradient.

        Args:
            pixels_BCTHW: Clips whose sizes come out even.
            noise: Standard normal (B, z, t, h, w), to sample the posterior with; None: its mean is decoded.
        """
        pixels = pixels_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        mean, log_variance = encode_clip(self.vae, pixels).chunk(2, dim=1)
        log_variance = log_variance.float().clamp(*_LOG_VARIANCE_RANGE)
        latents = mean if noise is None else mean + (torch.exp(0.5 * log_variance) * noise).to(mean)
        if self.training:
            self._observe(mean)
        return Reconstruction(decode_clip(self.vae, latents, clamp=not self.training), mean, log_variance)

    def start_linear(self, pixels_BCTHW: Tensor) -> None:
        """Begin as the principal components of the patches of these clips in [-1, 1]; see ``linear_start``.

        Raises:
            ConfigError: An autoencoder that is not made of patches alone.
        """
        patch = int(self.vae.config["patch_size"] or 1)
        start_linear(self.vae, patch_components(pixels_BCTHW, patch, self.geometry.channels))

    @torch.no_grad()
    def _observe(self, mean: Tensor) -> None:
        """Take a batch's latents into their statistics; the first steps count alike."""
        self.num_updates += 1
        weight = (1.0 / self.num_updates.float()).clamp(min=1 - _STATISTICS_DECAY)
        values = mean.detach().float().transpose(0, 1).flatten(1)
        self.latents_mean += weight * (values.mean(dim=1) - self.latents_mean)
        self.latents_variance += weight * (values.var(dim=1) - self.latents_variance)

    @torch.no_grad()
    def picture_change(self, std: Tensor) -> Tensor:
        """How far the decoded picture moves (z,), root mean square, when one channel of latents falls to its mean.

        Args:
            std: Standard deviations (z,) of the latents.
        """
        generator = torch.Generator().manual_seed(0)
        shape = (_PROBES, self.geometry.channels, 1, _PROBE_SIDE, _PROBE_SIDE)
        noise = torch.randn(shape, generator=generator).to(std.device)
        view = (1, -1, 1, 1, 1)
        latents = self.latents_mean.view(view) + std.view(view) * noise
        whole = decode_clip(self.vae, latents, clamp=False)
        changes = []
        for channel, mean in enumerate(self.latents_mean):
            without = latents.clone()
            without[:, channel] = mean
            changes.append((decode_clip(self.vae, without, clamp=False) - whole).square().mean().sqrt())
        return torch.stack(changes)

    def final_config(self) -> dict[str, Any]:
        """The autoencoder's arguments with the mean and standard deviation that its latents have come to have."""
        std = self.latents_variance.sqrt().clamp(min=_LEAST_STD)
        if self.latent_weights == "picture":
            share = self.picture_change(std)
            std = std / (share / share.square().mean().sqrt()).clamp(min=_LEAST_STD)
        return {
            **self.vae_config,
            "latents_mean": [float(v) for v in self.latents_mean],
            "latents_std": [float(v) for v in std],
        }


def _arguments(vae: Mapping[str, Any]) -> dict[str, Any]:
    """Lists where AutoencoderKLWan wants them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vae.items()}
