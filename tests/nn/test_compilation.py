"""Compiled submodules, and attention on a CPU as products; what is compiled is compared by the training's own runs."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from macedance.errors import ConfigError
from macedance.nn.compilation import compile_submodules, nothing_compiled, products_for_attention


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.nn.functional.gelu(self.inner(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_what_is_compiled_keeps_its_names_and_can_be_run_as_written() -> None:
    torch.manual_seed(0)
    network, x = Net(), torch.randn(2, 4)
    names, before = list(network.state_dict()), network(x)
    assert compile_submodules(network, ["blocks.*"]) == ["blocks.0", "blocks.1"]
    assert list(network.state_dict()) == names
    assert all(block._compiled_call_impl is not None for block in network.blocks)
    with nothing_compiled():
        assert torch.equal(network(x), before)
    with pytest.raises(ConfigError, match=r"'layers.\*' matches no submodule; at model.compiled"):
        compile_submodules(network, ["layers.*"])


def test_without_a_compiler_nothing_is_compiled_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    network = Net()
    with caplog.at_level(logging.WARNING):
        assert compile_submodules(network, ["blocks.*"]) == []
    assert "no C++ compiler" in caplog.text
    assert all(block._compiled_call_impl is None for block in network.blocks)


def test_attention_by_products_is_attention() -> None:
    torch.manual_seed(0)
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()

    def attended(plain: bool) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v = (torch.randn(2, 2, 8, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))
        q.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            if plain:
                with products_for_attention(torch.device("cpu")):
                    assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
                    assert not torch.backends.cuda.flash_sdp_enabled()
                    out = scaled_dot_product_attention(q, k, v)
            else:
                out = scaled_dot_product_attention(q, k, v)
        out.float().square().sum().backward()
        assert q.grad is not None
        return out.detach().float(), q.grad

    for ours, theirs in zip(attended(True), attended(False), strict=True):
        assert torch.allclose(ours, theirs, atol=0.03 * float(theirs.abs().max()))
    assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() == allowed
    # Where nothing is differentiated or cast, the fused kernel stays: its numbers are diffusers' own.
    with products_for_attention(torch.device("cpu")):
        assert torch.backends.cuda.flash_sdp_enabled()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad(), products_for_attention(torch.device("cpu")):
        assert torch.backends.cuda.flash_sdp_enabled()
