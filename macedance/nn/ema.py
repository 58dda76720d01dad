"""Exponential moving average of a network's trainable parameters, or of the part of them that a rank holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from macedance.errors import CheckpointError


class ExponentialMovingAverage:
    """Keeps ``shadow = decay * shadow + (1 - decay) * parameter``, in float32, element by element.

    Args:
        source: The network, of which every parameter that requires a gradient is averaged, or tensors by name: where
            parameters are sharded over ranks, each rank averages the part that it holds.
        decay: Weight of the past in [0, 1). EDGE and MACE-Dance train with 0.9999.
        warmup: Use ``min(decay, (1 + n) / (10 + n))`` at update n, so that the average of a short run is not its
            random start.
    """

    def __init__(self, source: nn.Module | Mapping[str, Tensor], decay: float, *, warmup: bool = True) -> None:
        self.decay, self.warmup, self.num_updates = decay, warmup, 0
        self.shadow = {name: value.detach().float().clone() for name, value in _trainable(source).items()}

    @torch.no_grad()
    def update(self, source: nn.Module | Mapping[str, Tensor]) -> None:
        """Move the average towards the present values of its source; call once per optimizer step."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates)) if self.warmup else self.decay
        self.num_updates += 1
        values = dict(source.named_parameters()) if isinstance(source, nn.Module) else source
        present = [values[name].detach().float() for name in self.shadow]
        if present:
            torch._foreach_lerp_(list(self.shadow.values()), present, weight=1.0 - decay)

    def to(self, device: torch.device) -> None:
        """Move the average to ``device``."""
        self.shadow = {name: value.to(device) for name, value in self.shadow.items()}

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Within the context the network holds the average; its own parameters come back afterwards, bit for bit."""
        parameters = dict(network.named_parameters())
        backup = {name: parameters[name].detach().clone() for name in self.shadow}
        try:
            self._copy_into(parameters, self.shadow)
            yield
        finally:
            self._copy_into(parameters, backup)

    @staticmethod
    @torch.no_grad()
    def _copy_into(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            parameters[name].copy_(value)

    def state_dict(self) -> dict[str, Tensor | int]:
        """The averages by parameter name, and the number of updates."""
        return {**{f"shadow.{name}": value for name, value in self.shadow.items()}, "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Restore what :meth:`state_dict` gave.

        Raises:
            CheckpointError: The parameters differ from this network's.
        """
        shadow = {k.removeprefix("shadow."): v for k, v in state.items() if isinstance(v, Tensor)}
        differing = sorted(shadow.keys() ^ self.shadow.keys())
        differing += [n for n in shadow.keys() & self.shadow.keys() if shadow[n].shape != self.shadow[n].shape]
        if differing:
            raise CheckpointError(
                f"the checkpoint's EMA is of another network: {len(differing)} parameters differ, e.g. {differing[0]}",
                expected="the averages of exactly the trainable parameters",
                fix="resume with the config that wrote the checkpoint, or start from its weights with --init_from",
            )
        self.shadow = {n: shadow[n].to(p.device, p.dtype).clone() for n, p in self.shadow.items()}
        self.num_updates = int(state["num_updates"])


def _trainable(source: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if isinstance(source, nn.Module):
        return {name: parameter for name, parameter in source.named_parameters() if parameter.requires_grad}
    return source
