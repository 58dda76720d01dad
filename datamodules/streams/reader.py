"""Reading stretches of shards, local or cached, and fetching ahead what the order needs soon."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.streams.shard_cache import CachedShard
from macedance.errors import DataError, MaceDanceError, TransportError

_OPEN_SHARDS = 16
_LOST_FOR_S = 600.0  # a shard that could not be fetched is not asked for again for as long
_AHEAD_SHARE = 0.75  # of the cache's size for what is used now and soon; fetching more would drop what is in use


class ShardReader:
    """Reads stretches of shards by (shard, offset, size); keeps a few files open.

    Safe after a fork and in a spawned worker: `pread` shares no file position, and a copy opens its own files.

    Args:
        shards: Paths, or remote shards that are read through the cache.
    """

    def __init__(self, shards: Sequence[Path | CachedShard]) -> None:
        self.shards = tuple(shards)
        self._open: OrderedDict[int, int] = OrderedDict()
        self._lost: dict[int, tuple[float, DataError]] = {}

    def read(self, shard: int, offset: int, size: int) -> memoryview:
        """`size` bytes of shard number `shard` from `offset`, in memory of their own.

        Raises:
            DataError: The shard vanished, or became shorter.
            TransportError: It cannot be fetched for now.
        """
        view = np.empty(size, np.uint8).data
        try:
            count = os.preadv(self._descriptor(shard), [view], offset)
        except OSError as error:
            raise DataError(f"shard cannot be read ({error.strerror})", where=str(self.shards[shard])) from error
        if count != size:
            raise DataError("shard became shorter", where=str(self.shards[shard]), fix="copy the shard again")
        return view

    def _descriptor(self, shard: int) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if len(self._open) >= _OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1])
        found = self.shards[shard]
        self._open[shard] = os.open(found, os.O_RDONLY) if isinstance(found, Path) else self._fetched(shard, found)
        return self._open[shard]

    def _fetched(self, number: int, shard: CachedShard) -> int:
        """A descriptor of a remote shard; one that the server does not have is not asked for again for a while."""
        until, error = self._lost.get(number, (0.0, None))
        if error is not None and time.monotonic() < until:
            raise error
        try:
            return shard.open()
        except TransportError:
            raise  # it may be there at the next try
        except DataError as error:
            self._lost[number] = (time.monotonic() + _LOST_FOR_S, error)
            raise

    def close(self) -> None:
        """Close the files; they open again when needed."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": self.shards, "_open": OrderedDict(), "_lost": {}}

    def __del__(self) -> None:
        self.close()


class Prefetcher:
    """Fetches remote shards in the background, in the order in which they will be needed.

    One thread in each process that reads; of several processes each takes what no other is fetching.

    Args:
        shards: Those of a reader; local ones need nothing.
    """

    def __init__(self, shards: Sequence[Path | CachedShard]) -> None:
        self.shards = tuple(shards)
        self._wanted: tuple[int, ...] = ()
        self._thread: threading.Thread | None = None
        self._pid = 0

    def want(self, shards: Sequence[int]) -> None:
        """Fetch these next, the first first; replaces what was asked before."""
        wanted = tuple(number for number in shards if isinstance(self.shards[number], CachedShard))
        if wanted == self._wanted and self._pid == os.getpid():
            return
        self._wanted = wanted
        if wanted and (self._thread is None or self._pid != os.getpid() or not self._thread.is_alive()):
            self._pid = os.getpid()
            self._thread = threading.Thread(target=self._work, name="shard-prefetch", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        done: tuple[int, ...] | None = None
        while done != self._wanted:
            done = self._wanted
            used = 0
            for number in done:
                shard = self.shards[number]
                assert isinstance(shard, CachedShard)
                used += shard.remote.bytes
                if self._wanted is not done or used > shard.cache.limit_bytes * _AHEAD_SHARE:
                    break
                try:
                    shard.cache.fetch(shard.remote, wait=False)
                except MaceDanceError:
                    break  # whoever reads it will say so

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": self.shards, "_wanted": (), "_thread": None, "_pid": 0}
