"""Reading the headers of one shard: where each of its samples lies.

Shapes: N samples, K bytes of all keys together.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from datamodules.streams.tar_headers import BLOCK, ZEROS, padded, parse_header
from macedance.errors import DataError

_MEMBER = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_.]+")
_COPY_AGAIN = "copy the shard again"


class Shard(Protocol):
    """A tar that is read at any place."""

    @property
    def size(self) -> int:
        """Bytes of the file."""

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end."""


@dataclass(frozen=True)
class ShardRows:
    """Samples of one shard, in blocks of 512 bytes.

    Args:
        offsets: (N,) uint32, block of the first header of each sample.
        sizes: (N,) uint32, blocks from there to the end of its last member.
        key_lengths: (N,) uint16.
        key_bytes: (K,) uint8, the keys one after another, ASCII.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    key_lengths: np.ndarray
    key_bytes: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets)


class LocalShard:
    """A shard on this machine, by its descriptor; a context that closes it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end."""
        return os.pread(self._descriptor, size, offset)

    def __enter__(self) -> LocalShard:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def scan_shard(path: Path) -> ShardRows:
    """Read the tar headers of a shard on this machine; the members' data is not read.

    Raises:
        DataError: Missing, or as `scan`.
    """
    try:
        with LocalShard(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as shard:
            return scan(shard, str(path))
    except OSError as error:
        raise DataError(f"shard cannot be read ({error.strerror or error})", where=path) from error


def scan(shard: Shard, where: str) -> ShardRows:
    """Read the tar headers of a shard.

    Args:
        shard: The tar.
        where: Its name for messages.

    Raises:
        DataError: Not a tar, truncated, or a member that is a link, a folder, outside the shard or badly named; a
            sample whose members do not follow one another.
    """
    offsets: list[int] = []
    ends: list[int] = []
    keys: list[bytes] = []
    seen: set[bytes] = set()
    for name, start, end in _members(shard, where):
        match = _MEMBER.fullmatch(name)
        if match is None or len(match[1]) > 0xFFFF:
            raise _refused(name, where)
        key = match[1].encode("ascii")
        if keys and keys[-1] == key:
            ends[-1] = end
            continue
        if key in seen:
            raise DataError("a sample's members lie apart or twice", where=f"{where}:{match[1]}")
        seen.add(key)
        keys.append(key)
        offsets.append(start)
        ends.append(end)
    if shard.size // BLOCK > 0xFFFFFFFF:
        raise DataError("shard is larger than 2 TiB", where=where, fix="write smaller shards")
    begins = np.array(offsets, dtype=np.int64) // BLOCK
    return ShardRows(
        offsets=begins.astype(np.uint32),
        sizes=(np.array(ends, dtype=np.int64) // BLOCK - begins).astype(np.uint32),
        key_lengths=np.array([len(key) for key in keys], dtype=np.uint16),
        key_bytes=np.frombuffer(b"".join(keys), dtype=np.uint8),
    )


def _refused(name: str, where: str) -> DataError:
    return DataError(
        f"refused member {name!r}",
        where=where,
        expected="regular files named KEY.SUFFIX, KEY of [A-Za-z0-9_-]",
        fix="write the shard with `macedance data`",
    )


def _members(shard: Shard, where: str) -> Iterator[tuple[str, int, int]]:
    """(name, first byte of its header, end of its padded data) of every member.

    The end of a tar is a block of zeros: a damaged or cut header is an error, not the end, or the samples behind it
    would be lost in silence.
    """
    try:
        at = 0
        while (block := shard.read_at(at, BLOCK)) != ZEROS:
            if len(block) < BLOCK:
                raise DataError("truncated or damaged tar (no end mark)", where=where, fix=_COPY_AGAIN)
            member = parse_header(block)
            if member.extended:
                yield from _members_by_tarfile(shard, at, where)
                return
            if not member.regular:
                raise _refused(member.name, where)
            end = at + BLOCK + padded(member.size)
            if end > shard.size:
                raise DataError("truncated tar", where=f"{where}:{member.name}", fix=_COPY_AGAIN)
            yield member.name, at, end
            at = end
    except tarfile.TarError as error:
        raise DataError(f"truncated or damaged tar ({error})", where=where, fix=_COPY_AGAIN) from error


class _Stream(io.RawIOBase):
    """A shard as a file, for tarfile."""

    def __init__(self, shard: Shard) -> None:
        self._shard, self._at = shard, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._shard.size)[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._shard.read_at(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _members_by_tarfile(shard: Shard, first: int, where: str) -> Iterator[tuple[str, int, int]]:
    """The same from `first` on for tars with extended headers, which other programs write."""
    end = first
    stream = io.BufferedReader(_Stream(shard), 32 * BLOCK)
    stream.seek(first)
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            if not member.isreg() or member.issparse():
                raise _refused(member.name, where)
            end = member.offset_data + padded(member.size)
            if end > shard.size:
                raise DataError("truncated tar", where=f"{where}:{member.name}", fix=_COPY_AGAIN)
            yield member.name, member.offset, end
    if shard.read_at(end, BLOCK) != ZEROS:
        raise DataError("truncated or damaged tar (no end mark)", where=where, fix=_COPY_AGAIN)
