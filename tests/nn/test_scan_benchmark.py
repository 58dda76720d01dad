"""benchmarks/scan.py: cases run apart and agree with each other, sizes that do not fit are said."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def benchmark(project_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("scan_benchmark", project_root / "benchmarks" / "scan.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_scans_compute_the_same(benchmark: ModuleType) -> None:
    pytest.importorskip("mambapy")
    inputs = benchmark.make_inputs(16, 6)
    exact = benchmark.autograd_loop(*(x.detach().double() for x in inputs))
    for name, scan in benchmark.SCANS.items():
        assert benchmark.relative(scan(*inputs), exact) < 1e-5, name


def test_accuracy_lines_hold_the_bounds(benchmark: ModuleType) -> None:
    errors = benchmark.accuracy(240)
    assert errors["output"] < benchmark.TARGETS["output"]
    assert errors["gradient"] < benchmark.TARGETS["gradient"]


def test_case_runs_in_its_own_process(benchmark: ModuleType) -> None:
    case = benchmark.run_apart("ours", 16, 8, 1)
    assert case["seconds"] > 0
    assert case["peak_mb"] >= 0


def test_report_compares_and_says_what_does_not_fit(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("mambapy")
    apart = benchmark.run_apart

    def here(name: str, length: int, channels: int, repeats: int) -> dict[str, float]:
        if name == "mambapy":
            monkeypatch.setattr(benchmark, "free_mb", lambda: 0.001)
            return apart(name, length, channels, repeats)
        return benchmark.run_case(name, length, channels, repeats)

    monkeypatch.setattr(benchmark, "run_apart", here)
    monkeypatch.setattr(sys, "argv", ["scan.py", "--quick", "--json", str(tmp_path / "out.json")])
    threads = torch.get_num_threads()
    try:
        assert benchmark.main() == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "does not fit: needs about" in printed
    assert "autograd loop" in printed
    assert "against float64" in printed
    figures = json.loads((tmp_path / "out.json").read_text())
    assert set(figures) == {"16", "40"}
    assert figures["16"]["cases"]["ours"]["seconds"] > 0
