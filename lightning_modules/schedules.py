"""Learning-rate schedules as a factor of the optimizer's learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up, a plateau, then a cosine to ``final_ratio`` at the run's last step.

    Args:
        warmup_steps: Optimizer steps from 0 to the full rate.
        decay_start: Share of the run, in [0, 1], after which the rate falls.
        final_ratio: Factor at the end, in [0, 1].
    """

    warmup_steps: int = 0
    decay_start: float = 0.3
    final_ratio: float = 0.02

    def factor(self, step: int, max_steps: int) -> float:
        """The factor of optimizer step ``step`` (from 0) of a run of ``max_steps``."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        start = max(int(self.decay_start * max_steps), self.warmup_steps)
        if max_steps <= 0 or step < start:
            return 1.0
        progress = min((step - start) / max(max_steps - start, 1), 1.0)
        return self.final_ratio + (1 - self.final_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
