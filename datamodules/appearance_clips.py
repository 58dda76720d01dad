"""Clips of dancers by number, from one or several corpora, and the order in which they are trained on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from datamodules.appearance_corpora import not_appearance
from datamodules.streams.bucket_order import BucketOrder, BucketShards
from datamodules.streams.manifest import APPEARANCE_FORMAT
from datamodules.streams.reader import Prefetcher, ShardReader
from datamodules.streams.samples import split_members
from datamodules.streams.shards import ShardSet
from macedance.appearance_data.latents import EncodedClip, EncodedInfo, encoded_clip
from macedance.appearance_data.samples import RawClip, raw_clip
from macedance.errors import ConfigError, DataError

#: A clip's bytes, or its latents.
Sample = RawClip | EncodedClip


@dataclass(frozen=True)
class Size:
    """What a batch is made of: (height, width) pixels and frames."""

    height: int
    width: int
    frames: int


class AppearanceSamples:
    """Clips of one split by number, as bytes or latents, the most recent ones kept in memory.

    Args:
        shards: The split.
        info: How its latents were made; None: it holds videos.
        cache_mb: Memory for the clips that were read last, 2^20 bytes for each process; 0 keeps none.
        verify: Compare every shard's sha256 first.

    Raises:
        DataError: Shards that cannot be indexed; all in one.
    """

    def __init__(
        self, shards: ShardSet, info: EncodedInfo | None, *, cache_mb: float = 256.0, verify: bool = False
    ) -> None:
        self.shards, self.info = shards, info
        self.index = shards.index(verify=verify)
        self.shapes = [shards.manifest.shapes[entry.file] for entry in shards.info.shards]
        files = shards.shards
        self._reader, self._prefetcher = ShardReader(files), Prefetcher(files)
        self._limit, self._held_bytes = int(cache_mb * 2**20), 0
        self._held: OrderedDict[int, tuple[int, Sample]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.index)

    @property
    def is_remote(self) -> bool:
        """Whether they are on a server."""
        return self.shards.is_remote

    def __getitem__(self, number: int) -> Sample:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number][1]
        members, key, where = self._members(number)
        sample: Sample
        height, width, _ = self.shapes[self.index.shard_of(number)]
        if self.info is not None:
            sample = encoded_clip(members, where, self.info, height, width)
        else:
            sample = raw_clip(members, key, where)
            if (sample.facts.height, sample.facts.width) != (height, width):
                raise DataError(
                    f"a clip of {sample.facts.width} x {sample.facts.height} pixels",
                    where=where,
                    expected=f"{width} x {height}, as the manifest says of its shard",
                )
        size = sum(len(member) for member in members.values())
        self._held[number] = size, sample
        self._held_bytes += size
        while self._held_bytes > self._limit and self._held:
            self._held_bytes -= self._held.popitem(last=False)[1][0]
        return sample

    def _members(self, number: int) -> tuple[dict[str, Any], str, str]:
        shard, offset, size = self.index.locate(number)
        key = self.index.key(number)
        where = f"{self.index.names[shard]}:{key}"
        return split_members(self._reader.read(shard, offset, size), where, key), key, where

    def where(self, number: int) -> str:
        """`shard:key` of a sample, for messages."""
        return self.index.where(number)

    def want(self, numbers: Sequence[int]) -> None:
        """Fetch the shards of these samples in the background where they are remote, the first first."""
        self._prefetcher.want(list(dict.fromkeys(self.index.shard_of(number) for number in numbers)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict(), "_held_bytes": 0}


class Clips:
    """Clips of one or several sources by number, one source after another, each with the size that it is trained at.

    Args:
        sources: The splits.
        sizes: Of each source, the size of every shard's clips; None where they belong to no bucket.
    """

    def __init__(self, sources: Sequence[AppearanceSamples], sizes: Sequence[Sequence[Size | None]]) -> None:
        self.sources, self.sizes = tuple(sources), tuple(tuple(of) for of in sizes)
        self.bases = [0, *accumulate(len(source) for source in self.sources)]

    def __len__(self) -> int:
        return self.bases[-1]

    @property
    def is_remote(self) -> bool:
        """Whether some of them are on a server."""
        return any(source.is_remote for source in self.sources)

    def part(self, number: int) -> tuple[int, int]:
        """A clip's source, and its number there."""
        source = int(np.searchsorted(self.bases, number, side="right")) - 1
        return source, number - self.bases[source]

    def __getitem__(self, number: int) -> Sample:
        source, own = self.part(number)
        return self.sources[source][own]

    def size(self, number: int) -> Size | None:
        """The size that a clip is trained at; None: none."""
        source, own = self.part(number)
        return self.sizes[source][self.sources[source].index.shard_of(own)]

    def key(self, number: int) -> str:
        """Name of a clip."""
        source, own = self.part(number)
        return self.sources[source].index.key(own)

    def where(self, number: int) -> str:
        """`shard:key` of a clip, for messages."""
        source, own = self.part(number)
        return self.sources[source].where(own)

    def want(self, numbers: Sequence[int]) -> None:
        """As `AppearanceSamples.want`, of each source."""
        parts = [self.part(number) for number in numbers]
        for place, source in enumerate(self.sources):
            source.want([own for of, own in parts if of == place])

    def order(
        self, weights: Sequence[int], global_batch_size: int, seed: int, shuffle_window: int
    ) -> tuple[BucketOrder, list[Size]]:
        """The order of all clips in whole batches of one size, and the sizes in the order of its buckets.

        Raises:
            ConfigError: Fewer clips of every size than one global batch.
        """
        sizes = sorted(
            {size for of in self.sizes for size in of if size is not None},
            key=lambda size: (size.height * size.width, size.height, size.frames),
        )
        buckets = []
        for size in sizes:
            parts = []
            for place, source in enumerate(self.sources):
                chosen = [shard for shard, its in enumerate(self.sizes[place]) if its == size]
                starts = source.index.starts_S1
                counts = np.array([starts[shard + 1] - starts[shard] for shard in chosen], dtype=np.int64)
                if counts.sum():
                    parts.append(BucketShards(place, np.array([starts[shard] for shard in chosen]), counts))
            if parts:
                buckets.append((size, parts))
        if not buckets:
            raise ConfigError("no clip fits into a bucket", where="data.buckets", expected="sizes like the corpus's")
        order = BucketOrder(
            [parts for _, parts in buckets], self.bases[:-1], weights, global_batch_size, seed, shuffle_window
        )
        self._say(order, [size for size, _ in buckets], weights, global_batch_size)
        return order, [size for number, (size, _) in enumerate(buckets) if number not in order.left_out]

    def _say(self, order: BucketOrder, sizes: Sequence[Size], weights: Sequence[int], global_batch_size: int) -> None:
        """What is left out, and where a mixture's shares cannot be kept."""
        for number in order.left_out:
            size, count = sizes[number], order.bucket_samples[number]
            rank_zero_warn(
                f"{count} training clips of {size.width} x {size.height} are left out: fewer than a global batch of "
                f"{global_batch_size}"
            )
        for size, parts in zip(sizes, order.buckets, strict=True):
            if len(parts) < len(weights):
                having = sorted(part.source for part in parts)
                rank_zero_warn(
                    f"only {len(parts)} of the {len(weights)} sources have clips of {size.width} x {size.height} "
                    f"(numbers {having}): in its batches the mixture's shares hold among those"
                )


def order_of_own_sizes(
    sources: Sequence[ShardSet], weights: Sequence[int], global_batch_size: int, seed: int, shuffle_window: int
) -> BucketOrder:
    """The order in which clips are trained on where no buckets are asked for.

    Raises:
        DataError: Shards that cannot be used, or a corpus without videos among the sources.
        ConfigError: As `Clips.order`.
    """
    for source in sources:
        if source.manifest.format != APPEARANCE_FORMAT:
            raise not_appearance(str(source.folder))
    # Of what the clips are made does not matter here, and none is read.
    parts = [AppearanceSamples(source, None, cache_mb=0) for source in sources]
    sizes = [[Size(height, width, 1) for height, width, _ in part.shapes] for part in parts]
    return Clips(parts, sizes).order(weights, global_batch_size, seed, shuffle_window)[0]
