"""Muon and AdamW in one optimizer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.optimizers import Muon


def weights() -> list[nn.Parameter]:
    torch.manual_seed(0)
    shapes = ((64, 96), (128, 64), (64,), (63, 96), (8, 4, 64, 64))
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    draw = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=draw)


def run(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> list[Tensor]:
    for step in steps:
        give_gradients(parameters, step)
        optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


def test_matrices_are_muon_s_and_all_else_adamw_s() -> None:
    parameters = weights()
    optimizer = Muon(parameters, lr=1e-3, muon_lr=0.02)
    shapes = [(group["use_muon"], [tuple(p.shape) for p in group["params"]]) for group in optimizer.param_groups]
    assert shapes == [(True, [(64, 96), (128, 64)]), (False, [(64,), (63, 96), (8, 4, 64, 64)])]
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 1e-3]


def test_a_matrix_s_update_is_orthogonal() -> None:
    """Five iterations bring the singular values near one, and not to it; a tall matrix moves by more."""
    parameters = weights()
    before = [p.detach().clone() for p in parameters[:2]]
    after = run(parameters, Muon(parameters, muon_lr=0.02, weight_decay=0.0), range(1))
    for old, new, scale in zip(before, after, (1.0, 2**0.5), strict=False):
        values = torch.linalg.svdvals(new - old) / (0.02 * scale)
        assert float(values.min()) > 0.4
        assert float(values.max()) < 1.3
        assert torch.linalg.matrix_norm(old) > 10 * torch.linalg.matrix_norm(new - old)


def test_the_rest_moves_as_with_adamw() -> None:
    ours, theirs = weights(), weights()
    settings = {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.1}
    found = run(ours, Muon(ours, **settings), range(5))
    adamw = torch.optim.AdamW(theirs[2:], **settings)
    for step in range(5):
        give_gradients(theirs, step)  # of all, so that the draws are the same
        adamw.step()
    expected = [p.detach() for p in theirs[2:]]
    for a, b in zip(found[2:], expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


def test_it_goes_on_from_its_state_to_the_bit() -> None:
    parameters = weights()
    optimizer = Muon(parameters)
    run(parameters, optimizer, range(3))
    kept, state = [p.detach().clone() for p in parameters], copy.deepcopy(optimizer.state_dict())
    through = run(parameters, optimizer, range(3, 6))

    again = [nn.Parameter(p) for p in kept]
    fresh = Muon(again)
    fresh.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(run(again, fresh, range(3, 6)), through, strict=True))


def test_a_network_without_matrices_is_adamw_s_and_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """As when a configuration is tried on a network of a few channels."""
    optimizer = Muon([nn.Parameter(torch.zeros(64)), nn.Parameter(torch.zeros(32, 640))])
    assert [group["use_muon"] for group in optimizer.param_groups] == [False]
    assert "no weight is a matrix of 64 x 64" in caplog.text


def test_without_other_weights_there_is_one_group() -> None:
    assert len(Muon([nn.Parameter(torch.zeros(64, 64))]).param_groups) == 1
