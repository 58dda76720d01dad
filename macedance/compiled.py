"""Compiled loops that several processes may compile at once."""

from __future__ import annotations

import functools
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
    IndexDataCacheFile.save = save
