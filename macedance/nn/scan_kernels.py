"""Just-in-time compiled loops of the selective scan for float32 on CPUs (numba comes with librosa).

Shapes: T time steps, B batch, D channels, N state size, K steps of a chunk, S chunks.
The recurrence, the output and all gradients are fused: the states of one sequence stay in the first cache levels, and
the inner loop over channels is contiguous, so that the compiler vectorises it. Every sequence of the batch is
independent; the caller may run ranges of them in threads, the loops hold no lock.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

F32 = np.float32
Array = NDArray[np.float32]

# Channels that one pass over time works on: with N = 16 the states and their rates take 2 x 16 kB of cache.
BLOCK = 256

# Sums may be reordered (that is what vectorises them); NaN and infinity keep their meaning.
REORDER = {"reassoc", "contract", "nsz"}

ROUND = F32(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer that stands in the low bits
LOG2_E = F32(1.44269504088896341)
LN2_HIGH, LN2_LOW = F32(0.693359375), F32(-2.12194440e-4)


@njit(fastmath={"contract"}, nogil=True, cache=True, error_model="numpy")
def _exp(x: np.float32) -> np.float32:
    """exp(x) within about one unit in the last place for -87 <= x <= 88, clamped outside (Cody and Waite, Cephes)."""
    x = max(x, F32(-87.0))
    x = min(x, F32(88.0))
    shifted = x * LOG2_E + ROUND
    k = shifted - ROUND
    r = x - k * LN2_HIGH - k * LN2_LOW
    p = F32(1.9875691500e-4)
    p = p * r + F32(1.3981999507e-3)
    p = p * r + F32(8.3334519073e-3)
    p = p * r + F32(4.1665795894e-2)
    p = p * r + F32(1.6666665459e-1)
    p = p * r + F32(5.0000001201e-1)
    p = p * r * r + r + F32(1.0)
    power = np.int32((F32(shifted).view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)
    return p * power


@njit(fastmath=REORDER, nogil=True, cache=True, error_model="numpy")
def forward(
    u_TBD: Array,
    delta_TBD: Array,
    A_ND: Array,
    B_TBN: Array,
    C_TBN: Array,
    y_TBD: Array,
    starts_SBND: Array,
    K: int,
    first: int,
    last: int,
) -> None:
    """Fill `y_TBD` and, unless it is empty, `starts_SBND` for the sequences first <= b < last."""
    T, _, D = u_TBD.shape
    N = A_ND.shape[0]
    keep = starts_SBND.shape[0] > 0
    state = np.empty((N, BLOCK), dtype=F32)
    for b in range(first, last):
        for low in range(0, D, BLOCK):
            width = min(BLOCK, D - low)
            state[:] = F32(0.0)
            for t in range(T):
                if keep and t % K == 0:
                    for n in range(N):
                        starts_SBND[t // K, b, n, low : low + width] = state[n, :width]
                u = u_TBD[t, b, low : low + width]
                delta = delta_TBD[t, b, low : low + width]
                y = y_TBD[t, b, low : low + width]
                y[:] = F32(0.0)
                for n in range(N):
                    A = A_ND[n, low : low + width]
                    h = state[n]
                    in_weight = B_TBN[t, b, n]
                    out_weight = C_TBN[t, b, n]
                    for d in range(width):
                        new = _exp(delta[d] * A[d]) * h[d] + delta[d] * u[d] * in_weight
                        h[d] = new
                        y[d] += out_weight * new


@njit(fastmath=REORDER, nogil=True, cache=True, error_model="numpy")
def backward(
    u_TBD: Array,
    delta_TBD: Array,
    A_ND: Array,
    B_TBN: Array,
    C_TBN: Array,
    starts_SBND: Array,
    grad_y_TBD: Array,
    grad_u_TBD: Array,
    grad_delta_TBD: Array,
    grad_A_BND: Array,
    grad_B_TBN: Array,
    grad_C_TBN: Array,
    K: int,
    first: int,
    last: int,
) -> None:
    """Fill the gradients for the sequences first <= b < last; `grad_A_BND`, B and C must come as zeros."""
    T, _, D = u_TBD.shape
    N = A_ND.shape[0]
    decays = np.empty((K, N, BLOCK), dtype=F32)
    states = np.empty((K + 1, N, BLOCK), dtype=F32)
    carry = np.empty((N, BLOCK), dtype=F32)
    for b in range(first, last):
        for low in range(0, D, BLOCK):
            width = min(BLOCK, D - low)
            carry[:] = F32(0.0)
            for chunk in range(starts_SBND.shape[0] - 1, -1, -1):
                start = chunk * K
                steps = min(K, T - start)
                for n in range(N):
                    states[0, n, :width] = starts_SBND[chunk, b, n, low : low + width]
                for k in range(steps):
                    u = u_TBD[start + k, b, low : low + width]
                    delta = delta_TBD[start + k, b, low : low + width]
                    for n in range(N):
                        A = A_ND[n, low : low + width]
                        in_weight = B_TBN[start + k, b, n]
                        decay, h_before, h = decays[k, n], states[k, n], states[k + 1, n]
                        for d in range(width):
                            decay[d] = _exp(delta[d] * A[d])
                            h[d] = decay[d] * h_before[d] + delta[d] * u[d] * in_weight
                for k in range(steps - 1, -1, -1):
                    t = start + k
                    u = u_TBD[t, b, low : low + width]
                    delta = delta_TBD[t, b, low : low + width]
                    grad_y = grad_y_TBD[t, b, low : low + width]
                    grad_u = grad_u_TBD[t, b, low : low + width]
                    grad_delta = grad_delta_TBD[t, b, low : low + width]
                    grad_u[:] = F32(0.0)
                    grad_delta[:] = F32(0.0)
                    for n in range(N):
                        A = A_ND[n, low : low + width]
                        grad_A = grad_A_BND[b, n, low : low + width]
                        in_weight = B_TBN[t, b, n]
                        out_weight = C_TBN[t, b, n]
                        decay, h_before, h, g_next = decays[k, n], states[k, n], states[k + 1, n], carry[n]
                        sum_B = F32(0.0)
                        sum_C = F32(0.0)
                        for d in range(width):
                            # g: gradient of the loss by the state h[t]; then by the exponent delta A
                            g = g_next[d] + out_weight * grad_y[d]
                            sum_C += h[d] * grad_y[d]
                            sum_B += g * delta[d] * u[d]
                            grad_u[d] += g * in_weight
                            g = g * decay[d]
                            g_next[d] = g
                            g = g * h_before[d]
                            grad_delta[d] += g * A[d]
                            grad_A[d] += g * delta[d]
                        grad_B_TBN[t, b, n] += sum_B
                        grad_C_TBN[t, b, n] += sum_C
                    for d in range(width):
                        grad_delta[d] += grad_u[d] * u[d]
                        grad_u[d] *= delta[d]
