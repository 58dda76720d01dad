"""The global order of training samples: a pure function of (seed, epoch), addressed by ONE integer.

The position of a sample is the number of samples that all ranks together consumed before it, since the start of
training. Nothing here knows of workers, ranks' generators or files, so a run can stop on 8 ranks and go on on 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from macedance.errors import ConfigError

DEFAULT_SHUFFLE_WINDOW = 4096
_SHARDS, _WINDOW, _ROTATION, _CROP = 1, 2, 3, 4  # one stream of random numbers for each use


def keyed_bits(count: int, *key: int) -> np.ndarray:
    """(count,) uint64 random words that depend on `key` alone.

    Raw Philox words, because numpy keeps those the same from version to version, unlike its permutations. The key is
    hashed as text: numpy's seed sequences take (1,), (1, 0) and the words of a large number for the same.
    """
    digest = hashlib.blake2b(",".join(str(int(part)) for part in key).encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count)


def crop_start(seed: int, position: int, num_starts: int) -> int:
    """First frame of the training window of the sample at global `position`, in [0, num_starts)."""
    if num_starts <= 1:
        return 0
    return int(keyed_bits(1, seed, _CROP, position)[0] % np.uint64(num_starts))


class SampleOrder(Protocol):
    """What a loader asks of an order, of one source or of several."""

    @property
    def seed(self) -> int:
        """Seed of the order."""

    @property
    def shuffle_window(self) -> int:
        """Samples of one source that are shuffled together."""

    @property
    def num_samples(self) -> int:
        """Samples that there are."""

    @property
    def samples_per_epoch(self) -> int:
        """Samples trained on per data epoch: whole global batches."""

    def epoch_of(self, position: int) -> int:
        """Data epoch of a global position."""

    def sample_at(self, position: int) -> int:
        """Number of the sample at a global position."""


class _EpochPlan(NamedTuple):
    """One epoch's shards end to end: (S,) where each ends, (S,) what leads from a place there to a sample's number."""

    ends_S: np.ndarray
    shifts_S: np.ndarray
    rotation: int


@dataclass(frozen=True)
class GlobalOrder:
    """Order of all samples of all epochs with random access.

    In each epoch the shards are shuffled, their samples laid end to end, rotated by a random amount, and shuffled
    within windows of `shuffle_window` samples: reads stay in a few shards at a time, and no more than one window's
    permutation is held. The last incomplete global batch of an epoch is dropped.

    Args:
        starts_S1: (S+1,) number of the first sample of each shard, the number of samples at the end.
        global_batch_size: Samples of one optimizer step over all ranks.
        seed: Seed of the order.
        shuffle_window: Samples that are shuffled together.

    Raises:
        ConfigError: A size below 1, or fewer samples than one global batch.
    """

    starts_S1: np.ndarray
    global_batch_size: int
    seed: int = 0
    shuffle_window: int = DEFAULT_SHUFFLE_WINDOW
    _memory: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    _epochs: dict[int, _EpochPlan] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.global_batch_size < 1 or self.shuffle_window < 1:
            raise ConfigError(
                f"global_batch_size {self.global_batch_size} and shuffle_window {self.shuffle_window}",
                expected="both at least 1",
            )
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}", expected="0 or more")
        check_ranks(self.num_samples, self.global_batch_size, 1)

    @property
    def num_samples(self) -> int:
        """Samples of the index."""
        return int(self.starts_S1[-1])

    @property
    def samples_per_epoch(self) -> int:
        """Samples trained on per data epoch: whole global batches only."""
        return self.num_samples // self.global_batch_size * self.global_batch_size

    @property
    def dropped_per_epoch(self) -> int:
        """Samples of the last incomplete global batch; other ones each epoch."""
        return self.num_samples - self.samples_per_epoch

    def epoch_of(self, position: int) -> int:
        """Data epoch of a global position."""
        return position // self.samples_per_epoch

    def sample_at(self, position: int) -> int:
        """Number of the sample in the index at a global position (0 or more)."""
        epoch, place = divmod(position, self.samples_per_epoch)
        window, inside = divmod(place, self.shuffle_window)
        plan = self._epoch(epoch)
        laid = (
            window * self.shuffle_window + int(self._window(epoch, window)[inside]) + plan.rotation
        ) % self.num_samples
        rank = int(plan.ends_S.searchsorted(laid, side="right"))
        return laid + int(plan.shifts_S[rank])

    @property
    def nbytes(self) -> int:
        """Bytes that it holds: a few permutations, whatever the number of samples."""
        plans = [array for plan in self._epochs.values() for array in (plan.ends_S, plan.shifts_S)]
        return sum(array.nbytes for array in (self.starts_S1, *plans, *self._memory.values()))

    def _epoch(self, epoch: int) -> _EpochPlan:
        """How the shards of an epoch are laid end to end."""
        if epoch not in self._epochs:
            shards = np.argsort(keyed_bits(len(self.starts_S1) - 1, self.seed, _SHARDS, epoch), kind="stable")
            counts = np.diff(self.starts_S1)[shards]
            ends = np.cumsum(counts)
            rotation = keyed_bits(1, self.seed, _ROTATION, epoch)[0] % np.uint64(self.num_samples)
            while len(self._epochs) >= 2:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[epoch] = _EpochPlan(ends, self.starts_S1[shards] - (ends - counts), int(rotation))
        return self._epochs[epoch]

    def _window(self, epoch: int, window: int) -> np.ndarray:
        """Permutation of one window's samples."""
        if (epoch, window) not in self._memory:
            size = min(self.shuffle_window, self.num_samples - window * self.shuffle_window)
            self._remember(
                (epoch, window), np.argsort(keyed_bits(size, self.seed, _WINDOW, epoch, window), kind="stable")
            )
        return self._memory[epoch, window]

    def _remember(self, key: tuple[int, int], value: np.ndarray) -> None:
        """Keep the last few permutations: neighbouring batches share them."""
        while len(self._memory) >= 6:
            del self._memory[next(iter(self._memory))]
        self._memory[key] = value


