"""The moving average of the weights: updated every step, used for validation, samples and export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from lightning_modules.base import ExpertModule
from lightning_modules.strategies import ZeroStrategy, whole_network
from macedance.errors import CheckpointError
from macedance.nn.ema import ExponentialMovingAverage
from macedance.nn.fragments import Fragment, read_fragments, read_metadata, save_fragments

_UPDATES_KEY = "num_updates"


class EmaCallback(pl.Callback):
    """Averages the trainable parameters.

    One process and DDP average the network's parameters. Under ZeRO each rank averages the part of the float32 master
    weights that it holds, and keeps it in a file of its own (``ema-<rank>.safetensors``) of the checkpoint.

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
        self._is_shown = False

    # ---------------------------------------------------------------- averaging
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the network's own weights, or from the checkpoint's average."""
        assert isinstance(pl_module, ExpertModule)
        if self.average is None:
            self.average = ExponentialMovingAverage(_source(trainer, pl_module), self.decay, warmup=self.warmup)
        if self._pending is not None:
            self.average.load_state_dict(self._pending)
            self._pending = None
        if _zero(trainer) is None:
            self.average.to(pl_module.device)
        self._last_step = trainer.global_step

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Know the step that a resumed run starts from: it is restored after ``on_fit_start``."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update once per optimizer step, not once per micro-batch, and not where the step was dropped."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        assert isinstance(pl_module, ExpertModule)
        assert self.average is not None
        if pl_module.dropped_step == trainer.global_step or not _was_applied(trainer):
            return
        self.average.update(_source(trainer, pl_module))

    # ---------------------------------------------------------------- showing the average
    @contextmanager
    def applied(self, pl_module: ExpertModule) -> Iterator[None]:
        """Within the context the network holds the average; under ZeRO only inside :meth:`previewing`."""
        if self.average is None or self._is_shown:
            yield
            return
        with self.average.applied(pl_module.built_network):
            yield

    @contextmanager
    def previewing(self, trainer: pl.Trainer, pl_module: ExpertModule) -> Iterator[None]:
        """Within the context every rank may sample with the average by itself; all ranks enter and leave it."""
        if _zero(trainer) is None or self.average is None:
            yield
            return
        was_shown, self._is_shown = self._is_shown, True
        try:
            with whole_network(trainer, pl_module, self.average.shadow):
                yield
        finally:
            self._is_shown = was_shown

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the average."""
        assert isinstance(pl_module, ExpertModule)
        self.show(trainer, pl_module)

    def show(self, trainer: pl.Trainer, pl_module: ExpertModule) -> None:
        """Let the network itself, sharded as it is, hold the average until :meth:`show_own`; all ranks call it."""
        if self.average is None:
            return
        zero = _zero(trainer)
        if zero is not None:
            zero.show(pl_module, self.average.shadow)
            self._validation.callback(zero.show_own, pl_module)
        else:
            self._validation.enter_context(self.average.applied(pl_module.built_network))
        self._is_shown = True

    def show_own(self) -> None:
        """Give the network its own weights back; all ranks call it."""
        self._validation.close()
        self._is_shown = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the network its own weights back."""
        self.show_own()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the network its own weights back when a validation breaks off.

        Not under ZeRO: that takes all ranks, and the others may know nothing of the exception. The master weights,
        which are what a checkpoint keeps, never held the average.
        """
        if _zero(trainer) is not None:
            self._validation.pop_all()
        self._validation.close()
        self._is_shown = False

    # ---------------------------------------------------------------- checkpoints
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the averages by network parameter name; under ZeRO :meth:`save_rank_files` does."""
        if self.average is not None and _zero(trainer) is None:
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

    def save_rank_files(self, trainer: pl.Trainer, pl_module: pl.LightningModule, folder: Path) -> None:
        """Write this rank's averages into a checkpoint folder; only under ZeRO."""
        zero = _zero(trainer)
        if zero is None or self.average is None:
            return
        parts = _filled(zero.local_fragments(pl_module), self.average.shadow)
        path = folder / f"ema-{trainer.global_rank:04d}.safetensors"
        save_fragments(path, parts, {_UPDATES_KEY: str(self.average.num_updates)})

    def load_rank_files(self, trainer: pl.Trainer, pl_module: pl.LightningModule, folder: Path) -> None:
        """Read this rank's averages from the files of all ranks, as many as there were; only under ZeRO.

        Raises:
            CheckpointError: The files are unreadable or of another network.
        """
        zero = _zero(trainer)
        if zero is None or self.average is None:
            return
        files = sorted(folder.glob("ema-*.safetensors"))
        parts = zero.local_fragments(pl_module)
        if not files:
            rank_zero_info(f"{folder.name} holds no average of the weights: it starts anew from the weights")
            self.average = ExponentialMovingAverage(_tensors(parts), self.decay, warmup=self.warmup)
            return
        values = read_fragments(files, parts)
        try:
            self.average.num_updates = int(read_metadata(files[0])[_UPDATES_KEY])
        except (KeyError, ValueError) as error:
            raise CheckpointError("the file does not say how many steps it averages", where=files[0]) from error
        self.average.shadow = {name: value.to(parts[name].tensor.device) for name, value in values.items()}


@contextmanager
def preview_network(trainer: pl.Trainer, pl_module: ExpertModule) -> Iterator[None]:
    """Within the context every rank may sample by itself; all ranks enter and leave it."""
    averages = [c for c in trainer.callbacks if isinstance(c, EmaCallback)]  # type: ignore[attr-defined]
    if averages and averages[0].average is not None:
        with averages[0].previewing(trainer, pl_module):
            yield
    else:
        with whole_network(trainer, pl_module):
            yield


@contextmanager
def average_in_place(trainer: pl.Trainer, pl_module: ExpertModule) -> Iterator[None]:
    """Within the context the network itself holds the average, where the run keeps one, and takes no further memory.

    Under ZeRO it stays sharded and is called through ``ZeroStrategy.call``. After an error the network keeps the
    average until `EmaCallback.on_exception`: no rank waits for another.
    """
    averages = [c for c in trainer.callbacks if isinstance(c, EmaCallback)]  # type: ignore[attr-defined]
    if averages:
        averages[0].show(trainer, pl_module)
    yield
    if averages:
        averages[0].show_own()


def _zero(trainer: pl.Trainer | None) -> ZeroStrategy | None:
    strategy = getattr(trainer, "strategy", None)
    return strategy if isinstance(strategy, ZeroStrategy) else None


def _source(trainer: pl.Trainer, module: ExpertModule) -> nn.Module | Mapping[str, Tensor]:
    zero = _zero(trainer)
    return module.built_network if zero is None else _tensors(zero.local_fragments(module))


def _tensors(parts: Mapping[str, Fragment]) -> dict[str, Tensor]:
    return {name: part.tensor for name, part in parts.items()}


def _filled(parts: Mapping[str, Fragment], values: Mapping[str, Tensor]) -> dict[str, Fragment]:
    return {name: Fragment(values[name], part.offset, part.shape) for name, part in parts.items()}


def _was_applied(trainer: pl.Trainer) -> bool:
    """Whether DeepSpeed took the last step: it leaves one out by itself where the gradient's norm is not finite."""
    zero = _zero(trainer)
    return zero is None or bool(zero.deepspeed_engine.was_step_applied())
