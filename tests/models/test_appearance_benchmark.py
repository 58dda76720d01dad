"""The program that times the Appearance Expert at its published size, on a tiny network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location("appearance_benchmark", BENCHMARKS / "appearance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_measures_both_stages(program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "figures.json"
    size = ["--frames", "9", "--height", "32", "--width", "32", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", ["appearance.py", "--tiny", "--device", "cpu", *size, "--json", str(out)])
    assert program.main() == 0
    result = json.loads(out.read_text())
    rows = result["stages"]
    assert list(rows) == ["kinematic", "aesthetic"]
    assert result["matmul_flops_per_s"] > 0
    for row in rows.values():
        assert row["finite"]
        assert row["peak_bytes"] is None
        assert row["mfu"] == pytest.approx(row["step_flops"] / row["step_s"] / result["matmul_flops_per_s"])
        assert row["hfu"] > row["mfu"]
    assert rows["kinematic"]["trainable_parameters"] == 16 * 4 * 24 + 24


def test_what_trains_is_precise_and_the_rest_is_not(program: Any) -> None:
    network = program.make_network("aesthetic", "cpu", tiny=True)
    trained = {p.dtype for p in network.parameters() if p.requires_grad}
    frozen = {n: p.dtype for n, p in network.named_parameters() if not p.requires_grad}
    assert trained == {torch.float32}
    assert frozen["transformer.patch_embedding.weight"] == torch.bfloat16
    assert frozen["transformer.blocks.0.scale_shift_table"] == torch.float32
    assert torch.get_default_dtype() == torch.float32
