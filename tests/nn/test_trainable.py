"""Which parameters train: patterns, adapters, and the folding of adapters into plain weights."""

from __future__ import annotations

import pytest
import torch

from macedance.errors import CheckpointError, ConfigError
from macedance.models.motion_expert import MotionExpert
from macedance.nn.ema import ExponentialMovingAverage
from macedance.nn.trainable import LoraSettings, add_lora, merged_state_dict, set_trainable


def small(mixer: str = "bimamba") -> MotionExpert:
    torch.manual_seed(0)
    return MotionExpert(
        latent_dim=16, num_dance_layers=1, num_music_layers=1, num_heads=2, feedforward_dim=16, state_dim=4,
        dropout=0.0, mixer=mixer, frame_music=True,  # type: ignore[arg-type]
    )  # fmt: skip


def run(network: MotionExpert) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    xt, music = torch.randn(2, 12, 151, generator=generator), torch.randn(2, 12, 35, generator=generator)
    return network(xt, torch.tensor([5, 900]), torch.tensor([0.3, 1.0]), music)


@pytest.mark.parametrize("mixer", ["bimamba", "mamba", "transformer"])
def test_every_adapter_is_used(mixer: str) -> None:
    """An adapter that the forward pass went around would have no gradient."""
    network = small(mixer)
    before = run(network).detach()
    add_lora(network, LoraSettings(rank=2, alpha=4.0))
    torch.testing.assert_close(run(network).detach(), before, msg="a fresh adapter changes nothing")
    adapters = {n: p for n, p in network.named_parameters() if p.requires_grad}
    assert len(adapters) >= 8
    assert all("lora_" in name for name in adapters)
    for name, parameter in adapters.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    run(network).square().sum().backward()
    unused = [name for name, p in adapters.items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not unused


def test_patterns_beside_adapters_add_and_freeze_but_never_wake_the_base() -> None:
    network = small()
    add_lora(network, LoraSettings(rank=2))
    set_trainable(network, train_only=["final_layer.*"], freeze=["musiclayerstack.*"], adapted=True)
    names = {n for n, p in network.named_parameters() if p.requires_grad}
    assert {"final_layer.weight", "final_layer.bias"} <= names
    assert all("lora_" in n or n.startswith("final_layer") for n in names)
    assert not any(n.startswith("musiclayerstack") for n in names)


def test_folded_adapters_are_the_same_network() -> None:
    network = small()
    settings = LoraSettings(rank=2, alpha=4.0)
    add_lora(network, settings)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    plain = small()
    plain.load_state_dict(merged_state_dict(network.state_dict(), settings))
    torch.testing.assert_close(run(plain), run(network), rtol=1e-4, atol=1e-5)


def test_an_adapter_that_would_be_ignored_is_refused() -> None:
    with pytest.raises(ConfigError, match="dt_proj"):
        add_lora(small(), LoraSettings(target_modules=r".*\.(dt_proj|linear1)"))


def test_an_expression_that_matches_nothing_shows_names() -> None:
    with pytest.raises(ConfigError, match="time_mlp"):
        add_lora(small(), LoraSettings(target_modules="nothing"))


def test_patterns_choose_what_trains() -> None:
    network = small()
    set_trainable(network, train_only=["dancelayerstack.*"], freeze=["*.norm*"])
    names = {n for n, p in network.named_parameters() if p.requires_grad}
    assert names
    assert all(n.startswith("dancelayerstack.") and ".norm" not in n for n in names)
    with pytest.raises(ConfigError, match="nothing to train"):
        set_trainable(network, train_only=["final_layer.*"], freeze=["final_layer.*"])
    with pytest.raises(ConfigError, match="final_layer"):
        set_trainable(network, freeze=["final_layr.weight"])


def test_the_average_follows_its_formula_and_gives_the_weights_back() -> None:
    network = torch.nn.Linear(2, 2)
    average = ExponentialMovingAverage(network, 0.9, warmup=False)
    start = network.weight.detach().clone()
    with torch.no_grad():
        network.weight.add_(1.0)
    average.update(network)
    torch.testing.assert_close(average.shadow["weight"], 0.9 * start + 0.1 * (start + 1.0))
    own = network.weight.detach().clone()
    with average.applied(network):
        torch.testing.assert_close(network.weight.detach(), average.shadow["weight"])
    assert torch.equal(network.weight.detach(), own)
    with pytest.raises(ValueError, match="broken"), average.applied(network):
        raise ValueError("broken")
    assert torch.equal(network.weight.detach(), own)


def test_warmup_starts_from_the_network_itself() -> None:
    network = torch.nn.Linear(1, 1)
    average = ExponentialMovingAverage(network, 0.9999)
    with torch.no_grad():
        network.weight.fill_(5.0)
    average.update(network)
    assert abs(float(average.shadow["weight"]) - 5.0) < 0.7


def test_the_average_of_another_network_is_refused() -> None:
    average = ExponentialMovingAverage(torch.nn.Linear(1, 1), 0.9)
    with pytest.raises(CheckpointError, match="another network"):
        average.load_state_dict({"shadow.other": torch.zeros(1), "num_updates": 1})
    again = ExponentialMovingAverage(torch.nn.Linear(1, 1), 0.9)
    again.load_state_dict(average.state_dict())
    assert all(torch.equal(again.shadow[name], average.shadow[name]) for name in average.shadow)
