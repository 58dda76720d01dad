"""The index on disk: `.index.npz` beside the shards or, where those are read-only or remote, in the cache folder.

A row is used again only while its shard is the one that it was read from: the same size and modification time on this
machine, the same size and sha256 (of the manifest) elsewhere. Whatever cannot be read or does not add up costs a scan,
never an error.
"""

from __future__ import annotations

import hashlib
import io
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.streams.scan import ShardRows
from datamodules.streams.tar_headers import BLOCK
from macedance.errors import DataError
from macedance.motion.atomic import write_atomically

INDEX_NAME = ".index.npz"
_VERSION = 2
_UNUSABLE = (
    OSError, ValueError, KeyError, IndexError, EOFError, TypeError, SyntaxError, MemoryError, OverflowError,
    tokenize.TokenError, NotImplementedError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_KEY_CHARACTERS = np.zeros(256, dtype=bool)
_KEY_CHARACTERS[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")] = True


@dataclass(frozen=True)
class Identity:
    """Which file a shard's rows were read from.

    Args:
        name: File name of the shard.
        size: Its bytes.
        mtime_ns: Its modification time; -1 for a remote one.
        sha256: Its hash by the manifest, hex; empty without one.
    """

    name: str
    size: int
    mtime_ns: int = -1
    sha256: str = ""


Known = dict[Identity, ShardRows]


def cache_places(folder: str, beside: Path | None, cache_dir: Path) -> list[Path]:
    """Where an index may lie: beside the shards first, then the cache folder under a name made of the folder's."""
    name = hashlib.sha256(folder.encode()).hexdigest()[:32]
    kept = cache_dir / f"{name}.npz"
    return [kept] if beside is None else [beside / INDEX_NAME, kept]


def load_index(place: Path) -> Known:
    """Rows by shard; empty when the file is absent, damaged or of another version."""
    return parse_index(place)


def parse_index(source: Path | io.BytesIO) -> Known:
    """Rows of an index file, those that can be true of their shard."""
    try:
        with np.load(source, allow_pickle=False) as data:
            if int(data["version"]) != _VERSION:
                return {}
            columns = {name: data[name] for name in ("offsets", "sizes", "key_lengths", "key_bytes", "counts")}
            table = zip(data["names"], data["shard_sizes"], data["mtimes_ns"], data["sha256"], strict=True)
            shards = [Identity(str(name), int(size), int(mtime), str(sha)) for name, size, mtime, sha in table]
        return _cut(columns, shards)
    except _UNUSABLE:
        return {}


def anywhere(known: Known) -> Known:
    """The rows of an index that was written beside the shards, for their copies elsewhere: time does not count."""
    return {Identity(shard.name, shard.size, -1, shard.sha256): rows for shard, rows in known.items() if shard.sha256}


def _cut(columns: dict[str, np.ndarray], shards: Sequence[Identity]) -> Known:
    """The columns cut into the rows of each shard."""
    counts = columns["counts"].astype(np.int64)
    lengths = columns["key_lengths"]
    key_ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    ends = np.concatenate([[0], np.cumsum(counts)])
    if (counts < 0).any() or len(counts) != len(shards) or len(lengths) != ends[-1]:
        return {}
    if key_ends[-1] != len(columns["key_bytes"]) or not all(len(columns[k]) == ends[-1] for k in ("offsets", "sizes")):
        return {}
    known = {}
    for number, shard in enumerate(shards):
        rows = slice(int(ends[number]), int(ends[number + 1]))
        keys = slice(int(key_ends[rows.start]), int(key_ends[rows.stop]))
        found = ShardRows(columns["offsets"][rows], columns["sizes"][rows], lengths[rows], columns["key_bytes"][keys])
        if _possible(found, shard.size):
            known[shard] = found
    return known


def _possible(rows: ShardRows, size: int) -> bool:
    """Whether rows can describe a shard of that size: samples one after another inside it, keys that may name them."""
    kinds = (rows.offsets.dtype, rows.sizes.dtype, rows.key_lengths.dtype, rows.key_bytes.dtype)
    if kinds != (np.uint32, np.uint32, np.uint16, np.uint8):
        return False
    begins = rows.offsets.astype(np.int64)
    ends = begins + rows.sizes
    if len(rows) == 0:
        return True
    ordered = bool((begins[1:] >= ends[:-1]).all() and (rows.sizes > 0).all())
    return ordered and int(ends[-1]) * BLOCK <= size and bool(_KEY_CHARACTERS[rows.key_bytes].all())


def save_index(places: Sequence[Path], shards: Sequence[Identity], rows: Sequence[ShardRows]) -> None:
    """Write the index at the first place that can be written; nowhere is no error."""
    stream = io.BytesIO()
    np.savez(
        stream,
        version=np.array(_VERSION),
        names=np.array([shard.name for shard in shards]),
        shard_sizes=np.array([shard.size for shard in shards], dtype=np.int64),
        mtimes_ns=np.array([shard.mtime_ns for shard in shards], dtype=np.int64),
        sha256=np.array([shard.sha256 for shard in shards]),
        counts=np.array([len(row) for row in rows], dtype=np.int64),
        offsets=np.concatenate([row.offsets for row in rows]),
        sizes=np.concatenate([row.sizes for row in rows]),
        key_lengths=np.concatenate([row.key_lengths for row in rows]),
        key_bytes=np.concatenate([row.key_bytes for row in rows]),
    )
    for place in places:
        if place.name == INDEX_NAME and not place.parent.is_dir():
            continue
        try:
            write_atomically(place, stream.getvalue())
            return
        except DataError:
            continue
