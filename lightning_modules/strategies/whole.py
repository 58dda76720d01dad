"""A whole copy of a sharded network on the first rank, for what one rank does alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.strategies.zero import ZeroStrategy

if TYPE_CHECKING:
    from lightning_modules.base import ExpertModule


@contextmanager
def whole_on_first_rank(
    trainer: pl.Trainer, module: ExpertModule, values: Mapping[str, Tensor] | None = None
) -> Iterator[None]:
    """Within the context the first rank may use ``module.network`` alone; all ranks enter and leave it.

    Under ZeRO the network there is a copy, float32, free of hooks that would wait for other ranks; its own comes back.
    Elsewhere the network is whole on every rank and nothing happens.

    Args:
        trainer: The trainer.
        module: The module being trained.
        values: Under ZeRO: values of this rank's fragments to use instead of the master weights.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, ZeroStrategy):
        yield
        return
    own = module.built_network
    copy = module.new_network().to(module.device) if trainer.is_global_zero else None
    with torch.no_grad():
        targets = {} if copy is None else dict(copy.named_parameters())
        for name, value in strategy.whole_parameters(module, values):
            if copy is not None and name.startswith("network."):
                targets[name.removeprefix("network.")].copy_(value)
        for name, buffer in () if copy is None else copy.named_buffers():
            buffer.copy_(own.get_buffer(name))
    try:
        if copy is not None:
            module.network = copy.train(own.training)
        yield
    finally:
        module.network = own
        strategy.barrier("whole_on_first_rank")
