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
        pytest.skip("no real test data: set MACEDANCE_SHARED to the folder that holds it")
    return path


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT
