"""The selective scan of Mamba-1 on any device: exact, low memory, fast on CPUs.

Shapes: B batch, T time steps, D channels, N state size, K steps of a chunk, S chunks.

    h[t] = exp(delta[t] A) h[t-1] + delta[t] u[t] B[t]          (Gu and Dao, Mamba, eq. 2 with the paper's
    y[t] = C[t] . h[t]                                           simplified discretisation of B)

The forward pass keeps the state at the start of every chunk only. The backward pass recomputes a chunk from there, runs
the adjoint recurrence over it and takes the gradients of the chunk. float32 on a CPU runs in `scan_kernels`, loops that
numba compiles once and keeps on disk; CUDA tensors in mamba_ssm's kernel where it works; everything else (float64, no
numba, no mamba_ssm) in plain torch with one fused operation per step and chunks that fit into a core's cache.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from macedance.errors import DataError
from macedance.nn.scan_compiled import CompiledConvolution, CompiledScan, can_compile

# Bytes of one slab of states (K, B, N, D) in the torch path; three to four are alive at a time. On a CPU a slab should
# stay in the cache, elsewhere few large operations are better.
SLAB_BYTES, SLAB_BYTES_DEVICE = 1 << 20, 1 << 26


def selective_scan(
    u_BTD: Tensor,
    delta_BTD: Tensor,
    A_DN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    skip_D: Tensor | None = None,
    gate_BTD: Tensor | None = None,
    delta_bias_D: Tensor | None = None,
    softplus: bool = False,
    *,
    chunk: int | None = None,
    plain: bool = False,
) -> Tensor:
    """Run the selective scan of Mamba-1 from a zero state: ``(scan(u) + skip * u) * silu(gate)``.

    Args:
        u_BTD: Input.
        delta_BTD: Step sizes; with `softplus`, what the softplus is taken of.
        A_DN: Continuous-time decay rates, negative.
        B_BTN: Input weights of each step.
        C_BTN: Output weights of each step.
        skip_D: Weight of the input in the output (the D of the paper); 0 when None.
        gate_BTD: Gate before its SiLU; no gate when None.
        delta_bias_D: Added to `delta_BTD`, before the softplus.
        softplus: Take the softplus of the step sizes.
        chunk: Steps per chunk; chosen from the sizes when None. The result does not depend on it beyond rounding.
        plain: Keep to plain torch: neither compiled loops nor mamba_ssm's kernel.

    Returns:
        y (B, T, D) in the type of `u_BTD`. Half-precision input is computed in float32, float64 in float64.

    Raises:
        DataError: The shapes do not fit together, or there is no time step.

    Differentiable once, with respect to every tensor. Source: Gu and Dao, "Mamba", 2023, section 3.2, algorithm 2.
    """
    _check_shapes(u_BTD, delta_BTD, A_DN, B_BTN, C_BTN)
    if u_BTD.is_meta:  # no numbers to scan: whoever counts or sizes a network wants the shape
        return torch.empty_like(u_BTD)
    dtype = torch.float64 if u_BTD.dtype == torch.float64 else torch.float32
    compiled = not plain and can_compile(u_BTD)
    # the compiled loops read bfloat16 themselves
    wide = torch.bfloat16 if compiled and u_BTD.dtype == torch.bfloat16 else dtype
    u, delta = u_BTD.to(wide), delta_BTD.to(wide)
    gate = None if gate_BTD is None else gate_BTD.to(wide)
    A, B, C = A_DN.to(dtype), B_BTN.to(dtype), C_BTN.to(dtype)
    skip, bias = (None if x is None else x.to(dtype) for x in (skip_D, delta_bias_D))
    with torch.autocast(u.device.type, enabled=False):
        if compiled:
            zeros_D = A.new_zeros(A.shape[0])
            skip, bias = (zeros_D if x is None else x for x in (skip, bias))
            y = CompiledScan.apply(u, delta, A.t().contiguous(), B, C, skip, gate, bias, softplus, chunk)
        elif not plain and u.is_cuda and dtype == torch.float32 and (kernel := cuda_selective_scan()) is not None:
            y = _mamba_ssm_scan(kernel, u, delta, A, B, C, skip, gate, bias, softplus)
        else:
            y = _plain_scan(u, delta, A, B, C, skip, gate, bias, softplus, chunk)
    return y.to(u_BTD.dtype)


def causal_convolution_silu(x_BTD: Tensor, weight_D1W: Tensor, bias_D: Tensor | None, *, plain: bool = False) -> Tensor:
    """Depthwise convolution over time that sees the present and the W - 1 steps before, then SiLU.

    Args:
        x_BTD: Signal; zeros stand before its first step.
        weight_D1W: Taps of every channel in the layout of ``nn.Conv1d(groups=D)``; the last is the present.
        bias_D: Bias of every channel, or None.
        plain: Keep to plain torch.

    Returns:
        (B, T, D) in the type of `x_BTD`.
    """
    bias_D = weight_D1W.new_zeros(weight_D1W.shape[0]) if bias_D is None else bias_D
    if not plain and can_compile(x_BTD):
        taps_WD = weight_D1W[:, 0].t().float()
        narrow = x_BTD if x_BTD.dtype == torch.bfloat16 else x_BTD.float()
        return CompiledConvolution.apply(narrow, taps_WD, bias_D.float()).to(x_BTD.dtype)
    width = weight_D1W.shape[-1]
    padded_BDT = F.pad(x_BTD.transpose(1, 2), (width - 1, 0))
    weight, bias = weight_D1W.to(x_BTD.dtype), bias_D.to(x_BTD.dtype)
    return F.silu(F.conv1d(padded_BDT, weight, bias, groups=x_BTD.shape[-1])).transpose(1, 2)


def reference_scan(u_BTD: Tensor, delta_BTD: Tensor, A_DN: Tensor, B_BTN: Tensor, C_BTN: Tensor) -> Tensor:
    """The bare recurrence written step by step in float64 for autograd: slow, and what the fast scans are held to."""
    u, delta, A, B, C = (x.double() for x in (u_BTD, delta_BTD, A_DN, B_BTN, C_BTN))
    h_BDN = A.new_zeros(u.shape[0], *A.shape)
    outputs = []
    for u_BD, delta_BD, B_BN, C_BN in zip(u.unbind(1), delta.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        h_BDN = torch.exp(delta_BD[..., None] * A) * h_BDN + (delta_BD * u_BD)[..., None] * B_BN[:, None]
        outputs.append((h_BDN * C_BN[:, None]).sum(-1))
    return torch.stack(outputs, dim=1)


@functools.lru_cache(maxsize=1)
def cuda_selective_scan() -> Callable[..., Tensor] | None:
    """mamba_ssm's selective scan, or None where it is missing, cannot be imported or does not run on this GPU."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        small, states = torch.ones(2, 1, 2, 3, device="cuda").unbind(0)
        selective_scan_fn(small, small, -torch.ones(2, 2, device="cuda"), states, states)
    except Exception:  # a half-built extension fails in any way: ImportError, AttributeError, RuntimeError, TypeError
        return None
    return selective_scan_fn


