"""Compiled submodules: fewer passes over memory, the same numbers up to rounding."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from macedance.nn.recomputation import matching_submodules

logger = logging.getLogger(__name__)

#: Sizes that are compiled before further ones run as they were written; blocks of one class share them.
_SIZES = 64


def compile_submodules(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Let the matching submodules be compiled at their first call; names of parameters do not change.

    Submodules of one class share their code, so that a network of equal blocks takes as long as one of them: half a
    minute on a CPU. Where nothing here can compile, the submodules stay as they are and the log says why.

    Args:
        network: Changed in place.
        patterns: Shell-style patterns of submodule names (``*`` spans dots), e.g. ``transformer.blocks.*``.

    Returns:
        The names of the submodules; none where nothing is compiled.

    Raises:
        ConfigError: A pattern matches no submodule; the nearest names are listed.
    """
    chosen = matching_submodules(network, patterns, "model.compiled")
    missing = _missing_compiler()
    if missing:
        logger.warning("nothing is compiled: %s", missing)
        return []
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, _SIZES)
    for name in chosen:
        # For each size anew: of every size at once, blocks compile for minutes and run slower. Buckets are few.
        network.get_submodule(name).compile(dynamic=False)
    return chosen


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Within, compiled submodules run as they were written."""
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled, and asking takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _missing_compiler() -> str:
    """What torch.compile lacks here; empty: nothing that one can see beforehand."""
    if torch.cuda.is_available():
        return ""  # Triton comes with torch
    from torch._inductor import config

    programs = config.cpp.cxx
    names = [name for name in (programs if isinstance(programs, (tuple, list)) else [programs]) if name]
    return "" if any(shutil.which(name) for name in names) else f"no C++ compiler ({', '.join(names)})"


@contextmanager
def products_for_attention(device: torch.device) -> Iterator[None]:
    """Within, attention on a CPU under autocast is two matrix products and a softmax, where it is differentiated.

    The fused kernel's backward pass in bfloat16 takes from one and a half to four times as long there. Elsewhere
    nothing changes, and nothing where no gradient is asked for.
    """
    if device.type != "cpu" or not torch.is_grad_enabled() or not torch.is_autocast_enabled("cpu"):
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    flags = torch.backends.cuda  # of the products on every device, whatever the name
    before = flags.fp16_bf16_reduction_math_sdp_allowed()
    flags.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        flags.allow_fp16_bf16_reduction_math_sdp(before)
