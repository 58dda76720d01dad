"""Activation checkpointing: the same numbers bit for bit, fewer activations kept."""

from __future__ import annotations

import copy

import pytest
import torch

from macedance.errors import ConfigError
from macedance.models.motion_expert import MotionExpert
from macedance.nn.recomputation import recompute_activations


def network(mixer: str = "bimamba") -> MotionExpert:
    torch.manual_seed(0)
    return MotionExpert(
        latent_dim=16, num_dance_layers=2, num_music_layers=1, num_heads=2, feedforward_dim=16, dropout=0.3,
        state_dim=4, mixer=mixer,  # type: ignore[arg-type]
    )  # fmt: skip


def gradients(model: MotionExpert) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of a step under dropout, and the number of elements kept for the backward pass."""
    torch.manual_seed(1)
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    inputs = torch.randn(2, 40, 151), torch.tensor([3, 7]), torch.tensor([0.5, 1.0]), torch.randn(2, 40, 35)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(*inputs).square().mean()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, kept


@pytest.mark.parametrize("mixer", ["bimamba", "transformer"])
@pytest.mark.parametrize("patterns", [["dancelayerstack.*"], ["*.bimamba"], ["*layerstack.*", "dancelayerstack.0"]])
def test_the_numbers_stay_bit_for_bit(mixer: str, patterns: list[str]) -> None:
    plain = network(mixer)
    thrifty = copy.deepcopy(plain)
    names = recompute_activations(thrifty, patterns)
    assert names
    assert thrifty.state_dict().keys() == plain.state_dict().keys()
    (expected, kept), (found, kept_less) = gradients(plain), gradients(thrifty)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert kept_less < 0.8 * kept


def test_a_submodule_of_a_chosen_one_is_left_alone_and_evaluation_is_as_ever() -> None:
    model = network()
    assert recompute_activations(model, ["dancelayerstack.*"]) == ["dancelayerstack.0", "dancelayerstack.1"]
    model.eval()
    (_, kept), (_, plain) = gradients(model), gradients(network().eval())
    assert kept == plain


def test_a_pattern_without_a_match_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"dancelayers.*matches no submodule.*dancelayerstack"):
        recompute_activations(network(), ["dancelayers.*"])
