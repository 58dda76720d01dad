"""Ranks that start together and fail together: joined before anything is decided, errors shared by all."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch

from macedance import errors
from macedance.errors import MaceDanceError

Result = TypeVar("Result")


def launched_by_lightning() -> bool:
    """Whether Lightning's own main process started this one, as rank 1 or above of its machine."""
    named = any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "SLURM_PROCID"))
    return not named and int(os.environ.get("LOCAL_RANK", "0") or 0) > 0


def join_ranks(trainer: pl.Trainer) -> None:
    """Start the ranks that nobody started yet and connect all of them.

    Lightning does both inside `fit`; here they come first, so that where to resume from is decided once. Both are then
    found done: its environment takes processes with a local rank for started, and a process group is made once.
    """
    strategy = trainer.strategy
    launcher = strategy.launcher
    if launcher is None:
        return
    if "CROSS_RANK" in os.environ:  # what the `deepspeed` launcher calls the number of a machine
        os.environ.setdefault("NODE_RANK", os.environ["CROSS_RANK"])
    launcher.launch(strategy.setup_environment, trainer=trainer)


def is_joined() -> bool:
    """Whether this process is one of several."""
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )


def together(function: Callable[[], Result]) -> Result:
    """Call a function on every rank; an error on any of them is raised on all.

    Raises:
        MaceDanceError: The first failing rank's, naming the rank where others did not fail.
    """
    if not is_joined():
        return function()
    result: Result | None = None
    fault: dict[str, Any] | None = None
    unexpected: BaseException | None = None
    try:
        result = function()
    except MaceDanceError as error:
        fault = _to_dict(error)
    except Exception as error:
        unexpected = error
        fault = _to_dict(MaceDanceError(f"{type(error).__name__}: {error}"))
    faults: list[dict[str, Any] | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(faults, fault)
    if unexpected is not None:
        raise unexpected
    failing = [rank for rank, found in enumerate(faults) if found is not None]
    if failing:
        first = faults[failing[0]]
        assert first is not None
        only = None if len(failing) == len(faults) else f"rank {failing[0]} on {first['host']}"
        raise _from_dict(first, only)
    return result  # type: ignore[return-value]


#: How often the others look whether the first rank is done.
_PAUSE_S = 0.5


def _wait_for_first_rank() -> None:
    """Returns on every rank once the first one called it: without a collective, which would time out in half an hour.

    The first rank may read and cut checkpoints of hundreds of gigabytes meanwhile.
    """
    store, rank = torch.distributed.distributed_c10d._get_default_store(), torch.distributed.get_rank()
    call = store.add(f"macedance-decisions-{rank}", 1)
    key = f"macedance-decided-{call}"
    if rank == 0:
        store.set(key, "done")
    while not store.check([key]):
        time.sleep(_PAUSE_S)


def decided_by_first_rank(function: Callable[[], Result]) -> Result:
    """Call a function on the first rank and give its result, or raise its error, on all."""
    if not is_joined():
        return function()
    box: list[Any] = [None, None]
    unexpected: Exception | None = None
    if torch.distributed.get_rank() == 0:
        try:
            box[0] = function()
        except MaceDanceError as error:
            box[1] = _to_dict(error)
        except Exception as error:
            unexpected = error
            box[1] = _to_dict(MaceDanceError(f"{type(error).__name__}: {error}"))
    _wait_for_first_rank()
    torch.distributed.broadcast_object_list(box)
    if unexpected is not None:
        raise unexpected
    if box[1] is not None:
        raise _from_dict(box[1], None)
    result: Result = box[0]
    return result


def is_first_rank() -> bool:
    """Whether this process speaks for all."""
    return not is_joined() or torch.distributed.get_rank() == 0


def _to_dict(error: MaceDanceError) -> dict[str, Any]:
    where = None if error.where is None else str(error.where)
    return {
        "kind": type(error).__name__,
        "what": error.what,
        "where": where,
        "expected": error.expected,
        "fix": error.fix,
        "host": socket.gethostname(),
    }


def _from_dict(fault: dict[str, Any], rank: str | None) -> MaceDanceError:
    """The error as it was on its rank."""
    what = fault["what"] if rank is None else f"{rank}: {fault['what']}"
    kind = getattr(errors, fault["kind"], MaceDanceError)
    error = kind(what, where=fault["where"], expected=fault["expected"], fix=fault["fix"])
    assert isinstance(error, MaceDanceError)
    return error.everywhere()
