"""A signal at every place of a run: what is saved, when it stops, and who has the handlers afterwards."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from callbacks.checkpoints import Checkpoints
from callbacks.preemption import Preemption
from macedance.errors import ConfigError

STEPS = 6
USR1, TERM = signal.SIGUSR1, signal.SIGTERM


class Line(pl.LightningModule):
    """One weight; `hooks` run at named places."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.hooks: dict[str, Callable[[int], None]] = {}
        self.batches = self.validations = 0
        self.validated: list[int] = []

    def at(self, place: str) -> None:
        if place in self.hooks:
            self.hooks[place](self.global_step)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.batches += 1
        self.at("forward")
        return self.layer(batch[0]).pow(2).mean()

    def on_after_backward(self) -> None:
        self.at("backward")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(batch_idx)
        self.at(f"validation-{batch_idx}")
        self.log("val/loss", self.layer(batch[0]).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.at("optimizer")
        super().optimizer_step(*args, **kwargs)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.ones(100, 1)), batch_size=1)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.ones(3, 1)), batch_size=1)


class Earlier(pl.Callback):
    """A callback before the checkpoints: previews take long; an average stands in for the weights in validations."""

    averaged = False

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        pl_module.at("preview")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.averaged = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.averaged = False


class Recorded(Checkpoints):
    """Writes nothing: notes what would be saved and how Lightning's counters stand."""

    def __init__(self, every_n_steps: int | None = None) -> None:
        super().__init__(every_n_steps)
        self.saves: list[tuple[int, bool]] = []
        self.counters: list[dict[str, Any]] = []

    def save(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, validation_due: bool) -> Path:
        pl_module.at("save")
        assert not trainer.callbacks[0].averaged
        self.saves.append((trainer.global_step, validation_due))
        self.counters.append(copy.deepcopy(trainer.fit_loop.state_dict()))
        self.saved, self.saved_step = Path(f"step-{trainer.global_step}"), trainer.global_step
        return self.saved

    def setup(self, *_: Any, **__: Any) -> None: ...

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None: ...


class Run:
    def __init__(self, preemption: Preemption | None = None, every_n_steps: int | None = None, **options: Any) -> None:
        self.module, self.checkpoints = Line(), Recorded(every_n_steps)
        self.preemption = preemption or Preemption()
        self.trainer = pl.Trainer(
            accelerator="cpu", devices=1, max_steps=STEPS, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            check_val_every_n_epoch=None, val_check_interval=options.pop("val_check_interval", 4),
            callbacks=[Earlier(), self.checkpoints, self.preemption], **options,
        )  # fmt: skip

    def signal_at(self, place: str, *numbers: int, step: int = 2) -> Run:
        def send(now: int) -> None:
            for number in numbers if now == step else ():
                os.kill(os.getpid(), number)

        self.module.hooks[place] = send
        return self

    def fit(self) -> Run:
        self.trainer.fit(self.module)
        return self


