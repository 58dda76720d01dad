"""Where every sample of a split lies: (shard, offset, size, key) from the tar headers, in flat arrays.

Shapes: S shards, N samples, K bytes of all keys together. About 24 bytes a sample beside its key.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from macedance.errors import DataError
from macedance.music.cache import cache_root

INDEX_NAME = ".index.npz"
_VERSION = 1
_MEMBER = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_.]+")


@dataclass(frozen=True)
class ShardIndex:
    """Samples of a list of tar files.

    Args:
        files: The S shards.
        starts_S1: (S+1,) int64, number of the first sample of each shard, N at the end.
        offsets_N: (N,) int64, byte of the first tar header of each sample in its shard.
        sizes_N: (N,) int64, bytes from there to the end of its last member's data.
        key_ends_N: (N,) int64, end of each key in `key_bytes_K`.
        key_bytes_K: (K,) uint8, the keys one after another, ASCII.
    """

    files: tuple[Path, ...]
    starts_S1: np.ndarray
    offsets_N: np.ndarray
    sizes_N: np.ndarray
    key_ends_N: np.ndarray
    key_bytes_K: np.ndarray

    def __len__(self) -> int:
        return int(self.starts_S1[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = (self.starts_S1, self.offsets_N, self.sizes_N, self.key_ends_N, self.key_bytes_K)
        return sum(array.nbytes for array in arrays)

    def key(self, number: int) -> str:
        """Key of sample `number` in [0, N)."""
        start = int(self.key_ends_N[number - 1]) if number > 0 else 0
        return self.key_bytes_K[start : int(self.key_ends_N[number])].tobytes().decode("ascii")

    def locate(self, number: int) -> tuple[int, int, int]:
        """(shard, offset, size) of sample `number` in [0, N)."""
        shard = int(np.searchsorted(self.starts_S1, number, side="right")) - 1
        return shard, int(self.offsets_N[number]), int(self.sizes_N[number])

    def where(self, number: int) -> str:
        """`shard:key` of a sample, for messages."""
        return f"{self.files[self.locate(number)[0]]}:{self.key(number)}"


@dataclass(frozen=True)
class _ShardRows:
    """Rows of one shard, and the size and time that they are valid for."""

    size: int
    mtime_ns: int
    offsets: np.ndarray
    sizes: np.ndarray
    key_lengths: np.ndarray
    key_bytes: np.ndarray


def scan_shard(path: Path) -> _ShardRows:
    """Read the tar headers of one shard; the members' data is not read.

    Raises:
        DataError: Missing, not a tar, truncated, or a member that is a link, a folder, outside the shard or
            badly named; a sample whose members do not follow one another.
    """
    offsets: list[int] = []
    ends: list[int] = []
    keys: list[bytes] = []
    seen: set[bytes] = set()
    try:
        stat = path.stat()
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                match = _MEMBER.fullmatch(member.name)
                if not member.isreg() or match is None:
                    raise DataError(
                        f"refused member {member.name!r}",
                        where=path,
                        expected="regular files named KEY.SUFFIX, KEY of [A-Za-z0-9_-]",
                        fix="write the shard with `macedance data`",
                    )
                key = match[1].encode("ascii")
                end = member.offset_data + member.size
                if end > stat.st_size:
                    raise DataError("truncated tar", where=f"{path}:{match[1]}", fix="copy the shard again")
                if keys and keys[-1] == key:
                    ends[-1] = end
                    continue
                if key in seen:
                    raise DataError("a sample's members lie apart or twice", where=f"{path}:{match[1]}")
                seen.add(key)
                keys.append(key)
                offsets.append(member.offset)
                ends.append(end)
        _check_end(path, ends[-1] if ends else 0)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"truncated or damaged tar ({error})", where=path, fix="copy the shard again") from error
    except OSError as error:
        raise DataError(f"shard cannot be read ({error.strerror or error})", where=path) from error
    begins = np.array(offsets, dtype=np.int64)
    return _ShardRows(
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        offsets=begins,
        sizes=np.array(ends, dtype=np.int64) - begins,
        key_lengths=np.array([len(key) for key in keys], dtype=np.int64),
        key_bytes=np.frombuffer(b"".join(keys), dtype=np.uint8),
    )


def _check_end(path: Path, end: int) -> None:
    """Refuse a tar that does not close with a block of zeros after its last member.

    tarfile takes a damaged or cut header for the end and would silently lose the samples behind it.
    """
    with path.open("rb") as stream:
        stream.seek(-(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise DataError("truncated or damaged tar (no end mark)", where=path, fix="copy the shard again")


def build_index(files: Sequence[Path], *, cache_dir: Path | None = None) -> ShardIndex:
    """Index of shards, from the cache where size and modification time still match, else from the headers.

    The cache is `.index.npz` beside the shards or, where that folder is read-only, a file in `cache_dir`
    (default `cache_root()/index`). A cache that cannot be read or written costs a scan, never an error.

    Args:
        files: Shards of one split, in order.
        cache_dir: Folder for the cache of read-only shards.

    Raises:
        DataError: A shard is missing, damaged or holds refused members.
    """
    files = tuple(Path(file) for file in files)
    if not files:
        raise DataError("no shards to index", expected="at least one .tar file")
    places = _cache_places(files[0].parent, cache_dir or cache_root() / "index")
    known: dict[str, _ShardRows] = {}
    for place in places:
        known = {**_load_cache(place), **known}
    rows, changed = [], False
    for file in files:
        row = known.get(file.name)
        try:
            stat = file.stat()
        except OSError as error:
            raise DataError(f"shard cannot be read ({error.strerror})", where=file) from error
        if row is None or (row.size, row.mtime_ns) != (stat.st_size, stat.st_mtime_ns):
            row, changed = scan_shard(file), True
        rows.append(row)
    if changed:
        _save_cache(places, files, rows)
    counts = np.array([len(row.offsets) for row in rows], dtype=np.int64)
    return ShardIndex(
        files=files,
        starts_S1=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        offsets_N=np.concatenate([row.offsets for row in rows]),
        sizes_N=np.concatenate([row.sizes for row in rows]),
        key_ends_N=np.cumsum(np.concatenate([row.key_lengths for row in rows])),
        key_bytes_K=np.concatenate([row.key_bytes for row in rows]),
    )


def _cache_places(folder: Path, cache_dir: Path) -> list[Path]:
    """Beside the shards first, then the cache folder under a name made of the folder's path."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    return [folder / INDEX_NAME, cache_dir / f"{name}.npz"]


