"""Saving and resuming in one process: what a checkpoint holds, when it is made, and that a resume is no difference."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from callbacks import checkpoint_writer
from callbacks.checkpoint_writer import CheckpointWriter, as_of_batch_end
from callbacks.checkpoints import Checkpoints
from callbacks.ema import EmaCallback
from callbacks.run_files import MetricsCsv
from lightning_modules.base import ExpertModule
from macedance.errors import CheckpointError
from macedance.pipelines.base_weights import BaseWeights
from macedance.pipelines.checkpoint_folder import (
    list_checkpoints,
    newest_verified,
    read_manifest,
    reshaped_copies,
    verify,
    write_manifest,
)


class Numbers(IterableDataset[Tensor]):
    """Endless batches, each a function of its number."""

    def __init__(self, start: int, end: int | None = None) -> None:
        self.start, self.end = start, end

    def __iter__(self) -> Iterator[Tensor]:
        number = self.start
        while self.end is None or number < self.end:
            yield torch.randn(4, 6, generator=torch.Generator().manual_seed(number))
            number += 1


class Data(pl.LightningDataModule):
    def __init__(self, start: int, val_batches: int = 2) -> None:
        super().__init__()
        self.start, self.val_batches = start, val_batches

    def train_dataloader(self) -> Any:
        return DataLoader(Numbers(self.start), batch_size=None, generator=torch.Generator())

    def val_dataloader(self) -> Any:
        if not self.val_batches:
            return []
        return DataLoader(Numbers(10**6, 10**6 + self.val_batches), batch_size=None, generator=torch.Generator())


class Tiny(ExpertModule):
    """A network with dropout, part of which may be frozen."""

    def __init__(self, *, freeze: bool = False, dropout: float = 0.2) -> None:
        super().__init__(self._network, lambda p: torch.optim.AdamW(p, lr=0.01))
        self.freezes, self.dropout_rate = freeze, dropout

    def _network(self) -> nn.Module:
        network = nn.Sequential(nn.Linear(6, 40), nn.Dropout(self.dropout_rate), nn.Linear(40, 6))
        if self.freezes:
            network[0].requires_grad_(False)
        return network

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = (self.built_network(batch) - batch.flip(-1)).square().mean()
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=False)
        self.position += len(batch)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        loss = (self.built_network(batch) - batch.flip(-1)).square().mean()
        self.log("val/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch))

    def describe(self) -> dict[str, Any]:
        return {"network": {}}

    def normalizer_dict(self) -> dict[str, Any]:
        return {"motion": {}}


@dataclass
class Diary(pl.Callback):
    """What happened, in order."""

    lines: list[tuple[Any, ...]] = field(default_factory=list)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loops = trainer.fit_loop.epoch_loop
        loss = float(trainer.callback_metrics["train/loss"])
        self.lines.append(
            ("batch", batch_idx, trainer.global_step, loops.total_batch_idx, loops._batches_that_stepped, loss)
        )

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.lines.append(("validated", trainer.global_step, float(trainer.callback_metrics["val/loss"])))


class Stop(pl.Callback):
    """Ends the process's run as a kill would: nothing is saved or said."""

    def __init__(self, place: str, number: int) -> None:
        self.place, self.number = place, number

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.place == "batch" and batch_idx == self.number:
            raise KeyboardInterrupt

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.place == "validation" and trainer.global_step == self.number and batch_idx == 1:
            raise KeyboardInterrupt


@dataclass
class Run:
    trainer: pl.Trainer
    module: Tiny
    diary: Diary
    checkpoints: Checkpoints
    ema: EmaCallback


