"""The loader's benchmark at toy size: both sides give whole batches, and every figure is there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def loader(project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("loader_benchmark", project_root / "benchmarks" / "loader.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("MACEDANCE_CACHE", str(tmp_path / "cache"))
    for name, value in (("RESUME_SAMPLES", 1000), ("RESUME_SHARDS", 10), ("PER_SHARD", 50)):
        monkeypatch.setattr(module, name, value)
    return module


def test_every_figure_is_there(loader: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    result = loader.measure(samples=200, rounds=1)
    for setting in ("0 workers", "2 workers"):
        assert all(value > 0 for value in result["samples_per_s"][setting].values())
        assert result["ratio"][setting] > 0
    assert 90_000 < result["bytes_per_sample"] < 130_000
    assert result["index_bytes_per_sample"] < 100
    assert result["resume_s"] < 1
    assert result["total_gb_at_1e8"] > 1
    loader.report(result)
    printed = capsys.readouterr().out
    assert "ours/webdataset" in printed
    assert "for 10^8 samples" in printed


def test_both_sides_read_the_same_clips(loader: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = loader.write_corpus(tmp_path / "corpus", 128, 2, loader.FRAMES)
    seen = []
    for side in (loader.our_batches(corpus, 0), loader.webdataset_batches(corpus, 0, False)):
        seen.append(sorted(key for batch in side() for key in batch["keys"]))
    assert seen[0] == seen[1]
    assert len(seen[0]) == 128
