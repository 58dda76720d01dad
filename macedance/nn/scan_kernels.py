"""Just-in-time compiled loops of the Mamba-1 mixer for float32 on CPUs (numba comes with librosa).

Shapes: B batch, T time steps, D channels, N state size, W taps, K steps of a chunk, S chunks.
The scan is fused with its softplus, skip connection and gate, the convolution with its SiLU: the states of a sequence
stay in the first cache levels, and the inner loops run over neighbouring channels, so that the compiler vectorises
them. Every sequence of the batch is independent; the caller may run ranges of them in threads, the loops hold no lock.
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
ONE, TWO = F32(1.0), F32(2.0)


@njit(fastmath={"contract"}, nogil=True, cache=True, error_model="numpy")
def exp(x: np.float32) -> np.float32:
    """Exponential within about one unit in the last place on [-87, 88], clamped outside (Cody and Waite, Cephes)."""
    x = F32(-87.0) if x < F32(-87.0) else x
    x = F32(88.0) if x > F32(88.0) else x
    shifted = x * LOG2_E + ROUND
    k = shifted - ROUND
    r = x - k * LN2_HIGH - k * LN2_LOW
    p = F32(1.9875691500e-4)
    p = p * r + F32(1.3981999507e-3)
    p = p * r + F32(8.3334519073e-3)
    p = p * r + F32(4.1665795894e-2)
    p = p * r + F32(1.6666665459e-1)
    p = p * r + F32(5.0000001201e-1)
    p = p * r * r + r + ONE
    power = np.int32((F32(shifted).view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)
    return p * power


@njit(fastmath={"contract"}, nogil=True, cache=True, error_model="numpy")
def sigmoid(x: np.float32) -> np.float32:
    """Logistic function."""
    return ONE / (ONE + exp(-x))


@njit(fastmath={"contract"}, nogil=True, cache=True, error_model="numpy")
def softplus(x: np.float32) -> np.float32:
    """Log of 1 + exp(x) with full relative precision for small results: log1p(e) = 2 artanh(e / (2 + e))."""
    e = exp(-x if x > F32(0.0) else x)
    s = e / (TWO + e)
    s2 = s * s
    p = F32(1.0 / 17.0)
    p = p * s2 + F32(1.0 / 15.0)
    p = p * s2 + F32(1.0 / 13.0)
    p = p * s2 + F32(1.0 / 11.0)
    p = p * s2 + F32(1.0 / 9.0)
    p = p * s2 + F32(1.0 / 7.0)
    p = p * s2 + F32(1.0 / 5.0)
    p = p * s2 + F32(1.0 / 3.0)
    p = p * s2 + ONE
    return TWO * s * p + (x if x > F32(0.0) else F32(0.0))


@njit(fastmath=REORDER, nogil=True, cache=True, error_model="numpy")
def scan_forward(
    u_BTD: Array,
    delta_BTD: Array,
    A_ND: Array,
    B_BTN: Array,
    C_BTN: Array,
    skip_D: Array,
    gate_BTD: Array,
    bias_D: Array,
    use_gate: bool,
    use_softplus: bool,
    K: int,
    y_BTD: Array,
    starts_SBND: Array,
    first: int,
    last: int,
) -> None:
    """Fill `y_BTD` and, unless it is empty, `starts_SBND` for the sequences first <= b < last."""
    T, D, N = u_BTD.shape[1], u_BTD.shape[2], A_ND.shape[0]
    keep = starts_SBND.shape[0] > 0
    state = np.empty((N, BLOCK), dtype=F32)
    delta = np.empty(BLOCK, dtype=F32)
    for b in range(first, last):
        for low in range(0, D, BLOCK):
            width = min(BLOCK, D - low)
            high = low + width
            skip, bias = skip_D[low:high], bias_D[low:high]
            state[:] = F32(0.0)
            for t in range(T):
                if keep and t % K == 0:
                    for n in range(N):
                        starts_SBND[t // K, b, n, low:high] = state[n, :width]
                u, raw, y = u_BTD[b, t, low:high], delta_BTD[b, t, low:high], y_BTD[b, t, low:high]
                if use_softplus:
                    for d in range(width):
                        delta[d] = softplus(raw[d] + bias[d])
                else:
                    for d in range(width):
                        delta[d] = raw[d] + bias[d]
                for d in range(width):
                    y[d] = skip[d] * u[d]
                for n in range(N):
                    A, h = A_ND[n, low:high], state[n]
                    in_weight, out_weight = B_BTN[b, t, n], C_BTN[b, t, n]
                    for d in range(width):
                        new = exp(delta[d] * A[d]) * h[d] + delta[d] * u[d] * in_weight
                        h[d] = new
                        y[d] += out_weight * new
                if use_gate:
                    gate = gate_BTD[b, t, low:high]
                    for d in range(width):
                        y[d] *= gate[d] * sigmoid(gate[d])


@njit(fastmath=REORDER, nogil=True, cache=True, error_model="numpy")
def scan_backward(
    u_BTD: Array,
    delta_BTD: Array,
    A_ND: Array,
    B_BTN: Array,
    C_BTN: Array,
    skip_D: Array,
    gate_BTD: Array,
    bias_D: Array,
    use_gate: bool,
    use_softplus: bool,
    K: int,
    starts_SBND: Array,
    grad_BTD: Array,
    grad_u_BTD: Array,
    grad_delta_BTD: Array,
    grad_A_BND: Array,
    grad_B_BTN: Array,
    grad_C_BTN: Array,
    grad_skip_BD: Array,
    grad_gate_BTD: Array,
    grad_bias_BD: Array,
    first: int,
    last: int,
) -> None:
    """Fill the gradients for the sequences first <= b < last; those of A, B, C, skip and bias must come as zeros."""
    T, D, N = u_BTD.shape[1], u_BTD.shape[2], A_ND.shape[0]
    decays = np.empty((K, N, BLOCK), dtype=F32)
    states = np.empty((K + 1, N, BLOCK), dtype=F32)
    deltas = np.empty((K, BLOCK), dtype=F32)
    outputs = np.empty((K, BLOCK), dtype=F32)
    carry = np.empty((N, BLOCK), dtype=F32)
    grad_y = np.empty(BLOCK, dtype=F32)
    for b in range(first, last):
        for low in range(0, D, BLOCK):
            width = min(BLOCK, D - low)
            high = low + width
            skip, bias = skip_D[low:high], bias_D[low:high]
            grad_skip, grad_bias = grad_skip_BD[b, low:high], grad_bias_BD[b, low:high]
            carry[:] = F32(0.0)
            for chunk in range(starts_SBND.shape[0] - 1, -1, -1):
                start = chunk * K
                steps = min(K, T - start)
                for n in range(N):
                    states[0, n, :width] = starts_SBND[chunk, b, n, low:high]

                # the chunk's step sizes, decays, states and (for the gate) outputs again
                for k in range(steps):
                    u, raw = u_BTD[b, start + k, low:high], delta_BTD[b, start + k, low:high]
                    delta, y = deltas[k], outputs[k]
                    if use_softplus:
                        for d in range(width):
                            delta[d] = softplus(raw[d] + bias[d])
                    else:
                        for d in range(width):
                            delta[d] = raw[d] + bias[d]
                    for d in range(width):
                        y[d] = skip[d] * u[d]
                    for n in range(N):
                        A = A_ND[n, low:high]
                        in_weight, out_weight = B_BTN[b, start + k, n], C_BTN[b, start + k, n]
                        decay, h_before, h = decays[k, n], states[k, n], states[k + 1, n]
                        for d in range(width):
                            decay[d] = exp(delta[d] * A[d])
                            h[d] = decay[d] * h_before[d] + delta[d] * u[d] * in_weight
                            y[d] += out_weight * h[d]

                for k in range(steps - 1, -1, -1):
                    t = start + k
                    u, grad, delta = u_BTD[b, t, low:high], grad_BTD[b, t, low:high], deltas[k]
                    grad_u, grad_delta = grad_u_BTD[b, t, low:high], grad_delta_BTD[b, t, low:high]
                    if use_gate:
                        gate, grad_gate, y = gate_BTD[b, t, low:high], grad_gate_BTD[b, t, low:high], outputs[k]
                        for d in range(width):
                            share = sigmoid(gate[d])
                            grad_gate[d] = grad[d] * y[d] * share * (ONE + gate[d] * (ONE - share))
                            grad_y[d] = grad[d] * gate[d] * share
                    else:
                        for d in range(width):
                            grad_y[d] = grad[d]
                    for d in range(width):
                        grad_u[d] = F32(0.0)
                        grad_delta[d] = F32(0.0)
                        grad_skip[d] += grad_y[d] * u[d]
                    for n in range(N):
                        A, grad_A = A_ND[n, low:high], grad_A_BND[b, n, low:high]
                        in_weight, out_weight = B_BTN[b, t, n], C_BTN[b, t, n]
                        decay, h_before, h, g_next = decays[k, n], states[k, n], states[k + 1, n], carry[n]
                        sum_B = F32(0.0)
                        sum_C = F32(0.0)
                        for d in range(width):
                            # g: gradient by the state h[t], then what flows on to h[t-1], then by delta A
                            g = g_next[d] + out_weight * grad_y[d]
                            sum_C += h[d] * grad_y[d]
                            sum_B += g * delta[d] * u[d]
                            grad_u[d] += g * in_weight
                            g = g * decay[d]
                            g_next[d] = g
                            g = g * h_before[d]
                            grad_delta[d] += g * A[d]
                            grad_A[d] += g * delta[d]
                        grad_B_BTN[b, t, n] += sum_B
                        grad_C_BTN[b, t, n] += sum_C
                    for d in range(width):
                        grad_delta[d] += grad_u[d] * u[d]
                        grad_u[d] = grad_u[d] * delta[d] + grad_y[d] * skip[d]
                    if use_softplus:
                        raw = delta_BTD[b, t, low:high]
                        for d in range(width):
                            grad_delta[d] *= sigmoid(raw[d] + bias[d])
                    for d in range(width):
                        grad_bias[d] += grad_delta[d]


@njit(fastmath=REORDER, nogil=True, cache=True, error_model="numpy")
def convolution_forward(x_BTD: Array, taps_WD: Array, bias_D: Array, y_BTD: Array, first: int, last: int) -> None:
    """Fill ``y = silu(bias + sum of taps[W-1-i] x[t-i])`` for the sequences first <= b < last."""
    T, D, W = x_BTD.shape[1], x_BTD.shape[2], taps_WD.shape[0]
    for b in range(first, last):
        for t in range(T):
            y = y_BTD[b, t]
            _convolve(x_BTD[b], taps_WD, bias_D, t, W, D, y)
            for d in range(D):
                y[d] = y[d] * sigmoid(y[d])


@njit(fastmath=REORDER, nogil=True, cache=True, error_model="numpy")
def convolution_backward(
    x_BTD: Array,
    taps_WD: Array,
    bias_D: Array,
    grad_BTD: Array,
    grad_x_BTD: Array,
    grad_taps_BWD: Array,
    grad_bias_BD: Array,
    first: int,
    last: int,
) -> None:
    """Gradients of `convolution_forward`; all of them must come as zeros."""
    T, D, W = x_BTD.shape[1], x_BTD.shape[2], taps_WD.shape[0]
    row = np.empty(D, dtype=F32)
    for b in range(first, last):
        grad_bias = grad_bias_BD[b]
        for t in range(T):
            _convolve(x_BTD[b], taps_WD, bias_D, t, W, D, row)
            grad = grad_BTD[b, t]
            for d in range(D):
                share = sigmoid(row[d])
                row[d] = grad[d] * share * (ONE + row[d] * (ONE - share))
                grad_bias[d] += row[d]
            for i in range(min(W, t + 1)):
                x, grad_x = x_BTD[b, t - i], grad_x_BTD[b, t - i]
                tap, grad_tap = taps_WD[W - 1 - i], grad_taps_BWD[b, W - 1 - i]
                for d in range(D):
                    grad_x[d] += row[d] * tap[d]
                    grad_tap[d] += row[d] * x[d]


@njit(fastmath=REORDER, nogil=True, cache=True, error_model="numpy")
def _convolve(x_TD: Array, taps_WD: Array, bias_D: Array, t: int, W: int, D: int, out_D: Array) -> None:
    for d in range(D):
        out_D[d] = bias_D[d]
    for i in range(min(W, t + 1)):
        x, tap = x_TD[t - i], taps_WD[W - 1 - i]
        for d in range(D):
            out_D[d] += x[d] * tap[d]