def run(
    folder: Path,
    *,
    steps: int = 9,
    every: int | None = 2,
    keep_last: int = 3,
    resume: Path | None = None,
    stop: Stop | None = None,
    accumulate: int = 1,
    validate_every: int = 3,
    module: Tiny | None = None,
    val_batches: int = 2,
    extra: Callable[[], list[pl.Callback]] = list,
) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(5)
    module = module or Tiny()
    module.configure_model()
    diary, checkpoints, ema = Diary(), Checkpoints(every, keep_last), EmaCallback(0.5)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, default_root_dir=str(folder), logger=False, barebones=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        check_val_every_n_epoch=None, val_check_interval=validate_every, accumulate_grad_batches=accumulate,
        callbacks=[MetricsCsv(), ema, diary, *([stop] if stop else []), *extra(), checkpoints],
    )  # fmt: skip
    start = 0 if resume is None else read_manifest(resume).position // 4
    path = None if resume is None else str(resume / "state.ckpt")
    try:
        trainer.fit(module, datamodule=Data(start, val_batches), ckpt_path=path, weights_only=True)
    except SystemExit:  # how Lightning passes a KeyboardInterrupt on
        assert stop is not None
    return Run(trainer, module, diary, checkpoints, ema)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# ---------------------------------------------------------------- what is saved
def test_due_steps_and_the_last_are_saved_and_the_oldest_go(tmp_path: Path) -> None:
    run(tmp_path, steps=9, every=2, keep_last=3)
    assert names(tmp_path) == ["last.ckpt", *(f"step-{n:08d}.ckpt" for n in (6, 8, 9))]
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert os.readlink(last) == "step-00000009.ckpt"
    manifest = verify(last.resolve())
    assert (manifest.step, manifest.position, manifest.world_size, manifest.strategy) == (9, 36, 1, "single")
    assert set(manifest.files) == {"state.ckpt", "rank-0000.pt"}
    assert manifest.ended
    assert not manifest.validation_missing
    assert [read_manifest(f).sequence for f in list_checkpoints(tmp_path)] == [3, 4, 5]
    assert not any(read_manifest(f).ended for f in list_checkpoints(tmp_path)[:2])
    content = torch.load(last / "state.ckpt", weights_only=True)
    assert content["global_step"] == 9
    assert content["ema_num_updates"] == 9


def test_without_a_period_only_the_end_is_saved(tmp_path: Path) -> None:
    run(tmp_path, every=None)
    assert names(tmp_path) == ["last.ckpt", "step-00000009.ckpt"]


