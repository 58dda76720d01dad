"""A corpus on a server: its manifest, its shards through the cache, its music one song at a time."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from datamodules.streams.index_file import INDEX_NAME, Known, anywhere, parse_index
from datamodules.streams.keys import check_key
from datamodules.streams.manifest import ShardEntry
from datamodules.streams.scan import LocalShard, ShardRows, scan
from datamodules.streams.shard_cache import CachedShard, RemoteShard, ShardCache
from datamodules.streams.transport import MissingFile, join_url, retrying, shown, transport_for
from macedance.errors import DataError, TransportError
from macedance.motion.atomic import write_atomically

_READ_AHEAD = 64 << 10
_LARGE_SAMPLE = 1 << 20  # above it headers are read by ranges; below it they are as good as the whole shard


@dataclass(frozen=True)
class RemoteFolder:
    """The folder of a corpus on a server.

    Args:
        url: Its address.
        cache: Where its shards are kept on this machine, and how long a fetch is tried.
    """

    url: str
    cache: ShardCache

    def __str__(self) -> str:
        return shown(self.url)

    def read(self, name: str) -> bytes:
        """A whole file of the corpus.

        Raises:
            MissingFile: The server does not have it.
            DataError: It may not be read.
            TransportError: The server does not answer.
        """
        url = join_url(self.url, name)
        transport = transport_for(url, self.cache.patience.timeout_s)
        return retrying(lambda: transport.read(url, 0, None), url, self.cache.patience)

    def shard(self, entry: ShardEntry) -> CachedShard:
        """A shard, read through the cache."""
        return CachedShard(RemoteShard(join_url(self.url, entry.file), entry.bytes, entry.sha256), self.cache)

    def fault(self, entry: ShardEntry) -> str | None:
        """What is wrong with a shard as far as the server says, or None; one that is here already is not asked for.

        Raises:
            TransportError: The server does not answer.
        """
        shard = self.shard(entry).remote
        if self.cache.holds(shard):
            return None
        transport = transport_for(shard.url, self.cache.patience.timeout_s)
        try:
            size = retrying(lambda: transport.size(shard.url), shard.url, self.cache.patience)
        except MissingFile:
            return f"{entry.file} is missing"
        except TransportError:
            raise
        except DataError as error:
            return f"{entry.file} {error.what}"
        return None if size == entry.bytes else f"{entry.file} has {size} bytes, not {entry.bytes}"

    def published_index(self, folder: str) -> Known:
        """Rows of the index that lies beside the shards of a split, if there is one that can be used."""
        try:
            return anywhere(parse_index(io.BytesIO(self.read(f"{folder}/{INDEX_NAME}"))))
        except DataError:
            return {}

    def scan(self, entry: ShardEntry) -> ShardRows:
        """Read the tar headers of a shard: by ranges where samples are large, else from the whole shard.

        Raises:
            DataError: It cannot be fetched, or as `scan`.
        """
        shard = self.shard(entry)
        large = entry.bytes > _LARGE_SAMPLE * max(entry.samples, 1) or entry.bytes > self.cache.limit_bytes
        if large and not self.cache.holds(shard.remote):
            return scan(_RangedShard(shard.remote, self.cache), str(shard))
        with LocalShard(shard.open()) as here:
            return scan(here, str(shard))

    def music_file(self, song: str) -> Path | None:
        """The song's flac, fetched first; None where the corpus brings none.

        Raises:
            DataError: It cannot be fetched.
        """
        check_key(song)
        corpus = hashlib.sha256(self.url.encode()).hexdigest()[:32]
        path = self.cache.folder / "music" / corpus / f"{song}.flac"
        if not path.is_file():
            try:
                write_atomically(path, self.read(f"music/{path.name}"))
            except MissingFile:
                return None
        return path


class _RangedShard:
    """A remote shard whose headers are read by ranges, a little ahead."""

    def __init__(self, shard: RemoteShard, cache: ShardCache) -> None:
        self.size = shard.bytes
        self._url, self._patience = shard.url, cache.patience
        self._transport = transport_for(shard.url, cache.patience.timeout_s)
        self._start, self._held = 0, b""

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end."""
        stop = min(offset + size, self.size)
        if not self._start <= offset <= stop <= self._start + len(self._held):
            end = min(max(stop, offset + _READ_AHEAD), self.size)
            if offset >= end:
                return b""
            self._held = retrying(lambda: self._transport.read(self._url, offset, end), self._url, self._patience)
            self._start = offset
        return self._held[offset - self._start : stop - self._start]