def _check_shapes(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    wrong = (
        u.dim() != 3
        or u.shape[1] == 0
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
            expected="u (B,T,D) and delta (B,T,D) with T >= 1, A (D,N), B and C (B,T,N)",
        )


def _mamba_ssm_scan(
    kernel: Callable[..., Tensor],
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    gate: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    # mamba_ssm keeps time last
    u_BDT, delta_BDT, B_BNT, C_BNT = (x.transpose(1, 2).contiguous() for x in (u, delta, B, C))
    gate_BDT = None if gate is None else gate.transpose(1, 2).contiguous()
    y_BDT = kernel(u_BDT, delta_BDT, A, B_BNT, C_BNT, skip, gate_BDT, bias, softplus)
    return y_BDT.transpose(1, 2)


def _plain_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    gate: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
    chunk: int | None,
) -> Tensor:
    delta = delta if bias is None else delta + bias
    delta = F.softplus(delta) if softplus else delta
    # time leads, so that a step of all states is one contiguous slab
    inputs = (x.transpose(0, 1).contiguous() for x in (u, delta, B, C))
    u_TBD, delta_TBD, B_TBN, C_TBN = inputs
    y = TorchScan.apply(u_TBD, delta_TBD, A.t().contiguous(), B_TBN, C_TBN, chunk).transpose(0, 1)
    y = y if skip is None else torch.addcmul(y, u, skip)
    return y if gate is None else y * F.silu(gate)


def _chunk_steps(num_steps: int, bytes_per_step: int, on_cpu: bool) -> int:
    """Steps of a chunk: as many as a slab takes, but not so few that the kept states (T / K) outgrow the slabs."""
    slab = SLAB_BYTES if on_cpu else SLAB_BYTES_DEVICE
    return min(num_steps, max(slab // bytes_per_step, math.ceil(math.sqrt(num_steps / 8)), 1))


class TorchScan(torch.autograd.Function):
    """The bare scan in plain torch, time first; the states at the chunk borders are all that it keeps."""

    @staticmethod
    def forward(
        ctx: Any, u_TBD: Tensor, delta_TBD: Tensor, A_ND: Tensor, B_TBN: Tensor, C_TBN: Tensor, chunk: int | None
    ) -> Tensor:
        """Run the scan."""
        T, B, D = u_TBD.shape
        N = A_ND.shape[0]
        K = chunk or _chunk_steps(T, B * N * D * u_TBD.element_size(), u_TBD.device.type == "cpu")
        keep = any(ctx.needs_input_grad)

        y_TBD = torch.empty_like(u_TBD)
        starts_SBND = u_TBD.new_empty((-(-T // K) if keep else 0, B, N, D))
        h_BND = u_TBD.new_zeros(B, N, D)
        decay = u_TBD.new_empty(K, B, N, D)
        states = u_TBD.new_empty(K, B, N, D)
        for index, start in enumerate(range(0, T, K)):
            stop = min(start + K, T)
            k = stop - start
            if keep:
                starts_SBND[index].copy_(h_BND)
            delta = delta_TBD[start:stop]
            torch.mul(delta.unsqueeze(2), A_ND, out=decay[:k]).exp_()
            torch.mul(B_TBN[start:stop].unsqueeze(3), (delta * u_TBD[start:stop]).unsqueeze(2), out=states[:k])
            h = h_BND
            for decay_BND, state_BND in zip(decay[:k].unbind(0), states.unbind(0), strict=False):
                h = state_BND.addcmul_(h, decay_BND)
            torch.bmm(
                C_TBN[start:stop].view(k * B, 1, N), states[:k].view(k * B, N, D), out=y_TBD[start:stop].view(-1, 1, D)
            )
            h_BND.copy_(h)
        if keep:
            ctx.save_for_backward(u_TBD, delta_TBD, A_ND, B_TBN, C_TBN, starts_SBND)
            ctx.chunk = K
        return y_TBD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Recompute each chunk and run the adjoint recurrence over it."""
        u_TBD, delta_TBD, A_ND, B_TBN, C_TBN, starts_SBND = ctx.saved_tensors
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
        for index in reversed(range(starts_SBND.shape[0])):
            start, stop = index * K, min((index + 1) * K, T)
            k = stop - start
            a, g = decay[:k], adjoint[:k]
            u, delta, grad_y = u_TBD[start:stop], delta_TBD[start:stop], grad_y_TBD[start:stop]
            B_kBN, C_kBN = B_TBN[start:stop], C_TBN[start:stop]
            input_kBD = delta * u

            # the chunk's states again: states[0] is the state before its first step
            torch.mul(delta.unsqueeze(2), A_ND, out=a).exp_()
            states[0].copy_(starts_SBND[index])
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
            grad_input = torch.bmm(B_kBN.reshape(-1, 1, N), g.view(flat)).view(k, B, D)
            torch.mul(grad_input, delta, out=grad_u[start:stop])

            # gradient of the exponent delta A, in place of g; `a` is free after it
            g.mul_(states[:k]).mul_(a)
            torch.mul(g, A_ND, out=a)
            torch.sum(a, dim=2, out=grad_delta[start:stop])
            grad_delta[start:stop].addcmul_(grad_input, u)
            grad_A += torch.mul(g, delta.unsqueeze(2), out=a).sum((0, 1))
        return grad_u, grad_delta, grad_A, grad_B, grad_C, None
