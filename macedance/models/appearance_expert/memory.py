"""Memory of a training step: what is alive while it runs, and what each rank holds all the time.

Bytes are bytes; a gigabyte is 10^9 of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Bytes of Adam's two moments, and of the float32 copy that DeepSpeed keeps of a weight that trains.
_MOMENTS, _MASTER = 8, 4
#: Strategy -> which of (weights, gradients, optimizer) are divided over the ranks (Rajbhandari et al., 2020, fig. 1).
_DIVIDED = {
    "ddp": (False, False, False),
    "zero1": (False, False, True),
    "zero2": (False, True, True),
    "zero3": (True, True, True),
}
STRATEGIES = tuple(_DIVIDED)


@dataclass(frozen=True)
class RankBytes:
    """What one rank holds while nothing is being computed.

    Attributes:
        weights: Of the network, as it computes with them.
        gradients: Of what trains.
        optimizer: Adam's moments and, under ZeRO, the float32 copy of what trains.
    """

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.weights + self.gradients + self.optimizer


def state_bytes(parameters: int, trainable: int, ranks: int, weight_bytes: int = 2) -> dict[str, RankBytes]:
    """Bytes on each rank by strategy, with Adam.

    Under DDP what trains is float32 whatever the frozen base is in; under ZeRO everything is in one precision, and
    what trains has a float32 copy.

    Args:
        parameters: All of the network's.
        trainable: Those that train.
        ranks: GPUs that share what is divided.
        weight_bytes: Of a frozen weight: 2 in bfloat16, 4 in float32.
    """
    table = {}
    for strategy, divided in _DIVIDED.items():
        if strategy == "ddp":
            sizes = (weight_bytes * (parameters - trainable) + 4 * trainable, 4 * trainable, _MOMENTS * trainable)
        else:
            sizes = (weight_bytes * parameters, weight_bytes * trainable, (_MASTER + _MOMENTS) * trainable)
        parts = (-(-size // ranks) if cut else size for size, cut in zip(sizes, divided, strict=True))
        table[strategy] = RankBytes(*parts)
    return table


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make while it is entered, for as long as they live.

    Works on any device, the meta device included, where nothing is allocated. Tensors that share memory count once;
    scratch memory that a kernel takes and gives back within one operation is not seen.

    Args:
        existing: Tensors that are not to count: weights, inputs.
    """

    def __init__(self, existing: Iterable[Tensor]) -> None:
        super().__init__()
        self._existing = {tensor.untyped_storage()._cdata for tensor in existing}
        self._alive: dict[int, Any] = {}
        #: Bytes alive now, and the most there were.
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._take(value)
        return result

    def _take(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._existing or key in self._alive:
            return

        def gone(_: Any) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
