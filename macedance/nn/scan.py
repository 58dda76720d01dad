"""The selective scan of Mamba-1 in plain torch, made for CPUs: exact, low memory, one fused operation per time step.

Shapes: T time steps, B batch, D channels, N state size, G groups of the batch, K steps of a chunk.
Time leads every tensor, so that a step of all states is one contiguous slab.

    h[t] = exp(delta[t] A) h[t-1] + delta[t] u[t] B[t]          (Gu and Dao, Mamba, eq. 2 with the paper's
    y[t] = C[t] . h[t]                                           simplified discretisation of B)

The forward pass keeps the state at the start of every chunk only. The backward pass recomputes a chunk from there, runs
the adjoint recurrence over it and takes the gradients of the whole chunk at once. Chunks fit into a core's cache.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from macedance.errors import DataError

# Bytes of one slab of states (K, B, N, D). Three to four slabs are alive at a time; measured best at 1 to 2 MB.
SLAB_BYTES = 1 << 20


def selective_scan(
    u_TBD: Tensor, delta_TBD: Tensor, A_GDN: Tensor, B_TBN: Tensor, C_TBN: Tensor, *, chunk: int | None = None
) -> Tensor:
    """Run the selective scan of Mamba-1 from a zero state.

    Args:
        u_TBD: Input, time first.
        delta_TBD: Step sizes, positive (after the softplus).
        A_GDN: Continuous-time decay rates, negative; (D, N), or (G, D, N) where the batch is made of G equal parts that
            each have their own rates (the two directions of a bidirectional block run as one scan that way).
        B_TBN: Input weights of each step.
        C_TBN: Output weights of each step.
        chunk: Steps per chunk; chosen from the sizes when None. The result does not depend on it beyond rounding.

    Returns:
        y (T, B, D) in the type of `u_TBD`. Half-precision input is computed in float32, float64 in float64.

    Raises:
        DataError: The shapes do not fit together, or there is no time step.

    Differentiable once, with respect to the five tensors. Source: Gu and Dao, "Mamba", 2023, section 3.2, algorithm 2.
    """
    A_GDN = A_GDN[None] if A_GDN.dim() == 2 else A_GDN
    _check_shapes(u_TBD, delta_TBD, A_GDN, B_TBN, C_TBN)
    dtype = torch.float64 if u_TBD.dtype == torch.float64 else torch.float32
    u, delta, A, B, C = (x.to(dtype) for x in (u_TBD, delta_TBD, A_GDN, B_TBN, C_TBN))
    with torch.autocast(u.device.type, enabled=False):
        y_TBD = _Scan.apply(u, delta, A.transpose(1, 2).contiguous(), B, C, chunk)
    return y_TBD.to(u_TBD.dtype)


def reference_scan(u_TBD: Tensor, delta_TBD: Tensor, A_GDN: Tensor, B_TBN: Tensor, C_TBN: Tensor) -> Tensor:
    """The same recurrence written step by step in float64 for autograd: slow, and what the fast scan is held to."""
    A_GDN = A_GDN[None] if A_GDN.dim() == 2 else A_GDN
    u, delta, A, B, C = (x.double() for x in (u_TBD, delta_TBD, A_GDN, B_TBN, C_TBN))
    A_BDN = A.repeat_interleave(u.shape[1] // A.shape[0], dim=0)
    h_BDN = torch.zeros_like(A_BDN)
    outputs = []
    for u_BD, delta_BD, B_BN, C_BN in zip(u.unbind(0), delta.unbind(0), B.unbind(0), C.unbind(0), strict=True):
        h_BDN = torch.exp(delta_BD[..., None] * A_BDN) * h_BDN + (delta_BD * u_BD)[..., None] * B_BN[:, None]
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
        or A.dim() != 3
        or A.shape[1:] != (u.shape[2], B.shape[2])
        or u.shape[1] % A.shape[0] != 0
    )
    if wrong:
        shapes = ", ".join(str(tuple(x.shape)) for x in (u, delta, A, B, C))
        raise DataError(
            f"the scan's shapes do not fit: {shapes}",
            expected="u (T,B,D) and delta (T,B,D) with T >= 1, A (D,N) or (G,D,N), B and C (T,B,N), B divisible by G",
        )


def _chunk_steps(num_steps: int, bytes_per_step: int) -> int:
    """Steps of a chunk: a slab that fits the cache, but not so few that the kept states (T / K) outgrow the slabs."""
    return min(num_steps, max(SLAB_BYTES // bytes_per_step, math.ceil(math.sqrt(num_steps / 8)), 1))


class _Scan(torch.autograd.Function):
    """Chunked scan; the states at the chunk borders are all that it keeps."""

    @staticmethod
    def forward(
        ctx: Any, u_TBD: Tensor, delta_TBD: Tensor, A_GND: Tensor, B_TBN: Tensor, C_TBN: Tensor, chunk: int | None
    ) -> Tensor:
        T, B, D = u_TBD.shape
        G, N, _ = A_GND.shape
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
            _fill_decay(decay[:k], delta, A_GND)
            torch.mul(B_TBN[start:stop].unsqueeze(3), (delta * u_TBD[start:stop]).unsqueeze(2), out=states[:k])
            h = h_BND
            for decay_BND, state_BND in zip(decay[:k].unbind(0), states.unbind(0), strict=False):
                h = state_BND.addcmul_(h, decay_BND)
            torch.bmm(
                C_TBN[start:stop].view(k * B, 1, N), states[:k].view(k * B, N, D), out=y_TBD[start:stop].view(-1, 1, D)
            )
            h_BND.copy_(h)
        if keep:
            ctx.save_for_backward(u_TBD, delta_TBD, A_GND, B_TBN, C_TBN, starts)
            ctx.chunk = K
        return y_TBD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u_TBD, delta_TBD, A_GND, B_TBN, C_TBN, starts = ctx.saved_tensors
        grad_y_TBD = grads[0].contiguous()
        K = ctx.chunk
        T, B, D = u_TBD.shape
        G, N, _ = A_GND.shape

        grad_u, grad_delta = torch.empty_like(u_TBD), torch.empty_like(u_TBD)
        grad_B, grad_C = torch.empty_like(B_TBN), torch.empty_like(C_TBN)
        grad_A = torch.zeros_like(A_GND)
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
            _fill_decay(a, delta, A_GND)
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
            grouped = (k, G, B // G, N, D)
            torch.mul(g.view(grouped), A_GND.unsqueeze(1), out=a.view(grouped))
            torch.sum(a, dim=2, out=grad_delta[start:stop])
            grad_delta[start:stop].addcmul_(grad_input, u)
            grad_A += torch.mul(g, delta.unsqueeze(2), out=a).view(grouped).sum((0, 2))
        return grad_u, grad_delta, grad_A, grad_B, grad_C, None


def _fill_decay(out_kBND: Tensor, delta_kBD: Tensor, A_GND: Tensor) -> None:
    """Write exp(delta A) into `out_kBND`."""
    k, B, N, D = out_kBND.shape
    G = A_GND.shape[0]
    grouped = out_kBND.view(k, G, B // G, N, D)
    torch.mul(delta_kBD.view(k, G, B // G, 1, D), A_GND.unsqueeze(1), out=grouped)
    out_kBND.exp_()
