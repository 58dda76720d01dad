"""Optimizers that want to know what kind of weight they step."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytorch_optimizer
from torch import Tensor

logger = logging.getLogger(__name__)


class Muon(pytorch_optimizer.Muon):
    """Muon for the matrices, AdamW for all other weights, in one optimizer.

    A matrix's momentum is orthogonalised by five Newton-Schulz iterations before it is applied (Jordan et al., "Muon:
    an optimizer for hidden layers in neural networks", 2024). Vectors, convolutions, and matrices with a short side,
    such as the projections into and out of a network, are AdamW's.

    Args:
        params: The weights, (rows, columns) or any other shape.
        lr: Learning rate of AdamW's weights.
        muon_lr: Learning rate of the matrices; an update's root mean square is about ``muon_lr / sqrt(columns)``.
        betas: AdamW's decay rates.
        momentum: Decay rate of the matrices' momentum.
        weight_decay: Decoupled weight decay, of both.
        smallest_side: Matrices of fewer rows or columns are AdamW's.
    """

    #: ZeRO, which gives every rank flat pieces, refuses an optimizer that says so.
    needs_whole_matrices = True

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 3e-4,
        muon_lr: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.95),
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        smallest_side: int = 64,
    ) -> None:
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for weight in params:
            (matrices if weight.ndim == 2 and min(weight.shape) >= smallest_side else others).append(weight)
        if not matrices:
            logger.warning(
                "Muon: no weight is a matrix of %d x %d or more; AdamW steps all", smallest_side, smallest_side
            )
        kinds = (
            (matrices, {"use_muon": True, "lr": muon_lr, "momentum": momentum}),
            (others, {"use_muon": False, "lr": lr, "betas": tuple(betas), "eps": 1e-8}),
        )
        groups = [{"params": some, "weight_decay": weight_decay, **own} for some, own in kinds if some]
        super().__init__(groups)
