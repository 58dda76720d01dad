"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from macedance.errors import DataError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write ``content`` to a temporary name beside ``path``, then rename it; folders are made as needed.

    Raises:
        DataError: The folder cannot be made or written, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        # mkstemp makes private files; ours are ordinary ones.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise DataError(
            f"cannot write: {error.strerror or error}", where=path, fix="choose a writable folder"
        ) from error
    except BaseException:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise
