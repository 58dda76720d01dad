"""Writing a file so that nothing half-written is ever seen under its name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from macedance.errors import DataError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed onto it at the end and removed on any error.

    The folder is made. The suffix stays, because encoders choose the format by it.

    Raises:
        DataError: the folder cannot be made or written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise DataError(
            f"the folder cannot be written ({error.strerror or error})",
            where=path.parent,
            fix="choose another output folder or mend its permissions",
        ) from error
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise DataError(f"the file cannot be written ({error.strerror or error})", where=path) from error
    finally:
        temporary.unlink(missing_ok=True)
