"""A watch over the run: when it stands still, every thread's stack goes to a file and the process ends with 76."""

from __future__ import annotations

import faulthandler
import math
import multiprocessing
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import Tensor

from callbacks.numerics import sample_keys
from callbacks.previews import Preview
from macedance.errors import ConfigError

#: What a run can be at, and the least time in seconds that it may stand still there.
#: `start` lasts to the end of the first batch (compilation, first reads), `protocol` covers dances and videos, which
#: give a sign of life at every step of sampling, and the waits of ranks that have fewer of them.
#: All stay below the half hour after which a collective gives up by itself, with an error and no stacks.
DEFAULT_TIMEOUTS_S: dict[str, float] = {
    "start": 1500.0,
    "step": 600.0,
    "validation": 600.0,
    "checkpoint": 1500.0,
    "protocol": 1500.0,
}
#: Exit code of a run that hung; the sbatch template requeues on it.
HANG_EXIT_CODE = 76
_WORKER_SIGNAL = signal.SIGUSR2


class Watchdog(pl.Callback):
    """Ends a process that makes no progress, with its stacks on disk. Stands first among the callbacks.

    Every hook is a sign of life. A phase may stand still for the time given for it, or ten times as long as it ever
    took in this process, whichever is more. Then ``hang-rank-<n>.txt`` in the run directory gets the phase, the step,
    the last sample keys and the stacks of all threads and of the loader's workers, one line goes to stderr, and the
    process ends with exit code 76. In a collective that one rank never reaches, all ranks end that way.

    Time in which the whole process was stopped (a suspended job, a laptop asleep) does not count. A hang inside native
    code that holds Python's interpreter lock cannot be seen from within.

    Args:
        timeouts_s: Phase -> seconds, over :data:`DEFAULT_TIMEOUTS_S`.
        timeout_s: One number of seconds for every phase that ``timeouts_s`` does not name. None: the defaults.
        factor: How many times its slowest so far a phase may last.
        grace_s: Seconds for which a rank that has told all waits for the others to do so: the end of one would be an
            error of its neighbours, and no stacks.

    Raises:
        ConfigError: An unknown phase or a number that is not above 0.
    """

    def __init__(
        self,
        timeouts_s: dict[str, float] | None = None,
        timeout_s: float | None = None,
        factor: float = 10.0,
        grace_s: float = 60.0,
    ) -> None:
        named = dict(timeouts_s or {})
        unknown = sorted(set(named) - set(DEFAULT_TIMEOUTS_S))
        if unknown:
            raise ConfigError(
                f"there is no phase {unknown[0]!r}", where="Watchdog.timeouts_s", expected=", ".join(DEFAULT_TIMEOUTS_S)
            )
        base = DEFAULT_TIMEOUTS_S if timeout_s is None else dict.fromkeys(DEFAULT_TIMEOUTS_S, timeout_s)
        self.timeouts_s = {**base, **named}
        for name, value in (*self.timeouts_s.items(), ("factor", factor)):
            if not (0 < value < math.inf):
                raise ConfigError(f"{name} is {value}", where="Watchdog", expected="a finite number above 0")
        self.factor, self.grace_s = factor, grace_s
        self.phase = "start"
        self.slowest_s: dict[str, float] = {}
        self._idle_s = 0.0
        self._began_s = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._worker_stacks: TextIO | None = None
        self._root = Path()
        self._rank = self._step = 0
        self._world_size = 1
        self._keys: list[str] = []
        self._ordinary = "start"
        self._ranks_may_dance = False
        self._parent = 0  # the process to let end first, if any
        self._left_before: dict[str, float] = {}

    # ---------------------------------------------------------------- signs of life
    def beat(self, phase: str | None = None) -> None:
        """A sign of life; with a name, the beginning of a phase, or of the next part of it.

        Other code that is busy for long between two hooks may call this too.
        """
        with self._lock:
            now = time.monotonic()
            if phase is not None:
                took = now - self._began_s
                self.slowest_s[self.phase] = max(self.slowest_s.get(self.phase, 0.0), took)
                self.phase, self._began_s = phase, now
            self._idle_s = 0.0

    def limit_s(self, phase: str) -> float:
        """Seconds that a phase may stand still: its own, and those of previews that other ranks may be busy with."""
        names = {phase, "protocol"} if self._ranks_may_dance else {phase}
        return max(max(self.timeouts_s[name], self.factor * self.slowest_s.get(name, 0.0)) for name in names)

    # ---------------------------------------------------------------- hooks
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin to watch."""
        if stage == "fit":
            self._root, self._rank = Path(trainer.default_root_dir), trainer.global_rank
            self._world_size = trainer.world_size
            environment = getattr(trainer.strategy, "cluster_environment", None)
            self._parent = os.getppid() if isinstance(environment, LightningEnvironment) and trainer.local_rank else 0
            self.start()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sign of life."""
        self._step = trainer.global_step
        self.beat()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sign of life; remember whose samples these are."""
        self._keys = sample_keys(batch)
        # A save or a validation may have been the last thing before; waits for other ranks' previews go on.
        self.beat(self._ordinary if self.phase in ("checkpoint", "validation") else None)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Sign of life."""
        self.beat()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch is done; what follows may be previews, where a rank of a small share waits for the others."""
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        previews = [c for c in trainer.callbacks if isinstance(c, Preview)]  # type: ignore[attr-defined]
        self._ranks_may_dance = stepped and any(p.is_due(trainer, pl_module) for p in previews)
        self._ordinary = "step"
        self.beat("protocol" if self._ranks_may_dance else "step")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A validation begins."""
        self.beat("validation")

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """The next batch of a validation."""
        self._keys = sample_keys(batch)
        self.beat("validation")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training goes on, or begins after a validation that a resume owed."""
        self.beat(self._ordinary)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint is being written; it lasts until the next hook."""
        self.beat("checkpoint")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What comes now is the last save."""
        self.beat("checkpoint")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """An error ends the run by itself."""
        self.stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The run is over."""
        self.stop()

    # ---------------------------------------------------------------- the thread
    def start(self) -> None:
        """Begin to watch from a thread of this process."""
        if self._thread is not None:
            return
        self._stop.clear()
        self._ordinary, self._ranks_may_dance = "start", False
        self.phase, self._idle_s, self._began_s = "start", 0.0, time.monotonic()
        self._left_before = _files(self._root)
        self._listen_in_workers()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)
        self._thread = None
        if self._worker_stacks is not None:
            faulthandler.unregister(_WORKER_SIGNAL)
            self._worker_stacks.close()
            self._worker_stacks = None

    def _watch(self) -> None:
        pause = min(1.0, min(self.timeouts_s.values()) / 10)
        last = time.monotonic()
        while not self._stop.wait(pause):
            now = time.monotonic()
            with self._lock:
                # A process that was stopped as a whole finds hours gone by: they were not spent waiting.
                self._idle_s += min(now - last, 2 * pause)
                phase, idle_s = self.phase, self._idle_s
            last = now
            if idle_s > self.limit_s(phase):
                self._end(phase, idle_s)

    def _end(self, phase: str, idle_s: float) -> None:
        """Tell all there is to tell and leave at once: nothing of the process can be relied on any more."""
        try:
            where = f"rank {self._rank} on {socket.gethostname()}"
            still = f"no progress for {idle_s:.0f} s in phase {phase} after step {self._step}"
            keys = ", ".join(self._keys) or "unknown"
            path = self._root / f"hang-rank-{self._rank:04d}.txt"
            head = (
                f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {where}, pid {os.getpid()}: {still}\n"
                f"last samples: {keys}\nstacks of all threads, the innermost call first:\n"
            )
            written = self._write_stacks(path, head)
            line = f"macedance fit: hang: {where}: {still}, last samples {keys[:200]}; stacks in {written}\n"
            os.write(2, line.encode())
            self._wait_for_others()
        finally:
            os._exit(HANG_EXIT_CODE)

    def _write_stacks(self, path: Path, head: str) -> str:
        """Write the file; returns where the stacks are to be found."""
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(head)
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
                self._add_workers(file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            faulthandler.dump_traceback(2, all_threads=True)
            return f"stderr, since {path} could not be written ({error.strerror})"
        return str(path)

    def _wait_for_others(self) -> None:
        """Let every rank write its file, and the main process of those that Lightning started end before them.

        Its exit code is the run's, and for a child's it would be killed.
        """
        end = time.monotonic() + self.grace_s
        told = self._world_size == 1
        while time.monotonic() < end:
            told = told or len(_files(self._root).items() - self._left_before.items()) >= self._world_size
            if told and (not self._parent or os.getppid() != self._parent):
                return
            time.sleep(0.1)

    # ---------------------------------------------------------------- the loader's workers
    def _listen_in_workers(self) -> None:
        """Let processes that are forked from this one write their stacks on a signal; only the main thread may."""
        taken = signal.getsignal(_WORKER_SIGNAL) not in (signal.SIG_DFL, None)
        if taken or threading.current_thread() is not threading.main_thread():
            return
        try:
            # Unlinked at once: it lives as long as a process has it open.
            path = self._root / f".hang-workers-{self._rank:04d}-{os.getpid()}"
            self._worker_stacks = path.open("w+", encoding="utf-8")
            path.unlink()
        except OSError:
            return
        faulthandler.register(_WORKER_SIGNAL, file=self._worker_stacks, all_threads=True)

    def _add_workers(self, file: TextIO) -> None:
        """Have every forked child of this process write its stacks, and add them to the file."""
        if self._worker_stacks is None:
            return
        for child in multiprocessing.active_children():
            started_by = getattr(child, "_start_method", None) or multiprocessing.get_start_method()
            if started_by != "fork" or child.pid is None:
                continue  # one that was not forked would die of the signal
            self._worker_stacks.seek(0)
            self._worker_stacks.truncate()
            os.kill(child.pid, _WORKER_SIGNAL)
            time.sleep(0.2)
            self._worker_stacks.seek(0)
            file.write(f"\nloader process {child.name}, pid {child.pid}:\n{self._worker_stacks.read()}")


def _files(root: Path) -> dict[str, float]:
    """Files of hangs and when they were written: those of earlier starts stay, and are added to."""
    return {path.name: path.stat().st_mtime for path in root.glob("hang-rank-*.txt")}
