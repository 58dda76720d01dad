"""Whole remote shards kept on this machine: fetched once for all its processes, verified, the least used dropped.

A shard is a file named by the sha256 that the manifest promises, so nothing stale is ever read. Readers hold a shared
lock on the file that they read; what is locked is never dropped.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from datamodules.streams.locks import exclusive, share, unused
from datamodules.streams.transport import PassingFault, Patience, WrongContent, given_up, shown, transport_for
from macedance.errors import ConfigError, DataError

_LOG = logging.getLogger(__name__)
_ENOUGH = 8 << 20  # bytes after which an attempt counts as progress, not as a failure


@dataclass(frozen=True)
class RemoteShard:
    """A shard on a server: its address, bytes and sha256 (hex) as the manifest has them."""

    url: str
    bytes: int
    sha256: str

    def __str__(self) -> str:
        return shown(self.url)


@dataclass(frozen=True)
class ShardCache:
    """Shards on this machine.

    Args:
        folder: Where they are kept; one folder may serve any number of corpora and processes.
        limit_bytes: Their size together. Only shards that are being read may exceed it.
        patience: How long a fetch is tried.
    """

    folder: Path
    limit_bytes: int
    patience: Patience = field(default_factory=Patience)

    def path(self, shard: RemoteShard) -> Path:
        """Where a shard is kept."""
        return self.folder / f"{shard.sha256}.tar"

    def holds(self, shard: RemoteShard) -> bool:
        """Whether a shard is here."""
        try:
            return self.path(shard).stat().st_size == shard.bytes
        except OSError:
            return False

    def check_room(self, largest: int) -> None:
        """Refuse a cache that a shard of `largest` bytes does not fit into.

        Raises:
            ConfigError: It does not.
        """
        if largest > self.limit_bytes:
            raise ConfigError(
                f"a shard of {largest / 1e9:.3g} GB does not fit into a cache of {self.limit_bytes / 1e9:.3g} GB",
                where="data.cache_gb",
                expected="room for several shards",
            )

    def open(self, shard: RemoteShard) -> int:
        """A descriptor of the shard, fetched first where it is not here; closing it allows the shard to be dropped.

        Raises:
            TransportError: It cannot be fetched for now.
            DataError: It is not there, differs from the manifest, or the cache folder cannot be written.
            ConfigError: The shard alone is larger than the cache may be.
        """
        while True:
            self.fetch(shard)
            try:
                descriptor = os.open(self.path(shard), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # dropped by another process in between
            except OSError as error:
                raise self._unusable(error) from error
            share(descriptor)
            with suppress(OSError):  # another user's shard can be read and not be marked
                os.utime(descriptor)  # the time of the last use: what was used longest ago is dropped first
            return descriptor

    def fetch(self, shard: RemoteShard, *, wait: bool = True) -> bool:
        """Bring a shard here unless it is.

        Args:
            shard: Which.
            wait: Where another process is fetching it (or one with the same lock), wait for that.

        Returns:
            Whether it is here; False only without `wait`.

        Raises:
            DataError: As `open`.
            ConfigError: As `open`.
        """
        if self.holds(shard):
            return True
        self.check_room(shard.bytes)
        try:
            with exclusive(self.folder / f"fetch-{shard.sha256[:2]}.lock", wait=wait) as held:
                if not held:
                    return False
                if not self.holds(shard):
                    self._fetch(shard)
            return True
        except OSError as error:
            raise self._unusable(error) from error

    def _fetch(self, shard: RemoteShard) -> None:
        with self._reserved(shard) as (stream, temporary):
            download(shard, stream, self.patience)
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(self.path(shard))

    @contextmanager
    def _reserved(self, shard: RemoteShard) -> Iterator[tuple[IO[bytes], Path]]:
        """A temporary file of the shard's size, counted in the cache's from the start, gone at the end."""
        temporary = self.folder / f".{shard.sha256}.{os.getpid()}.part"
        with exclusive(self.folder / "room.lock"):
            self._make_room(shard.bytes)
            stream = temporary.open("wb")
            share(stream.fileno())
            stream.truncate(shard.bytes)
        try:
            with stream:
                yield stream, temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, needed: int) -> None:
        """Drop what was used longest ago until `needed` bytes fit; what is being read stays."""
        kept = []
        for path in self.folder.iterdir():
            if path.suffix == ".part" and unused(path):
                path.unlink(missing_ok=True)  # of a process that was killed
            elif path.suffix in (".part", ".tar"):
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue
                kept.append((stat.st_mtime_ns, stat.st_size, path))
        excess = sum(size for _, size, _ in kept) + needed - self.limit_bytes
        for _, size, path in sorted(kept):
            if excess <= 0:
                return
            if path.suffix == ".tar" and unused(path):
                path.unlink(missing_ok=True)
                excess -= size
        if excess > 0:
            _say_too_small(self.folder, self.limit_bytes)

    def _unusable(self, error: OSError) -> DataError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return DataError(
            f"the shard cache cannot be used ({error.strerror or error})",
            where=self.folder,
            fix="free space or lower data.cache_gb" if full else "set data.cache_dir to a folder you may write",
        )


@functools.cache
def _say_too_small(folder: Path, limit_bytes: int) -> None:
    """Once for each process and cache."""
    _LOG.warning("the shards being read are more than data.cache_gb allows (%.3g GB in %s)", limit_bytes / 1e9, folder)


@dataclass(frozen=True)
class CachedShard:
    """A remote shard that is read through the cache."""

    remote: RemoteShard
    cache: ShardCache

    def open(self) -> int:
        """As `ShardCache.open`."""
        return self.cache.open(self.remote)

    def __str__(self) -> str:
        return str(self.remote)


def download(shard: RemoteShard, stream: IO[bytes], patience: Patience) -> None:
    """Write a shard into an open file, going on where a broken connection left off, and verify it.

    Raises:
        TransportError: It cannot be fetched after the allowed tries.
        DataError: The server does not have it, or it is not what the manifest says.
    """
    transport = transport_for(shard.url, patience.timeout_s)
    digest, written, failed = hashlib.sha256(), 0, 0
    while True:
        before = written
        try:
            for block in transport.blocks(shard.url, written) if written < shard.bytes else ():
                digest.update(block)
                written += len(block)
                if written > shard.bytes:
                    raise WrongContent(f"more than the manifest's {shard.bytes} bytes arrive")
                stream.write(block)
            if written < shard.bytes:
                raise WrongContent(f"{written} of {shard.bytes} bytes arrived")
            if digest.hexdigest() != shard.sha256:
                raise WrongContent("its sha256 is not the manifest's")
            return
        except PassingFault as fault:
            failed = 1 if written - before >= _ENOUGH and written < shard.bytes else failed + 1
            _LOG.debug("%s: %s, attempt %d", shard, fault, failed)
            if failed >= patience.tries:
                raise given_up(shard.url, failed, fault) from fault
            if written >= shard.bytes:
                digest, written = hashlib.sha256(), 0  # wrong content: from the start
                stream.seek(0)
            patience.pause(failed)
