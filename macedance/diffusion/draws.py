"""Every random number of a training step or of a dance, keyed by what it belongs to and by nothing else.

A row's draws come from a counter-based generator (Philox 4x64) whose key IS (seed, number): the global number of the
training sample, or the number of the dance. Batch size, order, rank and worker change nothing, and two rows never
share a stream. torch's CPU generator cannot serve: it keeps 32 bits of its seed, so that a million samples would hold
about a hundred pairs with the same noise.

Shapes: B batch, T frames, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from macedance.errors import ConfigError

_WORD = (1 << 64) - 1
_TRAINING_STREAM = 0
_SAMPLING_STREAM = 1
_CHOICE_STREAM = 2
# Below this many numbers the threads cost more than they save.
_THREADED_SIZE = 1 << 20


@dataclass(frozen=True)
class StepDraws:
    """The draws of one training step.

    Attributes:
        t_B: Diffusion step, int64, uniform over 0 .. num_steps - 1.
        beta_B: Guidance temperature, float32, uniform over (beta_min, 1].
        keep_B: bool, False where the condition is dropped.
        noise_BTC: Standard normal, float32.
        mix_B: Uniform over [0, 1), float32; a row takes part in the mixed guidance-free loss when it is below the
            objective's `mix_fraction`.
    """

    t_B: Tensor
    beta_B: Tensor
    keep_B: Tensor
    noise_BTC: Tensor
    mix_B: Tensor

    def to(self, device: torch.device | str) -> StepDraws:
        """The same draws on another device."""
        return StepDraws(
            self.t_B.to(device),
            self.beta_B.to(device),
            self.keep_B.to(device),
            self.noise_BTC.to(device),
            self.mix_B.to(device),
        )


def row_generator(seed: int, number: int, stream: int) -> np.random.Generator:
    """The generator of one row: 128 bits of key, and a counter that starts apart for each use (`stream`)."""
    key = np.array([seed & _WORD, number & _WORD], dtype=np.uint64)
    counter = np.array([0, 0, 0, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def draw_step(
    seed: int,
    sample_numbers_B: Tensor | Sequence[int],
    frames: int,
    channels: int,
    num_steps: int = 1000,
    drop_probability: float = 0.1,
    device: torch.device | str = "cpu",
    *,
    beta_min: float = 0.0,
) -> StepDraws:
    """Draw t, beta, condition drop and noise of each row from its own stream.

    Args:
        seed: The run's seed.
        sample_numbers_B: Global sample numbers, int64 (B,).
        frames: T of the noise.
        channels: C of the noise.
        num_steps: Steps of the schedule.
        drop_probability: Chance that a row's condition is dropped, 0 .. 1.
        device: Where the draws go. They are made on the CPU, so that they are the same on every device.
        beta_min: Lower bound of beta, 0 .. 1.

    Returns:
        The draws on `device`.
    """
    numbers = _numbers(sample_numbers_B)
    uniform_B4 = np.empty((len(numbers), 4))
    generators = []
    for row, number in enumerate(numbers):
        generator = row_generator(seed, number, _TRAINING_STREAM)
        uniform_B4[row] = generator.random(4)
        generators.append(generator)
    noise_BTC = _normal_rows(generators, frames, channels)
    t_B = torch.from_numpy((uniform_B4[:, 0] * num_steps).astype(np.int64))
    # 1 - u: beta = 0 would multiply the gradient of its row by 0, beta = 1 is a case of its own worth having.
    beta_B = torch.from_numpy((beta_min + (1 - beta_min) * (1 - uniform_B4[:, 1])).astype(np.float32))
    keep_B = torch.from_numpy(uniform_B4[:, 2] >= drop_probability)
    mix_B = torch.from_numpy(uniform_B4[:, 3].astype(np.float32))
    return StepDraws(t_B, beta_B, keep_B, noise_BTC, mix_B).to(device)


class RowNoise:
    """Standard normal noise for a set of dances, each from its own stream.

    Dance k is the same whatever other dances are made with it. Successive calls go on in each stream.

    Args:
        seed: The seed of the request.
        numbers: The number of each dance.
        seeds: A seed per dance, where dances of several requests share a batch; replaces `seed`.
    """

    def __init__(self, seed: int, numbers: Iterable[int], *, seeds: Sequence[int] | None = None) -> None:
        numbers = list(numbers)
        row_seeds = [seed] * len(numbers) if seeds is None else list(seeds)
        if len(row_seeds) != len(numbers):
            raise ConfigError(f"{len(row_seeds)} seeds for {len(numbers)} dances", expected="one seed for each dance")
        self._generators = [
            row_generator(row_seed, number, _SAMPLING_STREAM)
            for row_seed, number in zip(row_seeds, numbers, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._generators)

    def normal(self, frames: int, channels: int, device: torch.device | str = "cpu") -> Tensor:
        """The next noise_BTC of every dance, float32 on `device`."""
        return _normal_rows(self._generators, frames, channels).to(device)


def choose(seed: int, number: int, count: int) -> int:
    """A number in 0 .. count - 1 for dance `number` of a request, uniform; as stable as the noise."""
    return int(row_generator(seed, number, _CHOICE_STREAM).integers(count))


def _numbers(sample_numbers_B: Tensor | Sequence[int]) -> list[int]:
    if isinstance(sample_numbers_B, Tensor):
        return [int(number) for number in sample_numbers_B.tolist()]
    return [int(number) for number in sample_numbers_B]


def _normal_rows(generators: Sequence[np.random.Generator], frames: int, channels: int) -> Tensor:
    noise_BTC = np.empty((len(generators), frames, channels), dtype=np.float32)

    def fill(row: int) -> None:
        generators[row].standard_normal(dtype=np.float32, out=noise_BTC[row])

    rows = range(len(generators))
    # Rows do not depend on each other and numpy releases the lock, so threads change the time only.
    threads = min(len(generators), torch.get_num_threads(), os.cpu_count() or 1)
    if threads > 1 and noise_BTC.size >= _THREADED_SIZE:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, rows))
    else:
        for row in rows:
            fill(row)
    return torch.from_numpy(noise_BTC)
