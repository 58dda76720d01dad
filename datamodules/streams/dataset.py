"""Samples by number: read by (shard, offset, size), decoded, checked, the recent ones kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from datamodules.streams.index import ShardIndex
from datamodules.streams.reader import Prefetcher, ShardReader
from datamodules.streams.samples import MotionSample, decode_sample, split_members
from datamodules.streams.shards import ShardSet


class Samples(Protocol):
    """Samples of one or several splits by number."""

    @property
    def is_remote(self) -> bool:
        """Whether some of them are on a server."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, number: int) -> MotionSample:
        """A decoded sample; DataError where it cannot be used."""

    def where(self, number: int) -> str:
        """`shard:key` of a sample, for messages."""

    def want(self, numbers: Sequence[int]) -> None:
        """Say which samples will be read soon, the first first."""


class MotionSamples:
    """Decoded samples of one split by number, the most recent ones kept in memory.

    Args:
        shards: The split.
        cache_mb: Memory for decoded samples, in 2^20 bytes for each process; 0 keeps none.
        verify: Compare every shard's sha256 first.

    Raises:
        DataError: Shards that cannot be indexed or hold another number of samples than the manifest says, all in one.
    """

    def __init__(self, shards: ShardSet, *, cache_mb: float = 512.0, verify: bool = False) -> None:
        self.shards = shards
        self.index: ShardIndex = shards.index(verify=verify)
        files = shards.shards
        self._reader, self._prefetcher = ShardReader(files), Prefetcher(files)
        self._limit = int(cache_mb * 2**20)
        self._held: OrderedDict[int, MotionSample] = OrderedDict()
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self.index)

    @property
    def is_remote(self) -> bool:
        """Whether they are on a server."""
        return self.shards.is_remote

    def __getitem__(self, number: int) -> MotionSample:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        shard, offset, size = self.index.locate(number)
        key = self.index.key(number)
        where = f"{self.index.names[shard]}:{key}"
        members = split_members(self._reader.read(shard, offset, size), where, key)
        sample = decode_sample(members, key, where, self.shards.manifest.fps)
        self._held[number] = sample
        self._held_bytes += sample.nbytes
        while self._held_bytes > self._limit and self._held:
            self._held_bytes -= self._held.popitem(last=False)[1].nbytes
        return sample

    def where(self, number: int) -> str:
        """`shard:key` of a sample, for messages."""
        return self.index.where(number)

    def want(self, numbers: Sequence[int]) -> None:
        """Fetch the shards of these samples in the background where they are remote, the first first."""
        self._prefetcher.want(list(dict.fromkeys(self.index.shard_of(number) for number in numbers)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict(), "_held_bytes": 0}


class UnitedSamples:
    """Samples of several splits, numbered one source after another.

    Args:
        sources: The splits, at least one.
    """

    def __init__(self, sources: Sequence[MotionSamples]) -> None:
        self.sources = tuple(sources)
        self._starts = np.array([0, *accumulate(len(source) for source in self.sources)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def is_remote(self) -> bool:
        """Whether some of them are on a server."""
        return any(source.is_remote for source in self.sources)

    def part(self, number: int) -> tuple[MotionSamples, int]:
        """The source of a sample, and its number there."""
        source = int(self._starts.searchsorted(number, side="right")) - 1
        return self.sources[source], number - int(self._starts[source])

    def __getitem__(self, number: int) -> MotionSample:
        source, own = self.part(number)
        return source[own]

    def where(self, number: int) -> str:
        """`shard:key` of a sample, for messages."""
        source, own = self.part(number)
        return source.where(own)

    def want(self, numbers: Sequence[int]) -> None:
        """As `MotionSamples.want`, of each source."""
        parts = [self.part(number) for number in numbers]
        for source in self.sources:
            source.want([own for of, own in parts if of is source])
