"""The selective scan: exact against a float64 recurrence, in compiled loops and in plain torch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from macedance.errors import DataError
from macedance.nn import scan_compiled
from macedance.nn.scan import causal_convolution_silu, reference_scan, selective_scan

NAMES = ("u", "delta", "A", "B", "C", "skip", "gate", "bias")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_inputs(B: int, T: int, D: int, N: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    g = torch.Generator().manual_seed(B * 1000 + T)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    A = -torch.rand(D, N, generator=g, dtype=torch.float64) * 4 - 0.1
    values = [draw(B, T, D), draw(B, T, D) - 3, A, draw(B, T, N), draw(B, T, N), draw(D), draw(B, T, D), draw(D)]
    return [value.to(dtype).requires_grad_() for value in values]


def reference(inputs: list[Tensor]) -> Tensor:
    u, delta, A, B, C, skip, gate, bias = inputs
    return (reference_scan(u, F.softplus(delta + bias), A, B, C) + skip * u) * F.silu(gate)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))


@pytest.mark.parametrize("plain", [False, True], ids=["compiled", "plain"])
@pytest.mark.parametrize("size", [(2, 33, 300, 5), (1, 1, 4, 2), (1, 7, 16, 1), (3, 16, 8, 16)], ids=str)
def test_scan_agrees_with_float64_forward_and_backward(size: tuple[int, int, int, int], plain: bool) -> None:
    inputs = make_inputs(*size)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    y, y_exact = selective_scan(*inputs, softplus=True, plain=plain), reference(exact)
    assert y.dtype == torch.float32
    assert relative(y, y_exact) < 1e-6
    for name, a, b in zip(
        NAMES, torch.autograd.grad(y, inputs, grad), torch.autograd.grad(y_exact, exact, grad.double()), strict=True
    ):
        assert relative(a, b) < 1e-5, name


@pytest.mark.parametrize("length", [240, 1024])
def test_scan_stays_exact_at_the_lengths_of_the_paper(length: int) -> None:
    """mamba_ssm's start: rates 1..N, step sizes log-uniform in [1e-3, 1e-1]."""
    g = torch.Generator().manual_seed(0)
    u, B, C = (torch.randn(2, length, n, generator=g) for n in (8, 16, 16))
    delta = torch.exp(torch.rand(2, length, 8, generator=g) * 4.6 - 6.9)
    A = -torch.arange(1.0, 17.0).repeat(8, 1)
    inputs = [x.requires_grad_() for x in (u, delta, A, B, C)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    grad = torch.randn(u.shape, generator=g)
    y, y_exact = selective_scan(*inputs), reference_scan(*exact)
    assert relative(y, y_exact) < 1e-6
    for a, b in zip(
        torch.autograd.grad(y, inputs, grad), torch.autograd.grad(y_exact, exact, grad.double()), strict=True
    ):
        assert relative(a, b) < 1e-5


def test_plain_scan_passes_gradcheck() -> None:
    inputs = make_inputs(2, 5, 3, 2, torch.float64)
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, softplus=True, chunk=2), inputs)


@pytest.mark.parametrize("plain", [False, True], ids=["compiled", "plain"])
@pytest.mark.parametrize("chunk", [1, 4, 5, 19, 100])
def test_chunk_length_does_not_change_the_result(chunk: int, plain: bool) -> None:
    inputs = make_inputs(2, 19, 6, 3)
    results = []
    for steps in (chunk, 19):
        y = selective_scan(*inputs, softplus=True, chunk=steps, plain=plain)
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_options_left_out_are_neutral() -> None:
    u, delta, A, B, C, *_ = make_inputs(2, 9, 5, 3)
    positive = F.softplus(delta)
    for plain in (False, True):
        y = selective_scan(u, positive, A, B, C, plain=plain)
        assert relative(y, reference_scan(u, positive, A, B, C)) < 1e-6


def test_half_precision_is_computed_in_float32() -> None:
    inputs = [x.detach().to(torch.bfloat16) for x in make_inputs(2, 30, 8, 4)]
    with torch.autocast("cpu", torch.bfloat16):
        y = selective_scan(*inputs, softplus=True)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, reference([x.double() for x in inputs]).to(torch.bfloat16), rtol=1e-2, atol=1e-3)


def test_bfloat16_loops_are_as_exact_as_their_input_and_output() -> None:
    """The compiled loops read and write bfloat16 but compute in float32: only the ends are rounded."""
    inputs = make_inputs(2, 33, 40, 4)
    narrow = [
        x.detach().to(torch.bfloat16 if i in (0, 1, 6) else x.dtype).requires_grad_() for i, x in enumerate(inputs)
    ]
    wide = [x.detach().float().requires_grad_() for x in narrow]
    grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    y, y_wide = selective_scan(*narrow, softplus=True), selective_scan(*wide, softplus=True)
    assert torch.equal(y, y_wide.to(torch.bfloat16))
    grads = torch.autograd.grad(y, narrow, grad), torch.autograd.grad(y_wide, wide, grad.float())
    for name, a, b in zip(NAMES, *grads, strict=True):
        torch.testing.assert_close(a, b.to(a.dtype), rtol=1e-2, atol=1e-3, msg=name)
    x, weight, bias = narrow[0], torch.randn(40, 1, 4), torch.randn(40)
    exact = causal_convolution_silu(x.float(), weight, bias)
    assert torch.equal(causal_convolution_silu(x, weight, bias), exact.to(torch.bfloat16))


