"""One job at a time on a run directory: a lock with host, process, job and a heartbeat."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from macedance.errors import ConfigError

LOCK_NAME = ".lock"
#: A lock whose holder was silent for longer than this is nobody's.
SILENT_S = 60.0
_BEAT_S = 10.0
_HEARTBEAT = '"heartbeat": '
#: How long a start looks at a lock whose holder may be dead on another machine, and how often.
_PAUSE_S = 1.0
_TRIES = 120


class RunLock:
    """Holds `.lock` of a run directory while training goes on.

    The lock of another is taken over when its process is gone on this host, when its SLURM job is ours (a requeued
    job keeps its number), or when its heartbeat is over 60 seconds old.

    Args:
        directory: The run directory; it must exist when `acquire` is called.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK_NAME
        self.token = uuid.uuid4().hex
        #: Another job took the directory while this one was silent: nothing may be written any more.
        self.lost = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> str | None:
        """Take the lock and keep its heartbeat going.

        Returns:
            Why the lock of another was taken over; None where there was none.

        Raises:
            ConfigError: Another living job holds the directory, or it cannot be written to.
        """
        reason: str | None = None
        first_seen: dict[str, Any] | None = None
        for _ in range(_TRIES):
            try:
                self._create()
            except FileExistsError:
                holder = read_lock(self.path)
                if holder is not None and holder["token"] == self.token:
                    break  # the file server made the link and lost its answer
                if holder is None:  # being written, or damaged
                    time.sleep(0.1)
                    if read_lock(self.path) is None:
                        self._remove_if_still(None)
                    continue
                why = _why_free(holder)
                if why is None:
                    first_seen = first_seen or holder
                    if _may_be_dead(holder, first_seen):
                        time.sleep(_PAUSE_S)
                        continue
                    raise self._held_by(holder) from None
                reason = f"lock of {_name(holder)} taken over: {why}"
                self._remove_if_still(holder["token"])
                continue
            except OSError as error:
                raise ConfigError(
                    f"cannot lock the run directory: {error.strerror or error}",
                    where=self.path,
                    fix="name a folder that you may write to with --run_dir",
                ) from error
            break
        else:
            raise ConfigError("other jobs fight for this directory", where=self.path.parent, fix="start one job only")
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()
        return reason

    def _held_by(self, holder: dict[str, Any]) -> ConfigError:
        age_s = max(time.time() - float(holder["heartbeat"]), 0)
        return ConfigError(
            f"another job trains in this directory: {_name(holder)}, its heartbeat {age_s:.0f} s old",
            where=self.path.parent,
            fix="wait for it or stop it, or name another directory with --run_dir",
        )

    def release(self) -> None:
        """Give the directory free; harmless when not held."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._remove_if_still(self.token)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _content(self) -> str:
        content = {
            "host": socket.gethostname(),
            "machine": machine(),
            "pid": os.getpid(),
            "process_start": process_start(os.getpid()),
            "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
            "chain": os.environ.get("MACEDANCE_CHAIN"),
            "token": self.token,
        }
        # The heartbeat stands last and is always as long: it is refreshed in place.
        return f"{json.dumps(content)[:-1]}, {_HEARTBEAT}{time.time():.3f}}}"

    def _create(self) -> None:
        """Make the lock whole, or raise FileExistsError: a link fails where the name stands, a rename would not."""
        temporary = self.path.with_name(f"{LOCK_NAME}.{self.token}")
        temporary.write_text(self._content(), encoding="utf-8")
        try:
            os.link(temporary, self.path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(self._content())
        finally:
            temporary.unlink(missing_ok=True)

    def _remove_if_still(self, token: str | None) -> None:
        """Remove the lock that was judged free, not one that somebody took in the meantime."""
        aside = self.path.with_name(f"{LOCK_NAME}.{self.token}.old")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        moved = read_lock(aside)
        if moved is not None and moved["token"] != token:
            with contextlib.suppress(OSError):
                os.link(aside, self.path)  # not ours to remove: put it back
        aside.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(_BEAT_S):
            if not self._refresh():
                self.lost = not self._stop.is_set()
                return

    def _refresh(self) -> bool:
        """Renew the heartbeat in the very file that was found to be ours, so that no other job's is overwritten.

        Returns:
            False when the lock is another job's; a disk that cannot be reached now is tried again.
        """
        try:
            handle = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:  # somebody removed it by hand
            try:
                self._create()
            except FileExistsError:
                return False
            except OSError:
                pass
            return True
        except OSError:
            return True
        try:
            text = os.read(handle, 65536).decode("utf-8", errors="replace")
            if f'"{self.token}"' not in text:
                return False
            place = text.rfind(_HEARTBEAT)
            os.pwrite(handle, f"{_HEARTBEAT}{time.time():.3f}}}".encode(), place)
        except OSError:
            pass
        finally:
            os.close(handle)
        return True


def read_lock(path: Path) -> dict[str, Any] | None:
    """What a lock file says; None where it is absent, half-written or not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        float(content["heartbeat"])
        return dict(content) if {"host", "pid", "token"} <= content.keys() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def process_start(pid: int) -> int | None:
    """Start time of a process in clock ticks, which tells it from a later one of the same number.

    Returns:
        None where there is no such process, only its unreaped remains, or no /proc.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def is_gone(pid: int, started: int | None) -> bool:
    """Whether the process of that number and start time runs no more on this host."""
    if Path("/proc/self/stat").exists():
        now = process_start(pid)
        return now is None or (started is not None and now != started)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def machine() -> str:
    """What process numbers are unique in: this boot of this machine, and the container's own numbers."""
    parts = []
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            parts.append(read())
        except OSError:
            continue
    return " ".join(parts)


def _is_here(holder: dict[str, Any]) -> bool:
    """Whether the holder's process number means something to this process."""
    return holder["host"] == socket.gethostname() and holder.get("machine", machine()) == machine()


def _may_be_dead(holder: dict[str, Any], first_seen: dict[str, Any]) -> bool:
    """Whether to look again: a job of a scheduler whose holder, on another machine, has shown no life since first seen.

    A job is often started seconds after the one before it was killed. A person is told at once.
    """
    if "SLURM_JOB_ID" not in os.environ or _is_here(holder):
        return False
    return bool(holder["heartbeat"] == first_seen["heartbeat"])


def _why_free(holder: dict[str, Any]) -> str | None:
    """Why a lock is nobody's; None while its holder lives."""
    if _is_here(holder):
        if is_gone(int(holder["pid"]), holder.get("process_start")):
            return "its process is gone"
        # Alive: two starts within one job stand in each other's way like any other two.
    else:
        job, chain = os.environ.get("SLURM_JOB_ID"), os.environ.get("MACEDANCE_CHAIN")
        if job and holder.get("slurm_job_id") == job:
            return "it is of this SLURM job before it was requeued"
        if chain and holder.get("chain") == chain:
            return "it is of the job before this one in a chain, of which one runs at a time"
    if time.time() - float(holder["heartbeat"]) > SILENT_S:
        return f"no heartbeat for {time.time() - float(holder['heartbeat']):.0f} s"
    return None


def _name(holder: dict[str, Any]) -> str:
    job = f", SLURM job {holder['slurm_job_id']}" if holder.get("slurm_job_id") else ""
    return f"process {holder['pid']} on {holder['host']}{job}"