def _load_cache(place: Path) -> dict[str, _ShardRows]:
    """Rows by shard name; empty when the file is absent, damaged or of another version."""
    try:
        with np.load(place, allow_pickle=False) as data:
            if int(data["version"]) != _VERSION:
                return {}
            cuts = np.cumsum(data["counts"])[:-1]
            offsets, sizes = np.split(data["offsets"], cuts), np.split(data["sizes"], cuts)
            lengths = np.split(data["key_lengths"], cuts)
            keys = np.split(data["key_bytes"], np.cumsum([int(item.sum()) for item in lengths])[:-1])
            table = zip(data["names"], data["shard_sizes"], data["mtimes_ns"], strict=True)
            rows = {
                str(name): _ShardRows(int(size), int(mtime), offsets[i], sizes[i], lengths[i], keys[i])
                for i, (name, size, mtime) in enumerate(table)
            }
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        return {}
    return {name: row for name, row in rows.items() if _consistent(row)}


def _consistent(row: _ShardRows) -> bool:
    """Whether cached rows can describe a shard of that size."""
    inside = bool(np.all(row.offsets >= 0) and np.all(row.sizes > 0) and np.all(row.offsets + row.sizes <= row.size))
    equal = len(row.offsets) == len(row.sizes) == len(row.key_lengths)
    return inside and equal and int(row.key_lengths.sum()) == len(row.key_bytes)


def _save_cache(places: Sequence[Path], files: Sequence[Path], rows: Sequence[_ShardRows]) -> None:
    """Write the cache at the first place that can be written."""
    for place in places:
        temporary = place.with_name(f"{place.name}.{secrets.token_hex(6)}.tmp")
        try:
            if place.name != INDEX_NAME:
                place.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                np.savez(
                    stream,
                    version=np.array(_VERSION),
                    names=np.array([file.name for file in files]),
                    counts=np.array([len(row.offsets) for row in rows], dtype=np.int64),
                    shard_sizes=np.array([row.size for row in rows], dtype=np.int64),
                    mtimes_ns=np.array([row.mtime_ns for row in rows], dtype=np.int64),
                    offsets=np.concatenate([row.offsets for row in rows]),
                    sizes=np.concatenate([row.sizes for row in rows]),
                    key_lengths=np.concatenate([row.key_lengths for row in rows]),
                    key_bytes=np.concatenate([row.key_bytes for row in rows]),
                )
            temporary.replace(place)
            return
        except OSError:
            temporary.unlink(missing_ok=True)
