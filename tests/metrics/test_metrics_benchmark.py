"""benchmarks/metrics.py: the loop computes what we compute, and we are two orders of magnitude faster."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark(project_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("metrics_benchmark", project_root / "benchmarks" / "metrics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_loop_and_library_agree_and_the_library_is_far_ahead(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A shared processor: the full size must reach 100, this only has to be far from a loop.
    benchmark.TARGET = 40.0
    argv = ["--clips", "60", "--seconds", "4", "--loop_clips", "1", "--json", str(tmp_path / "out.json")]
    assert benchmark.main(argv) == 0, capsys.readouterr().out
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["clips"] == 60
    assert result["largest_relative_difference"] < 1e-9
    benchmark.TARGET = 1e9
    assert benchmark.main([*argv[:4], "--loop_clips", "1"]) == 1


def test_help_needs_nothing(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["metrics.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        benchmark.main()
