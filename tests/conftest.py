"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("MACEDANCE_QUIET", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parents[1]


def find_shared() -> Path | None:
    """The folder of real test data, or None on a machine without it."""
    path = Path(os.environ.get("MACEDANCE_SHARED", ROOT.parent / "shared"))
    return path if (path / "data").is_dir() else None


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    path = find_shared()
    if path is None:
        if os.environ.get("MACEDANCE_REQUIRE_SHARED"):
            pytest.fail("no real test data: set MACEDANCE_SHARED to the folder that holds it")
        pytest.skip("no real test data: set MACEDANCE_SHARED to the folder that holds it")
    return path


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Two workers on two cores: more threads would wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never touch the user's cache; the workers of one run share theirs."""
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root
    os.environ["MACEDANCE_CACHE"] = str(shared / "macedance-cache")
    # Tests of two workers call librosa directly: its loops are compiled by one of them first.
    from macedance.music.features import warm_up

    warm_up()


@pytest.fixture(scope="session")
def tiny_corpus(own_cache: None) -> Path:
    """The built-in corpus at its smallest: 16 clips, made once for all workers."""
    from datamodules.corpora import cached_demo_corpus

    return cached_demo_corpus(num_clips=16, seed=0, workers=1)


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """End by saying how many tests did not run, so that nobody takes them for passed."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons: dict[str, int] = {}
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] = reasons.get(reason.removeprefix("Skipped: "), 0) + 1
    terminalreporter.write_line(f"{len(skipped)} tests skipped")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"  {count}: {reason}")
