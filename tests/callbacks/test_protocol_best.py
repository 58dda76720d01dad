"""The best checkpoint: which step it is, that it stays, and what a resume makes of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from callbacks.best import Best
from callbacks.checkpoint_writer import link_checkpoint, linked_checkpoints
from callbacks.checkpoints import Checkpoints
from launch.training import _callbacks, prepare_run, train
from macedance.errors import ConfigError
from macedance.pipelines.checkpoint_folder import list_checkpoints, read_manifest, verify
from macedance.pipelines.music_to_motion import MusicToMotion

SMALL = ["--config=mace_motion_demo", "--config=debug/mace_motion_cpu", "--data.max_val_clips=2"]


class Told(pl.Callback):
    """Says values as a protocol does: of each step the next of a list.

    Args:
        values: Of steps 1, 2, ...
        name: What they are called.
    """

    def __init__(self, values: list[float], name: str = "val/told") -> None:
        self.values, self.name = values, name
        self._last_step = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        for best in (c for c in trainer.callbacks if isinstance(c, Best)):
            best.offer(step, {self.name: self.values[step - 1]} if step <= len(self.values) else {})


def told(values: list[float]) -> str:
    return f"--trainer.callbacks+={{class_path: test_protocol_best.Told, init_args: {{values: {values}}}}}"


def best(monitor: str = "val/told", mode: str = "min", name: str = "best") -> str:
    return (
        "--trainer.callbacks+={class_path: callbacks.best.Best, init_args: "
        f"{{monitor: {monitor}, mode: {mode}, name: {name}}}}}"
    )


def fit(run_dir: Path, corpus: Path, steps: int, *extra: str) -> Any:
    arguments = [*SMALL, f"--run_dir={run_dir}", f"--data.shards={corpus}", f"--trainer.max_steps={steps}", *extra]
    return train(arguments)


def linked(run_dir: Path, name: str = "best") -> str:
    return os.readlink(run_dir / "checkpoints" / f"{name}.ckpt")


def steps_in(run_dir: Path) -> list[int]:
    return [int(path.name[5:13]) for path in list_checkpoints(run_dir)]


@pytest.mark.parametrize(
    ("mode", "values", "chosen"),
    [
        ("min", [3.0, 1.0, 2.0, 1.0], 2),
        ("max", [3.0, 1.0, 2.0, 3.0], 1),
        ("min", [float("nan"), float("inf"), 5.0, float("nan")], 3),
    ],
)
def test_the_best_step_is_chosen_the_first_of_equal_ones(mode: Any, values: list[float], chosen: int) -> None:
    callback = Best("val/told", mode)
    for step, value in enumerate(values, start=1):
        callback.offer(step, {"val/told": value, "val/other": -100.0})
    assert callback.kept_step == chosen


@pytest.mark.parametrize(
    "arguments",
    [{"mode": "least"}, {"name": "last"}, {"name": ""}, {"name": "a/b"}, {"name": "step-1"}, {"name": ".x"}],
)
def test_impossible_settings_are_refused(arguments: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        Best(**arguments)  # type: ignore[arg-type]


def test_the_best_stays_and_the_one_before_goes(tmp_path: Path, tiny_corpus: Path) -> None:
    """Best at steps 1, 2 and 4 of 8; one periodic checkpoint is kept beside it."""
    run = fit(
        tmp_path / "run", tiny_corpus, 8, "--checkpoint_every_n_steps=3", "--keep_last_checkpoints=1",
        "--trainer.limit_val_batches=0", told([5.0, 4.0, 4.5, 1.0, 2.0, 3.0, 2.0, 2.0]), best(),
    )  # fmt: skip
    assert linked(run.directory) == "step-00000004.ckpt"
    assert linked(run.directory, "last") == "step-00000008.ckpt"
    assert steps_in(run.directory) == [4, 8]
    assert verify(run.directory / "checkpoints" / "best.ckpt").step == 4
    assert MusicToMotion.load(run.directory / "checkpoints" / "best.ckpt").genres
    state = torch.load(run.directory / "checkpoints" / "best.ckpt" / "state.ckpt", weights_only=True)
    kept = next(value for key, value in state["callbacks"].items() if key.startswith("Best"))
    assert kept == {"value": 1.0, "step": 4}, "the checkpoint knows that it is the best"


def test_a_validation_s_value_saves_after_it(tmp_path: Path, tiny_corpus: Path) -> None:
    run = fit(
        tmp_path / "run", tiny_corpus, 4, "--trainer.val_check_interval=2", "--checkpoint_every_n_steps=4",
        best("val/loss", "max"),
    )  # fmt: skip
    # Its loss falls: the first validation stays the one of the largest.
    assert linked(run.directory) == "step-00000002.ckpt"
    assert not read_manifest(run.directory / "checkpoints" / "best.ckpt").validation_due
    assert steps_in(run.directory) == [2, 4]


def test_several_choose_apart_and_share_a_checkpoint(tmp_path: Path, tiny_corpus: Path) -> None:
    run = fit(
        tmp_path / "run", tiny_corpus, 4, "--trainer.limit_val_batches=0", "--keep_last_checkpoints=1",
        told([1.0, 3.0, 2.0, 2.0]), best(), best(mode="max", name="worst"),
    )  # fmt: skip
    assert (linked(run.directory), linked(run.directory, "worst")) == ("step-00000001.ckpt", "step-00000002.ckpt")
    assert steps_in(run.directory) == [1, 2, 4]


def test_a_resume_goes_on_choosing_and_repairs_the_link(
    tmp_path: Path, tiny_corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = told([5.0, 2.0, 3.0, 4.0, 2.5, 1.0])
    quiet = (
        "--trainer.limit_val_batches=0",
        "--checkpoint_every_n_steps=1",
        "--keep_last_checkpoints=9",
        values,
        best(),
    )
    directory = tmp_path / "run"
    fit(directory, tiny_corpus, 4, *quiet)
    assert linked(directory) == "step-00000002.ckpt"
    (directory / "checkpoints" / "best.ckpt").unlink()
    fit(directory, tiny_corpus, 5, *quiet)
    assert linked(directory) == "step-00000002.ckpt", "2.5 is not better than what an earlier start found"
    shutil.rmtree(directory / "checkpoints" / "step-00000002.ckpt")
    with caplog.at_level("INFO"):
        fit(directory, tiny_corpus, 6, *quiet)
    assert "step 2" in caplog.text
    assert linked(directory) == "step-00000006.ckpt"


def test_an_older_start_forgets_what_came_after_it(tmp_path: Path, tiny_corpus: Path) -> None:
    quiet = ("--trainer.limit_val_batches=0", "--checkpoint_every_n_steps=1", "--keep_last_checkpoints=9", best())
    directory = tmp_path / "run"
    fit(directory, tiny_corpus, 3, *quiet, told([5.0, 3.0, 1.0]))
    assert linked(directory) == "step-00000003.ckpt"
    older = directory / "checkpoints" / "step-00000002.ckpt"
    fit(directory, tiny_corpus, 3, *quiet, told([9.0, 9.0, 4.0]), f"--resume={older}")
    assert linked(directory) == "step-00000002.ckpt"


def test_a_value_that_never_comes_is_said(tmp_path: Path, tiny_corpus: Path) -> None:
    with pytest.warns(UserWarning, match="no value was called val/fid; there were: val/loss"):
        run = fit(tmp_path / "run", tiny_corpus, 2, best("val/fid"))
    assert not (run.directory / "checkpoints" / "best.ckpt").exists()


def test_it_stands_behind_what_it_looks_at_and_before_the_checkpoints(tmp_path: Path, tiny_corpus: Path) -> None:
    run = prepare_run([*SMALL, f"--run_dir={tmp_path / 'run'}", f"--data.shards={tiny_corpus}", best(), told([1.0])])
    kinds = [type(callback).__name__ for callback in run.trainer.callbacks]  # type: ignore[attr-defined]
    assert kinds.index("Told") < kinds.index("Best") < kinds.index("Checkpoints")
    assert kinds.count("Best") == 1
    assert any(isinstance(c, Checkpoints) for c in _callbacks(run, is_trial=False))
    run.preemption.restore()
    assert run.lock is not None
    run.lock.release()


def test_what_any_link_points_to_is_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        (tmp_path / f"step-{step:08d}.ckpt").mkdir()
    link_checkpoint(tmp_path / "step-00000001.ckpt", "best.ckpt")
    link_checkpoint(tmp_path / "step-00000003.ckpt", "last.ckpt")
    link_checkpoint(tmp_path / "step-00000002.ckpt", "best.ckpt")
    (tmp_path / "mine").symlink_to(tmp_path / "step-00000001.ckpt")
    assert linked_checkpoints(tmp_path) == {"step-00000002.ckpt", "step-00000001.ckpt"}
