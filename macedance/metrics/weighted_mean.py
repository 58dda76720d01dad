"""A mean over the samples of all ranks, whatever number each of them has."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class WeightedMean(Metric):
    """Mean of batch means, each weighted by its number of samples; NaN stays NaN.

    Lightning's own mean of a logged value adds integer counts over ranks and then divides them, rounded down, by the
    number of ranks: it is wrong where these counts differ.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, mean: Tensor, samples: int) -> None:
        """Add a batch: its mean, 0-dim, over `samples` samples; one without samples changes nothing."""
        if samples:
            self.total = self.total + mean.detach().to(self.total) * samples
            self.weight = self.weight + samples

    def compute(self) -> Tensor:
        """The mean, 0-dim; NaN where no rank had a sample."""
        return self.total / self.weight
