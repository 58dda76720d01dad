"""What broke a training run, in one line that says what to change: memory, lost ranks, killed workers, full disks."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lightning_modules.strategies import strategy_kind
from macedance.errors import MaceDanceError

if TYPE_CHECKING:
    from launch.run import Run

_OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|CUDA (error: )?out of memory|CUBLAS_STATUS_ALLOC_FAILED|"
    r"Cannot allocate memory|HIP out of memory",
    re.I,
)
_ASKED_FOR = re.compile(r"tried to allocate ([\d.]+) ?([KMGT]i?B|bytes)", re.I)
_LOST_RANK = re.compile(
    r"[Cc]onnection (was )?(closed|reset|refused|aborted)|Broken pipe|[Ss]ocket (is )?closed|Timed? ?out waiting|"
    r"remote process exited|NCCL (communicator was aborted|error)|collective operation timeout|failed to recv|"
    r"gloo/transport",
)
_TIMED_OUT = re.compile(r"tim(ed|e) ?out", re.I)
_PEER = re.compile(r"\[?((?:\d{1,3}\.){3}\d{1,3}|(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{1,4})\]?[:<](\d+)>?")
_WORKER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: (\w[\w ]*)|exited unexpectedly)"
)
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT)


def explain_failure(error: BaseException, run: Run) -> MaceDanceError | None:
    """One line for a failure that a user can do something about.

    Args:
        error: What training ended with.
        run: The run, whose present settings the line names.

    Returns:
        An error of exit code 1, or None for a failure that is not understood: its own trace says more.
    """
    if isinstance(error, MaceDanceError):
        return None
    for cause in reversed(list(_chain(error))):
        for explain in (_disk_full, _worker_lost, _out_of_memory, _rank_lost):
            explained = explain(cause, run)
            if explained is not None:
                return explained
    return None


def is_interrupt(error: BaseException) -> bool:
    """Whether this is Ctrl-C: Lightning turns it into the end of the program with code 1."""
    return isinstance(error, KeyboardInterrupt) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of, the first first."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current = current.__cause__ or current.__context__
    yield from seen


def _where(run: Run) -> str:
    trainer = run.trainer
    return f"step {trainer.global_step + 1}, rank {trainer.global_rank} on {socket.gethostname()}"


# ---------------------------------------------------------------- memory
def _out_of_memory(error: BaseException, run: Run) -> MaceDanceError | None:
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if not known and not (isinstance(error, (RuntimeError, OSError)) and _OUT_OF_MEMORY.search(str(error))):
        return None
    asked = _asked_for(str(error))
    device = run.trainer.strategy.root_device
    place = f"the GPU's memory ({device})" if device.type == "cuda" else "the machine's memory"
    batch, frames = _setting(run.data, "micro_batch_size"), _setting(run.data, "window_frames")
    return MaceDanceError(
        f"out of memory: {place} does not hold the step{f', {asked} more were asked for' if asked else ''}",
        where=f"{_where(run)}, {batch} windows of {frames} frames at a time",
        fix=f"the first of these that is left to you: {'; '.join(_memory_knobs(run))}",
    )


def _asked_for(text: str) -> str | None:
    """How much was wanted, as the message says; bytes are told in MiB."""
    found = _ASKED_FOR.search(text)
    if found is None:
        return None
    number, unit = found.groups()
    return f"{number} {unit}" if unit != "bytes" else f"{float(number) / 2**20:.0f} MiB"


def _memory_knobs(run: Run) -> list[str]:
    """What takes memory, with what it is now; what changes the result least comes first."""
    trainer, data = run.trainer, run.data
    kind, accumulate = strategy_kind(trainer), trainer.accumulate_grad_batches
    on_gpu = trainer.strategy.root_device.type == "cuda"
    knobs = [
        f"--data.global_batch_size (now {_setting(data, 'global_batch_size')})",
        f"--trainer.accumulate_grad_batches (now {accumulate}; {2 * accumulate} halves what is held at a time and "
        "leaves the result)",
    ]
    if not str(trainer.precision).startswith("bf16"):
        knobs.append(f"--trainer.precision bf16-mixed (now {trainer.precision})")
    recomputed = getattr(run.model, "activation_checkpointing", None)
    knobs.append(f"--model.activation_checkpointing (now {recomputed or 'off'})")
    order = ("single", "ddp", "zero1", "zero2", "zero3", "zero3_offload")
    rank = order.index(kind) if kind in order else 0
    left = [f"strategies/{name}" for name in ("zero2", "zero3", "zero3_offload") if order.index(name) > rank]
    if left and (trainer.world_size > 1 or on_gpu):
        knobs.append(f"--config {', then '.join(left)} (now {kind} on {trainer.world_size} ranks)")
    knobs.append(f"--data.window_frames (now {_setting(data, 'window_frames')})")
    if not on_gpu:
        knobs.append(_loader_knobs(run))
    return knobs


def _loader_knobs(run: Run) -> str:
    workers, cache = _setting(run.data, "num_workers"), _setting(run.data, "cache_mb")
    return f"--data.num_workers (now {workers}) and --data.cache_mb (now {cache}, held by each loader process)"


def _setting(holder: Any, name: str) -> Any:
    """A setting's present value for a message; `?` where it has none."""
    try:
        return getattr(holder, name, "?")
    except MaceDanceError:
        return "?"


