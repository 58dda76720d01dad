"""A run inside a SLURM job: what its ranks tell the batch script, and the requeue of a job that was interrupted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from callbacks.preemption import Preemption
from launch.options import say

#: Exit codes, as `macedance --help` lists them.
DONE, FAILED, MISTAKE, PREEMPTED, HUNG = 0, 1, 2, 75, 76

#: Folder in which every rank leaves its exit code; the batch script sets it, since srun reports only how it ended the
#: other ranks once one of them has failed.
OUTCOME_VARIABLE = "MACEDANCE_OUTCOME"
#: Number of a chain of jobs, of which each goes on where the one before stopped.
CHAIN_VARIABLE = "MACEDANCE_CHAIN"
#: The checkpoint that was the newest when the batch script started, or `none`.
STARTED_FROM_VARIABLE = "MACEDANCE_STARTED_FROM"
_NO_REQUEUE = "no-requeue"
#: How long a run that was preempted with a time of grace waits for its end at most; the other ranks wait in a
#: collective, which gives up after half an hour.
_LONGEST_GRACE_S = 1200.0
_LOOK_EVERY_S = 5.0

#: What gloo and NCCL say when the other end is gone.
_PEER_LOST = re.compile(
    r"connection (was )?(closed|reset|refused|aborted)|broken pipe|socket (is )?closed|timed ?out|remote process exited"
    r"|communicator was aborted|failed to recv",
    re.IGNORECASE,
)
_TRANSPORTS = ("gloo", "nccl", "tcpstore")


def job_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """The job that this process runs in, or None outside of one (and in an interactive shell of one)."""
    if environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    return environment.get("SLURM_JOB_ID") or None


def recorded(function: Callable[[], int]) -> int:
    """Run a rank's whole work and leave its exit code for the batch script; nothing more outside of `macedance submit`.

    A rank that fails because another one is gone leaves 76: that says nothing against the run.
    """
    try:
        code = function()
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        _record(error.code if isinstance(error.code, int) else FAILED)
        raise
    except BaseException as error:
        _record(HUNG if lost_peer(error) else getattr(error, "exit_code", FAILED))
        raise
    _record(code)
    return code


def lost_peer(error: BaseException) -> bool:
    """Whether an error comes of the broken connection to another rank, and is not of this one's own making."""
    from torch.distributed import DistError

    return any(isinstance(each, DistError) or _from_transport(each) for each in _causes(error))


def _from_transport(error: BaseException) -> bool:
    message = str(error)
    return (
        isinstance(error, (RuntimeError, OSError))
        and any(name in message.lower() for name in _TRANSPORTS)
        and _PEER_LOST.search(message) is not None
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _rank() -> int:
    return int(os.environ.get("SLURM_PROCID", "0") or 0)


def _record(code: int) -> None:
    folder = os.environ.get(OUTCOME_VARIABLE)
    if folder and Path(folder).is_dir():
        _write(Path(folder) / f"rank-{_rank()}", f"{code}\n")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def conclude(preemption: Preemption, run_dir: Path) -> None:
    """Once `fit` has ended by a signal, on every rank: the first one requeues and says so, the others wait for it."""
    from launch.distributed import is_first_rank, is_joined

    if is_first_rank():
        say(after_preemption(preemption, run_dir))
        outlast_grace(preemption)
    if is_joined():
        import torch

        torch.distributed.barrier()  # the end of any rank is the end of the job step


def after_preemption(preemption: Preemption, run_dir: Path) -> str:
    """On the first rank, once `fit` has ended by a signal: requeue the job where that is ours to do.

    Returns:
        One line: what was saved and what happens next.
    """
    saved = f"saved {preemption.saved}" if preemption.saved else "nothing to save yet"
    job = job_id()
    if job is None:
        return f"preempted: {saved}; the same command goes on from there ({run_dir})"
    if not preemption.requeue_wanted:
        forbid_requeue()
        return f"preempted: {saved}; whoever ended job {job} decides whether it is queued again, and goes on from there"
    if not made_progress(preemption):
        return f"preempted: {saved}, nothing was trained; the batch script decides whether job {job} is queued again"
    if os.environ.get(CHAIN_VARIABLE):
        return f"preempted: {saved}; the next job of the chain goes on from there"
    told = requeue(job)
    if told is None:
        forbid_requeue()  # it is done
        return f"preempted: {saved}; job {job} is queued again and goes on from there"
    return f"preempted: {saved}; the batch script queues job {job} again ({told})"


def made_progress(preemption: Preemption) -> bool:
    """Whether this start left a newer checkpoint; the batch script counts those that do not. True outside of one."""
    before = os.environ.get(STARTED_FROM_VARIABLE)
    if before is None:
        return True
    return preemption.saved is not None and _step(preemption.saved.name) != _step(before)


def _step(name: str) -> str:
    found = re.match(r"step-\d+", name)
    return found.group() if found else name


def outlast_grace(preemption: Preemption, pause: Callable[[float], None] = time.sleep) -> None:
    """Wait for the end of a job that is preempted with a time of grace: SLURM queues only jobs again that still run.

    Cancelled and requeued jobs run no more by then, and one that somebody sent SIGTERM is not being preempted.
    """
    job = job_id()
    if job is None or preemption.requeue_wanted or not in_grace(job):
        return
    say(f"job {job} is being preempted: waiting, {_LONGEST_GRACE_S / 60:.0f} minutes at most, for SLURM to end it")
    waited_s = 0.0
    while waited_s < _LONGEST_GRACE_S and in_grace(job):
        pause(_LOOK_EVERY_S)
        waited_s += _LOOK_EVERY_S


def in_grace(job: str) -> bool:
    """Whether a job still runs although another one preempts it; False where `scontrol` cannot say."""
    if shutil.which("scontrol") is None:
        return False
    try:
        run = subprocess.run(
            ["scontrol", "show", "job", job, "--oneliner"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    facts = dict(word.split("=", 1) for word in run.stdout.split() if "=" in word)
    return facts.get("JobState") == "RUNNING" and facts.get("PreemptTime", "None") not in ("None", "N/A", "Unknown")


def requeue(job: str) -> str | None:
    """Put a job back into the queue.

    Returns:
        None when it is queued again, also by somebody else; otherwise why not, e.g. no `scontrol` in a container.
    """
    if shutil.which("scontrol") is None:
        return "there is no scontrol here"
    try:
        run = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return f"scontrol did not run: {error}"
    message = " ".join(f"{run.stdout} {run.stderr}".split())
    if run.returncode == 0 or re.search(r"being requeued|already pending|is pending", message, re.IGNORECASE):
        return None
    return f"scontrol: {message or f'exit code {run.returncode}'}"


def forbid_requeue() -> None:
    """Tell the batch script to leave the job as it is."""
    folder = os.environ.get(OUTCOME_VARIABLE)
    if folder and Path(folder).is_dir():
        _write(Path(folder) / _NO_REQUEUE, "")
