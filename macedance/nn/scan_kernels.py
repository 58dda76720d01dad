"""Just-in-time compiled loops of the Mamba-1 mixer on CPUs (numba comes with librosa).

Shapes: B batch, T time steps, D channels, N state size, W taps, K steps of a chunk, S chunks.
The scan is fused with its softplus, skip connection and gate, the convolution with its SiLU: the states of a sequence
stay in the first cache levels, and the inner loops run over neighbouring channels, so that the compiler vectorises
them. Every sequence of the batch is independent; the caller may run ranges of them in threads, the loops hold no lock.

The activations (u, delta, gate, x and their gradients) are float32, or bfloat16 as the int16 of their bits, read and
written once; everything is computed in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

from macedance.compiled import protect_numba_cache

protect_numba_cache()

F32 = np.float32
Array = NDArray[np.float32]
# float32, or bfloat16 in int16
Activation = NDArray[Any]

# Channels that one pass over time works on: with N = 16 the states and their rates take 2 x 16 kB of cache.
BLOCK = 256

# Sums may be reordered (that is what vectorises them); NaN and infinity keep their meaning.
REORDER = {"reassoc", "contract", "nsz"}

ROUND = F32(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer that stands in the low bits
LOG2_E = F32(1.44269504088896341)
LN2_HIGH, LN2_LOW = F32(0.693359375), F32(-2.12194440e-4)
ONE, TWO = F32(1.0), F32(2.0)


def _read(source: Activation, row: Array, width: int) -> None:
    """Copy a row of activations to float32; the compiled versions are below, one per type."""


def _write(row: Array, target: Activation, width: int) -> None:
    """Copy a float32 row to activations."""


@overload(_read, jit_options={"nogil": True, "error_model": "numpy"})
def _compile_read(source: Any, row: Any, width: Any) -> Any:
    def read_float(source: Any, row: Any, width: Any) -> Any:
        for d in range(width):
            row[d] = source[d]

    def read_bfloat(source: Any, row: Any, width: Any) -> Any:
        for d in range(width):
            row[d] = np.int32(np.int32(source[d]) << np.int32(16)).view(np.float32)

    return read_bfloat if source.dtype == types.int16 else read_float


@overload(_write, jit_options={"nogil": True, "error_model": "numpy"})
def _compile_write(row: Any, target: Any, width: Any) -> Any:
    def write_float(row: Any, target: Any, width: Any) -> Any:
        for d in range(width):
            target[d] = row[d]

    def write_bfloat(row: Any, target: Any, width: Any) -> Any:
        for d in range(width):
            bits = F32(row[d]).view(np.int32)
            # round to nearest, ties to even; NaN must not round to infinity
            rounded = (bits + np.int32(0x7FFF) + ((bits >> np.int32(16)) & np.int32(1))) >> np.int32(16)
            target[d] = np.int16(rounded if row[d] == row[d] else np.int32(0x7FC0))

    return write_bfloat if target.dtype == types.int16 else write_float


@njit(nogil=True, cache=True, error_model="numpy")
def _row(width: int) -> Array:
    return np.empty(width, dtype=F32)


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
def _step_sizes(raw: Activation, bias: Array, use_softplus: bool, delta: Array, width: int) -> None:
    _read(raw, delta, width)
    if use_softplus:
        for d in range(width):
            delta[d] = softplus(delta[d] + bias[d])
    else:
        for d in range(width):
            delta[d] += bias[d]


@njit(fastmath=REORDER, nogil=True, cache=True, error_model="numpy")
def scan_forward(
    u_BTD: Activation,
    delta_BTD: Activation,
    A_ND: Array,
    B_BTN: Array,
    C_BTN: Array,
    skip_D: Array,
    gate_BTD: Activation,
    bias_D: Array,
    use_gate: bool,
    use_softplus: bool,
    K: int,
    y_BTD: Activation,
    starts_SBND: Array,
    first: int,
    last: int,
) -> None:
    """Fill `y_BTD` and, unless it is empty, `starts_SBND` for the sequences first <= b < last."""
    T, D, N = u_BTD.shape[1], u_BTD.shape[2], A_ND.shape[0]
    keep = starts_SBND.shape[0] > 0
    state = np.empty((N, BLOCK), dtype=F32)
    delta, u, y, gate = _row(BLOCK), _row(BLOCK), _row(BLOCK), _row(BLOCK)
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
                _read(u_BTD[b, t, low:high], u, width)
                _step_sizes(delta_BTD[b, t, low:high], bias, use_softplus, delta, width)
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
                    _read(gate_BTD[b, t, low:high], gate, width)
                    for d in range(width):
                        y[d] *= gate[d] * sigmoid(gate[d])
                _write(y, y_BTD[b, t, low:high], width)


@njit(fastmath=REORDER, nogil=True, cache=True, error_model="numpy")
def scan_backward(
    u_BTD: Activation,
    delta_BTD: Activation,
    A_ND: Array,
    B_BTN: Array,
    C_BTN: Array,
    skip_D: Array,
    gate_BTD: Activation,
    bias_D: Array,
    use_gate: bool,
    use_softplus: bool,
    K: int,
    starts_SBND: Array,
    grad_BTD: Activation,
    grad_u_BTD: Activation,
    grad_delta_BTD: Activation,
    grad_A_BND: Array,
    grad_B_BTN: Array,
    grad_C_BTN: Array,
    grad_skip_BD: Array,
    grad_gate_BTD: Activation,
    grad_bias_BD: Array,
    first: int,
    last: int,
) -> None:
    """Fill the gradients for the sequences first <= b < last; those of A, B, C, skip and bias must come as zeros."""
    T, D, N = u_BTD.shape[1], u_BTD.shape[2], A_ND.shape[0]
    decays = np.empty((K, N, BLOCK), dtype=F32)
    states = np.empty((K + 1, N, BLOCK), dtype=F32)
    inputs = np.empty((K, BLOCK), dtype=F32)
    deltas = np.empty((K, BLOCK), dtype=F32)
    outputs = np.empty((K, BLOCK), dtype=F32)
    carry = np.empty((N, BLOCK), dtype=F32)
    raw, gate = _row(BLOCK), _row(BLOCK)
    grad_y, grad_u, grad_delta = _row(BLOCK), _row(BLOCK), _row(BLOCK)
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
                    u, delta, y = inputs[k], deltas[k], outputs[k]
                    _read(u_BTD[b, start + k, low:high], u, width)
                    _step_sizes(delta_BTD[b, start + k, low:high], bias, use_softplus, delta, width)
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
                    u, delta, y = inputs[k], deltas[k], outputs[k]
                    _read(grad_BTD[b, t, low:high], grad_y, width)
                    if use_gate:
                        _read(gate_BTD[b, t, low:high], gate, width)
                        for d in range(width):
                            share, grad = sigmoid(gate[d]), grad_y[d]
                            grad_y[d] = grad * gate[d] * share
                            gate[d] = grad * y[d] * share * (ONE + gate[d] * (ONE - share))
                        _write(gate, grad_gate_BTD[b, t, low:high], width)
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
                        _read(delta_BTD[b, t, low:high], raw, width)
                        for d in range(width):
                            grad_delta[d] *= sigmoid(raw[d] + bias[d])
                    for d in range(width):
                        grad_bias[d] += grad_delta[d]
                    _write(grad_u, grad_u_BTD[b, t, low:high], width)
                    _write(grad_delta, grad_delta_BTD[b, t, low:high], width)


@njit(fastmath=REORDER, nogil=True, cache=True, error_model="numpy")
def convolution_forward(
    x_BTD: Activation, taps_WD: Array, bias_D: Array, y_BTD: Activation, first: int, last: int
) -> None:
    """Fill ``y = silu(bias + sum of taps[W-1-i] x[t-i])`` for the sequences first <= b < last."""
    T, D, W = x_BTD.shape[1], x_BTD.shape[2], taps_WD.shape[0]
    # a ring of the last W inputs
    recent = np.empty((W, D), dtype=F32)
    row = _row(D)
    for b in range(first, last):
        for t in range(T):
            _read(x_BTD[b, t], recent[t % W], D)
            _convolve(recent, taps_WD, bias_D, t, W, D, row)
            for d in range(D):
                row[d] *= sigmoid(row[d])
            _write(row, y_BTD[b, t], D)


@njit(fastmath=REORDER, nogil=True, cache=True, error_model="numpy")
def convolution_backward(
    x_BTD: Activation,
    taps_WD: Array,
    bias_D: Array,
    grad_BTD: Activation,
    grad_x_BTD: Activation,
    grad_taps_BWD: Array,
    grad_bias_BD: Array,
    first: int,
    last: int,
) -> None:
    """Gradients of `convolution_forward`; those of taps and bias must come as zeros."""
    T, D, W = x_BTD.shape[1], x_BTD.shape[2], taps_WD.shape[0]
    # rings of the last W inputs and of their gradients, to which W - 1 later steps still add
    recent = np.empty((W, D), dtype=F32)
    grad_recent = np.empty((W, D), dtype=F32)
    row, grad = _row(D), _row(D)
    for b in range(first, last):
        grad_bias = grad_bias_BD[b]
        for t in range(T):
            _read(x_BTD[b, t], recent[t % W], D)
            _read(grad_BTD[b, t], grad, D)
            grad_recent[t % W] = F32(0.0)
            _convolve(recent, taps_WD, bias_D, t, W, D, row)
            for d in range(D):
                share = sigmoid(row[d])
                row[d] = grad[d] * share * (ONE + row[d] * (ONE - share))
                grad_bias[d] += row[d]
            for i in range(min(W, t + 1)):
                x, grad_x = recent[(t - i) % W], grad_recent[(t - i) % W]
                tap, grad_tap = taps_WD[W - 1 - i], grad_taps_BWD[b, W - 1 - i]
                for d in range(D):
                    grad_x[d] += row[d] * tap[d]
                    grad_tap[d] += row[d] * x[d]
            if t >= W - 1:
                _write(grad_recent[(t + 1) % W], grad_x_BTD[b, t - W + 1], D)
        for t in range(max(T - W + 1, 0), T):
            _write(grad_recent[t % W], grad_x_BTD[b, t], D)


@njit(fastmath=REORDER, nogil=True, cache=True, error_model="numpy")
def _convolve(recent_WD: Array, taps_WD: Array, bias_D: Array, t: int, W: int, D: int, out_D: Array) -> None:
    for d in range(D):
        out_D[d] = bias_D[d]
    for i in range(min(W, t + 1)):
        x, tap = recent_WD[(t - i) % W], taps_WD[W - 1 - i]
        for d in range(D):
            out_D[d] += x[d] * tap[d]