def test_a_run_that_is_told_to_stop_early_is_saved_where_it_stops(tmp_path: Path) -> None:
    class Enough(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 5

    run(tmp_path, every=None, extra=lambda: [Enough()])
    (folder,) = list_checkpoints(tmp_path)
    assert folder.name == "step-00000005.ckpt"
    whole = run(tmp_path / "whole", steps=7)
    again = run(tmp_path / "again", steps=7, resume=folder)
    assert_goes_on(whole, again, 5, validates_first=False)


def test_the_validation_of_a_step_that_is_saved_is_still_to_come(tmp_path: Path) -> None:
    run(tmp_path, steps=7, every=1, keep_last=9, stop=Stop("batch", 6))
    due = {read_manifest(f).step: read_manifest(f).validation_due for f in list_checkpoints(tmp_path)}
    assert due == {1: False, 2: False, 3: True, 4: False, 5: False, 6: True}


def test_no_validation_is_due_where_there_is_nothing_to_validate(tmp_path: Path) -> None:
    run(tmp_path, steps=3, every=3, val_batches=0)
    assert not read_manifest(list_checkpoints(tmp_path)[0]).validation_due


def test_with_accumulation_steps_are_saved_at_their_last_batch(tmp_path: Path) -> None:
    run(tmp_path, steps=4, every=1, keep_last=9, accumulate=3, validate_every=6)
    manifests = [read_manifest(f) for f in list_checkpoints(tmp_path)]
    assert [(m.step, m.position, m.validation_due) for m in manifests] == [
        (1, 12, False), (2, 24, True), (3, 36, False), (4, 48, True),
    ]  # fmt: skip
    assert {m.accumulate_grad_batches for m in manifests} == {3}


def test_saving_costs_are_kept_and_said_when_they_are_large(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callbacks.checkpoints._WORTH_A_WORD_S", 0.0)
    monkeypatch.setattr("callbacks.checkpoints._WORTH_A_WORD", 0.001)
    with caplog.at_level("INFO"):
        run(tmp_path)
    assert caplog.text.count("of the time since the last one") == 1
    with (tmp_path / "checkpoints.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "6", "8", "9"]
    assert all(float(row["time/checkpoint_s"]) > 0 and int(row["bytes"]) > 1000 for row in rows)
    with (tmp_path / "metrics.csv").open(encoding="utf-8") as file:
        assert "time/checkpoint_s" not in file.readline()


# ---------------------------------------------------------------- a resume is no difference
def assert_goes_on(whole: Run, resumed: Run, step: int, *, validates_first: bool) -> None:
    """The resumed run did what the uninterrupted one did after `step`."""
    batches = step * int(whole.trainer.accumulate_grad_batches)
    limits = {"batch": batches - 1, "validated": step}
    after = [line for line in whole.diary.lines if line[1] > limits[line[0]]]
    first = [line for line in whole.diary.lines if line[:2] == ("validated", step)]
    assert len(first) == validates_first
    assert resumed.diary.lines == [*first, *after]
    for (name, a), (_, b) in zip(whole.module.state_dict().items(), resumed.module.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert whole.ema.average is not None
    assert resumed.ema.average is not None
    for name, value in whole.ema.average.shadow.items():
        assert torch.equal(value, resumed.ema.average.shadow[name]), name
    assert torch.equal(whole_random(whole), whole_random(resumed))


def whole_random(of: Run) -> Tensor:
    """The random state that the run's last checkpoint holds."""
    assert of.checkpoints.saved is not None
    return torch.load(of.checkpoints.saved / "rank-0000.pt", weights_only=True)["torch"]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("step", [2, 3, 4, 6])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, step: int, accumulate: int) -> None:
    """Same batches, counters, losses with dropout, validations and averages; step 3 and 6 have a validation due."""
    options: dict[str, Any] = {"every": 1, "keep_last": 99, "accumulate": accumulate, "validate_every": 3 * accumulate}
    whole = run(tmp_path / "whole", **options)
    run(tmp_path / "part", stop=Stop("batch", step * accumulate), **options)
    folder = tmp_path / "part" / "checkpoints" / f"step-{step:08d}.ckpt"
    assert newest_verified(tmp_path / "part")[0] == folder
    resumed = run(tmp_path / "part", resume=folder, **options)
    assert_goes_on(whole, resumed, step, validates_first=step % 3 == 0)
    for name in ("metrics.csv", "metrics_val.csv"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_killed_in_its_last_validation_has_only_that_left(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    run(tmp_path / "part", stop=Stop("validation", 9))
    folder = tmp_path / "part" / "checkpoints" / "step-00000009.ckpt"
    assert read_manifest(folder).validation_missing
    resumed = run(tmp_path / "part", resume=folder)
    assert resumed.trainer.max_steps == 9
    assert_goes_on(whole, resumed, 9, validates_first=True)
    assert read_manifest(folder).ended
    assert (tmp_path / "part" / "metrics_val.csv").read_bytes() == (tmp_path / "whole" / "metrics_val.csv").read_bytes()


def test_a_finished_run_goes_on_to_more_steps_as_if_it_had_never_ended(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    run(tmp_path / "part", steps=5)
    resumed = run(tmp_path / "part", resume=tmp_path / "part" / "checkpoints" / "step-00000005.ckpt")
    assert_goes_on(whole, resumed, 5, validates_first=False)


def test_another_number_of_batches_a_step_goes_on_at_the_same_step(tmp_path: Path) -> None:
    """Lightning counts batches: after four steps of one batch it must not take the next for the first of a pair."""
    run(tmp_path / "part", steps=4, every=4)
    folder = tmp_path / "part" / "checkpoints" / "step-00000004.ckpt"
    resumed = run(tmp_path / "part", resume=folder, steps=6, accumulate=2, validate_every=6)
    batches = [line[:4] for line in resumed.diary.lines if line[0] == "batch"]
    assert batches == [("batch", 8, 4, 8), ("batch", 9, 5, 9), ("batch", 10, 5, 10), ("batch", 11, 6, 11)]
    assert [line[1] for line in resumed.diary.lines if line[0] == "validated"] == [6]


def test_other_numbers_of_ranks_say_that_dropout_differs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path / "part", steps=4)
    folder = tmp_path / "part" / "checkpoints" / "step-00000004.ckpt"
    write_manifest(folder, replace(read_manifest(folder), world_size=2))
    with caplog.at_level("INFO"):
        run(tmp_path / "part", resume=folder, steps=6)
    assert caplog.text.count("dropout") == 1
    caplog.clear()
    with caplog.at_level("INFO"):
        run(tmp_path / "other", resume=folder, steps=6, module=Tiny(dropout=0.0))
    assert "dropout" not in caplog.text


def test_counters_saved_anywhere_are_those_of_a_batch_s_end() -> None:
    def at(batches: int, completed: int, epoch: int, stepped: int) -> dict[str, Any]:
        counts = {"ready": batches, "started": batches, "processed": batches, "completed": completed}
        whole = {"ready": 1, "started": 1, "processed": epoch, "completed": epoch}
        validation = {"ready": 3, "started": 2, "processed": 2, "completed": 2}
        return {
            "epoch_progress": {"total": dict(whole), "current": dict(whole)},
            "epoch_loop.batch_progress": {"total": dict(counts), "current": dict(counts), "is_last_batch": False},
            "epoch_loop.val_loop.batch_progress": {"total": dict(validation), "current": dict(validation)},
            "epoch_loop.state_dict": {"_batches_that_stepped": stepped},
        }

    ends = [at(8, 7, 0, 7), at(8, 8, 0, 7), at(8, 8, 1, 8)]  # a batch's end, in a validation, at the end of training
    for loops in ends:
        as_of_batch_end(loops)
    assert ends[0] == ends[1] == ends[2]
    assert ends[0]["epoch_loop.batch_progress"]["total"]["completed"] == 7
    validation = ends[0]["epoch_loop.val_loop.batch_progress"]["total"]
    assert validation["started"] == validation["processed"] == validation["ready"]


# ---------------------------------------------------------------- faults
def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["save", "manifest", "rename", "fsync"])
def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FillsUp(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 4:
                target = {
                    "save": (torch, "save"), "manifest": (checkpoint_writer, "write_manifest"),
                    "rename": (checkpoint_writer, "put_in_place"), "fsync": (checkpoint_writer, "describe_file"),
                }[place]  # fmt: skip
                monkeypatch.setattr(*target, full_disk)

    with pytest.raises(CheckpointError, match=r"No space left on device.*free some space") as caught:
        run(tmp_path, extra=lambda: [FillsUp()])
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["last.ckpt", "step-00000002.ckpt"]
    assert verify(tmp_path / "checkpoints" / "last.ckpt").step == 2


def test_a_disk_too_small_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, steps=2)
    size = read_manifest(list_checkpoints(tmp_path)[0]).total_bytes
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size // 2))
    monkeypatch.setattr(CheckpointWriter, "_write_state", lambda *_: pytest.fail("it was written"))
    with pytest.raises(CheckpointError, match=r"takes about . MiB and the disk has 0 MiB left"):
        run(tmp_path, resume=list_checkpoints(tmp_path)[0], steps=4)
    with pytest.raises(CheckpointError, match="left"):
        run(tmp_path / "other", steps=4)
    assert names(tmp_path) == ["last.ckpt", "step-00000002.ckpt"]


def test_a_real_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system of 256 KiB, the estimate switched off: the writing itself must fail well."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(mount)], capture_output=True)
    if made.returncode:
        pytest.skip("only root may mount a file system")
    try:
        monkeypatch.setattr(CheckpointWriter, "_expected_bytes", lambda _: -(2**20))
        run(mount / "run", steps=2)
        (mount / "ballast").write_bytes(bytes(150 * 1024))
        with pytest.raises(CheckpointError, match="cannot be saved"):
            run(mount / "run", resume=list_checkpoints(mount / "run")[0], steps=9, every=1, keep_last=9)
        assert not [name for name in names(mount / "run") if name.startswith(".")]
        newest, warnings = newest_verified(mount / "run")
        assert newest is not None
        assert warnings == []
    finally:
        # Lazily: the tables of the run that failed are open until it is collected.
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_what_a_kill_left_behind_goes_with_the_next_save(tmp_path: Path) -> None:
    run(tmp_path, steps=2)
    half = tmp_path / "checkpoints" / ".step-00000004.ckpt.tmp"
    shutil.copytree(tmp_path / "checkpoints" / "step-00000002.ckpt", half)
    run(tmp_path, resume=list_checkpoints(tmp_path)[0], steps=4)
    assert names(tmp_path) == ["last.ckpt", "step-00000002.ckpt", "step-00000004.ckpt"]
    verify(tmp_path / "checkpoints" / "step-00000004.ckpt")


def test_a_step_trained_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, steps=6)
    folder = tmp_path / "checkpoints" / "step-00000006.ckpt"
    (folder / "state.ckpt").write_bytes(b"damaged")
    newest, warnings = newest_verified(tmp_path)
    assert newest is not None
    assert newest.name == "step-00000004.ckpt"
    assert len(warnings) == 1
    run(tmp_path, resume=newest, steps=6)
    assert verify(folder).step == 6
    assert names(tmp_path) == ["last.ckpt", *(f"step-{n:08d}.ckpt" for n in (2, 4, 6))]


# ---------------------------------------------------------------- frozen weights that come from elsewhere
def tuned(change: float = 0.0) -> Tiny:
    """A module whose first layer is frozen and was taken from a folder, as far as it knows."""
    module = Tiny(freeze=True)
    module.configure_model()
    module.init_from = "somewhere"
    with torch.no_grad():
        module.built_network[0].bias.add_(1.0 + change)
    return module


def test_frozen_weights_from_elsewhere_stay_out_and_come_back(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", module=tuned(), every=1, keep_last=99)
    folder = tmp_path / "whole" / "checkpoints" / "step-00000004.ckpt"
    content = torch.load(folder / "state.ckpt", weights_only=True)
    assert set(content["state_dict"]) == {"network.2.weight", "network.2.bias"}
    assert set(content["macedance"]["base"]["names"]) == {"0.weight", "0.bias"}
    resumed = run(tmp_path / "part", module=tuned(), every=1, keep_last=99, resume=folder)
    assert_goes_on(whole, resumed, 4, validates_first=False)


def test_other_frozen_weights_are_refused(tmp_path: Path) -> None:
    run(tmp_path, module=tuned(), steps=2)
    folder = list_checkpoints(tmp_path)[0]
    with pytest.raises(CheckpointError, match=r"the frozen weights are other.*--init_from"):
        run(tmp_path / "b", module=tuned(0.5), resume=folder)
    with pytest.raises(CheckpointError, match="the frozen weights are other"):
        run(tmp_path / "c", module=Tiny(), resume=folder)
    run(tmp_path / "d", module=Tiny(), steps=2)
    with pytest.raises(CheckpointError, match="which is whole"):
        run(tmp_path / "e", module=tuned(), resume=list_checkpoints(tmp_path / "d")[0])


def test_frozen_weights_of_the_run_s_own_seed_are_kept(tmp_path: Path) -> None:
    run(tmp_path, module=Tiny(freeze=True), steps=2)
    content = torch.load(list_checkpoints(tmp_path)[0] / "state.ckpt", weights_only=True)
    assert "network.0.weight" in content["state_dict"]
    assert "base" not in content["macedance"]
    assert BaseWeights.of(Tiny(freeze=True)._network(), None, "auto", False) is None


def test_the_first_rank_alone_reads_the_frozen_weights_for_their_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    module, known = tuned(), []

    def of(*arguments: Any) -> BaseWeights:
        known.append(BaseWeights("somewhere", "auto", "0" * 64, ("0.bias", "0.weight")))
        return known[-1]

    monkeypatch.setattr("callbacks.checkpoints.BaseWeights.of", of)
    monkeypatch.setattr("callbacks.checkpoints.from_first", lambda mine: known[0] if mine is None else mine)
    for first in (True, False):
        saves = Checkpoints()
        saves.setup(SimpleNamespace(is_global_zero=first, strategy=None), module, "fit")  # type: ignore[arg-type]
        assert saves._base is known[0]
    assert len(known) == 1


# ---------------------------------------------------------------- what must not go wrong quietly
@pytest.mark.parametrize("lost", ["rank-0000.pt", "manifest.json", "garbage"])
def test_a_resume_takes_up_everything_or_nothing(tmp_path: Path, lost: str) -> None:
    """A rank that does not see the manifest or its own file must not go on with other random numbers."""

    class Loses(pl.Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            if lost == "garbage":
                (folder / "rank-0000.pt").write_bytes(b"garbage")
            else:
                (folder / lost).unlink()

    run(tmp_path, steps=4)
    folder = tmp_path / "checkpoints" / "step-00000004.ckpt"
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        run(tmp_path, resume=folder, steps=6, extra=lambda: [Loses()])


def test_a_table_that_cannot_be_synced_is_the_checkpoint_s_fault_on_every_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MetricsCsv, "sync", full_disk)
    with pytest.raises(CheckpointError, match=r"cannot be saved.*No space left"):
        run(tmp_path, steps=2)


def test_costs_that_cannot_be_noted_do_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints.csv").mkdir()
    with pytest.warns(UserWarning, match=r"not noted in checkpoints\.csv"):
        run(tmp_path, steps=4)
    assert names(tmp_path) == ["last.ckpt", "step-00000002.ckpt", "step-00000004.ckpt"]


@pytest.mark.parametrize("damage", ["flipped", "short", "manifest"])
def test_damaged_checkpoints_go_before_whole_ones(tmp_path: Path, damage: str) -> None:
    run(tmp_path, steps=6)  # 2, 4 and 6
    folder = tmp_path / "checkpoints" / "step-00000006.ckpt"
    state = folder / ("manifest.json" if damage == "manifest" else "state.ckpt")
    content = state.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    state.write_bytes(content[:middle] if damage == "short" else flipped)
    newest, _ = newest_verified(tmp_path)
    assert newest is not None
    run(tmp_path, resume=newest, steps=5, every=5)
    assert names(tmp_path) == ["last.ckpt", *(f"step-0000000{n}.ckpt" for n in (2, 4, 5))]


def test_only_a_start_s_own_copy_goes_with_the_next_save(tmp_path: Path) -> None:
    run(tmp_path, steps=2)
    source = tmp_path / "checkpoints" / "step-00000002.ckpt"
    for name in ("step-00000002.ranks-2.ckpt", ".step-00000002.ranks-3.ckpt"):
        shutil.copytree(source, source.with_name(name))
    assert [path.name for path in reshaped_copies(tmp_path)] == [".step-00000002.ranks-3.ckpt"]
    run(tmp_path, resume=source, steps=4)
    assert names(tmp_path) == [
        "last.ckpt", "step-00000002.ckpt", "step-00000002.ranks-2.ckpt", "step-00000004.ckpt",
    ]  # fmt: skip


class Four(torch.optim.AdamW):
    """Keeps four tensors a parameter, as Adan does."""

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        for state in self.state.values():
            state["third"], state["fourth"] = state["exp_avg"].clone(), state["exp_avg"].clone()
        return result


@pytest.mark.parametrize(("kind", "tensors"), [(torch.optim.SGD, 2), (torch.optim.AdamW, 4), (Four, 6)])
def test_the_space_asked_for_counts_what_the_optimizer_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, tensors: int
) -> None:
    expected: list[int] = []
    real = CheckpointWriter._expected_bytes

    def keeping(writer: CheckpointWriter) -> int:
        expected.append(real(writer))
        return expected[-1]

    monkeypatch.setattr(CheckpointWriter, "_expected_bytes", keeping)
    module = Tiny()
    module._optimizer_factory = lambda parameters: kind(parameters, lr=0.01)
    run(tmp_path, steps=2, module=module)
    elements = sum(p.numel() for p in module.parameters())
    assert 4 * tensors * elements <= expected[0] <= 4 * tensors * elements + 100
