"""Where computed things are kept between runs, and arrays kept there by content hash."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)
_READ_BYTES = 1 << 20


def cache_root() -> Path:
    """The cache folder: ``$MACEDANCE_CACHE``, or ``~/.cache/macedance``. It may not exist yet."""
    chosen = os.environ.get("MACEDANCE_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "macedance"


def content_hash(content: Path | NDArray[Any], *labels: object) -> str:
    """A key (40 hex digits) of a file's bytes or an array's values, and of whatever else the result depends on.

    Args:
        content: A file, read in blocks, or an array.
        labels: Settings and versions; their ``str`` enters the hash.
    """
    digest = hashlib.blake2b(digest_size=20)
    for label in labels:
        text = str(label).encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    if isinstance(content, Path):
        with content.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    else:
        array = np.ascontiguousarray(content)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def cached_array(
    folder: Path,
    key: str,
    compute: Callable[[], NDArray[np.float32]],
    valid: Callable[[NDArray[np.float32]], bool],
) -> NDArray[np.float32]:
    """The array stored under ``key``, computed and stored first if it is not there.

    An entry that cannot be read, or that ``valid`` refuses, is computed again and replaced. A folder that cannot be
    written costs the reuse, never the result. Entries are renamed into place: a reader sees a whole one or none.
    """
    path = folder / f"{key}.npy"
    if path.is_file():
        try:
            stored = np.load(path, allow_pickle=False)
            if stored.dtype == np.float32 and valid(stored):
                return stored
            _LOG.warning("cache entry %s is not what it should be: computed again", path)
        except (OSError, ValueError, EOFError):
            _LOG.warning("cache entry %s cannot be read: computed again", path)
    array = compute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{key[:8]}-", suffix=".npy")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, array, allow_pickle=False)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        _LOG.warning("cache folder %s cannot be written (%s): nothing kept", folder, error)
    return array
