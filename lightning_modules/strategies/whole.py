"""A whole copy of a sharded network on every rank, for what each rank does alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_modules.strategies.zero import ZeroStrategy
from macedance.errors import MaceDanceError

if TYPE_CHECKING:
    from lightning_modules.base import ExpertModule


@contextmanager
def whole_network(
    trainer: pl.Trainer, module: ExpertModule, values: Mapping[str, Tensor] | None = None
) -> Iterator[None]:
    """Within the context every rank may use ``module.network`` alone, as often as it likes; all ranks enter it.

    Under ZeRO the network there is a copy, float32, free of hooks that would wait for other ranks; its own comes back.
    The copy takes 4 bytes for each parameter on every rank, whatever the stage. It is put together parameter by
    parameter. Elsewhere the network is whole on every rank anyway and nothing happens.

    Args:
        trainer: The trainer.
        module: The module being trained.
        values: Under ZeRO: values of this rank's fragments to use instead of the master weights.

    Raises:
        MaceDanceError: On every rank, where any of them has no memory for the copy.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, ZeroStrategy):
        yield
        return
    own = module.built_network
    copy = _copy_on_all(strategy, module)
    with torch.no_grad():
        targets = dict(copy.named_parameters())
        for name, value in strategy.whole_parameters(module, values):
            if name.startswith("network."):
                targets[name.removeprefix("network.")].copy_(value)
        for name, buffer in copy.named_buffers():
            buffer.copy_(own.get_buffer(name))
    try:
        module.network = copy.train(own.training)
        yield
    finally:
        module.network = own


def _copy_on_all(strategy: ZeroStrategy, module: ExpertModule) -> nn.Module:
    """A network of this module's kind on its device; the ranks agree that each has one before any waits for another."""
    copy: nn.Module | None = None
    cause: Exception | None = None
    try:
        copy = module.new_network().to(module.device)
    except (RuntimeError, MemoryError) as error:  # CUDA's want of memory is a RuntimeError
        cause = error
    if not strategy.reduce_boolean_decision(copy is not None, all=True) or copy is None:
        why = "this rank" if copy is None else "another rank"
        raise MaceDanceError(
            f"{why} has no memory for a whole copy of the sharded network, which previews and evaluations dance with",
            expected="4 free bytes for each parameter on every rank",
            fix="train without those callbacks, and evaluate exported checkpoints instead",
        ) from cause
    return copy
