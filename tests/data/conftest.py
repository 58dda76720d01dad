"""Fixtures of the data room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_corpora import write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus that tests only read."""
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Path]:
    """Makes a corpus that the test may damage."""

    def make(name: str = "mine", **options: int | bool) -> Path:
        return write_corpus(tmp_path / name, **options)  # type: ignore[arg-type]

    return make
