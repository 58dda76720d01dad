"""The selective scan of Mamba-1 for CPUs: exact, low memory, in compiled loops or in plain torch.

Shapes: T time steps, B batch, D channels, N state size, K steps of a chunk, S chunks.
Time leads every tensor, so that a step of all states is one contiguous slab.

    h[t] = exp(delta[t] A) h[t-1] + delta[t] u[t] B[t]          (Gu and Dao, Mamba, eq. 2 with the paper's
    y[t] = C[t] . h[t]                                           simplified discretisation of B)

The forward pass keeps the state at the start of every chunk only. The backward pass recomputes a chunk from there, runs
the adjoint recurrence over it and takes the gradients of the chunk. float32 on a CPU runs in `scan_kernels`, loops that
numba compiles once and keeps on disk; everything else (float64, other devices, no numba) in plain torch with one fused
operation per step and chunks that fit into a core's cache.
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

from macedance.errors import DataError

# Bytes of one slab of states (K, B, N, D) in the torch path. Three to four slabs are alive at a time.
SLAB_BYTES = 1 << 20
# Fewer state updates than this are not worth a second thread.
MIN_UPDATES_PER_THREAD = 1 << 17


def selective_scan(
    u_TBD: Tensor,
    delta_TBD: Tensor,
    A_DN: Tensor,
    B_TBN: Tensor,
    C_TBN: Tensor,
    *,
    chunk: int | None = None,
    compiled: bool = True,
) -> Tensor:
    """Run the selective scan of Mamba-1 from a zero state.

    Args:
        u_TBD: Input, time first.
        delta_TBD: Step sizes, positive (after the softplus).
        A_DN: Continuous-time decay rates, negative.
        B_TBN: Input weights of each step.
        C_TBN: Output weights of each step.
        chunk: Steps per chunk; chosen from the sizes when None. The result does not depend on it beyond rounding.
        compiled: Use the compiled loops where they can run; False keeps to plain torch.

    Returns:
        y (T, B, D) in the type of `u_TBD`. Half-precision input is computed in float32, float64 in float64.

    Raises:
        DataError: The shapes do not fit together, or there is no time step.

    Differentiable once, with respect to the five tensors. Source: Gu and Dao, "Mamba", 2023, section 3.2, algorithm 2.
    """
    _check_shapes(u_TBD, delta_TBD, A_DN, B_TBN, C_TBN)
    dtype = torch.float64 if u_TBD.dtype == torch.float64 else torch.float32
    u, delta, A, B, C = (x.to(dtype) for x in (u_TBD, delta_TBD, A_DN, B_TBN, C_TBN))
    compiled = compiled and u.device.type == "cpu" and dtype == torch.float32 and compiled_kernels() is not None
    scan = _CompiledScan if compiled else _TorchScan
    with torch.autocast(u.device.type, enabled=False):
        y_TBD = scan.apply(u, delta, A.t().contiguous(), B, C, chunk)
    return y_TBD.to(u_TBD.dtype)


@functools.lru_cache(maxsize=1)
def compiled_kernels() -> ModuleType | None:
    """The compiled loops, or None where numba is missing, broken, or has no folder to keep its machine code in."""
    try:
        from macedance.nn import scan_kernels
    except (ImportError, RuntimeError):
        return None
    return scan_kernels


def reference_scan(u_TBD: Tensor, delta_TBD: Tensor, A_DN: Tensor, B_TBN: Tensor, C_TBN: Tensor) -> Tensor:
    """The same recurrence written step by step in float64 for autograd: slow, and what the fast scan is held to."""
    u, delta, A, B, C = (x.double() for x in (u_TBD, delta_TBD, A_DN, B_TBN, C_TBN))
    h_BDN = A.new_zeros(u.shape[1], *A.shape)
    outputs = []
    for u_BD, delta_BD, B_BN, C_BN in zip(u.unbind(0), delta.unbind(0), B.unbind(0), C.unbind(0), strict=True):
        h_BDN = torch.exp(delta_BD[..., None] * A) * h_BDN + (delta_BD * u_BD)[..., None] * B_BN[:, None]
        outputs.append((h_BDN * C_BN[:, None]).sum(-1))
    return torch.stack(outputs)


def _check_shapes(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    wrong = (
        u.dim() != 3
        or u.shape[0] == 0
        or delta.shape != u.shape
        or B.shape != C.shape
        or B.dim() != 3
        or B.shape[:2] != u.shape[:2]
        or A.shape != (u.shape[2], B.shape[2])
    )
    if wrong:
        shapes = ", ".join(str(tuple(x.shape)) for x in (u, delta, A, B, C))
        raise DataError(
            f"the scan's shapes do not fit: {shapes}",
            expected="u (T,B,D) and delta (T,B,D) with T >= 1, A (D,N), B and C (T,B,N)",
        )


def _chunk_steps(num_steps: int, bytes_per_step: int) -> int:
    """Steps of a chunk: a slab that fits the cache, but not so few that the kept states (T / K) outgrow the slabs."""
    return min(num_steps, max(SLAB_BYTES // bytes_per_step, math.ceil(math.sqrt(num_steps / 8)), 1))


class _CompiledScan(torch.autograd.Function):
    """float32 on a CPU: every sequence of the batch is one run of a compiled loop, ranges of them in threads."""

    @staticmethod
    def forward(
        ctx: Any, u_TBD: Tensor, delta_TBD: Tensor, A_ND: Tensor, B_TBN: Tensor, C_TBN: Tensor, chunk: int | None
    ) -> Tensor:
        T, B, D = u_TBD.shape
        N = A_ND.shape[0]
        K = chunk or max(16, math.ceil(math.sqrt(T)))
        inputs = tuple(x.contiguous() for x in (u_TBD, delta_TBD, A_ND, B_TBN, C_TBN))
        keep = any(ctx.needs_input_grad)
        y_TBD = torch.empty_like(inputs[0])
        starts_SBND = u_TBD.new_empty(-(-T // K) if keep else 0, B, N, D)
        arrays = [x.detach().numpy() for x in (*inputs, y_TBD, starts_SBND)]
        kernels = compiled_kernels()
        assert kernels is not None
        _in_threads(lambda first, last: kernels.forward(*arrays, K, first, last), B, T * N * D)
        if keep:
            ctx.save_for_backward(*inputs, starts_SBND)
            ctx.chunk = K
        return y_TBD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u_TBD, _, A_ND, B_TBN, C_TBN, _ = ctx.saved_tensors
        T, B, D = u_TBD.shape
        N = A_ND.shape[0]
        grad_u, grad_delta = torch.empty_like(u_TBD), torch.empty_like(u_TBD)
        grad_B, grad_C = torch.zeros_like(B_TBN), torch.zeros_like(C_TBN)
        # by sequence, so that the sum does not depend on the number of threads
        grad_A_BND = u_TBD.new_zeros(B, N, D)
        tensors = (*ctx.saved_tensors, grads[0].contiguous(), grad_u, grad_delta, grad_A_BND, grad_B, grad_C)
        arrays = [x.detach().numpy() for x in tensors]
        kernels = compiled_kernels()
        assert kernels is not None
        _in_threads(lambda first, last: kernels.backward(*arrays, ctx.chunk, first, last), B, T * N * D)
        return grad_u, grad_delta, grad_A_BND.sum(0), grad_B, grad_C, None


def _in_threads(work: Callable[[int, int], None], num_items: int, updates_per_item: int) -> None:
    """Run ``work(first, last)`` over ranges of 0..num_items in as many threads as torch uses."""
    parts = min(torch.get_num_threads(), num_items, max(1, num_items * updates_per_item // MIN_UPDATES_PER_THREAD))
    bounds = [num_items * part // parts for part in range(parts + 1)]
    if parts == 1:
        work(0, num_items)
        return
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


class _TorchScan(torch.autograd.Function):
    """Chunked scan in plain torch; the states at the chunk borders are all that it keeps."""

    @staticmethod
    def forward(
        ctx: Any, u_TBD: Tensor, delta_TBD: Tensor, A_ND: Tensor, B_TBN: Tensor, C_TBN: Tensor, chunk: int | None
    ) -> Tensor:
        T, B, D = u_TBD.shape
        N = A_ND.shape[0]
        K = chunk or _chunk_steps(T, B * N * D * u_TBD.element_size())
        u_TBD, delta_TBD, B_TBN, C_TBN = (x.contiguous() for x in (u_TBD, delta_TBD, B_TBN, C_TBN))
        keep = any(ctx.needs_input_grad)

        y_TBD = torch.empty_like(u_TBD)
        starts = u_TBD.new_empty((-(-T // K) if keep else 0, B, N, D))
        h_BND = u_TBD.new_zeros(B, N, D)
        decay = u_TBD.new_empty(K, B, N, D)
        states = u_TBD.new_empty(K, B, N, D)
        for index, start in enumerate(range(0, T, K)):
            stop = min(start + K, T)
            k = stop - start
            if keep:
                starts[index].copy_(h_BND)
            delta = delta_TBD[start:stop]
            _fill_decay(decay[:k], delta, A_ND)
            torch.mul(B_TBN[start:stop].unsqueeze(3), (delta * u_TBD[start:stop]).unsqueeze(2), out=states[:k])
            h = h_BND
            for decay_BND, state_BND in zip(decay[:k].unbind(0), states.unbind(0), strict=False):
                h = state_BND.addcmul_(h, decay_BND)
            torch.bmm(
                C_TBN[start:stop].view(k * B, 1, N), states[:k].view(k * B, N, D), out=y_TBD[start:stop].view(-1, 1, D)
            )
            h_BND.copy_(h)
        if keep:
            ctx.save_for_backward(u_TBD, delta_TBD, A_ND, B_TBN, C_TBN, starts)
            ctx.chunk = K
        return y_TBD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u_TBD, delta_TBD, A_ND, B_TBN, C_TBN, starts = ctx.saved_tensors
        grad_y_TBD = grads[0].contiguous()
        K = ctx.chunk
        T, B, D = u_TBD.shape
        N = A_ND.shape[0]

        grad_u, grad_delta = torch.empty_like(u_TBD), torch.empty_like(u_TBD)
        grad_B, grad_C = torch.empty_like(B_TBN), torch.empty_like(C_TBN)
        grad_A = torch.zeros_like(A_ND)
        decay = u_TBD.new_empty(K, B, N, D)
        states = u_TBD.new_empty(K + 1, B, N, D)
        adjoint = u_TBD.new_empty(K, B, N, D)
        carry_BND = u_TBD.new_zeros(B, N, D)
        for index in reversed(range(starts.shape[0])):
            start, stop = index * K, min((index + 1) * K, T)
            k = stop - start
            a, g = decay[:k], adjoint[:k]
            u, delta, grad_y = u_TBD[start:stop], delta_TBD[start:stop], grad_y_TBD[start:stop]
            B_kBN, C_kBN = B_TBN[start:stop], C_TBN[start:stop]
            input_kBD = delta * u

            # the chunk's states again: states[0] is the state before its first step
            _fill_decay(a, delta, A_ND)
            states[0].copy_(starts[index])
            torch.mul(B_kBN.unsqueeze(3), input_kBD.unsqueeze(2), out=states[1 : k + 1])
            a_steps, h_steps = a.unbind(0), states.unbind(0)
            for t in range(k):
                h_steps[t + 1].addcmul_(h_steps[t], a_steps[t])

            # adjoint recurrence: g[t] = C[t] grad_y[t] + exp(delta[t+1] A) g[t+1]
            torch.mul(C_kBN.unsqueeze(3), grad_y.unsqueeze(2), out=g)
            g_steps = g.unbind(0)
            g_steps[-1].add_(carry_BND)
            for t in range(k - 2, -1, -1):
                g_steps[t].addcmul_(g_steps[t + 1], a_steps[t + 1])
            torch.mul(g_steps[0], a_steps[0], out=carry_BND)

            flat = (k * B, N, D)
            torch.bmm(states[1 : k + 1].view(flat), grad_y.view(-1, D, 1), out=grad_C[start:stop].view(-1, N, 1))
            torch.bmm(g.view(flat), input_kBD.view(-1, D, 1), out=grad_B[start:stop].view(-1, N, 1))
            grad_input = torch.bmm(B_kBN.view(-1, 1, N), g.view(flat)).view(k, B, D)
            torch.mul(grad_input, delta, out=grad_u[start:stop])

            # gradient of the exponent delta A, in place of g; `a` is free after it
            g.mul_(states[:k]).mul_(a)
            torch.mul(g, A_ND, out=a)
            torch.sum(a, dim=2, out=grad_delta[start:stop])
            grad_delta[start:stop].addcmul_(grad_input, u)
            grad_A += torch.mul(g, delta.unsqueeze(2), out=a).sum((0, 1))
        return grad_u, grad_delta, grad_A, grad_B, grad_C, None


def _fill_decay(out_kBND: Tensor, delta_kBD: Tensor, A_ND: Tensor) -> None:
    """Write exp(delta A) into `out_kBND`."""
    torch.mul(delta_kBD.unsqueeze(2), A_ND, out=out_kBND)
    out_kBND.exp_()
