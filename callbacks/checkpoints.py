"""Checkpoints written whole: under a temporary name, then renamed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from callbacks.run_files import MetricsCsv, find_callback
from macedance.errors import ConfigError


class Checkpoints(pl.Callback):
    """Saves ``checkpoints/step-<n>.ckpt`` every k optimizer steps and ``checkpoints/last.ckpt`` at the end.

    Args:
        every_n_steps: Optimizer steps between two checkpoints. None: only at the end.
        keep_last: How many of the periodic ones stay.
    """

    def __init__(self, every_n_steps: int | None = None, keep_last: int = 3) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ConfigError(f"every_n_steps is {every_n_steps}", where="Checkpoints", expected="1 or more, or null")
        if keep_last < 1:
            raise ConfigError(f"keep_last is {keep_last}", where="Checkpoints", expected="1 or more")
        self.every_n_steps, self.keep_last = every_n_steps, keep_last
        self._last_step = 0

    def _save(self, trainer: pl.Trainer, name: str) -> Path:
        folder = Path(trainer.default_root_dir) / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        target, temporary = folder / name, folder / f".{name}.tmp"
        csv_file = find_callback(trainer, MetricsCsv)
        if csv_file is not None:
            csv_file.sync()
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            os.replace(temporary, target)
        return target

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the step is due, then drop the oldest."""
        step = trainer.global_step
        if self.every_n_steps is None or step == self._last_step or step % self.every_n_steps:
            return
        self._last_step = step
        target = self._save(trainer, f"step-{step:08d}.ckpt")
        if trainer.is_global_zero:
            periodic = sorted(p for p in target.parent.iterdir() if re.fullmatch(r"step-\d{8}\.ckpt", p.name))
            for old in periodic[: -self.keep_last]:
                old.unlink()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of the run."""
        self._save(trainer, "last.ckpt")
