"""Where every sample of a split lies: (shard, offset, size, key) from the tar headers, in flat arrays.

Shapes: S shards, N samples, K bytes of all keys together. 12 bytes a sample beside its key.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from datamodules.streams.index_file import Identity, Known, cache_places, load_index, save_index
from datamodules.streams.locks import exclusive
from datamodules.streams.scan import ShardRows, scan_shard
from datamodules.streams.tar_headers import BLOCK
from macedance.errors import DataError, TransportError
from macedance.music.cache import cache_root

MAX_LISTED = 20  # faulty shards that one error names
_Shard = TypeVar("_Shard", bound=Hashable)


@dataclass(frozen=True)
class ShardIndex:
    """Samples of a list of tar files.

    Args:
        names: The S shards, for messages.
        starts_S1: (S+1,) int64, number of the first sample of each shard, N at the end.
        offsets_N: (N,) uint32, block of 512 bytes of the first tar header of each sample in its shard.
        sizes_N: (N,) uint32, blocks from there to the end of its last member.
        key_starts_S: (S,) int64, first byte of each shard's keys in `key_bytes_K`.
        key_ends_N: (N,) uint32, end of each key, counted from there.
        key_bytes_K: (K,) uint8, the keys one after another, ASCII.
    """

    names: tuple[str, ...]
    starts_S1: np.ndarray
    offsets_N: np.ndarray
    sizes_N: np.ndarray
    key_starts_S: np.ndarray
    key_ends_N: np.ndarray
    key_bytes_K: np.ndarray

    def __len__(self) -> int:
        return int(self.starts_S1[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        per_shard, keys = (self.starts_S1, self.key_starts_S), (self.key_ends_N, self.key_bytes_K)
        return sum(array.nbytes for array in (*per_shard, self.offsets_N, self.sizes_N, *keys))

    def shard_of(self, number: int) -> int:
        """Shard of sample `number` in [0, N)."""
        return int(self.starts_S1.searchsorted(number, side="right")) - 1

    def key(self, number: int) -> str:
        """Key of sample `number` in [0, N)."""
        shard = self.shard_of(number)
        first = int(self.key_starts_S[shard])
        start = int(self.key_ends_N[number - 1]) if number > self.starts_S1[shard] else 0
        return self.key_bytes_K[first + start : first + int(self.key_ends_N[number])].tobytes().decode("ascii")

    def locate(self, number: int) -> tuple[int, int, int]:
        """(shard, offset, size) of sample `number` in [0, N), in bytes."""
        return self.shard_of(number), int(self.offsets_N[number]) * BLOCK, int(self.sizes_N[number]) * BLOCK

    def where(self, number: int) -> str:
        """`shard:key` of a sample, for messages."""
        return f"{self.names[self.shard_of(number)]}:{self.key(number)}"


def assemble(names: Sequence[str], rows: Sequence[ShardRows]) -> ShardIndex:
    """The index of shards from the rows of each."""
    counts = np.array([len(row) for row in rows], dtype=np.int64)
    key_counts = np.array([len(row.key_bytes) for row in rows], dtype=np.int64)
    return ShardIndex(
        names=tuple(names),
        starts_S1=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        offsets_N=np.concatenate([row.offsets for row in rows]),
        sizes_N=np.concatenate([row.sizes for row in rows]),
        key_starts_S=np.cumsum(key_counts) - key_counts,
        key_ends_N=np.concatenate([np.cumsum(row.key_lengths, dtype=np.uint32) for row in rows]),
        key_bytes_K=np.concatenate([row.key_bytes for row in rows]),
    )


def build_index(files: Sequence[Path], *, cache_dir: Path | None = None) -> ShardIndex:
    """Index of shards on this machine, from the cache where size and time still match, else from the headers.

    Args:
        files: Shards of one split, in order.
        cache_dir: Folder for the cache of read-only shards; None takes `cache_root()/index`.

    Raises:
        DataError: A shard is missing, damaged or holds refused members; one error lists all such shards.
    """
    files = [Path(file) for file in files]
    if not files:
        raise DataError("no shards to index", expected="at least one .tar file")
    identities: dict[Path, Identity] = {}
    faults: dict[Path, DataError] = {}
    for file in files:
        try:
            stat = file.stat()
            identities[file] = Identity(file.name, stat.st_size, stat.st_mtime_ns)
        except OSError as error:
            faults[file] = DataError(f"shard cannot be read ({error.strerror})", where=file)
    folder = files[0].parent
    places = cache_places(str(folder.resolve()), folder, cache_dir or cache_root() / "index")
    known = index_rows(identities, scan_shard, places, faults)
    if len(faults) == 1:
        raise next(iter(faults.values()))
    if faults:
        listed = ", ".join(f"{path.name}: {error.what}" for path, error in list(faults.items())[:MAX_LISTED])
        raise DataError(f"{len(faults)} of {len(files)} shards cannot be used: {listed}", where=folder)
    return assemble([str(file) for file in files], list(known.values()))


def index_rows(
    shards: Mapping[_Shard, Identity],
    scan_one: Callable[[_Shard], ShardRows],
    places: Sequence[Path],
    faults: dict[_Shard, DataError],
    *,
    fetch: Callable[[], Known] | None = None,
    threads: int = 1,
) -> dict[_Shard, ShardRows]:
    """Rows of each shard: from a cache, else scanned, and then cached.

    One process of the machine scans, the others wait for what it writes.

    Args:
        shards: Each shard and its identity now.
        scan_one: Reads the headers of one of them.
        places: Where the cache may lie.
        faults: Filled with the error of each shard that cannot be scanned.
        fetch: A further source of rows, asked before scanning.
        threads: How many shards are scanned at a time.

    Returns:
        The rows of those without fault, in the order of `shards`.
    """
    known = _known(places)
    if not all(identity in known for identity in shards.values()):
        with building(places[-1]):
            known = {**_known(places), **(fetch() if fetch is not None else {})}
            missing = [shard for shard, identity in shards.items() if identity not in known]
            for shard, result in zip(missing, _scan_all(missing, scan_one, threads), strict=True):
                if isinstance(result, DataError):
                    faults[shard] = result
                else:
                    known[shards[shard]] = result
            found = [identity for identity in shards.values() if identity in known]
            if found:
                save_index(places, found, [known[identity] for identity in found])
    return {shard: known[identity] for shard, identity in shards.items() if identity in known}


def _known(places: Sequence[Path]) -> Known:
    """What the caches hold, the first place first."""
    known: Known = {}
    for place in places:
        known = {**load_index(place), **known}
    return known


def building(place: Path) -> AbstractContextManager[object]:
    """The lock of an index; a folder that cannot be written costs the waiting, not the index."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        return exclusive(place.with_suffix(".lock")) if os.access(place.parent, os.W_OK) else nullcontext()
    except OSError:
        return nullcontext()


def _scan_all(
    shards: Sequence[_Shard], scan_one: Callable[[_Shard], ShardRows], threads: int
) -> list[ShardRows | DataError]:
    """Scan shards, some at a time; what cannot be scanned gives its error, a server that does not answer raises it."""

    def attempt(shard: _Shard) -> ShardRows | DataError:
        try:
            return scan_one(shard)
        except TransportError:
            raise
        except DataError as error:
            return error

    if threads == 1:
        return [attempt(shard) for shard in shards]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(attempt, shards))
