"""Locks between the processes of one machine; the system frees them when a process ends, however it ends."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOG = logging.getLogger(__name__)


@contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`, made with its folder where it is missing.

    Args:
        path: The lock file; it stays.
        wait: Wait for the holder; otherwise give up at once.

    Yields:
        Whether it is held: False only without `wait`. On a file system without locks nothing is held and True is
        given; renames keep what is written whole there too, it may only be made twice.

    Raises:
        OSError: The file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            _LOG.debug("no lock on %s (%s)", path, error)
        yield True
    finally:
        os.close(descriptor)


def share(descriptor: int) -> None:
    """Mark an open file as being read, until it is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError as error:
        _LOG.debug("no shared lock (%s)", error)


def unused(path: Path) -> bool:
    """Whether nobody holds a lock on a file; False where it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)
