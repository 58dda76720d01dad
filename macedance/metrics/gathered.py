"""A metric whose state is rows, safe on every rank: uneven shares, ranks without a sample, samples seen twice.

Shapes: N rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric


class GatheredMetric(Metric):
    """Keeps rows of tensors and concatenates them over ranks; a subclass declares its states with ``add_rows``.

    torchmetrics puts a one-dimensional float tensor in the place of an empty list state, and the gather of a rank
    without a sample then aborts the process under gloo: here an empty tensor of the right width and type goes instead.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._empty_rows: dict[str, Tensor] = {}
        self._copies = 0

    def add_rows(self, name: str, *tail: int, dtype: torch.dtype) -> None:
        """Declare a state of rows (N, *tail)."""
        self._empty_rows[name] = torch.zeros(0, *tail, dtype=dtype)
        self.add_state(name, default=[], dist_reduce_fx="cat")

    def append_rows(self, name: str, rows: Tensor | np.ndarray) -> None:
        """Add rows (N, *tail) of this rank to a state."""
        tensor = torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows
        getattr(self, name).append(tensor.to(device=self.device, dtype=self._empty_rows[name].dtype))

    def rows_of(self, name: str) -> np.ndarray:
        """A state as one array (N, *tail), whether or not it has been gathered."""
        state = getattr(self, name)
        tensors = [state] if isinstance(state, Tensor) else list(state)
        return torch.cat(tensors or [self._empty_rows[name]]).cpu().numpy()

    def new_copies(self, count: int) -> int:
        """The first of ``count`` numbers that no other row of any rank has."""
        initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
        first = (torch.distributed.get_rank() if initialized else 0) * 2**40 + self._copies
        self._copies += count
        return first

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        for name, empty in self._empty_rows.items():
            if isinstance(getattr(self, name), list) and not getattr(self, name):
                setattr(self, name, [empty.to(self.device)])
        super()._sync_dist(*args, **kwargs)


def first_of_each(ids: np.ndarray) -> np.ndarray:
    """Row numbers, in the order of the ids, of the first row of every id (N,) or tuple of ids (N, k)."""
    return np.unique(ids, axis=0, return_index=True)[1]
