"""Embeddings of scalars and of positions.

Shapes: B batch, T frames, H heads, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from macedance.errors import ConfigError

# Longest wavelength of both embeddings, in steps, over 2 pi.
MAX_PERIOD = 10_000.0


class SinusoidalEmbedding(nn.Module):
    """Sines, then cosines, of a scalar at geometrically spaced frequencies from 1 down to 1 / 10000.

    Args:
        dim: Width D, even and at least 4.
        scale: Factor on the scalar before the embedding (1000 for a guidance strength in [0, 1]).

    Raises:
        ConfigError: The width is odd or below 4.

    Source: Ho et al., "DDPM", 2020, with the spacing over D / 2 - 1 of its released code.
    """

    def __init__(self, dim: int, scale: float = 1.0) -> None:
        super().__init__()
        if dim < 4 or dim % 2:
            raise ConfigError(f"the sinusoidal embedding's width is {dim}", expected="an even number, 4 or more")
        self.dim, self.scale = dim, scale

    def forward(self, value_B: Tensor) -> Tensor:
        """Embed (B,) scalars of any real type as (B, D) float32."""
        half = self.dim // 2
        exponent = torch.arange(half, device=value_B.device, dtype=torch.float32) / (half - 1)
        angle = (value_B.float() * self.scale)[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponent)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


def rotate_by_position(x_BHTD: Tensor) -> Tensor:
    """Rotary position embedding: turn pairs of channels by angles proportional to the frame's number.

    Dot products of two turned vectors depend on the distance of their frames only, so a sequence longer than those of
    training meets no unseen position, only unseen distances.

    Args:
        x_BHTD: Queries or keys; the width of a head must be even.

    Source: Su et al., "RoFormer", 2021, eq. 34, with the halves of the width as pairs.
    """
    half = x_BHTD.shape[-1] // 2
    frequency = MAX_PERIOD ** (-torch.arange(half, device=x_BHTD.device, dtype=torch.float32) / half)
    angle_TD = torch.arange(x_BHTD.shape[-2], device=x_BHTD.device, dtype=torch.float32)[:, None] * frequency
    cos, sin = angle_TD.cos().to(x_BHTD.dtype), angle_TD.sin().to(x_BHTD.dtype)
    first, second = x_BHTD.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
