"""A run that stands still ends with 76 and says where it stood; one that only takes long does not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from callbacks.previews import Preview
from callbacks.watchdog import DEFAULT_TIMEOUTS_S, HANG_EXIT_CODE, Watchdog
from macedance.errors import ConfigError

FORK = multiprocessing.get_context("fork")


def process(target: Callable[..., None], *arguments: Any) -> Any:
    child = FORK.Process(target=target, args=arguments)
    child.start()
    return child


def exit_code(child: Any, seconds: float = 60.0) -> int | None:
    child.join(timeout=seconds)
    code = child.exitcode
    if code is None:
        child.kill()
    return code


def dancer_waits_forever() -> None:
    time.sleep(1000)


class Stuck(pl.LightningModule):
    """Trains and validates until it hangs at a place of one's choice."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.net = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.place == "step" and batch_idx == 2:
            dancer_waits_forever()
        return self.net(batch["x"]).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.place == "validation":
            dancer_waits_forever()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.place == "checkpoint":
            dancer_waits_forever()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Keyed(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"x": torch.ones(1, 1), "keys": [f"clip{number}"]}


class Save(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "c.ckpt")


def fit(folder: Path, place: str, workers: int = 0, timeout_s: float = 30.0) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=str(folder), num_sanity_val_steps=0, val_check_interval=2,
        callbacks=[Watchdog({"start": 60.0}, timeout_s), Save()],
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(Keyed(), batch_size=None, num_workers=workers)
    trainer.fit(Stuck(place), loader, torch.utils.data.DataLoader(Keyed(), batch_size=None))


@pytest.mark.parametrize(("place", "key"), [("step", "clip2"), ("validation", "clip0"), ("checkpoint", "clip0")])
def test_a_hang_ends_with_76_and_says_where(tmp_path: Path, capfd: Any, place: str, key: str) -> None:
    child = process(fit, tmp_path, place, 1 if place == "step" else 0, 1.0)
    assert exit_code(child) == HANG_EXIT_CODE
    text = (tmp_path / "hang-rank-0000.txt").read_text(encoding="utf-8")
    assert f"in phase {place} " in text
    assert f"last samples: {key}" in text
    assert "in dancer_waits_forever" in text
    assert text.count("last samples") == 1
    if place == "step":
        assert "after step 2" in text
        assert "loader process" in text
        assert "_worker_loop" in text.split("loader process")[1]
    said = [line for line in capfd.readouterr().err.splitlines() if "hang" in line]
    assert len(said) == 1
    assert key in said[0]
    assert "hang-rank-0000.txt" in said[0]


def test_a_run_that_moves_ends_by_itself_and_nothing_watches_on(tmp_path: Path) -> None:
    fit(tmp_path, "nowhere")
    assert not (tmp_path / "hang-rank-0000.txt").exists()
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL


def test_an_error_ends_the_watch(tmp_path: Path) -> None:
    class Breaks(Stuck):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise RuntimeError("of its own")

    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=str(tmp_path),
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Watchdog()],
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="of its own"):
        trainer.fit(Breaks(""), torch.utils.data.DataLoader(Keyed(), batch_size=None))
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}


def slow_but_alive(folder: Path) -> None:
    dog = Watchdog(timeout_s=0.4)
    dog._root = folder
    dog.start()
    for _ in range(12):
        time.sleep(0.1)
        dog.beat("validation")
    dog.stop()
    os._exit(5)


def test_signs_of_life_keep_it_quiet(tmp_path: Path) -> None:
    assert exit_code(process(slow_but_alive, tmp_path)) == 5
    assert not list(tmp_path.iterdir())


def stopped_as_a_whole(folder: Path) -> None:
    dog = Watchdog(timeout_s=3.0)
    dog._root = folder
    dog.start()
    (folder / "ready").touch()
    for _ in range(100):
        time.sleep(0.01)
    os._exit(5)


def test_a_suspended_process_has_not_hung(tmp_path: Path) -> None:
    child = process(stopped_as_a_whole, tmp_path)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGSTOP)
    time.sleep(4.0)
    os.kill(child.pid, signal.SIGCONT)
    assert exit_code(child) == 5


def unwritable(folder: Path) -> None:
    dog = Watchdog(timeout_s=0.2)
    dog._root = folder / "gone"
    dog.start()
    dancer_waits_forever()


def test_without_a_place_to_write_the_stacks_go_to_stderr(tmp_path: Path, capfd: Any) -> None:
    assert exit_code(process(unwritable, tmp_path)) == HANG_EXIT_CODE
    assert "in dancer_waits_forever" in capfd.readouterr().err


def test_a_phase_may_last_ten_times_its_slowest() -> None:
    dog = Watchdog(timeout_s=0.1)
    dog.phase = "step"
    time.sleep(0.05)
    dog.beat("step")
    assert 0.5 <= dog.limit_s("step") < 5
    assert dog.limit_s("validation") == 0.1


def test_every_rank_allows_for_what_the_first_one_does_alone() -> None:
    class Dances(Preview):
        def preview(self, trainer: Any, module: Any) -> None:
            raise AssertionError("not here")

    dog = Watchdog()
    trainer = SimpleNamespace(global_step=0, callbacks=[dog, Dances(2)], is_global_zero=False)
    limits = []
    for step in (1, 2, 3):
        trainer.global_step = step
        dog.on_train_batch_end(trainer, None, None, None, 0)
        limits.append(dog.limit_s(dog.phase))
        dog.on_save_checkpoint(trainer, None, {})
        assert dog.limit_s(dog.phase) >= DEFAULT_TIMEOUTS_S["checkpoint"]
        dog.on_train_batch_start(trainer, None, {"keys": ["a"]}, 0)
        limits.append(dog.limit_s(dog.phase))
    step_s, protocol_s = DEFAULT_TIMEOUTS_S["step"], DEFAULT_TIMEOUTS_S["protocol"]
    assert limits == [step_s, step_s, protocol_s, protocol_s, step_s, step_s]


def test_a_validation_that_comes_first_leaves_the_first_step_its_time() -> None:
    dog = Watchdog()
    dog.on_validation_start(None, None)
    dog.on_validation_end(None, None)
    assert dog.phase == "start"
    dog.on_train_batch_start(None, None, {}, 0)
    assert dog.phase == "start"


@pytest.mark.parametrize("wrong", [{"timeouts_s": {"nap": 1.0}}, {"timeout_s": 0.0}, {"timeouts_s": {"step": -1.0}}])
def test_wrong_numbers_and_phases_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Watchdog(**wrong)


def hangs_as(folder: Path, rank: int, world_size: int, late_s: float) -> None:
    dog = Watchdog(timeout_s=0.5, grace_s=20.0)
    dog._root, dog._rank, dog._world_size = folder, rank, world_size
    dog.start()
    for _ in range(int(late_s * 10)):
        time.sleep(0.1)
        dog.beat()
    dancer_waits_forever()


def test_a_rank_ends_when_all_have_told_where_they_stand(tmp_path: Path) -> None:
    old = tmp_path / "hang-rank-0001.txt"
    old.touch()
    os.utime(old, (time.time() - 3600,) * 2)  # of an earlier start
    first, second = process(hangs_as, tmp_path, 0, 2, 0.0), process(hangs_as, tmp_path, 1, 2, 2.0)
    first.join(timeout=1.8)
    assert first.exitcode is None, "it waits for the other, whose file is an old one"
    began_s = time.monotonic()
    assert [exit_code(first), exit_code(second)] == [HANG_EXIT_CODE] * 2
    assert time.monotonic() - began_s < 15
