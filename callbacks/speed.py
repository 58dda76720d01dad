"""Throughput, what a step takes and waits for, memory, use of the GPU; and a progress bar with the time left."""

from __future__ import annotations

import copy
import re
import sys
import time
from collections import deque
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from macedance.models.flops import forward_flops
from macedance.report.progress import Progress, is_quiet

#: Word of a GPU's name -> dense bfloat16 products, FLOP/s, accumulated in float32, by its maker's data sheet; the
#: first that fits counts.
PEAK_BF16_FLOPS: dict[str, float] = {
    "B200": 2.25e15,
    "GH200": 989.4e12,
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,
    "H800": 989.4e12,
    "H20": 148e12,
    "A100": 311.9e12,
    "A800": 311.9e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 6000 Ada": 364.2e12,
    "RTX A6000": 154.8e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}
#: A training step by the usual rule: a forward pass, and a backward pass of twice its cost.
_STEP_OVER_FORWARD = 3


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a GPU; None where its name is not in the table."""
    fits = (flops for word, flops in PEAK_BF16_FLOPS.items() if re.search(rf"\b{re.escape(word)}\b", device_name, re.I))
    return next(fits, None)


def meta_copy(network: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes and no memory."""
    memo: dict[int, Any] = {id(b): b.to("meta") for b in network.buffers()}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    return copy.deepcopy(network, memo)


def peak_memory_mb(device: torch.device) -> float:
    """The most that this process held, in 2^20 bytes: allocated on its GPU, or resident where it trains on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


class _MicroBatch(NamedTuple):
    """What one micro-batch of this rank took."""

    frames: Tensor | None
    samples: int
    seconds: float
    stall_s: float


class Throughput(pl.Callback):
    """Logs, over the last optimizer steps, what training takes. Stands first, but for the watchdog.

    ``time/frames_per_second`` and ``time/samples_per_second`` of all ranks together; ``time/step_s``, seconds of an
    optimizer step; ``time/data_stall``, the share of it spent waiting for batches; ``time/peak_memory_mb``. On a GPU
    also ``time/mfu``: three times the forward pass's FLOPs, as `macedance summary` counts them, over what the GPU could
    do in bfloat16, whatever precision is used. Passes that activation checkpointing repeats are not counted as useful,
    frozen parameters are counted as if they trained, unless the module counts its own step (``step_flops``), and where
    the GPU is not in the table it is nan, said once.

    The number of frames stays on the device: nothing here waits for it.

    Args:
        window: Number of optimizer steps that the figures are averaged over.
    """

    def __init__(self, window: int = 20) -> None:
        self.window = window
        self._batches: deque[_MicroBatch] = deque()
        self._frames: Tensor | None = None
        self._ended_s = self._started_s = 0.0
        self._step_flops: int | None = None
        self._peak_flops: float | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Count a forward pass while the network is whole."""
        device = trainer.strategy.root_device
        if stage != "fit" or device.type != "cuda":
            return
        name = torch.cuda.get_device_name(device)
        self._peak_flops = peak_flops(name)
        if self._peak_flops is None:
            rank_zero_info(f"time/mfu is nan: the peak of {name} is not known here")
        network = getattr(pl_module, "network", None)
        frames = getattr(trainer.datamodule, "window_frames", None)  # type: ignore[attr-defined]
        if network is None or frames is None:
            return
        own_count = getattr(pl_module, "step_flops", None)
        try:
            if own_count is not None:
                self._step_flops = int(own_count())
            else:
                self._step_flops = _STEP_OVER_FORWARD * forward_flops(meta_copy(network), int(frames))
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            rank_zero_info(f"time/mfu is nan: the network's operations could not be counted ({error})")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._batches = deque(maxlen=self.window * trainer.accumulate_grad_batches)
        self._frames = None
        self.resume()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch is here: the time since the last step's end was spent waiting for it."""
        self._started_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the averages; the same names at every step, since the first one fixes the columns of metrics.csv."""
        now = time.perf_counter()
        self._take(batch, now - self._ended_s, self._started_s - self._ended_s)
        self._ended_s = now
        samples, seconds = sum(b.samples for b in self._batches), sum(b.seconds for b in self._batches)
        values: dict[str, Any] = {
            "time/samples_per_second": samples * trainer.world_size / seconds,
            "time/step_s": seconds / len(self._batches) * trainer.accumulate_grad_batches,
            "time/data_stall": sum(b.stall_s for b in self._batches) / seconds,
            "time/peak_memory_mb": peak_memory_mb(trainer.strategy.root_device),
        }
        if self._frames is not None:
            values["time/frames_per_second"] = self._frames * (trainer.world_size / seconds)
        if trainer.strategy.root_device.type == "cuda":
            values["time/mfu"] = self._mfu(samples / seconds)
        for name, value in values.items():
            pl_module.log(name, value, on_step=True, on_epoch=False)

    def _take(self, batch: Any, seconds: float, stall: float) -> None:
        """Add a micro-batch, and let go of the oldest."""
        mask = batch.get("mask")
        # Of frames (B, T); clips have one of their pixels.
        frames = mask.sum() if mask is not None and mask.ndim == 2 else None
        if len(self._batches) == self._batches.maxlen and self._frames is not None:
            oldest = self._batches[0].frames
            self._frames = self._frames if oldest is None else self._frames - oldest
        if frames is not None:
            self._frames = frames if self._frames is None else self._frames + frames
        self._batches.append(_MicroBatch(frames, len(batch["keys"]), seconds, stall))

    def _mfu(self, samples_per_second: float) -> float:
        """Share of this rank's GPU that useful products take."""
        if self._step_flops is None or self._peak_flops is None:
            return float("nan")
        return self._step_flops * samples_per_second / self._peak_flops

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
    """A bar over the run's optimizer steps with loss, speed and time left.

    Args:
        interval_s: Seconds between two looks at the loss, for which a GPU has to be waited for.
    """

    def __init__(self, interval_s: float = 0.5) -> None:
        self.interval_s = interval_s
        self._progress: Progress | None = None
        self._looked_s = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar on the first rank."""
        if trainer.is_global_zero and not is_quiet():
            self._progress = Progress("training", trainer.max_steps).__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance."""
        now = time.monotonic()
        last = trainer.global_step == trainer.max_steps
        if self._progress is None or (now - self._looked_s < self.interval_s and not last):
            return
        self._looked_s = now
        metrics = trainer.callback_metrics
        note = f"loss {float(metrics.get('train/loss', float('nan'))):.4f}"
        if "time/frames_per_second" in metrics:
            note += f", {float(metrics['time/frames_per_second']):.0f} frames/s"
        if "time/data_stall" in metrics:
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
