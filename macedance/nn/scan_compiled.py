"""Autograd around the compiled loops of `scan_kernels`, and the threads that share a batch.

Shapes: B batch, T time steps, D channels, N state size, W taps, S chunks.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Fewer state updates than this are not worth a second thread.
MIN_UPDATES_PER_THREAD = 1 << 17
MIN_CHUNK = 16


@functools.lru_cache(maxsize=1)
def compiled_kernels() -> ModuleType | None:
    """The compiled loops, or None where numba is missing, broken, or has no folder to keep its machine code in."""
    try:
        from macedance.nn import scan_kernels
    except (ImportError, RuntimeError):
        return None
    return scan_kernels


def can_compile(x: Tensor) -> bool:
    """Whether the compiled loops take this tensor: on a CPU, not float64, and numba works."""
    return x.device.type == "cpu" and x.dtype != torch.float64 and compiled_kernels() is not None


class CompiledScan(torch.autograd.Function):
    """The scan with skip, gate and softplus; the states at the chunk borders are all that it keeps.

    u, delta and gate are all float32 or all bfloat16, the rest float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u_BTD: Tensor,
        delta_BTD: Tensor,
        A_ND: Tensor,
        B_BTN: Tensor,
        C_BTN: Tensor,
        skip_D: Tensor,
        gate_BTD: Tensor | None,
        bias_D: Tensor,
        softplus: bool,
        chunk: int | None,
    ) -> Tensor:
        """Run the scan."""
        B, T, D = u_BTD.shape
        N = A_ND.shape[0]
        use_gate = gate_BTD is not None
        gate = u_BTD.new_empty(0, 0, 0) if gate_BTD is None else gate_BTD
        inputs = tuple(x.contiguous() for x in (u_BTD, delta_BTD, A_ND, B_BTN, C_BTN, skip_D, gate, bias_D))
        flags = (use_gate, softplus, min(T, chunk or max(MIN_CHUNK, math.ceil(math.sqrt(T)))))
        keep = any(ctx.needs_input_grad)
        y_BTD = torch.empty_like(inputs[0])
        starts_SBND = A_ND.new_empty(-(-T // flags[-1]) if keep else 0, B, N, D)
        arguments = (*_arrays(*inputs), *flags, *_arrays(y_BTD, starts_SBND))
        _in_threads(functools.partial(_kernels().scan_forward, *arguments), B, T * N * D)
        if keep:
            ctx.save_for_backward(*inputs, starts_SBND)
            ctx.flags = flags
        return y_BTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Recompute each chunk and run the adjoint recurrence over it."""
        *inputs, starts_SBND = ctx.saved_tensors
        u_BTD, delta_BTD, A_ND, B_BTN, C_BTN, _, gate_BTD, _ = inputs
        B, T, D = u_BTD.shape
        N = A_ND.shape[0]
        grad_u, grad_delta, grad_gate = (torch.empty_like(x) for x in (u_BTD, delta_BTD, gate_BTD))
        grad_B, grad_C = torch.zeros_like(B_BTN), torch.zeros_like(C_BTN)
        # by sequence, so that the sums do not depend on the number of threads
        grad_A_BND, grad_skip_BD, grad_bias_BD = (A_ND.new_zeros(*size) for size in ((B, N, D), (B, D), (B, D)))
        outputs = (grad_u, grad_delta, grad_A_BND, grad_B, grad_C, grad_skip_BD, grad_gate, grad_bias_BD)
        arguments = (*_arrays(*inputs), *ctx.flags, *_arrays(starts_SBND, grads[0].contiguous(), *outputs))
        _in_threads(functools.partial(_kernels().scan_backward, *arguments), B, T * N * D)
        return (
            grad_u,
            grad_delta,
            grad_A_BND.sum(0),
            grad_B,
            grad_C,
            grad_skip_BD.sum(0),
            grad_gate if ctx.flags[0] else None,
            grad_bias_BD.sum(0),
            None,
            None,
        )


class CompiledConvolution(torch.autograd.Function):
    """Depthwise causal convolution followed by SiLU; keeps its input only."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, taps_WD: Tensor, bias_D: Tensor) -> Tensor:
        """Convolve."""
        B, T, D = x_BTD.shape
        inputs = tuple(x.contiguous() for x in (x_BTD, taps_WD, bias_D))
        y_BTD = torch.empty_like(inputs[0])
        kernel = functools.partial(_kernels().convolution_forward, *_arrays(*inputs, y_BTD))
        _in_threads(kernel, B, T * D)
        ctx.save_for_backward(*inputs)
        return y_BTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Convolve again for the SiLU, then spread the gradients."""
        inputs = ctx.saved_tensors  # read once: under activation checkpointing each reading computes them again
        x_BTD, taps_WD, _ = inputs
        B, T, D = x_BTD.shape
        grad_x = torch.empty_like(x_BTD)
        grad_taps_BWD, grad_bias_BD = taps_WD.new_zeros(B, *taps_WD.shape), taps_WD.new_zeros(B, D)
        arrays = _arrays(*inputs, grads[0].contiguous(), grad_x, grad_taps_BWD, grad_bias_BD)
        _in_threads(functools.partial(_kernels().convolution_backward, *arrays), B, T * D)
        return grad_x, grad_taps_BWD.sum(0), grad_bias_BD.sum(0)


def _kernels() -> ModuleType:
    kernels = compiled_kernels()
    assert kernels is not None, "callers ask can_compile() first"
    return kernels


def _arrays(*tensors: Tensor) -> tuple[Any, ...]:
    """What the loops read and write: the tensors' own memory, bfloat16 as the bits of int16."""
    plain = (x.detach() for x in tensors)
    return tuple((x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy() for x in plain)


def _in_threads(work: Callable[[int, int], None], num_items: int, updates_per_item: int) -> None:
    """Run ``work(first, last)`` over ranges of 0..num_items, in as many threads as torch uses."""
    parts = min(torch.get_num_threads(), num_items, max(1, num_items * updates_per_item // MIN_UPDATES_PER_THREAD))
    if parts <= 1:
        work(0, num_items)
        return
    bounds = [num_items * part // parts for part in range(parts + 1)]
    # The caller takes the first range itself: one wake-up fewer.
    pending = [_pool(os.getpid()).submit(work, *pair) for pair in itertools.pairwise(bounds[1:])]
    try:
        work(bounds[0], bounds[1])
    finally:
        for future in pending:
            future.result()


@functools.lru_cache(maxsize=1)
def _pool(process_id: int) -> ThreadPoolExecutor:
    """Threads of this process; keyed by its id because threads do not survive a fork."""
    return ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 2) - 1), thread_name_prefix="scan")
