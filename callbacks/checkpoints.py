"""Checkpoints of a run: when they are saved, what they cost, and how a resume takes up what Lightning does not."""

from __future__ import annotations

import contextlib
import copy
import csv
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn

from callbacks.agreement import agreed, from_first
from callbacks.checkpoint_writer import CheckpointWriter, rank_file, restore_random_state
from callbacks.run_files import MetricsCsv, find_callback
from lightning_modules.base import ExpertModule
from lightning_modules.strategies import ZeroStrategy
from macedance.errors import CheckpointError, ConfigError
from macedance.pipelines.base_weights import BaseWeights
from macedance.pipelines.checkpoint_folder import CheckpointManifest, checkpoint_name, read_manifest, write_manifest

COST_FILE = "checkpoints.csv"
#: A save that takes longer than this share of the time since the one before is worth a word, if it takes a second.
_WORTH_A_WORD, _WORTH_A_WORD_S = 0.1, 1.0


class Checkpoints(pl.Callback):
    """Saves ``checkpoints/step-<n>.ckpt`` every k optimizer steps and at the end. Stands behind what it saves.

    Args:
        every_n_steps: Optimizer steps between two checkpoints. None: only at the end.
        keep_last: How many of them stay.

    Attributes:
        saved: The newest checkpoint of this run; at the start of a resumed one that which it goes on from.
        saved_step: Its step.
    """

    def __init__(self, every_n_steps: int | None = None, keep_last: int = 3) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ConfigError(f"every_n_steps is {every_n_steps}", where="Checkpoints", expected="1 or more, or null")
        if keep_last < 1:
            raise ConfigError(f"keep_last is {keep_last}", where="Checkpoints", expected="1 or more")
        self.every_n_steps, self.keep_last = every_n_steps, keep_last
        self.saved: Path | None = None
        self.saved_step = 0
        self._base: BaseWeights | None = None
        self._proven: set[str] = set()
        self._since_s = 0.0
        self._said_cost = False
        self._last_step_was_done: int | None = None

    # ---------------------------------------------------------------- saving
    def save(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, validation_due: bool) -> Path:
        """Save the present step; a collective, at the end of an optimizer step.

        Args:
            trainer: The trainer.
            pl_module: Its module.
            validation_due: The validation of this step is still to come; a resume runs it first.

        Returns:
            The checkpoint's folder.

        Raises:
            CheckpointError: On every rank, where any of them failed; the checkpoints before stay as they were.
        """
        started_s = time.perf_counter()
        assert isinstance(pl_module, ExpertModule)
        base = self._base
        keepers = {c.link_name: c.kept_step for c in trainer.callbacks if hasattr(c, "kept_step")}  # type: ignore[attr-defined]
        writer = CheckpointWriter(
            trainer,
            pl_module,
            self.keep_last,
            without=base.names_in(pl_module) if base else frozenset(),
            base=base.to_dict() if base else None,
            proven=self._proven,
            kept=frozenset(checkpoint_name(step) for step in keepers.values() if step is not None),
            links=[name for name, step in keepers.items() if step == trainer.global_step],
        )
        csv_file = find_callback(trainer, MetricsCsv)
        if csv_file is not None:
            agreed("writing metrics.csv", csv_file.sync, where=writer.target)
        manifest = writer.write(validation_due=validation_due)
        self.saved, self.saved_step = writer.target, trainer.global_step
        try:
            self._log_cost(trainer, manifest, time.perf_counter() - started_s)
        except OSError as error:  # the checkpoint stands, and the other ranks have gone on
            rank_zero_warn(f"what the checkpoint took is not noted in {COST_FILE}: {error.strerror or error}")
        return writer.target

    def _log_cost(self, trainer: pl.Trainer, manifest: CheckpointManifest, seconds: float) -> None:
        """Into ``checkpoints.csv`` and the loggers; metrics.csv has the columns of its first step."""
        now = time.perf_counter()
        since, self._since_s = now - seconds - self._since_s, now
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.log_metrics({"time/checkpoint_s": seconds}, step=trainer.global_step)
        path = Path(trainer.default_root_dir) / COST_FILE
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["step", "time/checkpoint_s", "bytes", "ranks"])
            writer.writerow([manifest.step, f"{seconds:.4f}", manifest.total_bytes, manifest.world_size])
        if seconds > max(_WORTH_A_WORD_S, _WORTH_A_WORD * since) and not self._said_cost:
            self._said_cost = True
            rank_zero_info(
                f"saving a checkpoint of {manifest.total_bytes / 2**20:.0f} MiB took {seconds:.1f} s, "
                f"{seconds / max(since, 1e-9):.0%} of the time since the last one: --checkpoint_every_n_steps"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the step is due or the last, once per optimizer step."""
        step = trainer.global_step
        if step == self.saved_step:
            return
        due = self.every_n_steps is not None and step % self.every_n_steps == 0 and self._stepped(trainer)
        if due or step == trainer.max_steps:
            self.save(trainer, pl_module, validation_due=validation_is_due(trainer))

    @staticmethod
    def _stepped(trainer: pl.Trainer) -> bool:
        """Whether this batch ended an optimizer step: between two of them the number of steps stands still."""
        return not trainer.fit_loop.epoch_loop._should_accumulate()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of the run; where its last step is saved, note that nothing is left to do."""
        if any(getattr(callback, "preempted", False) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            return
        if trainer.global_step != self.saved_step:
            self.save(trainer, pl_module, validation_due=False)
        if self.saved is not None and trainer.is_global_zero:
            # Where the note cannot be written, a resume validates once more: nothing is lost.
            with contextlib.suppress(OSError, CheckpointError):
                write_manifest(self.saved, replace(read_manifest(self.saved), ended=True))

    # ---------------------------------------------------------------- resuming
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before anything is sharded or cast: what of the network comes from elsewhere and does not train."""
        if stage == "fit" and isinstance(pl_module, ExpertModule) and pl_module.network is not None:
            source, weights = pl_module.base_source or (None, "")
            # The first rank's weights are what every strategy gives to all: the others need not read theirs for it.
            mine = trainer.is_global_zero
            adapted = pl_module.lora is not None
            network = pl_module.network

            def identify() -> BaseWeights | None:
                return BaseWeights.of(network, source, weights, adapted) if mine else None

            where = Path(source or trainer.default_root_dir)
            self._base = from_first(agreed("reading the base", identify, where=where, failed="training cannot start"))
            if self._base is not None or not isinstance(trainer.strategy, ZeroStrategy):
                # What is left out `init_from` has put into the network already; the names are compared below.
                pl_module.strict_loading = False

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Mapping[str, Any]
    ) -> None:
        """Check that what the checkpoint leaves out is what this network has.

        Raises:
            CheckpointError: It was trained on other base weights, or it lacks weights that nothing else brings, or it
                has no manifest.
        """
        folder = resumed_folder(trainer)
        agreed(
            "comparing the weights",
            lambda: self._check_base(pl_module, checkpoint),
            where=folder or Path(),
            failed="the checkpoint cannot be resumed",
        )
        manifest = None if folder is None else _shared_manifest(folder)
        if manifest is not None and 0 < trainer.max_steps <= manifest.step and manifest.validation_missing:
            # Nothing is left to train, and Lightning would leave at once: one validation is left to run.
            self._last_step_was_done = trainer.max_steps
            trainer.fit_loop.epoch_loop.max_steps = manifest.step + 1

    def _check_base(self, pl_module: pl.LightningModule, checkpoint: Mapping[str, Any]) -> None:
        theirs = (checkpoint.get("macedance") or {}).get("base")
        mine = None if self._base is None else self._base.to_dict()
        if (None if mine is None else mine["sha256"]) != (None if theirs is None else theirs["sha256"]):
            was = "whole" if theirs is None else f"trained on {theirs['source']}"
            raise CheckpointError(
                f"the frozen weights are other than those of the checkpoint, which is {was}",
                fix="give the --init_from, --model.train_only, --model.freeze and --model.lora of the first start",
            )
        if "state_dict" not in checkpoint:  # DeepSpeed has compared them
            return
        left_out = frozenset() if self._base is None else self._base.names_in(pl_module)
        differing = sorted((pl_module.state_dict().keys() - left_out) ^ checkpoint["state_dict"].keys())
        if differing:
            raise CheckpointError(
                f"the checkpoint is of another network: {len(differing)} names differ, the first is {differing[0]}",
                fix="resume with the config of the first start",
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take up what every rank kept for itself; then validate, where the checkpoint had that still to come.

        Raises:
            CheckpointError: On every rank, where any of them cannot read its part.
        """
        self._since_s = time.perf_counter()
        self.saved_step = trainer.global_step
        folder = resumed_folder(trainer)
        if folder is None:
            return
        self.saved = folder
        manifest = _shared_manifest(folder)
        self._proven.add(checkpoint_name(manifest.step))
        for callback in list(trainer.callbacks):  # type: ignore[attr-defined]
            load = getattr(callback, "load_rank_files", None)
            if load is not None:
                _loading(f"the files of {type(callback).__name__}", partial(load, trainer, pl_module, folder), folder)
        _rescale_counters(trainer, manifest.accumulate_grad_batches)
        restore = partial(self._restore_random_state, trainer, pl_module, folder, manifest)
        _loading("the rank's own state", restore, folder)
        if manifest.validation_missing:
            run_validation(trainer)
        if self._last_step_was_done is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._last_step_was_done

    @staticmethod
    def _restore_random_state(
        trainer: pl.Trainer, pl_module: pl.LightningModule, folder: Path, manifest: CheckpointManifest
    ) -> None:
        name = rank_file(trainer.global_rank)
        if manifest.world_size == trainer.world_size and name in manifest.files:
            restore_random_state(trainer, torch.load(folder / name, weights_only=True))
        elif any(isinstance(m, nn.Dropout) and m.p > 0 for m in pl_module.modules()):
            rank_zero_info(
                f"the checkpoint is of {manifest.world_size} ranks and this start has {trainer.world_size}: dropout "
                "draws other numbers than without the stop; everything else goes on as it was"
            )


def resumed_folder(trainer: pl.Trainer) -> Path | None:
    """The checkpoint folder that the trainer resumes from; None where it starts anew."""
    path = trainer._checkpoint_connector._ckpt_path
    if not path:
        return None
    return Path(path) if Path(path).is_dir() else Path(path).parent


def _loading(what: str, function: Callable[[], Any], folder: Path) -> Any:
    """Call a function on every rank; where a rank cannot read its part, none goes on without it."""
    return agreed(f"reading {what}", function, where=folder, failed="the checkpoint cannot be resumed")


def _shared_manifest(folder: Path) -> CheckpointManifest:
    manifest: CheckpointManifest = _loading("the manifest", lambda: read_manifest(folder), folder)
    return manifest


def validation_is_due(trainer: pl.Trainer) -> bool:
    """Whether Lightning's schedule validates after the batch that just ended; a request to stop counts for nothing."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    if fetcher is None or loop.val_loop._combined_loader is None or loop.val_loop.skip:
        return False
    stop, trainer.should_stop = trainer.should_stop, False
    try:
        return bool(loop._should_check_val_fx(fetcher))
    finally:
        trainer.should_stop = stop


def run_validation(trainer: pl.Trainer) -> None:
    """Validate before the first step, as Lightning does between two steps."""
    loop = trainer.fit_loop.epoch_loop
    # Restored as interrupted, Lightning would count the batches of the validation before.
    loop.val_loop.restarting = False
    trainer.validating = True
    counted = copy.deepcopy(loop.val_loop.batch_progress.total)
    loop.val_loop.run()
    # A restarted loop counts this validation by itself, as one that it takes for done.
    loop.val_loop.batch_progress.total = counted
    trainer.training = True


def _rescale_counters(trainer: pl.Trainer, accumulated: int) -> None:
    """Lightning counts micro-batches: where a step has another number of them now, so have the steps done."""
    wanted = int(trainer.accumulate_grad_batches)
    if wanted == accumulated:
        return
    progress = trainer.fit_loop.epoch_loop.batch_progress
    both: list[Any] = [progress.total, progress.current]
    for counts in both:
        batches = counts.ready // accumulated * wanted
        counts.ready = counts.started = counts.processed = batches
        counts.completed = batches - 1
    strategy = trainer.strategy
    if isinstance(strategy, ZeroStrategy):
        strategy.deepspeed_engine.micro_steps = strategy.deepspeed_engine.global_steps * wanted
