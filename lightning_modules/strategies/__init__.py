"""How a module is spread over ranks: DDP as Lightning has it, DeepSpeed ZeRO on GPUs and CPUs."""

from __future__ import annotations

from lightning_modules.strategies.gradients import drop_gradients, gradients_finite, is_step_boundary, strategy_kind
from lightning_modules.strategies.whole import whole_network
from lightning_modules.strategies.zero import ZeroStrategy

__all__ = [
    "ZeroStrategy",
    "drop_gradients",
    "gradients_finite",
    "is_step_boundary",
    "strategy_kind",
    "whole_network",
]
