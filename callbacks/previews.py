"""What callbacks that dance during training share: when they are due, and dances from the averaged weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl

from callbacks.ema import EmaCallback, preview_network
from callbacks.run_files import find_callback
from datamodules.motion import Clip
from lightning_modules.motion_expert import MotionExpertModule
from macedance.motion.files import Motion


class Preview(pl.Callback):
    """Runs on the first rank every k optimizer steps.

    Args:
        every_n_steps: Optimizer steps between two previews.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._last_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The step that a resume starts from has its preview."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Make the preview when the step is due, once per optimizer step; the other ranks wait for the first."""
        step = trainer.global_step
        if step == self._last_step or step % self.every_n_steps:
            return
        self._last_step = step
        assert isinstance(pl_module, MotionExpertModule)
        with preview_network(trainer, pl_module):
            if trainer.is_global_zero:
                self.preview(trainer, pl_module)

    @abstractmethod
    def preview(self, trainer: pl.Trainer, module: MotionExpertModule) -> Any:
        """Make it."""


def averaged_dances(
    trainer: pl.Trainer,
    module: MotionExpertModule,
    clips: Sequence[Clip],
    *,
    beta: float | None = None,
    seed: int,
    sampler: str | None,
    num_steps: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Motion]:
    """A dance for each clip's music, from the averaged weights where the run keeps an average.

    Args:
        trainer: Its EmaCallback, if any, holds the average.
        module: The module being trained.
        clips: Clips of the corpus; a genre that the model does not name is drawn by the seed.
        beta: Temperature; None: the model's own.
        seed: Of the sampling noise.
        sampler: ``ddim``, ``dpmpp``, or None for the model's own.
        num_steps: Sampling steps; None: the sampler's own number.
        progress: Told (steps done, steps in all).
    """
    averaged = find_callback(trainer, EmaCallback)
    with averaged.applied(module) if averaged else nullcontext():
        pipeline = module.pipeline()
        return pipeline.generate_batch(
            [clip.music for clip in clips],
            genres=[clip.genre if clip.genre in pipeline.genres else None for clip in clips],
            beta=beta,
            seed=seed,
            sampler=sampler,
            num_steps=num_steps,
            music_beats_s=[clip.beats_s for clip in clips],
            songs=[clip.song for clip in clips],
            progress=progress,
        )
