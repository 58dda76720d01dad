"""The adapter of a user's own checkout of AMT, on a checkout that the test writes."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch

from macedance.errors import CheckpointError, ConfigError, DependencyError
from macedance.vision.interpolation import AmtInterpolator

DEFINITION = """
import torch
from networks.blocks.mix import half
from utils.extra import ONE

class Model(torch.nn.Module):
    def __init__(self, corr_radius, corr_lvls, num_flows):
        super().__init__()
        assert (corr_radius, corr_lvls, num_flows) == (3, 4, 3)
        self.bias = torch.nn.Parameter(torch.zeros(ONE))
        self.seen = []

    def forward(self, first, second, time, scale_factor, eval):
        self.seen.append((tuple(first.shape), float(time), scale_factor, eval))
        return {"imgt_pred": half(first, second) + self.bias}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "AMT"
    (root / "networks" / "blocks").mkdir(parents=True)
    (root / "utils").mkdir()
    (root / "networks" / "AMT-S.py").write_text(DEFINITION)
    (root / "networks" / "__init__.py").write_text("")
    (root / "networks" / "blocks" / "__init__.py").write_text("")
    (root / "networks" / "blocks" / "mix.py").write_text("def half(a, b):\n    return (a + b) / 2\n")
    (root / "utils" / "extra.py").write_text("ONE = 1\n")
    (tmp_path / "weights").mkdir()
    torch.save({"state_dict": {"bias": torch.tensor([0.25])}, "epoch": 3}, tmp_path / "weights" / "amt-s.pth")
    return root


def test_frames_are_filled_up_by_their_edges_and_cut_again(checkout: Path) -> None:
    interpolate = AmtInterpolator.from_checkout(checkout, checkout.parent / "weights")
    first, second = torch.rand(2, 3, 21, 40), torch.rand(2, 3, 21, 40)
    torch.testing.assert_close(interpolate(first, second), (first + second) / 2 + 0.25)
    assert interpolate.module.seen == [((2, 3, 32, 48), 0.5, 1.0, True)]
    assert interpolate.name == "amt_s"
    assert len(interpolate.fingerprint) == 64


def test_the_scale_is_explicit_and_part_of_the_result(checkout: Path) -> None:
    interpolate = AmtInterpolator.from_checkout(checkout, checkout.parent / "weights", scale=0.5)
    first = torch.rand(1, 3, 33, 32)
    assert interpolate(first, first).shape == first.shape
    assert interpolate.module.seen == [((1, 3, 64, 32), 0.5, 0.5, True)]
    assert interpolate.settings == {"scale": 0.5}
    with pytest.raises(ConfigError, match="a scale of 2"):
        AmtInterpolator.from_checkout(checkout, checkout.parent / "weights", scale=2.0)


def test_names_of_the_checkout_do_not_stay_and_ours_come_back(checkout: Path) -> None:
    mine = types.ModuleType("utils")
    sys.modules["utils"] = mine
    path = list(sys.path)
    try:
        AmtInterpolator.from_checkout(checkout, checkout.parent / "weights")
        assert sys.modules["utils"] is mine
    finally:
        del sys.modules["utils"]
    assert not [name for name in sys.modules if name.split(".")[0] in ("networks", "utils")]
    assert sys.path == path


def test_what_is_no_checkout_is_said(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match="no checkout of AMT"):
        AmtInterpolator.from_checkout(tmp_path, tmp_path / "weights")
    (checkout / "networks" / "AMT-S.py").write_text("import a_package_that_is_not_there\n")
    with pytest.raises(DependencyError, match="a_package_that_is_not_there"):
        AmtInterpolator.from_checkout(checkout, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="one file of weights"):
        AmtInterpolator.from_checkout(checkout, tmp_path)
