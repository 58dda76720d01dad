"""Samples of a shard set by number: read by (shard, offset, size), decoded, checked, the recent ones kept."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.streams.index import ShardIndex, build_index
from datamodules.streams.manifest import ShardSet
from datamodules.streams.samples import MotionSample, decode_sample, split_members
from macedance.errors import DataError

_OPEN_SHARDS = 16


class ShardReader:
    """Reads stretches of shards by (shard, offset, size); keeps a few files open.

    Safe after a fork and in a spawned worker: `pread` shares no file position, and a copy opens its own files.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._open: OrderedDict[int, int] = OrderedDict()

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """`size` bytes of shard number `shard` from `offset`.

        Raises:
            DataError: The shard vanished or became shorter.
        """
        try:
            data = os.pread(self._descriptor(shard), size, offset)
        except OSError as error:
            raise DataError(f"shard cannot be read ({error.strerror})", where=self.files[shard]) from error
        if len(data) != size:
            raise DataError("shard became shorter", where=self.files[shard], fix="copy the shard again")
        return data

    def _descriptor(self, shard: int) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            if len(self._open) >= _OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
            self._open[shard] = os.open(self.files[shard], os.O_RDONLY)
        return self._open[shard]

    def close(self) -> None:
        """Close the files; they open again when needed."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "_open": OrderedDict()}

    def __del__(self) -> None:
        self.close()


class MotionSamples:
    """Decoded samples of one split by number, the most recent ones kept in memory.

    Args:
        shards: The split.
        cache_mb: Memory for decoded samples, in 2^20 bytes for each process; 0 keeps none.

    Raises:
        DataError: A shard cannot be indexed, or holds another number of samples than the manifest says.
    """

    def __init__(self, shards: ShardSet, *, cache_mb: float = 512.0) -> None:
        self.shards = shards
        self.index: ShardIndex = build_index(shards.files)
        counts = np.diff(self.index.starts_S1)
        for entry, count in zip(shards.info.shards, counts, strict=True):
            if entry.samples != count:
                raise DataError(
                    f"shard holds {count} samples", where=shards.folder / entry.file, expected=f"{entry.samples}"
                )
        self._reader = ShardReader(self.index.files)
        self._limit = int(cache_mb * 2**20)
        self._held: OrderedDict[int, MotionSample] = OrderedDict()
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> MotionSample:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        shard, offset, size = self.index.locate(number)
        where = self.index.where(number)
        members = split_members(self._reader.read(shard, offset, size), where)
        sample = decode_sample(members, self.index.key(number), where, self.shards.manifest.fps)
        self._held[number] = sample
        self._held_bytes += sample.nbytes
        while self._held_bytes > self._limit and self._held:
            self._held_bytes -= self._held.popitem(last=False)[1].nbytes
        return sample

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict(), "_held_bytes": 0}
