"""A small stand-in network with the interface that the objectives and the pipeline use."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ToyNetwork(nn.Module):
    """Per-frame perceptron over (xt, t, beta, tokens); counts what it is asked."""

    def __init__(self, motion_dim: int = 151, music_dim: int = 35, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = nn.Linear(music_dim, width)
        self.null = nn.Parameter(torch.randn(1, 1, width))
        self.inner = nn.Sequential(
            nn.Linear(motion_dim + width + 2, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, motion_dim),
        )
        self.calls: list[tuple[int, list[float], bool]] = []
        self.encodings = 0

    def encode_music(self, music: Tensor, genre: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        self.encodings += 1
        tokens = self.encoder(music)
        if genre is not None:
            tokens = tokens + genre.view(-1, 1, 1)
        if keep is None:
            return tokens
        return torch.where(keep.view(-1, 1, 1), tokens, self.null)

    def denoise(self, xt: Tensor, t: Tensor, beta: Tensor, tokens: Tensor) -> Tensor:
        self.calls.append((len(xt), beta.tolist(), self.training))
        extra = torch.stack([t / 1000, beta], dim=-1)[:, None].expand(-1, xt.shape[1], -1)
        return self.inner(torch.cat([xt, tokens, extra], dim=-1))