@pytest.fixture(autouse=True)
def same_handlers() -> Iterator[None]:
    """A signal that nobody catches would end the tests; whatever a test leaves behind is undone."""
    before = {number: signal.getsignal(number) for number in (USR1, TERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("place", "during", "saved"),
    [("forward", 2, 3), ("backward", 2, 3), ("optimizer", 2, 3), ("preview", 3, 3), ("preview", 4, 4)],
)
def test_the_step_is_finished_saved_and_the_last(place: str, during: int, saved: int) -> None:
    run = Run().signal_at(place, USR1, step=during).fit()
    assert run.checkpoints.saves == [(saved, saved == 4)]  # step 4 has a validation behind it, run by the resume
    assert run.module.batches == saved
    assert run.module.validated == []
    assert run.preemption.preempted
    assert run.preemption.requeue_wanted
    assert run.preemption.saved == Path(f"step-{saved}")


def test_nobody_stops_without_a_signal() -> None:
    run = Run(every_n_steps=2).fit()
    assert run.module.batches == STEPS
    assert not run.preemption.preempted
    assert not run.preemption.requeue_wanted
    assert run.checkpoints.saves == [(2, False), (4, True), (6, False)]


def test_a_step_that_is_being_saved_is_not_saved_again() -> None:
    run = Run(every_n_steps=2).signal_at("save", USR1, TERM, USR1).fit()
    assert run.checkpoints.saves == [(2, False)]
    assert run.module.batches == 2
    assert run.preemption.preempted
    assert run.preemption.saved == Path("step-2")


def test_a_signal_while_stopping_is_harmless() -> None:
    run = Run().signal_at("forward", USR1).signal_at("save", USR1, TERM, step=3).fit()
    assert run.checkpoints.saves == [(3, False)]
    for number in (USR1, TERM):
        os.kill(os.getpid(), number)  # would end the tests
    run.preemption.restore()
    assert run.preemption.preempted


@pytest.mark.parametrize(("numbers", "wanted"), [([USR1], True), ([TERM], False), ([USR1, TERM], False)])
def test_only_the_warning_before_the_time_limit_asks_for_a_requeue(numbers: list[int], wanted: bool) -> None:
    run = Run().signal_at("forward", *numbers).fit()
    assert run.preemption.preempted
    assert run.preemption.requeue_wanted is wanted


@pytest.mark.parametrize("place", ["validation-0", "validation-1"])
def test_a_validation_is_broken_off_and_left_to_the_resume(place: str) -> None:
    run = Run().signal_at(place, TERM, step=4).fit()
    assert run.module.validated == list(range(int(place[-1]) + 1))
    assert run.checkpoints.saves == [(4, True)]  # with the weights, not their average: `save` looks
    assert "val/loss" not in run.trainer.callback_metrics
    assert run.module.batches == 4
    assert run.preemption.preempted
    # Lightning restarts as from a checkpoint written before the validation.
    regular = Run(every_n_steps=4).fit()
    assert run.checkpoints.counters[0] == regular.checkpoints.counters[0]


def test_a_validation_of_a_saved_step_is_not_saved_again() -> None:
    run = Run(every_n_steps=4).signal_at("validation-0", USR1, step=4).fit()
    assert run.checkpoints.saves == [(4, True)]
    assert run.preemption.preempted


def test_a_validation_behind_the_last_step_is_broken_off_too() -> None:
    run = Run(every_n_steps=6, val_check_interval=6).signal_at("validation-0", USR1, step=6).fit()
    assert run.checkpoints.saves == [(6, True)]
    assert run.preemption.preempted


def test_a_signal_during_the_set_up_stops_before_the_first_step() -> None:
    run = Run()
    run.preemption.install()
    os.kill(os.getpid(), USR1)
    run.fit()
    assert run.module.batches == 0
    assert run.checkpoints.saves == []
    assert run.preemption.preempted
    assert run.preemption.saved is None


def test_a_signal_at_the_last_step_lets_the_run_end() -> None:
    run = Run().signal_at("forward", USR1, step=STEPS - 1).fit()
    assert run.module.batches == STEPS
    assert not run.preemption.preempted


def test_the_least_number_of_steps_does_not_hold_it_back() -> None:
    run = Run(min_steps=STEPS, min_epochs=2).signal_at("forward", USR1).fit()
    assert run.module.batches == 3


def test_between_the_batches_of_a_step_nothing_stops() -> None:
    """Neither after the first batch of a step nor in a validation that falls between two (Lightning counts batches)."""
    run = Run(accumulate_grad_batches=3).signal_at("forward", USR1, step=1).fit()
    assert run.checkpoints.saves == [(2, False)]
    assert run.module.batches == 6
    assert run.module.validated == [0, 1, 2]


def test_it_agrees_every_so_many_steps() -> None:
    run = Run(Preemption(agree_every_n_steps=5)).signal_at("forward", USR1, step=0)
    run.trainer.limit_val_batches = 0
    run.fit()
    assert run.checkpoints.saves == [(5, False)]
    with pytest.raises(ConfigError, match="agree_every_n_steps is 0"):
        Preemption(agree_every_n_steps=0)


def test_lightning_s_own_handlers_stay_away() -> None:
    seen = []
    run = Run()
    run.module.hooks["forward"] = lambda step: seen.append(signal.getsignal(TERM))
    run.signal_at("backward", TERM).fit()
    assert set(seen) == {run.preemption._note}
    assert not run.trainer.received_sigterm


def test_the_handlers_are_given_back() -> None:
    mine: list[int] = []
    signal.signal(USR1, lambda number, frame: mine.append(number))
    Run().fit()
    os.kill(os.getpid(), USR1)
    assert mine == [USR1]

    run = Run()
    run.module.hooks["forward"] = lambda step: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run.fit()
    os.kill(os.getpid(), USR1)
    assert mine == [USR1, USR1]


def test_a_forked_child_s_signals_are_not_the_run_s() -> None:
    preemption = Preemption()
    preemption.install()
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), USR1)
        os._exit(40 if preemption.requested else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not preemption.requested
    os.kill(os.getpid(), USR1)
    assert preemption.requested
    preemption.restore()


def test_validate_alone_takes_no_signals() -> None:
    run = Run()
    before = signal.getsignal(TERM)
    run.module.hooks["validation-0"] = lambda step: seen.append(signal.getsignal(TERM))
    seen: list[Any] = []
    run.trainer.validate(run.module, verbose=False)
    assert run.module.validated == [0, 1, 2]
    assert run.preemption._note not in seen
    assert signal.getsignal(TERM) == before
