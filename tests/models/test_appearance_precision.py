"""The Appearance Expert in bfloat16 computes what diffusers' model does, under the autocast of training too."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from appearance_fakes import TRANSFORMER, VAE, save_base
from diffusers import WanAnimateTransformer3DModel
from torch import Tensor

from macedance.models.appearance_expert.conditions import Conditions
from macedance.models.appearance_expert.network import AppearanceExpert
from macedance.nn.precise import cast_network, precise_names


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


def inputs() -> tuple[Tensor, Tensor, Conditions]:
    generator = torch.Generator().manual_seed(1)

    def latents(frames: int) -> Tensor:
        return torch.randn(2, 4, frames, 8, 8, generator=generator)

    face = torch.rand(2, 3, 9, 16, 16, generator=generator) * 2 - 1
    text = torch.randn(2, 3, 6, generator=generator)
    return latents(4), torch.tensor([0.31, 0.87]), Conditions(latents(1), latents(3), face, text, latents(3))


@torch.no_grad()
def velocity(network: AppearanceExpert, mixed: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        return network.eval()(*inputs())


def of_diffusers(base: Path) -> AppearanceExpert:
    """With the transformer as diffusers loads and runs it."""
    network = AppearanceExpert(TRANSFORMER, VAE)
    network.transformer = WanAnimateTransformer3DModel.from_pretrained(
        str(base), subfolder="transformer", torch_dtype=torch.bfloat16
    )
    return network


@pytest.mark.parametrize("mixed", [False, True], ids=["alone", "autocast"])
def test_the_velocity_is_bit_for_bit_that_of_diffusers(mixed: bool, base: Path) -> None:
    theirs = of_diffusers(base)
    ours = AppearanceExpert(TRANSFORMER, VAE, str(base), "bfloat16")
    kinds = {name: p.dtype for name, p in theirs.named_parameters()}
    assert {name: p.dtype for name, p in ours.named_parameters()} == kinds
    expected = velocity(theirs, False)
    assert torch.equal(velocity(ours, mixed), expected)
    assert not torch.equal(velocity(theirs, True), expected), "autocast alone rounds what diffusers does not"
    assert torch.equal(velocity(copy.deepcopy(ours), mixed), expected)


def test_gradients_are_those_of_diffusers_in_float32(base: Path) -> None:
    ours, theirs = AppearanceExpert(TRANSFORMER, VAE, str(base)), AppearanceExpert(TRANSFORMER, VAE)
    theirs.transformer = WanAnimateTransformer3DModel.from_pretrained(str(base), subfolder="transformer")
    for network in (ours, theirs):
        network(*inputs()).square().mean().backward()
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    assert bool(expected["transformer.motion_encoder.motion_synthesis_weight"].any())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-7, msg=name)


def test_faces_of_another_size_are_refused(base: Path) -> None:
    from dataclasses import replace

    noisy, sigma, told = inputs()
    with pytest.raises(ValueError, match=r"\(8, 8\), expected 16"):
        AppearanceExpert(TRANSFORMER, VAE)(noisy, sigma, replace(told, face=told.face[..., :8, :8]))


def test_what_stays_float32_is_what_a_module_lists_by_parts_of_names() -> None:
    class Listing(torch.nn.Module):
        _keep_in_fp32_modules = ("norm", "table")

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.renorm = torch.nn.LayerNorm(2), torch.nn.LayerNorm(2)
            self.inner = torch.nn.ModuleDict({"norm": torch.nn.Linear(2, 2)})
            self.table = torch.nn.Parameter(torch.full((2,), 1 / 3))

    network: Any = torch.nn.ModuleDict({"norm": torch.nn.Linear(2, 2), "listing": Listing()})
    names = {"norm.weight", "norm.bias", "inner.norm.weight", "inner.norm.bias", "table"}
    assert precise_names(network) == {f"listing.{name}" for name in names}
    cast_network(network, torch.bfloat16)
    assert {n for n, p in network.named_parameters() if p.dtype == torch.float32} == precise_names(network)
    assert precise_names(network["listing"]) == names
