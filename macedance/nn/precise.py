"""What of a network stays float32 while the rest is bfloat16: its weights by name, and products outside autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

#: Where models of diffusers and transformers list parts of names whose weights keep their precision.
_LIST = "_keep_in_fp32_modules"


def precise_names(network: nn.Module) -> frozenset[str]:
    """Names of the parameters that a module of the network wants in float32, whatever the others are in.

    Modules say so as those of diffusers and transformers do: ``_keep_in_fp32_modules`` lists parts of names between
    dots.
    """
    found: set[str] = set()
    for prefix, module in network.named_modules():
        parts = set(getattr(module, _LIST, None) or ())
        if parts:
            names = (name for name, _ in module.named_parameters(prefix) if parts & set(_within(name, prefix)))
            found.update(names)
    return frozenset(found)


def _within(name: str, prefix: str) -> list[str]:
    return name.removeprefix(f"{prefix}." if prefix else "").split(".")


def cast_network(network: nn.Module, dtype: torch.dtype) -> None:
    """Bring the parameters to a precision, in place, but for those that are to stay float32."""
    kept = precise_names(network)
    for name, parameter in network.named_parameters():
        if name not in kept:
            parameter.data = parameter.data.to(dtype)


def compute_without_autocast(module: nn.Module) -> None:
    """Let a module compute in the precision of its inputs and weights where autocast would round them, in place."""
    module.forward = _WithoutAutocast(module, module.forward)  # type: ignore[method-assign, assignment]


class _WithoutAutocast:
    """A forward for which autocast is off; an object, so that copies of its module call their own."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._module, self._forward = module, forward
        functools.update_wrapper(self, forward, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        device = next(self._module.parameters()).device.type
        if not torch.amp.is_autocast_available(device):  # such as the meta device, where sizes are counted
            return self._forward(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return self._forward(*args, **kwargs)
