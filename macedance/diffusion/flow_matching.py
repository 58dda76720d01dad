"""Rectified flow between data and noise, as the Wan video models are trained and sampled.

Lipman et al., "Flow Matching for Generative Modeling" (ICLR 2023), eq. 20-23 with straight paths; Esser et al.,
"Scaling Rectified Flow Transformers" (ICML 2024), eq. 23, for the shift of the noise levels.

Shapes: B batch, C channels, T latent frames, H, W latent rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from macedance.diffusion.draws import row_generator
from macedance.errors import ConfigError

#: The networks are told the noise level times this.
TIMESTEPS = 1000.0
Weighting = Literal["uniform", "bell"]
#: How velocities become data: steps straight along them, or UniPC, which takes the step before into account.
FlowSampler = Literal["euler", "unipc"]

_TRAINING_STREAM = 3
_SAMPLING_STREAM = 4


@dataclass(frozen=True)
class FlowMatching:
    """Paths x_t = (1 - sigma) x0 + sigma noise, and what the network learns on them: the velocity noise - x0.

    Args:
        shift: Moves noise levels towards noise, sigma' = shift sigma / (1 + (shift - 1) sigma): 5 for Wan-Animate.
        weighting: Of the loss over noise levels: ``uniform``, or ``bell``, which DiffSynth trains Wan with
            (exp(-2 (sigma - 1/2)^2) less its minimum, mean 1).

    Raises:
        ConfigError: A shift that is not above 0, or an unknown weighting.
    """

    shift: float = 5.0
    weighting: Weighting = "uniform"

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ConfigError(f"shift is {self.shift}", expected="a number above 0")
        if self.weighting not in get_args(Weighting):
            raise ConfigError(f"weighting is {self.weighting!r}", expected=" or ".join(get_args(Weighting)))

    def sigma(self, u: Tensor) -> Tensor:
        """Noise levels in (0, 1] of uniform draws in (0, 1]."""
        return self.shift * u / (1 + (self.shift - 1) * u)

    def add_noise(self, x0_BCTHW: Tensor, noise_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
        """x_t of clips at their noise levels."""
        sigma = sigma_B.to(x0_BCTHW.dtype).view(-1, *(1,) * (x0_BCTHW.ndim - 1))
        return (1 - sigma) * x0_BCTHW + sigma * noise_BCTHW

    @staticmethod
    def velocity(x0_BCTHW: Tensor, noise_BCTHW: Tensor) -> Tensor:
        """What the network is to predict: noise - x0."""
        return noise_BCTHW - x0_BCTHW

    def loss_weight(self, sigma_B: Tensor) -> Tensor:
        """Weight (B,) of each clip's squared error; its mean over uniform noise levels is 1."""
        if self.weighting == "uniform":
            return torch.ones_like(sigma_B)
        return _bell(sigma_B) / _bell(torch.linspace(0, 1, 1001)).mean().to(sigma_B)

    def levels(self, num_steps: int) -> list[float]:
        """Noise levels of a sampling run, ``num_steps`` + 1 of them, from 1 down to 0, even before the shift.

        Raises:
            ConfigError: Less than one step.
        """
        if num_steps < 1:
            raise ConfigError(f"{num_steps} sampling steps", expected="1 or more")
        even = np.linspace(1.0, 0.0, num_steps + 1)
        return [float(self.shift * u / (1 + (self.shift - 1) * u)) for u in even]

    def sample(
        self,
        velocity: Callable[[Tensor, Tensor], Tensor],
        noise_BCTHW: Tensor,
        num_steps: int,
        progress: Callable[[int, int], None] | None = None,
        sampler: FlowSampler = "euler",
    ) -> Tensor:
        """Data from noise along the predicted velocity.

        Args:
            velocity: Called with (x_t, sigma (B,)); predicts noise - x0.
            noise_BCTHW: Standard normal, at which the path starts.
            num_steps: Calls of the network.
            progress: Told (steps done, steps in all).
            sampler: ``euler``: steps along the velocity between `levels`. ``unipc``: UniPC of order 2 with a corrector
                (Zhao et al., NeurIPS 2023, B2(h)) at diffusers' noise levels, as Wan-Animate is released: the first is
                a millionth below 1, the last above 0, and the network is told the timestep's whole part.

        Raises:
            ConfigError: Less than one step, or an unknown sampler.
        """
        if sampler == "unipc":
            return self._unipc(velocity, noise_BCTHW, num_steps, progress)
        if sampler != "euler":
            raise ConfigError(f"unknown sampler {sampler!r}", expected=" or ".join(get_args(FlowSampler)))
        x = noise_BCTHW
        levels = self.levels(num_steps)
        for step, (sigma, following) in enumerate(pairwise(levels)):
            v = velocity(x, torch.full((len(x),), sigma, device=x.device, dtype=torch.float32))
            x = x + (following - sigma) * v.to(x.dtype)
            if progress is not None:
                progress(step + 1, num_steps)
        return x

    def _unipc(
        self,
        velocity: Callable[[Tensor, Tensor], Tensor],
        noise_BCTHW: Tensor,
        num_steps: int,
        progress: Callable[[int, int], None] | None,
    ) -> Tensor:
        """`sample` by diffusers' solver, whose state belongs to this call alone."""
        from diffusers import UniPCMultistepScheduler

        if num_steps < 1:
            raise ConfigError(f"{num_steps} sampling steps", expected="1 or more")
        solver: Any = UniPCMultistepScheduler(
            num_train_timesteps=int(TIMESTEPS),
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=self.shift,
        )
        solver.set_timesteps(num_steps, device=noise_BCTHW.device)
        solver.set_begin_index(0)  # or it would look for the timestep, of which there are two alike in many steps
        x = noise_BCTHW
        for step, timestep in enumerate(solver.timesteps):
            v = velocity(x, (timestep.float() / TIMESTEPS).expand(len(x)))
            x = solver.step(v.to(x.dtype), timestep, x, return_dict=False)[0]
            if progress is not None:
                progress(step + 1, num_steps)
        return x


