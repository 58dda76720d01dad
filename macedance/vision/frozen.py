"""Networks that judge and never learn: in full precision, shared by metrics, in nobody's checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self


class FrozenNetwork:
    """Holds a network without being a module, so that no metric or callback that keeps it saves, copies or trains it.

    A copy of a metric shares the network of the original. It is moved when it is used: ``network.to(metric.device)``.

    Args:
        module: The network; put into evaluation mode and out of every gradient, in float32.
        name: Its id in macedance.vision.weights, under which results list it.
        fingerprint: Sha256 of its weights.
    """

    def __init__(self, module: nn.Module, *, name: str, fingerprint: str) -> None:
        self.module = module.eval().requires_grad_(False).float()
        self.name = name
        self.fingerprint = fingerprint

    @property
    def device(self) -> torch.device:
        """Where the network is; the CPU for one without weights."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        return tensors[0].device if tensors else torch.device("cpu")

    def to(self, device: torch.device | str) -> Self:
        """Move the network, for everyone who holds it."""
        if torch.device(device) != self.device:
            self.module.to(device)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, sha256 {self.fingerprint[:12]})"


def in_batches(frames: Tensor, size: int) -> Sequence[Tensor]:
    """Frames (T, ...) in portions of ``size``; of no frames there is no portion."""
    return frames.split(size) if len(frames) else ()


@contextmanager
def judging(device: torch.device | str) -> Iterator[None]:
    """Without gradients, without autocast and without TensorFloat-32, whatever the training around it uses.

    A cosine near 1 is rounded to 5e-4 in half precision and to 4e-3 in bfloat16, which is what methods differ by.
    """
    kind = torch.device(device).type
    with torch.no_grad(), torch.autocast(kind, enabled=False), _exact_products(), _exact_convolutions(kind):
        yield


@contextmanager
def _exact_products() -> Iterator[None]:
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        # Somebody chose precisions by torch's newer switches, of which the older one then knows nothing.
        backends: Any = torch.backends
        with (
            _set(backends.cuda.matmul, "fp32_precision", "ieee"),
            _set(backends.mkldnn.matmul, "fp32_precision", "ieee"),
        ):
            yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _exact_convolutions(kind: str) -> Iterator[None]:
    if kind != "cuda":
        yield
        return
    try:
        _ = torch.backends.cudnn.allow_tf32
        switch: tuple[Any, str, Any] = (torch.backends.cudnn, "allow_tf32", False)
    except RuntimeError:
        switch = (torch.backends.cudnn.conv, "fp32_precision", "ieee")  # type: ignore[attr-defined]
    with _set(*switch):
        yield


@contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set a switch of a backend for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