def micro_batch_size(global_batch_size: int, world_size: int, accumulate: int = 1) -> int:
    """Samples of one forward pass of one rank.

    Raises:
        ConfigError: The global batch does not divide evenly.
    """
    parts = world_size * accumulate
    if global_batch_size < 1 or global_batch_size % parts:
        below = max(global_batch_size // parts, 1) * parts
        raise ConfigError(
            f"global_batch_size {global_batch_size} is not divisible by {world_size} ranks x {accumulate} "
            "accumulated batches",
            where="data.global_batch_size",
            expected=f"a multiple of {parts}",
            fix=f"set it to {below} or {below + parts}",
        )
    return global_batch_size // parts


def check_ranks(num_samples: int, global_batch_size: int, world_size: int, accumulate: int = 1) -> None:
    """Refuse a number of ranks that the samples cannot feed.

    Raises:
        ConfigError: More ranks than samples, fewer samples than a global batch, or a batch that does not divide.
    """
    if world_size > num_samples:
        raise ConfigError(
            f"{world_size} ranks and {num_samples} training samples",
            where="trainer.devices x trainer.num_nodes",
            expected="at least one sample for each rank",
            fix=f"use at most {num_samples} ranks",
        )
    if num_samples < global_batch_size:
        raise ConfigError(
            f"{num_samples} training samples are fewer than one global batch of {global_batch_size}",
            fix=f"set data.global_batch_size to at most {num_samples}",
        )
    micro_batch_size(global_batch_size, world_size, accumulate)


def rank_positions(batch_start: int, global_batch_size: int, rank: int, world_size: int) -> range:
    """Global positions that rank `rank` holds of the global batch that begins at `batch_start`."""
    share = micro_batch_size(global_batch_size, world_size)
    return range(batch_start + rank * share, batch_start + (rank + 1) * share)


class ElasticBatchSampler:
    """Endless lists of global positions for one rank: its slice of every global batch, in micro-batches.

    Args:
        global_batch_size: Samples of one optimizer step over all ranks.
        start_position: Samples consumed before the first batch.
        rank: This rank, in [0, world_size).
        world_size: Number of ranks.
        accumulate: Micro-batches per optimizer step.

    It has no length: Lightning then sees one endless epoch, and the number of workers cannot change the order.
    """

    def __init__(
        self,
        global_batch_size: int,
        *,
        start_position: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        if start_position < 0:
            raise ConfigError(f"start position is {start_position}", expected="0 or more samples")
        self.global_batch_size = global_batch_size
        self.start_position = start_position
        self.rank, self.world_size = rank, world_size
        self.micro_batch_size = micro_batch_size(global_batch_size, world_size, accumulate)

    def __iter__(self) -> Iterator[list[int]]:
        start = self.start_position
        while True:
            mine = rank_positions(start, self.global_batch_size, self.rank, self.world_size)
            for first in range(0, len(mine), self.micro_batch_size):
                yield list(mine[first : first + self.micro_batch_size])
            start += self.global_batch_size

    def consumed_after(self, positions: Sequence[int]) -> int:
        """Global samples consumed once the optimizer step that holds these positions is done."""
        batches = (int(positions[0]) - self.start_position) // self.global_batch_size + 1
        return self.start_position + batches * self.global_batch_size
