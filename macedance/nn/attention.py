"""Attention blocks: music cross-attention with its feed-forward, and the self-attention of an ablation.

Shapes: B batch, T frames, N tokens, D width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from macedance.errors import ConfigError
from macedance.nn.embeddings import rotate_by_position


class MultiHeadCrossAttention(nn.Module):
    """Attention from one sequence to another, with the parameter names and initialisation of torch's module.

    Ours because torch's runs its scores in bfloat16 under autocast, whose backward pass on CPUs takes four times as
    long as float32's: here they run in float32 on CPUs.

    Args:
        dim: Width D, divisible by `num_heads`.
        num_heads: Heads H.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        _check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_BTD: Tensor, memory_BND: Tensor) -> Tensor:
        """Read `memory_BND` from every frame of `x_BTD`; returns (B, T, D)."""
        dim = x_BTD.shape[-1]
        weight_q, weight_kv = self.in_proj_weight.split([dim, 2 * dim])
        bias_q, bias_kv = self.in_proj_bias.split([dim, 2 * dim])
        q_BTD = F.linear(x_BTD, weight_q, bias_q)
        k_BND, v_BND = F.linear(memory_BND, weight_kv, bias_kv).chunk(2, dim=-1)
        return self.out_proj(attend(*(_split_heads(x, self.num_heads) for x in (q_BTD, k_BND, v_BND))))


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
        self.cross_attn = MultiHeadCrossAttention(dim, num_heads)
        self.norm_dance = nn.LayerNorm(dim)
        self.norm_music = nn.LayerNorm(dim)
        self.norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, music_BND: Tensor) -> Tensor:
        """Read `music_BND` from every frame of `x_BTD`; returns (B, T, D)."""
        z_BTD = self.cross_attn(self.norm_dance(x_BTD), self.norm_music(music_BND))
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
        q_BHTD, k_BHTD, v_BHTD = (
            _split_heads(x, self.num_heads) for x in self.in_proj(self.norm(x_BTD)).chunk(3, dim=-1)
        )
        y_BTD = attend(rotate_by_position(q_BHTD), rotate_by_position(k_BHTD), v_BHTD)
        return self.dropout(self.out_proj(y_BTD))


def attend(q_BHTD: Tensor, k_BHND: Tensor, v_BHND: Tensor) -> Tensor:
    """Softmax attention with the heads' widths joined again: (B, T, H * D), in the type of `q_BHTD`."""
    dtype = q_BHTD.dtype
    if q_BHTD.is_meta:  # autocast knows no such device
        return F.scaled_dot_product_attention(q_BHTD, k_BHND, v_BHND).transpose(1, 2).flatten(2)
    if q_BHTD.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16):
        q_BHTD, k_BHND, v_BHND = q_BHTD.float(), k_BHND.float(), v_BHND.float()
    with torch.autocast(q_BHTD.device.type, enabled=False):
        y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHND, v_BHND)
    return y_BHTD.transpose(1, 2).flatten(2).to(dtype)


def _split_heads(x_BTD: Tensor, num_heads: int) -> Tensor:
    return x_BTD.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _check_heads(dim: int, num_heads: int) -> None:
    if num_heads < 1 or dim % num_heads:
        raise ConfigError(
            f"a width of {dim} does not divide into {num_heads} heads", expected="a multiple of the heads"
        )
