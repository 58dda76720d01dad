"""Preemption: a scheduler's signal becomes a checkpoint at the end of the current step, and a clean stop."""

from __future__ import annotations

import copy
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl

from callbacks.checkpoints import Checkpoints, validation_is_due
from callbacks.early_signals import END_SIGNAL, SIGNALS, EarlySignals
from callbacks.run_files import find_callback
from macedance.errors import ConfigError


class Preemption(pl.Callback):
    """Saves and stops when SIGUSR1 or SIGTERM reached any rank. Stands last among the callbacks.

    The handler sets a flag and nothing else: whatever runs, runs on. The ranks agree at the end of an optimizer step,
    or before a batch of a validation, which is then broken off and run again by the resume. A step that was saved
    anyway is not saved twice. A signal after the last step, with no validation to come, lets the run end as usual.

    Args:
        agree_every_n_steps: Optimizer steps between two agreements, which are one small collective each.

    Attributes:
        preempted: The ranks agreed to stop, and stopped.
        breaking_off: A validation is being broken off: its values are those of a part.
        saved: The checkpoint that the next start goes on from; None where the run stopped before its first.
    """

    def __init__(self, agree_every_n_steps: int = 1) -> None:
        if agree_every_n_steps < 1:
            raise ConfigError(f"agree_every_n_steps is {agree_every_n_steps}", where="Preemption", expected="1 or more")
        self.agree_every_n_steps = agree_every_n_steps
        self.preempted = self.breaking_off = False
        self.saved: Path | None = None
        self._received: set[int] = set()
        self._ended_by_term = False
        self._original: dict[int, Any] = {}
        self._owner = 0
        self._last_step = 0
        self._before_validation: dict[str, Any] = {}

    # ---------------------------------------------------------------- signals
    def install(self) -> None:
        """Take both signals over, and what came before; the launcher calls it as soon as the callback exists."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._owner = os.getpid()
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler == self._note:
                continue
            signal.signal(number, self._note)
            if isinstance(handler, EarlySignals):
                self._received |= handler.received
                handler = signal.SIG_DFL  # which it stood for
            self._original.setdefault(number, handler)

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        while self._original and threading.current_thread() is threading.main_thread():
            number, handler = self._original.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # A forked child inherits the handler; the scheduler signals it too, and it is not its business.
        if os.getpid() == self._owner:
            self._received.add(number)

    @property
    def requested(self) -> bool:
        """Whether this rank got a signal."""
        return bool(self._received)

    @property
    def requeue_wanted(self) -> bool:
        """Whether the job should go on by itself: it was warned of its time limit, and nobody ended it."""
        return self.preempted and not self._ended_by_term and END_SIGNAL not in self._received

    # ---------------------------------------------------------------- hooks
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the signals over, and keep Lightning's own handlers away: they broadcast and save inside the signal."""
        if stage == "fit":
            self.install()
            trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop before the first step when the signal came during set-up."""
        self.install()
        self._last_step = trainer.global_step
        if not self.preempted and self._agreed(trainer):
            checkpoints = find_callback(trainer, Checkpoints)
            self.saved = checkpoints.saved if checkpoints is not None else None
            self._stop(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Agree, save and stop, at the end of an optimizer step."""
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        if step % self.agree_every_n_steps or step == trainer.max_steps or not self._agreed(trainer):
            return
        self._save(trainer, pl_module, validation_due=validation_is_due(trainer))
        self._stop(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember what Lightning had counted before this validation."""
        if trainer.state.fn == "fit":
            self._before_validation = copy.deepcopy(trainer.fit_loop.epoch_loop.val_loop.batch_progress.state_dict())

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Break a validation off when the ranks agree to stop.

        Raises:
            StopIteration: Lightning's way to leave the loop.
        """
        if trainer.state.fn != "fit" or self.preempted:
            return
        if trainer.fit_loop.epoch_loop._should_accumulate() or not self._agreed(trainer):
            return  # between the batches of a step there is nothing whole to save
        self.breaking_off = True
        # What was logged so far is the mean over a part: it must reach no logger.
        trainer.fit_loop.epoch_loop.val_loop._results.clear()
        raise StopIteration

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After a validation that was broken off: save the step it belonged to, the average being taken off again."""
        if not self.breaking_off:
            return
        self.breaking_off = False
        with _counters_of_batch_end(trainer, self._before_validation):
            self._save(trainer, pl_module, validation_due=True)
        self._stop(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self.restore()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back; a process that was told to stop stays deaf to being told again."""
        if stage != "fit":
            return
        if not self.preempted:
            self.restore()
        elif threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    # ---------------------------------------------------------------- parts
    def _agreed(self, trainer: pl.Trainer) -> bool:
        """Whether any rank got a signal; a collective."""
        decide = trainer.strategy.reduce_boolean_decision
        if not decide(self.requested, all=False):
            return False
        self._ended_by_term = decide(END_SIGNAL in self._received, all=False)
        return True

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, validation_due: bool) -> None:
        checkpoints = find_callback(trainer, Checkpoints)
        if checkpoints is None:
            return
        if checkpoints.saved_step == trainer.global_step:
            self.saved = checkpoints.saved
        else:
            self.saved = checkpoints.save(trainer, pl_module, validation_due=validation_due)

    def _stop(self, trainer: pl.Trainer) -> None:
        """End `fit` after this hook, with no validation in between and whatever the least number of steps is."""
        self.preempted = True
        trainer.should_stop = True
        trainer.limit_val_batches = 0
        trainer.fit_loop.min_epochs = 0
        trainer.fit_loop.epoch_loop.min_steps = None


@contextmanager
def _counters_of_batch_end(trainer: pl.Trainer, validation: dict[str, Any]) -> Iterator[None]:
    """Within the context Lightning's counters stand as in `on_train_batch_end`, where checkpoints are written.

    One written during a validation would otherwise restart as one that has it behind itself.
    """
    batches = trainer.fit_loop.epoch_loop.batch_progress
    validated = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    now = copy.deepcopy((batches.state_dict(), validated.state_dict()))
    batches.current.completed -= 1
    batches.total.completed -= 1
    validated.load_state_dict(validation)
    try:
        yield
    finally:
        batches.load_state_dict(now[0])
        validated.load_state_dict(now[1])
