"""Runs of several processes: the zygote that forks their ranks, and the corpus they train on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from dist_runs import SMALL, STRATEGIES, DistRun
from zygote import ROOT, Zygote

HERE = Path(__file__).resolve().parent
MakeRun = Callable[..., DistRun]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder starts several processes."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.dist)


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard() -> None:
    """A job in a shell's background starts with Ctrl-C ignored, and so would every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def dist_corpus(own_cache: None) -> Path:
    """36 training clips and a few for validation: nine global batches of four an epoch."""
    from datamodules.corpora import cached_demo_corpus

    return cached_demo_corpus(num_clips=52, seed=0, workers=2)


@pytest.fixture(scope="session")
def zygote(own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """The process that ranks are forked from."""
    import os

    process = Zygote(tmp_path_factory.mktemp("zygote") / "log.txt", Path(os.environ["MACEDANCE_CACHE"]))
    yield process
    process.close()


@pytest.fixture(scope="session")
def make_run(zygote: Zygote, dist_corpus: Path) -> MakeRun:
    """Makes a run of a cell: `make_run(folder, "zero2", ranks=2, arguments=[...])`."""

    def make(folder: Path, kind: str = "single", *, ranks: int | None = None, arguments: Sequence[str] = ()) -> DistRun:
        count = ranks if ranks is not None else 1 if kind == "single" else 2
        own = [*SMALL, *STRATEGIES[kind], f"--data.shards={dist_corpus}", *arguments]
        return DistRun(zygote, folder, own, ranks=count, launcher=kind != "single")

    return make


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT
