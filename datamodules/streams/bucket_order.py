"""The order of samples of several sizes: whole global batches of one size, in the same scheme of one integer.

In every epoch each bucket gives as many global batches as it has samples for, and the batches of all buckets stand in
an order drawn by the seed. Inside a bucket samples follow the bucket's own order, of one source or of a mixture. So the
sample of any position is found without any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from datamodules.streams.mixture import MixtureOrder
from datamodules.streams.order import DEFAULT_SHUFFLE_WINDOW, GlobalOrder, check_ranks, keyed_bits
from macedance.errors import ConfigError

_BATCHES, _BUCKET = 7, 8  # streams of random numbers beside those of the order and the mixture


@dataclass(frozen=True)
class BucketShards:
    """The shards of one source that hold one bucket's samples.

    Args:
        source: Number of the source.
        firsts_S: Of each shard, the number of its first sample among the source's samples.
        counts_S: Samples of each shard.
    """

    source: int
    firsts_S: np.ndarray
    counts_S: np.ndarray

    @property
    def starts_S1(self) -> np.ndarray:
        """Number of the first sample of each shard among these shards alone, their number of samples at the end."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts_S)])


class _Bucket:
    """One bucket's own order; its samples are numbered one source after another."""

    def __init__(self, shards: Sequence[BucketShards], bases: Sequence[int], order: GlobalOrder | MixtureOrder) -> None:
        self.order = order
        starts = [part.starts_S1 for part in shards]
        self._starts = np.array([0, *accumulate(int(part[-1]) for part in starts)])
        self._parts = [
            (part_starts, bases[part.source] + np.asarray(part.firsts_S, dtype=np.int64))
            for part, part_starts in zip(shards, starts, strict=True)
        ]

    def sample_at(self, own: int) -> int:
        """Number, among all samples of all sources, of the sample at a position of the bucket's own order."""
        laid = self.order.sample_at(own)
        part = int(self._starts.searchsorted(laid, side="right")) - 1
        starts, firsts = self._parts[part]
        inside = laid - int(self._starts[part])
        shard = int(starts.searchsorted(inside, side="right")) - 1
        return int(firsts[shard]) + inside - int(starts[shard])


@dataclass(frozen=True)
class BucketOrder:
    """Order of all samples of all buckets with random access.

    Args:
        buckets: Of each bucket, its shards by source; sources without any are not in the list.
        bases: Of each source, the number of its first sample.
        weights: Of each source, 1 or more; within a bucket they hold among the sources that have it.
        global_batch_size: Samples of one optimizer step over all ranks.
        seed: Seed of the order.
        shuffle_window: Samples of one source and bucket that are shuffled together.

    Raises:
        ConfigError: A size below 1, or no bucket with samples for a global batch.
    """

    buckets: Sequence[Sequence[BucketShards]]
    bases: Sequence[int]
    weights: Sequence[int]
    global_batch_size: int
    seed: int = 0
    shuffle_window: int = DEFAULT_SHUFFLE_WINDOW
    _orders: list[_Bucket] = field(default_factory=list, repr=False, compare=False)
    _plans: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.global_batch_size < 1:
            raise ConfigError(f"global_batch_size is {self.global_batch_size}", expected="at least 1")
        for number, shards in enumerate(self.buckets):
            if sum(int(part.counts_S.sum()) for part in shards) < self.global_batch_size:
                continue
            # A corpus of one size is trained on in the order that it would have without buckets.
            alone = len(self.buckets) == 1
            seed = self.seed if alone else int(keyed_bits(1, self.seed, _BUCKET, number)[0])
            starts = [part.starts_S1 for part in shards]
            order: GlobalOrder | MixtureOrder
            if len(self.weights) == 1:
                order = GlobalOrder(starts[0], self.global_batch_size, seed, self.shuffle_window)
            else:
                weights = [self.weights[part.source] for part in shards]
                order = MixtureOrder(starts, weights, self.global_batch_size, seed, self.shuffle_window)
            self._orders.append(_Bucket(shards, self.bases, order))
        if not self._orders:
            check_ranks(self.num_samples, self.global_batch_size, 1)
            raise ConfigError(
                f"no bucket has the {self.global_batch_size} samples of a global batch",
                where="data.global_batch_size",
                expected=f"at most {max(self.bucket_samples)}",
            )

    @property
    def bucket_samples(self) -> list[int]:
        """Samples of each bucket."""
        return [sum(int(part.counts_S.sum()) for part in shards) for shards in self.buckets]

    @property
    def left_out(self) -> list[int]:
        """Buckets with fewer samples than a global batch: they are not trained on."""
        return [number for number, count in enumerate(self.bucket_samples) if count < self.global_batch_size]

    @property
    def num_samples(self) -> int:
        """Samples of all buckets."""
        return sum(self.bucket_samples)

    @property
    def samples_per_epoch(self) -> int:
        """Samples of one epoch: each bucket's, in whole global batches."""
        return sum(bucket.order.samples_per_epoch for bucket in self._orders)

    def epoch_of(self, position: int) -> int:
        """Data epoch of a global position."""
        return position // self.samples_per_epoch

    def sample_at(self, position: int) -> int:
        """Number of the sample at a global position (0 or more), one source after another."""
        bucket, own = self._place(position)
        return bucket.sample_at(own)

    def following(self, position: int, ahead: int) -> int:
        """Number of the sample that stands `ahead` places behind a position in the order of its own bucket."""
        bucket, own = self._place(position)
        return bucket.sample_at(own + ahead)

    def _place(self, position: int) -> tuple[_Bucket, int]:
        """A position's bucket, and its position in that bucket's order."""
        epoch, place = divmod(position, self.samples_per_epoch)
        batch, inside = divmod(place, self.global_batch_size)
        buckets_N, own_N = self._plan(epoch)
        bucket = self._orders[int(buckets_N[batch])]
        own = epoch * bucket.order.samples_per_epoch + int(own_N[batch]) * self.global_batch_size + inside
        return bucket, own

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each batch of an epoch: its bucket, and how many of that bucket's batches stand before it."""
        if epoch not in self._plans:
            counts = [bucket.order.samples_per_epoch // self.global_batch_size for bucket in self._orders]
            buckets = np.repeat(np.arange(len(counts)), counts)
            buckets = buckets[np.argsort(keyed_bits(len(buckets), self.seed, _BATCHES, epoch), kind="stable")]
            own = np.empty(len(buckets), dtype=np.int64)
            for bucket, count in enumerate(counts):
                own[buckets == bucket] = np.arange(count)
            while len(self._plans) >= 2:
                del self._plans[next(iter(self._plans))]
            self._plans[epoch] = buckets, own
        return self._plans[epoch]


@dataclass(frozen=True)
class SameBucket:
    """The order of one position's bucket from that position on: where a faulty sample's substitute is looked for."""

    order: BucketOrder
    position: int

    def sample_at(self, position: int) -> int:
        """Number of the sample that stands at a position, were all that follow of one bucket."""
        return self.order.following(self.position, position - self.position)
