"""The moving average of the weights: updated every step, used for validation, samples and export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl

from lightning_modules.base import ExpertModule
from macedance.nn.ema import ExponentialMovingAverage


class EmaCallback(pl.Callback):
    """Averages the trainable parameters.

    Args:
        decay: Weight of the past, per optimizer step.
        warmup: Rise to ``decay`` from 0.1, so that short runs do not average their random start.
    """

    def __init__(self, decay: float = 0.9999, warmup: bool = True) -> None:
        self.decay, self.warmup = decay, warmup
        self.average: ExponentialMovingAverage | None = None
        self._last_step = 0
        self._pending: dict[str, Any] | None = None
        self._validation = ExitStack()
        self._in_validation = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the network's own weights, or from the checkpoint's average."""
        assert isinstance(pl_module, ExpertModule)
        if self.average is None:
            self.average = ExponentialMovingAverage(pl_module.built_network, self.decay, warmup=self.warmup)
        if self._pending is not None:
            self.average.load_state_dict(self._pending)
            self._pending = None
        self.average.to(pl_module.device)
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update once per optimizer step, not once per micro-batch."""
        if trainer.global_step != self._last_step:
            self._last_step = trainer.global_step
            assert isinstance(pl_module, ExpertModule)
            assert self.average is not None
            self.average.update(pl_module.built_network)

    @contextmanager
    def applied(self, pl_module: ExpertModule) -> Iterator[None]:
        """Within the context the network holds the average."""
        if self.average is None or self._in_validation:
            yield
            return
        with self.average.applied(pl_module.built_network):
            yield

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the average."""
        assert isinstance(pl_module, ExpertModule)
        if self.average is not None:
            self._validation.enter_context(self.average.applied(pl_module.built_network))
            self._in_validation = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the network its own weights back."""
        self._validation.close()
        self._in_validation = False

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the network its own weights back when a validation breaks off."""
        self._validation.close()
        self._in_validation = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the averages by network parameter name."""
        if self.average is not None:
            state = self.average.state_dict()
            checkpoint["ema"] = {k.removeprefix("shadow."): v for k, v in state.items() if k.startswith("shadow.")}
            checkpoint["ema_num_updates"] = state["num_updates"]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the averages until the network exists."""
        if "ema" in checkpoint:
            self._pending = {f"shadow.{k}": v for k, v in checkpoint["ema"].items()}
            self._pending["num_updates"] = checkpoint.get("ema_num_updates", 0)
