"""Mamba-1 mixers: one direction, with mamba_ssm's parameter names, and the bidirectional block of MACE-Dance.

Shapes: B batch, T time steps, M model width, D inner width (expand * M), N state size, R rank of the step sizes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from macedance.errors import ConfigError
from macedance.nn.scan import causal_convolution_silu, selective_scan

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4


class Mamba1Mixer(nn.Module):
    """Mamba-1 over time, causal; parameters, their names and their initialisation are those of ``mamba_ssm.Mamba``.

    On a CUDA tensor mamba_ssm's kernel runs where it is installed and works; everywhere else our own scan.

    Args:
        dim: Model width M.
        state_dim: State size N of every channel.
        conv_width: Taps W of the depthwise causal convolution.
        expand: Inner width over model width.

    Raises:
        ConfigError: A size is not positive.

    Source: Gu and Dao, "Mamba", 2023, section 3.4 and figure 3; initial step sizes of section 3.6.
    """

    def __init__(self, dim: int, state_dim: int = 16, conv_width: int = 4, expand: int = 2) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("state_dim", state_dim), ("conv_width", conv_width), ("expand", expand)):
            if value < 1:
                raise ConfigError(f"{name} of the Mamba mixer is {value}", expected="1 or more")
        inner, self.rank, self.state_dim = expand * dim, math.ceil(dim / 16), state_dim
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, conv_width, groups=inner, padding=conv_width - 1)
        self.x_proj = nn.Linear(inner, self.rank + 2 * state_dim, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, state_dim + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self._init_step_sizes()

    def _init_step_sizes(self) -> None:
        """Let softplus(bias) be log-uniform in [DT_MIN, DT_MAX] and keep the variance through the low-rank map."""
        bound = self.rank**-0.5
        with torch.no_grad():
            self.dt_proj.weight.uniform_(-bound, bound)
            log_dt = torch.empty_like(self.dt_proj.bias).uniform_(math.log(DT_MIN), math.log(DT_MAX))
            dt = log_dt.exp().clamp_min(DT_FLOOR)
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, x_BTM: Tensor) -> Tensor:
        """Mix (B, T, M) over time; frame t sees the frames up to t."""
        x_BTD, z_BTD = _two_halves(self.in_proj, x_BTM)
        x_BTD = causal_convolution_silu(x_BTD, self.conv1d.weight, self.conv1d.bias)
        dt_BTR, B_BTN, C_BTN = self.x_proj(x_BTD).split([self.rank, self.state_dim, self.state_dim], dim=-1)
        y_BTD = selective_scan(
            x_BTD,
            F.linear(dt_BTR, self.dt_proj.weight),
            -self.A_log.float().exp(),
            B_BTN,
            C_BTN,
            skip_D=self.D,
            gate_BTD=z_BTD,
            delta_bias_D=self.dt_proj.bias,
            softplus=True,
        )
        return self.out_proj(y_BTD)


def _two_halves(projection: nn.Module, x_BTM: Tensor) -> tuple[Tensor, Tensor]:
    """Both halves of a projection's channels, each contiguous, as the scan needs them."""
    if type(projection) is nn.Linear and projection.bias is None:
        # Two products instead of one that is split and copied.
        weight_x, weight_z = projection.weight.chunk(2)
        return F.linear(x_BTM, weight_x), F.linear(x_BTM, weight_z)
    # An adapted projection (LoRA) is more than its weight: it must be called.
    x_BTD, z_BTD = projection(x_BTM).chunk(2, dim=-1)
    return x_BTD.contiguous(), z_BTD.contiguous()


class BiMamba(nn.Module):
    """Pre-normalised Mamba in both directions of time, summed: ``dropout(F(n) + flip(G(flip(n))))``, n = LayerNorm(x).

    Args:
        dim: Model width M.
        state_dim: State size N.
        conv_width: Taps of the convolution.
        expand: Inner width over model width.
        dropout: Share of the output's values dropped in training.
        bidirectional: False leaves out G, the paper's ablation "BiMamba -> Mamba".

    Source: MACE-Dance, section 3.2.
    """

    def __init__(
        self,
        dim: int,
        state_dim: int = 16,
        conv_width: int = 4,
        expand: int = 2,
        dropout: float = 0.1,
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mamba_forward = Mamba1Mixer(dim, state_dim, conv_width, expand)
        self.mamba_backward = Mamba1Mixer(dim, state_dim, conv_width, expand) if bidirectional else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTM: Tensor) -> Tensor:
        """Mix (B, T, M) over time; the residual connection is the caller's."""
        x_BTM = self.norm(x_BTM)
        y_BTM = self.mamba_forward(x_BTM)
        if self.mamba_backward is not None:
            y_BTM = y_BTM + self.mamba_backward(x_BTM.flip(1)).flip(1)
        return self.dropout(y_BTM)
