"""Compiled loops that several processes may compile at once."""

from __future__ import annotations

import functools
import hashlib
import os
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_MARK = "_macedance_locked"


def protect_numba_cache() -> None:
    """Let one process at a time add to numba's cache on disk; call before the first compiled function of a process.

    numba chooses the name of a compiled function's file from an index that it reads, changes and writes without a lock.
    Two processes that compile different signatures of one function at the same time take the same name, the index of
    one then points at the machine code of the other, and every later process calls it with the wrong arguments: a crash
    that stays until the cache is removed. Loader workers, ranks and test workers start exactly so on a fresh machine.
    """
    try:
        import fcntl

        from numba.core.caching import IndexDataCacheFile
    except ImportError:  # no numba, another numba, or a system without file locks: as it was
        return
    plain = IndexDataCacheFile.save
    if getattr(plain, _MARK, False):
        return

    @functools.wraps(plain)
    def save(self: Any, key: Any, data: Any) -> None:
        path = f"{self._index_path}.lock"
        with open(path, "a", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            plain(self, key, data)

    setattr(save, _MARK, True)
    IndexDataCacheFile.save = save  # type: ignore[method-assign]


@contextmanager
def first_compilation(folder: Path | None = None) -> Iterator[None]:
    """Hold back other processes while this one first uses a compiled package; they then find its machine code whole.

    A package whose compiled functions call each other (librosa's do) must not be compiled by two processes at once on a
    fresh machine: the cache would mix the parts of both, and every later process would crash on it.

    Args:
        folder: Where the lock file lies, made when missing; where it cannot be made there is no lock. None: beside the
            installed packages, where their machine code lies too, or the temporary folder when that is read-only.
    """
    try:
        import fcntl

        folder = _lock_folder() if folder is None else folder
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f"compile-{_environment_key()}.lock").open("a", encoding="ascii")
    except (ImportError, OSError):
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lock_folder() -> Path:
    packages = Path(sysconfig.get_paths()["purelib"])
    return packages if os.access(packages, os.W_OK) else Path(tempfile.gettempdir())


def _environment_key() -> str:
    """Tells one installation from another: each has its own cache of machine code."""
    return hashlib.blake2b(sysconfig.get_paths()["purelib"].encode(), digest_size=6).hexdigest()
