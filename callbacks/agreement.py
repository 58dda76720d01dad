"""Ranks that succeed or fail together: no rank waits for one that has given up."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from macedance.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DependencyError,
    MaceDanceError,
    NumericsError,
)

Result = TypeVar("Result")


def gather(value: Any) -> list[Any]:
    """The value of every rank, in order; a collective."""
    if not _joined():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def from_first(value: Any) -> Any:
    """The value of the first rank, on all; a collective."""
    if not _joined():
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box)
    return box[0]


def _joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def agreed(
    what: str, function: Callable[[], Result], *, where: Path, failed: str = "the checkpoint cannot be saved"
) -> Result:
    """Call a function on every rank; where it fails on any, all fail, with the first one's reason.

    Args:
        what: What it does, for the message: ``writing state.ckpt``.
        function: Itself no collective, or one whose collectives cannot be left early.
        where: The checkpoint.
        failed: What is so where it fails.

    Raises:
        CheckpointError: It failed, and on which rank.
    """
    return _agreed(what, function, where, failed, _as_checkpoint_error, lambda kind: CheckpointError)


def agreed_evaluation(what: str, function: Callable[[], Result], *, where: Path) -> Result:
    """As :func:`agreed`, for what judges a model beside its training.

    Args:
        what: What it does, for the message: ``dancing to the validation clips``.
        function: As there.
        where: The file that the evaluation would have been.

    Raises:
        MaceDanceError: It failed, and on which rank; of the kind of that rank's own error.
    """
    return _agreed(what, function, where, "the evaluation failed", _as_evaluation_error, _kind)


_Fault = tuple[str, str | None]


def _agreed(
    what: str,
    function: Callable[[], Result],
    where: Path,
    failed: str,
    describe: Callable[[str, Exception], _Fault],
    kind_of: Callable[[str], type[MaceDanceError]],
) -> Result:
    result: Result | None = None
    fault: tuple[str, _Fault] | None = None
    cause: Exception | None = None
    try:
        result = function()
    except Exception as error:
        fault, cause = (type(error).__name__, describe(what, error)), error
    faults = gather(fault)
    failing = [rank for rank, found in enumerate(faults) if found is not None]
    if failing:
        name, (reason, fix) = faults[failing[0]]
        on_rank = f" (rank {failing[0]} of {len(faults)})" if len(faults) > 1 else ""
        shared = kind_of(name)(f"{failed}: {reason}{on_rank}", where=where, fix=fix)
        raise shared.everywhere() from cause
    return result  # type: ignore[return-value]


def _as_checkpoint_error(what: str, error: Exception) -> _Fault:
    if isinstance(error, CheckpointError):
        return error.what, error.fix
    return f"{what}: {_in_words(error)}", _fix(error)


def _as_evaluation_error(what: str, error: Exception) -> _Fault:
    if isinstance(error, MaceDanceError):
        place = f" at {error.where}" if error.where is not None else ""
        wanted = f", expected {error.expected}" if error.expected is not None else ""
        return f"{what}: {error.what}{place}{wanted}", error.fix
    return f"{what}: {_in_words(error)}", _fix(error)


def _kind(name: str) -> type[MaceDanceError]:
    """Errors that say who is to mend them stay what they are."""
    kinds = (ConfigError, DataError, DependencyError, NumericsError)
    return next((kind for kind in kinds if kind.__name__ == name), MaceDanceError)


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _fix(error: Exception) -> str | None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or keep fewer checkpoints; the last one is untouched, --resume auto goes on from it"
    return "the last checkpoint is untouched; --resume auto goes on from it" if isinstance(error, OSError) else None