# ---------------------------------------------------------------- loader processes
def _worker_lost(error: BaseException, run: Run) -> MaceDanceError | None:
    found = _WORKER.search(str(error)) if isinstance(error, RuntimeError) else None
    if found is None:
        return None
    signal_name = (found.group(2) or "").strip()
    if "shared memory" in str(error):
        return MaceDanceError(
            f"a loader process (pid {found.group(1)}) found no shared memory left",
            where=f"{_where(run)}, /dev/shm with {_free('/dev/shm')} free",
            fix=f"a larger /dev/shm (containers: --shm-size), or less of {_loader_knobs(run)}",
        )
    how = f"was killed by a signal ({signal_name})" if signal_name else "is gone"
    likely = "" if signal_name not in ("", "Killed") else ", killed by the system for want of memory perhaps"
    return MaceDanceError(
        f"a loader process (pid {found.group(1)}) {how}{likely}",
        where=_where(run),
        fix=f"less of {_loader_knobs(run)}, or ask for more memory; the kernel's log (dmesg) or the job's state says "
        "whether it was memory",
    )


# ---------------------------------------------------------------- other ranks
def _rank_lost(error: BaseException, run: Run) -> MaceDanceError | None:
    ours = isinstance(error, torch.distributed.DistError)
    if run.trainer.world_size < 2 or not isinstance(error, (RuntimeError, ConnectionError)):
        return None
    if not ours and not _LOST_RANK.search(str(error)):
        return None
    what = "gave no answer in time" if _TIMED_OUT.search(str(error)) else "left"
    ended = _ended_children(run)
    if ended:
        who, look = ", ".join(ended), "its messages stand above"
    else:
        peer = _PEER.search(str(error))
        who = f"the rank at {_host(peer.group(1))}" if peer else "another rank"
        look = "look at the log of that rank, the first to fail; hang-rank-*.txt in the run directory if it stood still"
    return MaceDanceError(
        f"{who} {what}, and this one waited for it",
        where=_where(run),
        fix=f"{look}; the same command goes on from the newest checkpoint",
    )


def _ended_children(run: Run) -> list[str]:
    """Ranks that Lightning started from this process and that are gone."""
    processes = getattr(run.trainer.strategy.launcher, "procs", None) or []
    codes = [(rank, process.poll()) for rank, process in enumerate(processes, start=1)]
    return [f"rank {rank} (exit code {code})" for rank, code in codes if code is not None]


def _host(address: str) -> str:
    try:
        return f"{socket.gethostbyaddr(address)[0]} ({address})"
    except OSError:
        return address


# ---------------------------------------------------------------- disks
def _disk_full(error: BaseException, run: Run) -> MaceDanceError | None:
    text = str(error)
    if not (isinstance(error, OSError) and error.errno in _DISK_ERRORS):
        if os.strerror(errno.ENOSPC) not in text:
            return None
    elif error.errno == errno.EDQUOT:
        text = os.strerror(errno.EDQUOT)
    named = getattr(error, "filename", None)
    folder = Path(os.fsdecode(named)).parent if isinstance(named, (str, bytes)) else run.directory
    what = "the quota of a disk is used up" if os.strerror(errno.EDQUOT) in text else "a disk is full"
    return MaceDanceError(
        f"{what}: {folder} has {_free(folder)} left",
        where=_where(run),
        fix="make room there, keep fewer checkpoints (--keep_last_checkpoints), or name another --run_dir; the same "
        "command then goes on from the newest checkpoint",
    )


def _free(folder: str | Path) -> str:
    place = Path(folder).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return f"{shutil.disk_usage(place).free / 2**30:.2f} GiB"
    except OSError:
        return "an unknown amount"
