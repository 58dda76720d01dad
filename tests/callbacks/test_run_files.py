"""The files of a run: tables that are cut where a resume goes on, and the record of every start."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.run_files import MetricsCsv, Provenance


def fake_trainer(root: Path, step: int = 0) -> Any:
    return SimpleNamespace(
        default_root_dir=str(root), is_global_zero=True, global_step=step, callback_metrics={}, world_size=1,
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.25}])], datamodule=SimpleNamespace(), precision="32-true",
        strategy=object(), callbacks=[],
    )  # fmt: skip


def take_steps(callback: MetricsCsv, trainer: Any, until: int) -> None:
    """Optimizer steps up to `until`, a validation value every second one."""
    for step in range(trainer.global_step + 1, until + 1):
        trainer.global_step = step
        trainer.callback_metrics = {"train/loss": torch.tensor(1 / step), "train/rec": torch.tensor(0.5)}
        callback.on_train_batch_end(trainer, None, None, None, 0)
        if step % 2 == 0:
            callback.write_validation(step, {"val/bas": step / 10})


def tables(root: Path) -> tuple[bytes, bytes]:
    return (root / "metrics.csv").read_bytes(), (root / "metrics_val.csv").read_bytes()


def test_rows_are_on_disk_at_once_with_the_first_step_s_columns(tmp_path: Path) -> None:
    callback, trainer = MetricsCsv(), fake_trainer(tmp_path)
    callback.on_train_start(trainer, None)
    for step in (1, 2):
        trainer.global_step = step
        trainer.callback_metrics = {"train/loss": torch.tensor(1 / 3), "train/rec": torch.tensor(0.5)}
        if step == 2:
            trainer.callback_metrics["train/new"] = torch.tensor(1.0)
        callback.on_train_batch_end(trainer, None, None, None, 0)
        with (tmp_path / "metrics.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == step
    assert list(rows[0]) == ["step", "train/loss", "lr", "train/rec"]
    assert float(rows[1]["train/loss"]) == float(torch.tensor(1 / 3))
    callback.write_validation(2, {"val/bas": 0.1})
    assert "2,val/bas,0.1" in (tmp_path / "metrics_val.csv").read_text(encoding="utf-8")
    callback.teardown(trainer, None, "fit")


def test_a_row_is_the_mean_over_the_step_s_micro_batches(tmp_path: Path) -> None:
    callback, trainer = MetricsCsv(), fake_trainer(tmp_path)
    callback.on_train_start(trainer, None)
    for micro, loss in enumerate((1.0, 2.0)):
        trainer.global_step = micro  # the step ends with the second
        trainer.callback_metrics = {"train/loss": torch.tensor(loss)}
        callback.on_train_batch_end(trainer, None, None, None, micro)
    callback.teardown(trainer, None, "fit")
    with (tmp_path / "metrics.csv").open(encoding="utf-8") as file:
        assert [row["train/loss"] for row in csv.DictReader(file)] == ["1.5"]


@pytest.mark.parametrize("knows_lengths", [True, False])
@pytest.mark.parametrize("torn", [b"", b"5,0.2", b"9,0.1,0.2,0.3\n"])
def test_a_resume_cuts_what_came_after_its_checkpoint(tmp_path: Path, knows_lengths: bool, torn: bytes) -> None:
    """Interrupted after step 4 with a checkpoint of step 2: in the end the tables equal those of one run."""
    whole = tmp_path / "whole"
    whole.mkdir()
    callback, trainer = MetricsCsv(), fake_trainer(whole)
    callback.on_train_start(trainer, None)
    take_steps(callback, trainer, 6)
    callback.teardown(trainer, None, "fit")

    root = tmp_path / "resumed"
    root.mkdir()
    callback, trainer = MetricsCsv(), fake_trainer(root)
    callback.on_train_start(trainer, None)
    take_steps(callback, trainer, 2)
    state = callback.state_dict()
    take_steps(callback, trainer, 4)
    callback.teardown(trainer, None, "fit")
    with (root / "metrics.csv").open("ab") as file:
        file.write(torn)

    callback, trainer = MetricsCsv(), fake_trainer(root, step=2)
    if knows_lengths:
        callback.load_state_dict(state)
    callback.on_train_start(trainer, None)
    take_steps(callback, trainer, 6)
    callback.teardown(trainer, None, "fit")
    assert tables(root) == tables(whole)


def test_values_of_a_validation_that_is_run_again_are_not_kept_twice(tmp_path: Path) -> None:
    """The checkpoint of step 2 was saved before that step's validation, which a kill interrupted after its rows."""
    callback, trainer = MetricsCsv(), fake_trainer(tmp_path)
    callback.on_train_start(trainer, None)
    trainer.global_step = 2
    state = callback.state_dict()
    callback.write_validation(2, {"val/loss": 0.5})
    callback.teardown(trainer, None, "fit")
    again = MetricsCsv()
    again.load_state_dict(state)
    again.on_train_start(trainer, None)
    again.write_validation(2, {"val/loss": 0.5})
    again.teardown(trainer, None, "fit")
    assert (tmp_path / "metrics_val.csv").read_text(encoding="utf-8").splitlines() == [
        "step,name,value",
        "2,val/loss,0.5",
    ]


def test_a_run_that_starts_over_starts_its_tables_over(tmp_path: Path) -> None:
    callback, trainer = MetricsCsv(), fake_trainer(tmp_path)
    callback.on_train_start(trainer, None)
    take_steps(callback, trainer, 3)
    callback.teardown(trainer, None, "fit")
    callback, trainer = MetricsCsv(), fake_trainer(tmp_path)
    callback.on_train_start(trainer, None)
    callback.teardown(trainer, None, "fit")
    assert tables(tmp_path)[0] == b""


def test_provenance_lists_every_start(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\n", encoding="utf-8")
    for notes in ((), ("2 -> 1 ranks",)):
        Provenance(notes).on_train_start(fake_trainer(tmp_path), None)
    starts = json.loads((tmp_path / "provenance.json").read_text(encoding="utf-8"))["starts"]
    assert len(starts) == 2
    assert starts[0]["config_sha256"] == starts[1]["config_sha256"]
    assert starts[1]["notes"] == ["2 -> 1 ranks"]
    expected = {
        "git",
        "hardware",
        "torch",
        "packages",
        "packages_sha256",
        "resumed_from_step",
        "strategy",
        "world_size",
    }
    assert expected <= starts[0].keys()


def test_a_damaged_record_is_put_aside_and_not_lost(tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text("{half", encoding="utf-8")
    Provenance().on_train_start(fake_trainer(tmp_path), None)
    assert len(json.loads((tmp_path / "provenance.json").read_text(encoding="utf-8"))["starts"]) == 1
    assert [p.read_text(encoding="utf-8") for p in tmp_path.glob("provenance-*.damaged.json")] == ["{half"]