def test_bfloat16_loops_keep_nan_and_infinity() -> None:
    x = torch.tensor([float("nan"), float("inf"), 3.4e38, 1.0]).to(torch.bfloat16).view(1, 1, 4)
    y = causal_convolution_silu(x, torch.ones(4, 1, 1), torch.zeros(4))[0, 0]
    assert y[0].isnan()
    assert y[1] == float("inf")
    assert y[2].isfinite() or y[2].isinf()
    assert not y[2:].isnan().any()


def test_threads_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_compiled, "MIN_UPDATES_PER_THREAD", 1)
    inputs = make_inputs(5, 40, 16, 4)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        y = selective_scan(*inputs, softplus=True)
        results.append([y, *torch.autograd.grad(y.sum(), inputs)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_extreme_steps_neither_overflow_nor_hide_nan() -> None:
    u, _, A, B, C, *_ = (x.detach() for x in make_inputs(1, 4, 4, 2))
    delta = torch.tensor([1e-8, 1.0, 1e3, 1e6]).view(1, 4, 1).expand(1, 4, 4)
    assert relative(selective_scan(u, delta, A, B, C), reference_scan(u, delta, A, B, C)) < 1e-6
    A = A.clone()
    A[1, 0] = float("nan")
    y = selective_scan(u, delta, A, B, C)
    assert y[..., 1].isnan().all()
    assert not y[..., 0].isnan().any()


def test_large_step_sizes_pass_the_softplus_unchanged() -> None:
    u, _, A, B, C, *_ = (x.detach() for x in make_inputs(1, 5, 4, 2))
    raw = torch.tensor([-80.0, -10.0, 0.0, 10.0, 80.0]).view(1, 5, 1).expand(1, 5, 4)
    exact = reference_scan(u, F.softplus(raw.double()), A, B, C)
    assert relative(selective_scan(u, raw, A, B, C, softplus=True), exact) < 1e-6


def test_scan_without_gradients_keeps_no_states() -> None:
    inputs = [x.detach() for x in make_inputs(2, 9, 5, 3)]
    with torch.no_grad():
        assert selective_scan(*inputs, softplus=True).grad_fn is None


def test_scan_refuses_shapes_that_do_not_fit() -> None:
    u, delta, A, B, C, *_ = make_inputs(2, 9, 5, 3)
    with pytest.raises(DataError, match="do not fit"):
        selective_scan(u, delta[:, :8], A, B, C)
    with pytest.raises(DataError, match="do not fit"):
        selective_scan(u, delta, A.t(), B, C)
    with pytest.raises(DataError, match="T >= 1"):
        selective_scan(u[:, :0], delta[:, :0], A, B[:, :0], C[:, :0])


def test_scan_on_the_meta_device_gives_the_shape() -> None:
    inputs = [x.detach().to("meta") for x in make_inputs(2, 9, 5, 3)]
    assert selective_scan(*inputs, softplus=True).shape == (2, 9, 5)


def test_scan_runs_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(2, 9, 5, 3)
    compiled = selective_scan(*inputs, softplus=True)
    monkeypatch.setattr(scan_compiled, "compiled_kernels", lambda: None)
    plain = selective_scan(*inputs, softplus=True)
    assert "CompiledScan" in type(compiled.grad_fn).__name__
    assert "CompiledScan" not in type(plain.grad_fn).__name__
    torch.testing.assert_close(compiled, plain)


@pytest.mark.parametrize("plain", [False, True], ids=["compiled", "plain"])
@pytest.mark.parametrize("width", [1, 4, 6])
def test_convolution_agrees_with_conv1d_in_float64(width: int, plain: bool) -> None:
    g = torch.Generator().manual_seed(width)
    x, weight, bias = (torch.randn(*size, generator=g) for size in ((2, 5, 7), (7, 1, width), (7,)))
    inputs = [v.requires_grad_() for v in (x, weight, bias)]
    exact = [v.detach().double().requires_grad_() for v in inputs]
    y = causal_convolution_silu(*inputs, plain=plain)
    full = F.conv1d(exact[0].transpose(1, 2), exact[1], exact[2], padding=width - 1, groups=7)
    y_exact = F.silu(full[..., :5]).transpose(1, 2)
    grad = torch.randn(y.shape, generator=g)
    assert relative(y, y_exact) < 1e-6
    for a, b in zip(
        torch.autograd.grad(y, inputs, grad), torch.autograd.grad(y_exact, exact, grad.double()), strict=True
    ):
        assert relative(a, b) < 1e-5
