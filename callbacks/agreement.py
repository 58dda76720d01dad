"""Ranks that succeed or fail together: no rank waits for one that has given up."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from macedance.errors import CheckpointError

Result = TypeVar("Result")


def gather(value: Any) -> list[Any]:
    """The value of every rank, in order; a collective."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


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
    result: Result | None = None
    fault: tuple[str, str | None] | None = None
    cause: Exception | None = None
    try:
        result = function()
    except CheckpointError as error:
        fault, cause = (error.what, error.fix), error
    except Exception as error:
        fault, cause = (f"{what}: {_in_words(error)}", _fix(error)), error
    faults = gather(fault)
    failing = [rank for rank, found in enumerate(faults) if found is not None]
    if failing:
        reason, fix = faults[failing[0]]
        on_rank = f" (rank {failing[0]} of {len(faults)})" if len(faults) > 1 else ""
        shared = CheckpointError(f"{failed}: {reason}{on_rank}", where=where, fix=fix)
        raise shared.everywhere() from cause
    return result  # type: ignore[return-value]


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _fix(error: Exception) -> str | None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or keep fewer checkpoints; the last one is untouched, --resume auto goes on from it"
    return "the last checkpoint is untouched; --resume auto goes on from it" if isinstance(error, OSError) else None
