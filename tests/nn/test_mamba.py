"""Mamba mixers: equal to an independent implementation, causal, bidirectional, safe under autocast."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from macedance.errors import ConfigError
from macedance.nn.mamba import BiMamba, Mamba1Mixer

SHAPES = {
    "A_log": (64, 16),
    "D": (64,),
    "in_proj.weight": (128, 32),
    "conv1d.weight": (64, 1, 4),
    "conv1d.bias": (64,),
    "x_proj.weight": (34, 64),
    "dt_proj.weight": (64, 2),
    "dt_proj.bias": (64,),
    "out_proj.weight": (32, 64),
}


def test_parameters_have_the_names_and_shapes_of_mamba_ssm() -> None:
    mixer = Mamba1Mixer(32)
    assert {name: tuple(value.shape) for name, value in mixer.state_dict().items()} == SHAPES


def test_initialisation_is_that_of_mamba_ssm() -> None:
    torch.manual_seed(0)
    mixer = Mamba1Mixer(512)
    assert torch.equal(mixer.D, torch.ones(1024))
    torch.testing.assert_close(mixer.A_log.exp()[7], torch.arange(1.0, 17.0))
    dt = F.softplus(mixer.dt_proj.bias.detach())
    assert 0.99e-3 < float(dt.min()) < 1.2e-3
    assert 0.09 < float(dt.max()) < 0.101
    assert abs(float(dt.log().median()) - math.log(1e-2)) < 0.2
    assert float(mixer.dt_proj.weight.detach().abs().max()) <= 32**-0.5


def test_mixer_equals_transformers_mamba_on_copied_weights() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = transformers.MambaConfig(hidden_size=32, state_size=16, expand=2, conv_kernel=4, use_mambapy=False)
    torch.manual_seed(3)
    theirs, ours = MambaMixer(config, layer_idx=0), Mamba1Mixer(32)
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(torch.randn_like(value) * 0.05)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 21, 32)
    a, b = ours(x), theirs(x)
    assert float((a - b).norm() / b.norm()) < 1e-5
    for y in (a, b):
        y.square().sum().backward()
    for name, value in theirs.named_parameters():
        difference = (ours.get_parameter(name).grad - value.grad).norm() / value.grad.norm()
        assert float(difference) < 1e-4, name


def test_mixer_is_causal() -> None:
    torch.manual_seed(0)
    mixer, x = Mamba1Mixer(16, state_dim=4), torch.randn(1, 12, 16)
    changed = x.clone()
    changed[:, 7:] += 1
    difference = (mixer(x) - mixer(changed)).abs().amax(-1)[0]
    assert float(difference[:7].max()) == 0
    assert float(difference[7]) > 0


def test_bidirectional_block_sees_both_sides_and_the_forward_one_only_the_past() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 12, 16)
    changed = x.clone()
    changed[:, 6] = torch.randn(16)
    for bidirectional in (True, False):
        block = BiMamba(16, state_dim=4, dropout=0.0, bidirectional=bidirectional)
        difference = (block(x) - block(changed)).abs().amax(-1)[0]
        assert float(difference[7:].min()) > 0
        assert (float(difference[:6].min()) > 0) == bidirectional
        assert any(name.startswith("mamba_backward") for name, _ in block.named_parameters()) == bidirectional


def test_bidirectional_block_turns_around_with_its_directions_swapped() -> None:
    torch.manual_seed(0)
    block = BiMamba(16, state_dim=4, dropout=0.0)
    swapped = BiMamba(16, state_dim=4, dropout=0.0)
    swapped.load_state_dict(block.state_dict())
    swapped.mamba_forward, swapped.mamba_backward = swapped.mamba_backward, swapped.mamba_forward
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(swapped(x.flip(1)).flip(1), block(x))


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    block = BiMamba(16, state_dim=4, dropout=0.5)
    x = torch.randn(1, 8, 16)
    assert (block(x) == 0).float().mean() > 0.2
    block.eval()
    assert torch.equal(block(x), block(x))


def test_autocast_stays_close_to_float32_and_trains() -> None:
    torch.manual_seed(0)
    block, x = BiMamba(32, state_dim=4, dropout=0.0), torch.randn(2, 40, 32)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    y.float().square().mean().backward()
    full = block(x)
    assert float((y.float() - full).norm() / full.norm()) < 0.02
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in block.parameters())


def test_mixer_passes_gradcheck_in_float64() -> None:
    mixer = Mamba1Mixer(8, state_dim=2).double()
    x = torch.randn(1, 4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mixer, (x,), fast_mode=True)


@pytest.mark.parametrize("sizes", [{"dim": 0}, {"state_dim": 0}, {"conv_width": 0}, {"expand": 0}])
def test_mixer_refuses_empty_sizes(sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(sizes))):
        Mamba1Mixer(**{"dim": 8, **sizes})
