"""Throughput, the share of time spent waiting for data, and a progress bar with the time left."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import pytorch_lightning as pl

from macedance.report.progress import Progress


class Throughput(pl.Callback):
    """Logs ``time/frames_per_second``, ``time/step_s`` and ``time/data_stall`` over the last steps.

    Args:
        window: Number of steps that the figures are averaged over.
    """

    def __init__(self, window: int = 20) -> None:
        self._steps: deque[tuple[int, float, float]] = deque(maxlen=window)
        self._ended_s = self._started_s = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._ended_s = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch is here: the time since the last step's end was spent waiting for it."""
        self._started_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the averages."""
        now = time.perf_counter()
        frames = int(batch["mask"].sum()) * trainer.world_size
        self._steps.append((frames, now - self._ended_s, self._started_s - self._ended_s))
        self._ended_s = now
        frames, seconds, stall = (sum(column) for column in zip(*self._steps, strict=True))
        for name, value in (
            ("time/frames_per_second", frames / seconds),
            ("time/step_s", seconds / len(self._steps)),
            ("time/data_stall", stall / seconds),
        ):
            pl_module.log(name, value, on_step=True, on_epoch=False)

    def resume(self) -> None:
        """What was done since the step's end (previews, checkpoints, validation) is no waiting for data."""
        self._ended_s = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation is neither training nor waiting for data."""
        self.resume()


class ResumeThroughput(pl.Callback):
    """Stands behind all other callbacks and starts :class:`Throughput`'s clock again.

    Args:
        throughput: The callback whose clock it is.
    """

    def __init__(self, throughput: Throughput) -> None:
        self._throughput = throughput

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The other callbacks are done."""
        self._throughput.resume()


class TrainingProgress(pl.Callback):
    """A bar over the run's optimizer steps with loss, speed and time left."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar on the first rank."""
        if trainer.is_global_zero:
            self._progress = Progress("training", trainer.max_steps).__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance."""
        if self._progress is not None:
            metrics = trainer.callback_metrics
            note = f"loss {float(metrics.get('train/loss', float('nan'))):.4f}"
            if "time/frames_per_second" in metrics:
                note += f", {float(metrics['time/frames_per_second']):.0f} frames/s"
                note += f", waiting for data {float(metrics['time/data_stall']):.0%}"
            self._progress.update(trainer.global_step, note)

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar when training breaks off."""
        self._close()
