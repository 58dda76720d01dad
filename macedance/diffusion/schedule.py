"""The cosine noise schedule of 1000 steps.

Shapes: B batch, T frames, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from typing_extensions import Self

from macedance.errors import ConfigError


class CosineSchedule(nn.Module):
    """How much of the signal and how much noise a motion at step t holds.

    alpha_bar(t) is the product of 1 - min(1 - f(t) / f(t - 1), 0.999) with f(u) = cos^2((u / T + s) / (1 + s) * pi / 2)
    (Nichol and Dhariwal 2021, eq. 17; used by EDGE and MACE-Dance).

    Args:
        num_steps: T, at least 1. Step t runs from 0 (almost clean) to T - 1 (almost pure noise).
        offset: s of the formula.

    Attributes:
        alpha_bar: (num_steps,) share of the signal's variance.

    The tables are no part of a state dict, and stay float32 when the module is cast to half precision: in bfloat16
    1 - alpha_bar would be 0 for the first 60 steps.

    Raises:
        ConfigError: `num_steps` is below 1.
    """

    alpha_bar: Tensor
    signal_scale: Tensor
    noise_scale: Tensor

    def __init__(self, num_steps: int = 1000, offset: float = 0.008) -> None:
        super().__init__()
        if num_steps < 1:
            raise ConfigError(f"a schedule of {num_steps} steps", expected="num_steps of 1 or more")
        self.num_steps = num_steps
        self.offset = offset
        for name, table in self._tables().items():
            self.register_buffer(name, table, persistent=False)

    def _tables(self) -> dict[str, Tensor]:
        alpha_bar = torch.cumprod(1 - self.betas(), dim=0)
        return {
            "alpha_bar": alpha_bar.float(),
            "signal_scale": alpha_bar.sqrt().float(),
            "noise_scale": (1 - alpha_bar).sqrt().float(),
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self.alpha_bar.dtype != torch.float32 and not self.alpha_bar.is_meta:
            for name, table in self._tables().items():
                setattr(self, name, table.to(self.alpha_bar.device))
        return self

    def betas(self) -> Tensor:
        """Noise added by each step, (num_steps,) float64: 1 - alpha_bar(t) / alpha_bar(t - 1)."""
        edges = torch.arange(self.num_steps + 1, dtype=torch.float64) / self.num_steps
        f = torch.cos((edges + self.offset) / (1 + self.offset) * math.pi / 2) ** 2
        return (1 - f[1:] / f[:-1]).clamp(max=0.999)

    def add_noise(self, x0_BTC: Tensor, t_B: Tensor, noise_BTC: Tensor) -> Tensor:
        """The noised xt = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise, each row at its own step.

        Args:
            x0_BTC: Clean normalised motion.
            t_B: Steps, int64, 0 .. num_steps - 1.
            noise_BTC: Standard normal.

        Returns:
            xt_BTC in the dtype of `x0_BTC`.
        """
        shape = (-1,) + (1,) * (x0_BTC.dim() - 1)
        signal_B = self.signal_scale[t_B].view(shape)
        noise_B = self.noise_scale[t_B].view(shape)
        return (signal_B * x0_BTC + noise_B * noise_BTC).to(x0_BTC.dtype)

    def extra_repr(self) -> str:
        """Text for repr()."""
        return f"num_steps={self.num_steps}, offset={self.offset}"
