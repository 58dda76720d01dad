"""Mamba-1 mixers: one direction, with mamba_ssm's parameter names, and the bidirectional block of MACE-Dance.

Shapes: B batch, T time steps, M model width, D inner width (expand * M), N state size, R rank of the step sizes,
W width of the convolution.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from macedance.errors import ConfigError
from macedance.nn.scan import selective_scan

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
        x_BTD, z_BTD = self.in_proj(x_BTM).chunk(2, dim=-1)
        if x_BTM.is_cuda and (kernel := cuda_selective_scan()) is not None:
            return self.out_proj(self._mix_with_kernel(kernel, x_BTD, z_BTD))
        return self.out_proj(self._mix(x_BTD, z_BTD))

    def _mix(self, x_BTD: Tensor, z_BTD: Tensor) -> Tensor:
        x_TBD = F.silu(causal_convolution(x_BTD.transpose(0, 1), self.conv1d.weight, self.conv1d.bias))
        dt_TBR, B_TBN, C_TBN = self.x_proj(x_TBD).split([self.rank, self.state_dim, self.state_dim], dim=-1)
        delta_TBD = F.softplus(F.linear(dt_TBR, self.dt_proj.weight).float() + self.dt_proj.bias.float())
        y_TBD = selective_scan(x_TBD, delta_TBD, -self.A_log.float().exp(), B_TBN, C_TBN)
        y_TBD = torch.addcmul(y_TBD, x_TBD, self.D.to(y_TBD.dtype))
        return y_TBD.transpose(0, 1) * F.silu(z_BTD)

    def _mix_with_kernel(self, kernel: Callable[..., Tensor], x_BTD: Tensor, z_BTD: Tensor) -> Tensor:
        # mamba_ssm keeps time last
        x_BDT = F.silu(self.conv1d(x_BTD.transpose(1, 2))[..., : x_BTD.shape[1]])
        dt_BTR, B_BTN, C_BTN = self.x_proj(x_BDT.transpose(1, 2)).split(
            [self.rank, self.state_dim, self.state_dim], dim=-1
        )
        delta_BDT = F.linear(dt_BTR, self.dt_proj.weight).transpose(1, 2)
        y_BDT = kernel(
            x_BDT,
            delta_BDT.contiguous(),
            -self.A_log.float().exp(),
            B_BTN.transpose(1, 2).contiguous(),
            C_BTN.transpose(1, 2).contiguous(),
            self.D.float(),
            z=z_BTD.transpose(1, 2).contiguous(),
            delta_bias=self.dt_proj.bias.float(),
            delta_softplus=True,
        )
        return y_BDT.transpose(1, 2)


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


def causal_convolution(x_TBD: Tensor, weight_D1W: Tensor, bias_D: Tensor | None) -> Tensor:
    """Depthwise convolution over time that sees the present and the W - 1 steps before, zeros before the first.

    Args:
        x_TBD: Signal, time first.
        weight_D1W: Taps of every channel in the layout of ``nn.Conv1d(groups=D)``; the last is the present.
        bias_D: Bias of every channel.

    Written as W shifted products: for a handful of taps that beats a convolution library on CPUs.
    """
    T, width = x_TBD.shape[0], weight_D1W.shape[-1]
    padded = F.pad(x_TBD, (0, 0, 0, 0, width - 1, 0))
    taps_WD = weight_D1W[:, 0].t().to(x_TBD.dtype)
    y_TBD = padded[width - 1 :] * taps_WD[width - 1]
    if bias_D is not None:
        y_TBD = y_TBD + bias_D.to(x_TBD.dtype)
    for tap in range(width - 1):
        y_TBD = torch.addcmul(y_TBD, padded[tap : tap + T], taps_WD[tap])
    return y_TBD


@functools.lru_cache(maxsize=1)
def cuda_selective_scan() -> Callable[..., Tensor] | None:
    """mamba_ssm's selective scan, or None where it is missing, cannot be imported or does not run on this GPU."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        small = torch.ones(1, 2, 3, device="cuda")
        states = torch.ones(1, 2, 3, device="cuda")
        selective_scan_fn(small, small, -torch.ones(2, 2, device="cuda"), states, states)
    except Exception:  # a half-built extension fails in any way: ImportError, AttributeError, RuntimeError, TypeError
        return None
    return selective_scan_fn
