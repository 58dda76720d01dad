"""The gradients of one optimizer step under any strategy: whether they are finite, and how the step is dropped."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from lightning_modules.strategies.zero import ZeroStrategy
from macedance.nn.fragments import all_finite


def strategy_kind(trainer: pl.Trainer) -> str:
    """``single``, ``ddp``, ``zero1``, ``zero2``, ``zero3`` or ``zero3_offload`` (``zero1_offload``, ...)."""
    strategy = trainer.strategy
    if isinstance(strategy, ZeroStrategy):
        return strategy.kind
    return "ddp" if isinstance(strategy, DDPStrategy) else "single"


def is_step_boundary(trainer: pl.Trainer) -> bool:
    """In ``on_before_optimizer_step``: whether an optimizer step follows.

    Under ZeRO Lightning calls that hook after every micro-batch; elsewhere only before steps.
    """
    strategy = trainer.strategy
    if isinstance(strategy, ZeroStrategy):
        return bool(strategy.deepspeed_engine.is_gradient_accumulation_boundary())
    return True


def gradients_finite(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
    """Whether the gradients that this rank holds are finite; call it in ``on_before_optimizer_step``.

    DDP: the averaged gradients, the same on every rank. ZeRO: this rank's share of them, so that the ranks must agree
    (``trainer.strategy.reduce_boolean_decision``). Between the micro-batches of a step it is True.
    """
    strategy = trainer.strategy
    if isinstance(strategy, ZeroStrategy):
        return not is_step_boundary(trainer) or all_finite(strategy.local_gradients())
    return all_finite(_gradients(module))


def drop_gradients(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Let the coming optimizer step change nothing; call it in ``on_before_optimizer_step``, on every rank.

    Weights, master weights and optimizer state stay as they are; the step is counted and the learning rate moves on.
    ``module.dropped_step`` becomes the number of this step, ``trainer.global_step`` after it.
    """
    strategy = trainer.strategy
    if isinstance(strategy, ZeroStrategy):
        strategy.skip_next_step()
    else:
        for parameter in module.parameters():
            parameter.grad = None
    module.dropped_step = trainer.global_step + 1  # type: ignore[assignment]


def _gradients(module: pl.LightningModule) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]
