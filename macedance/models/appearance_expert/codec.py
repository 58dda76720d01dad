"""Pixels to standardised latents and back, through a frozen video autoencoder.

Shapes: B clips, C channels, T frames or latent frames, H, W rows and columns; pixels in [-1, 1].
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from macedance.models.appearance_expert.geometry import LatentGeometry
from macedance.models.appearance_expert.initialisation import prefer_channels_last
from macedance.models.appearance_expert.one_pass import decode_clip, encode_clip
from macedance.models.appearance_expert.text_encoders import weights_identity

#: Frames of the pieces in which diffusers encodes and decodes, whatever the autoencoder's factor.
_PIECE_FRAMES = 4


class LatentCodec(nn.Module):
    """An AutoencoderKLWan with its latents brought to zero mean and unit variance by its configuration.

    Clips go through it piece by piece, as diffusers has it, where its temporal factor is 4; else in one pass
    (one_pass.py), since diffusers' pieces are of four frames whatever the factor and lose the rest.

    Args:
        vae: The autoencoder; frozen here and kept in ``eval``.
        patch: Of the transformer, for the geometry.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vae: Any, patch: int = 2) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        self.geometry = LatentGeometry.of(vae.config, patch)
        self._blanks: dict[tuple[Any, ...], Tensor] = {}
        self._laid_out = False
        for name, values in (("mean", vae.config["latents_mean"]), ("std", vae.config["latents_std"])):
            values = torch.tensor(list(values)[: self.geometry.channels], dtype=torch.float32)
            self.register_buffer(name, values.view(1, -1, 1, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> LatentCodec:
        """Stays in ``eval``: a frozen autoencoder has no training mode."""
        return super().train(False)

    def identity(self) -> str:
        """Sha256 (64 hex digits) of its weights and of what standardises its latents."""
        digest = hashlib.sha256(weights_identity(self.vae).encode())
        for statistic in (self.mean, self.std):
            digest.update(statistic.float().cpu().numpy().astype("<f4").tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def encode(self, pixels_BCTHW: Tensor) -> Tensor:
        """Standardised latents (B, z, t, h, w), the mode of the posterior, float32.

        Raises:
            ConfigError: Pixels or frames that do not come out even.
        """
        self.geometry.check(*pixels_BCTHW.shape[2:])
        pixels = self._own(pixels_BCTHW)
        latents: Tensor
        if self._in_pieces:
            latents = self.vae.encode(pixels).latent_dist.mode()
        else:
            latents = encode_clip(self.vae, pixels).chunk(2, dim=1)[0]
        return self.standardised(latents.float())

    def blank(self, batch: int, frames: int, height: int, width: int) -> Tensor:
        """Latents of a clip of which nothing is known: every pixel 0, as Wan-Animate marks it; kept for each size."""
        parameter = next(self.vae.parameters())
        key = (frames, height, width, parameter.device, parameter.dtype)
        if key not in self._blanks:
            with torch.inference_mode(False):  # a validation may be the first to ask, and training the next
                clip = torch.zeros(1, 3, frames, height, width, device=parameter.device)
                self._blanks[key] = self.encode(clip)
        return self._blanks[key].expand(batch, -1, -1, -1, -1)

    @torch.no_grad()
    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Pixels (B, 3, T, H, W) in [-1, 1], float32."""
        raw = self._own(self.raw(latents_BCTHW.float()))
        decoded: Tensor = self.vae.decode(raw, return_dict=False)[0] if self._in_pieces else decode_clip(self.vae, raw)
        return decoded.float()

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the autoencoder's weights, in which it computes."""
        return next(self.vae.parameters()).dtype

    @property
    def _in_pieces(self) -> bool:
        return self.geometry.temporal == _PIECE_FRAMES

    def _own(self, x: Tensor) -> Tensor:
        """A tensor where the autoencoder is, as it computes; on a CPU with the channels innermost, as its weights."""
        parameter = next(self.vae.parameters())
        x = x.to(parameter.device, parameter.dtype)
        if parameter.device.type != "cpu":
            return x
        if not self._laid_out:
            prefer_channels_last(self.vae)
            self._laid_out = True
        return x.contiguous(memory_format=torch.channels_last_3d)

    def standardised(self, latents: Tensor) -> Tensor:
        """Zero mean and unit variance from the autoencoder's own latents."""
        return (latents - self.mean.to(latents.device)) / self.std.to(latents.device)

    def raw(self, latents: Tensor) -> Tensor:
        """Undo ``standardised``."""
        return latents * self.std.to(latents.device) + self.mean.to(latents.device)
