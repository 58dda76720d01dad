"""Attention blocks: music cross-attention with its feed-forward, and the self-attention of an ablation.

Shapes: B batch, T frames, N tokens, D width, H heads.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from macedance.errors import ConfigError
from macedance.nn.embeddings import rotate_by_position


class CrossAttentionFeedForward(nn.Module):
    """Attention from dance to music, then a feed-forward on its result, as the released MACE-Dance has it.

    ``z = dropout(MHA(LN(x), LN(music), LN(music)))``, ``dropout(W2 dropout(gelu(W1 LN(z))))``: there is no residual
    connection between the two, and no position but what the tokens carry. The outer residual is the caller's.

    Args:
        dim: Width D, divisible by `num_heads`.
        num_heads: Heads H.
        feedforward_dim: Inner width of the feed-forward.
        dropout: Share of values dropped in training.

    Raises:
        ConfigError: The width is not divisible by the number of heads.

    Source: MACE-Dance, section 3.2 and its released code.
    """

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        _check_heads(dim, num_heads)
        self.cross_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm_dance = nn.LayerNorm(dim)
        self.norm_music = nn.LayerNorm(dim)
        self.norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, music_BND: Tensor) -> Tensor:
        """Read `music_BND` from every frame of `x_BTD`; returns (B, T, D)."""
        music_BND = self.norm_music(music_BND)
        z_BTD, _ = self.cross_attn(self.norm_dance(x_BTD), music_BND, music_BND, need_weights=False)
        z_BTD = self.norm(self.dropout(z_BTD))
        return self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(z_BTD)))))


class SelfAttention(nn.Module):
    """Pre-normalised self-attention with rotary positions: the ablation "BiMamba -> Transformer".

    Rotary positions because they know distances only, so that a sequence longer than training's stays meaningful.

    Args:
        dim: Width D, divisible by `num_heads`, the width of a head even.
        num_heads: Heads H.
        dropout: Share of the output's values dropped in training.

    Raises:
        ConfigError: The width does not fit the number of heads.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        _check_heads(dim, num_heads)
        if dim // num_heads % 2:
            raise ConfigError(f"a head of the self-attention is {dim // num_heads} wide", expected="an even width")
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Mix (B, T, D) over time; the residual connection is the caller's."""
        qkv = self.in_proj(self.norm(x_BTD)).unflatten(-1, (3, self.num_heads, -1))
        q_BHTD, k_BHTD, v_BHTD = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y_BHTD = F.scaled_dot_product_attention(rotate_by_position(q_BHTD), rotate_by_position(k_BHTD), v_BHTD)
        return self.dropout(self.out_proj(y_BHTD.transpose(1, 2).flatten(2)))


def _check_heads(dim: int, num_heads: int) -> None:
    if num_heads < 1 or dim % num_heads:
        raise ConfigError(
            f"a width of {dim} does not divide into {num_heads} heads", expected="a multiple of the heads"
        )
