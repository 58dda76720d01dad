"""The order of a mixture: several sources by weight, in the same scheme of one integer.

A period is as many positions as the weights add up to (divided by what they have in common). In every period each
source stands exactly as often as its weight says, at places drawn by the seed, and each of its samples comes from the
source's own endless order. So the source and the sample of any position are found without any other, and no epoch,
rank or worker changes the proportions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from datamodules.streams.order import DEFAULT_SHUFFLE_WINDOW, GlobalOrder, check_ranks, keyed_bits
from macedance.errors import ConfigError

_PERIOD, _SOURCE = 5, 6  # streams of random numbers beside those of the order
_LONGEST_PERIOD = 100_000


@dataclass(frozen=True)
class MixtureSource:
    """One source of a mixture.

    Args:
        shards: Corpus or split's folder, a path or a URL.
        weight: How often its samples come, against the other sources' weights.
    """

    shards: str
    weight: int = 1


@dataclass(frozen=True)
class MixtureOrder:
    """Order of all samples of several sources with random access; samples are numbered one source after another.

    An epoch is as many samples as all sources hold together, in whole global batches: at equal weights and sizes
    each sample comes once on average, else the samples of a small or heavy source come more often. Each source goes
    through its own epochs: none of its samples comes again before all others came.

    Args:
        starts: Of each source, (S+1,) number of the first sample of each shard, its number of samples at the end.
        weights: Of each source, 1 or more.
        global_batch_size: Samples of one optimizer step over all ranks.
        seed: Seed of the order.
        shuffle_window: Samples of one source that are shuffled together.

    Raises:
        ConfigError: No source, a weight below 1 or too large, or fewer samples than one global batch.
    """

    starts: Sequence[np.ndarray]
    weights: Sequence[int]
    global_batch_size: int
    seed: int = 0
    shuffle_window: int = DEFAULT_SHUFFLE_WINDOW
    _orders: list[GlobalOrder] = field(default_factory=list, repr=False, compare=False)
    _slots: list[int] = field(default_factory=list, repr=False, compare=False)
    _bases: list[int] = field(default_factory=list, repr=False, compare=False)
    _periods: dict[int, list[tuple[int, int]]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.weights or len(self.weights) != len(self.starts) or min(self.weights) < 1:
            raise ConfigError(
                f"the weights of the mixture are {list(self.weights)}",
                where="data.mixture",
                expected="a whole number, 1 or more, for each source",
            )
        common = math.gcd(*self.weights)
        if sum(self.weights) // common > _LONGEST_PERIOD:
            raise ConfigError(
                f"the weights of the mixture are {list(self.weights)}",
                where="data.mixture",
                expected=f"weights that repeat within {_LONGEST_PERIOD} samples",
                fix="round them, e.g. to two digits",
            )
        check_ranks(self.num_samples, self.global_batch_size, 1)
        for source, (starts, weight) in enumerate(zip(self.starts, self.weights, strict=True)):
            # A batch of one: a source's own epoch drops nothing.
            seed = int(keyed_bits(1, self.seed, _SOURCE, source)[0])
            self._orders.append(GlobalOrder(starts, 1, seed, self.shuffle_window))
            self._slots.extend([source] * (weight // common))
        self._bases.extend([0, *accumulate(order.num_samples for order in self._orders)])

    @property
    def num_samples(self) -> int:
        """Samples of all sources."""
        return sum(int(starts[-1]) for starts in self.starts)

    @property
    def samples_per_epoch(self) -> int:
        """As many samples as all sources hold together, in whole global batches."""
        return self.num_samples // self.global_batch_size * self.global_batch_size

    @property
    def nbytes(self) -> int:
        """Bytes that the orders of the sources hold."""
        return sum(order.nbytes for order in self._orders)

    def epoch_of(self, position: int) -> int:
        """Data epoch of a global position."""
        return position // self.samples_per_epoch

    def sample_at(self, position: int) -> int:
        """Number of the sample at a global position (0 or more)."""
        source, own = self.source_at(position)
        return self._bases[source] + self._orders[source].sample_at(own)

    def source_at(self, position: int) -> tuple[int, int]:
        """(source, position in that source's own order) of a global position."""
        period, slot = divmod(position, len(self._slots))
        source, before = self._period(period)[slot]
        return source, period * (self.weights[source] // math.gcd(*self.weights)) + before

    def _period(self, period: int) -> list[tuple[int, int]]:
        """Of each slot of a period: its source, and how often that came before in the period."""
        if period not in self._periods:
            places = np.argsort(keyed_bits(len(self._slots), self.seed, _PERIOD, period), kind="stable")
            counts, slots = [0] * len(self._orders), []
            for place in places:
                source = self._slots[int(place)]
                slots.append((source, counts[source]))
                counts[source] += 1
            while len(self._periods) >= max(4, 4096 // len(self._slots)):
                del self._periods[next(iter(self._periods))]
            self._periods[period] = slots
        return self._periods[period]
