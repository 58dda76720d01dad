"""A configured run: what training needs, and how it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytorch_lightning as pl

from callbacks.preemption import Preemption
from launch.resume import Start
from launch.run_lock import RunLock
from launch.training_cli import TrainingCLI
from lightning_modules.base import ExpertModule


@dataclass
class Run:
    """A configured run, ready to train."""

    cli: TrainingCLI
    directory: Path
    trainer: pl.Trainer
    model: ExpertModule
    data: pl.LightningDataModule
    start: Start = field(default_factory=Start)
    lock: RunLock | None = None
    preemption: Preemption = field(default_factory=Preemption)

    @property
    def preempted(self) -> bool:
        """Whether training was broken off by the scheduler, and saved."""
        return self.preemption.preempted

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        if self.start.finished and self.start.manifest is not None:
            return self.start.manifest.step
        return int(self.trainer.global_step)
