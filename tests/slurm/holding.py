"""The tests' own callback: stands still at a step until the scheduler's signal is there, so that nothing is timed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from callbacks.preemption import Preemption
from callbacks.run_files import find_callback


class Hold(pl.Callback):
    """Waits at the end of a step, once per start, for a signal or for a file.

    Args:
        step: Optimizer step.
        folder: Gets `held-<rank>` while a rank waits; a file `go` lets it go on.
        limit_s: A wait that is longer is an error.
    """

    def __init__(self, step: int, folder: str, limit_s: float = 240.0) -> None:
        self.step, self.folder, self.limit_s = step, Path(folder), limit_s

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self.step:
            return
        preemption = find_callback(trainer, Preemption)
        mark = self.folder / f"held-{trainer.global_rank}"
        mark.touch()
        deadline = time.monotonic() + self.limit_s
        while not (preemption.requested or (self.folder / "go").exists()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"rank {trainer.global_rank} got no signal in {self.limit_s} s")
            time.sleep(0.05)
        mark.unlink()
