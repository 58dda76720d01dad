"""Fixtures of the data room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty_server import QUICK, Behaviour, serving
from small_corpora import write_corpus

from datamodules.streams.shard_cache import ShardCache


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


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    """An empty cache of shards that gives a server up within a second."""
    return ShardCache(tmp_path / "cache", 10**9, QUICK)


@pytest.fixture
def server(make_corpus: Callable[..., Path]) -> Iterator[tuple[str, Behaviour, Path]]:
    """A served corpus: its URL, how the server behaves, its folder."""
    folder = make_corpus("served")
    with serving(folder) as (url, behaviour):
        yield url, behaviour, folder
