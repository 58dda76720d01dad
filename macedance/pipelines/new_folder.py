"""Writing a folder so that nothing half-written is ever seen under its name."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from macedance.errors import ConfigError


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """A temporary folder beside ``out``, renamed to it at the end and removed on any error.

    Raises:
        ConfigError: `out` exists, or it or something in it cannot be written.
    """
    out = Path(out)
    if out.exists():
        raise ConfigError("the output folder exists", where=out, fix="name another one, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.writing-", dir=out.parent))
    except OSError as error:
        raise ConfigError(f"cannot write the folder: {error.strerror or error}", where=out) from error
    try:
        yield stage
        stage.chmod(0o755)  # mkdtemp makes private folders; ours is an ordinary one
        stage.rename(out)
    except OSError as error:
        raise ConfigError(
            f"cannot write the folder: {error.strerror or error}", where=out, fix="free some space"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
