"""The scan and the Motion Expert on a GPU: equal to the CPU's, with and without mamba_ssm's kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from macedance.models.motion_expert import MotionExpert
from macedance.nn.scan import causal_convolution_silu, cuda_selective_scan, reference_scan, selective_scan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def make_inputs(device: str) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    B, T, D, N = 2, 61, 24, 5

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=g)

    A = -torch.rand(D, N, generator=g) * 4 - 0.1
    values = [draw(B, T, D), draw(B, T, D) - 3, A, draw(B, T, N), draw(B, T, N), draw(D), draw(B, T, D), draw(D)]
    return [value.to(device).requires_grad_() for value in values]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.detach().double().cpu() - b.detach().double().cpu()).norm() / b.detach().double().norm().cpu())


def check(y: Tensor, inputs: list[Tensor]) -> None:
    exact = [x.detach().double().cpu().requires_grad_() for x in inputs]
    u, delta, A, B, C, skip, gate, bias = exact
    y_exact = (reference_scan(u, F.softplus(delta + bias), A, B, C) + skip * u) * F.silu(gate)
    assert y.is_cuda
    assert relative(y, y_exact) < 1e-6
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad(y, inputs, grad.cuda())
    for a, b in zip(ours, torch.autograd.grad(y_exact, exact, grad.double()), strict=True):
        assert relative(a, b) < 1e-5


def test_plain_scan_on_a_gpu_agrees_with_float64() -> None:
    inputs = make_inputs("cuda")
    check(selective_scan(*inputs, softplus=True, plain=True), inputs)


def test_dispatched_scan_on_a_gpu_agrees_with_float64() -> None:
    """mamba_ssm's kernel where it is installed and works, the plain scan otherwise."""
    inputs = make_inputs("cuda")
    check(selective_scan(*inputs, softplus=True), inputs)


def test_mamba_ssm_kernel_agrees_with_ours() -> None:
    if cuda_selective_scan() is None:
        pytest.skip("mamba_ssm is not installed or does not run here")
    inputs = make_inputs("cuda")
    results = []
    for plain in (False, True):
        y = selective_scan(*inputs, softplus=True, plain=plain)
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for a, b in zip(*results, strict=True):
        assert relative(a, b) < 1e-5


def test_convolution_on_a_gpu_agrees_with_the_cpu() -> None:
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*size, generator=g) for size in ((2, 9, 7), (7, 1, 4), (7,)))
    on_gpu = causal_convolution_silu(x.cuda(), weight.cuda(), bias.cuda())
    torch.testing.assert_close(on_gpu.cpu(), causal_convolution_silu(x, weight, bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mixer", ["bimamba", "mamba", "transformer"])
def test_motion_expert_on_a_gpu_agrees_with_the_cpu(mixer: str) -> None:
    torch.manual_seed(0)
    sizes = {"latent_dim": 32, "num_dance_layers": 2, "num_heads": 2, "feedforward_dim": 48, "state_dim": 4}
    network = MotionExpert(**sizes, dropout=0.0, mixer=mixer, num_genres=3, frame_music=True)  # type: ignore[arg-type]
    inputs = [
        torch.randn(2, 40, 151),
        torch.tensor([3, 700]),
        torch.tensor([0.4, 1.0]),
        torch.randn(2, 40, 35),
        torch.tensor([0, 2]),
        torch.tensor([True, False]),
    ]
    on_cpu = network(*inputs)
    network.cuda()
    on_gpu = network(*(x.cuda() for x in inputs))
    assert relative(on_gpu, on_cpu) < 1e-3  # TF32 may be on
    with torch.autocast("cuda", torch.bfloat16):
        half = network(*(x.cuda() for x in inputs))
    assert relative(half, on_cpu) < 0.05
    half.float().square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