@dataclass(frozen=True)
class FlowDraws:
    """The draws of one training step.

    Attributes:
        u_B: Uniform in (0, 1], float32, before the shift.
        noise: Standard normal, float32, of the latents' shape (B, ...).
        drop_B: bool, True where the conditions are dropped.
        known_B: bool, True where the clip's first frames are given.
    """

    u_B: Tensor
    noise: Tensor
    drop_B: Tensor
    known_B: Tensor

    def to(self, device: torch.device | str) -> FlowDraws:
        """The same draws on another device."""
        return FlowDraws(self.u_B.to(device), self.noise.to(device), self.drop_B.to(device), self.known_B.to(device))


def draw_flow(
    seed: int,
    sample_numbers: Tensor | Sequence[int],
    shape: Sequence[int],
    drop_probability: float = 0.0,
    known_probability: float = 0.0,
) -> FlowDraws:
    """Noise level, condition drop, noise and what is known of each row, from its own stream; see draws.py.

    Args:
        seed: The run's seed.
        sample_numbers: Global sample numbers (B,).
        shape: Of one row's latents.
        drop_probability: Chance that a row's conditions are dropped, 0 .. 1.
        known_probability: Chance that a row's first frames are given, 0 .. 1.
    """
    numbers = [int(n) for n in (sample_numbers.tolist() if isinstance(sample_numbers, Tensor) else sample_numbers)]
    uniform, noise = np.empty((len(numbers), 3)), np.empty((len(numbers), *shape), dtype=np.float32)
    for row, number in enumerate(numbers):
        generator = row_generator(seed, number, _TRAINING_STREAM)
        uniform[row, :2] = generator.random(2)
        generator.standard_normal(dtype=np.float32, out=noise[row])
        uniform[row, 2] = generator.random()
    return FlowDraws(
        torch.from_numpy((1 - uniform[:, 0]).astype(np.float32)),
        torch.from_numpy(noise),
        torch.from_numpy(uniform[:, 1] < drop_probability),
        torch.from_numpy(uniform[:, 2] < known_probability),
    )


def sampling_noise(seed: int, number: int, shape: Sequence[int]) -> Tensor:
    """Standard normal float32 of a shape: that of part ``number`` of a request, whatever else is made with it."""
    return torch.from_numpy(row_generator(seed, number, _SAMPLING_STREAM).standard_normal(tuple(shape), np.float32))


def _bell(sigma: Tensor) -> Tensor:
    """A bell over 0 .. 1 that is 0 at both ends."""
    return torch.exp(-2 * (sigma - 0.5) ** 2) - math.exp(-0.5)
