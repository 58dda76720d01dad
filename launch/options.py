"""What the verbs share: parsers that fail in one line, the --json option, checks of folders."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import sys
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from macedance.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes become ConfigErrors: one line, exit code 2."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing a page of usage."""
        raise ConfigError(message, fix=f"see `{self.prog} --help`")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """The option every verb has: ``--json`` prints one object on stdout, ``--json FILE`` writes it to FILE."""
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="print the result as one JSON object, or write it to FILE"
    )


def emit_json(target: str, content: dict[str, Any]) -> None:
    """Print ``content`` (target ``-``) or write it to a file, whole or not at all."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    path = Path(target)
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f"cannot write the JSON file: {error.strerror}", where=path) from error


def say(text: str) -> None:
    """A message to the user, on stderr so that stdout holds results only."""
    print(text, file=sys.stderr, flush=True)


def writable_folder(path: Path) -> Path:
    """Make the folder and prove that a file can be written into it.

    Raises:
        ConfigError: It cannot be made or written to, or it is a file.
    """
    probe = path / f".probe-{uuid.uuid4().hex[:8]}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"cannot write to the output folder: {error.strerror or error}",
            where=path,
            fix="name a folder that you may write to",
        ) from error
    return path


def check_writable(path: Path) -> None:
    """Raise ConfigError when the folder could not be made or written to; makes nothing."""
    ancestor = path.absolute()
    while not ancestor.exists() and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        kind = "is not a folder" if not ancestor.is_dir() else "may not be written to"
        raise ConfigError(
            f"cannot write to the output folder: {ancestor} {kind}",
            where=path,
            fix="name a folder that you may write to",
        )


def positive_float(name: str, value: float | None) -> None:
    """Raise ConfigError unless the number is finite and above zero; None passes."""
    if value is not None and not (0 < value < float("inf")):
        raise ConfigError(f"{name} is {value}", expected="a number above 0")


def positive_int(name: str, value: int | None) -> None:
    """Raise ConfigError unless the number is 1 or more; None passes."""
    if value is not None and value < 1:
        raise ConfigError(f"{name} is {value}", expected="1 or more")


class _NoChatter(logging.Filter):
    """Drops the start-up lines of the training libraries; everything else comes through."""

    _CHATTER = re.compile(
        r"(\[rank: \d+\] )?(GPU available|TPU available|HPU available|IPU available|Using default|`Trainer|"
        r"Trainer\.fit|.*Tip:|Restor(ing|ed all) states|"
        r"Running in `fast_dev_run`|LOCAL_RANK|Seed set|You are using a CUDA device|Trainer will use only 1 of|"
        r"Initializing distributed|-{20,}|distributed_backend|`weights_only` was not set|"
        r"Using (bfloat16|16bit) |Detected KeyboardInterrupt)"
    )

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is worth a user's time."""
        return record.levelno >= logging.ERROR or not self._CHATTER.match(record.getMessage().lstrip())


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the start-up chatter of the training libraries; our own messages and errors come through."""
    filters = [(h, _NoChatter()) for h in _handlers()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", message=".*(does not have many workers|tensorboardX|LeafSpec|weights_only).*")
        warnings.filterwarnings("ignore", message=".*Mismatch dtype between input and weight.*")
        warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
        for handler, chatter in filters:
            handler.addFilter(chatter)
        try:
            yield
        finally:
            for handler, chatter in filters:
                handler.removeFilter(chatter)


def _handlers() -> list[logging.Handler]:
    """The handlers that Lightning's loggers write to."""
    import lightning_fabric  # noqa: F401  (makes them)
    import pytorch_lightning  # noqa: F401

    found: list[logging.Handler] = []
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric", "lightning", ""):
        found += [h for h in logging.getLogger(name).handlers if h not in found]
    return found
