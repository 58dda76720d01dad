"""Activation checkpointing: computing a submodule's activations again in the backward pass instead of keeping them."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from macedance.errors import ConfigError


def recompute_activations(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Let the matching submodules keep their inputs only; the numbers stay the same bit for bit, dropout included.

    A submodule inside a matching one is left alone: its activations are gone already. Names of modules and parameters
    do not change.

    Args:
        network: Changed in place.
        patterns: Shell-style patterns of submodule names (``*`` spans dots), e.g. ``dancelayerstack.*``.

    Returns:
        The names of the submodules.

    Raises:
        ConfigError: A pattern matches no submodule; the nearest names are listed.
    """
    chosen = matching_submodules(network, patterns)
    for name in chosen:
        module = network.get_submodule(name)
        module.forward = _Recomputed(module, module.forward)  # type: ignore[method-assign, assignment]
    return chosen


def keep_activations(network: nn.Module) -> None:
    """Take back ``recompute_activations``: everything is kept again."""
    for module in network.modules():
        if isinstance(vars(module).get("forward"), _Recomputed):
            del module.forward


def matching_submodules(
    network: nn.Module, patterns: Sequence[str], where: str = "model.activation_checkpointing"
) -> list[str]:
    """Names of the outermost submodules that match; see ``recompute_activations``.

    Args:
        network: Their network.
        patterns: Shell-style patterns.
        where: What asks for them, for the message.
    """
    names = [name for name, module in network.named_modules() if name and not isinstance(module, nn.ModuleList)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3)
            raise ConfigError(
                f"the pattern {pattern!r} matches no submodule",
                where=where,
                expected=f"a pattern for names such as {', '.join(near or names[:3])}",
                fix="quote the pattern and use * for any part of a name",
            )
    chosen: list[str] = []
    for name in names:
        is_inside = any(name.startswith(f"{outer}.") for outer in chosen)
        if not is_inside and any(fnmatchcase(name, pattern) for pattern in patterns):
            chosen.append(name)
    return chosen


class _Recomputed:
    """A forward that forgets its activations while training."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._module, self._forward = module, forward
        functools.update_wrapper(self, forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._module.training and torch.is_grad_enabled():
            return checkpoint(self._forward, *args, use_reentrant=False, context_fn=_contexts, **kwargs)
        return self._forward(*args, **kwargs)


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of the first computation and of the second: attention is computed by the same kernel both times."""
    flags = torch.backends.cuda  # of every device, whatever the name
    return nullcontext(), _attention_as(
        flags.flash_sdp_enabled(),
        flags.mem_efficient_sdp_enabled(),
        flags.math_sdp_enabled(),
        flags.fp16_bf16_reduction_math_sdp_allowed(),
    )


@contextmanager
def _attention_as(flash: bool, efficient: bool, products: bool, half_products: bool) -> Iterator[None]:
    flags = torch.backends.cuda
    setters = (
        flags.enable_flash_sdp,
        flags.enable_mem_efficient_sdp,
        flags.enable_math_sdp,
        flags.allow_fp16_bf16_reduction_math_sdp,
    )
    before = (
        flags.flash_sdp_enabled(),
        flags.mem_efficient_sdp_enabled(),
        flags.math_sdp_enabled(),
        flags.fp16_bf16_reduction_math_sdp_allowed(),
    )
    for setter, value in zip(setters, (flash, efficient, products, half_products), strict=True):
        setter(value)
    try:
        yield
    finally:
        for setter, value in zip(setters, before, strict=True):
            setter(value)
