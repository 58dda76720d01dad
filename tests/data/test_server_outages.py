"""Servers that fail while a run goes on: what speaks against a sample, what only against the network."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from faulty_server import QUICK, Behaviour
from test_quarantine import module as recording

from datamodules.streams.quarantine import substitute
from datamodules.streams.shard_cache import ShardCache
from datamodules.streams.shards import open_shards
from macedance.errors import ConfigError, DataError, TransportError

SHARD = "000001.tar"


@pytest.fixture(autouse=True)
def own_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACEDANCE_CACHE", str(tmp_path / "user-cache"))


@pytest.mark.parametrize(("fault", "reason"), [("404", "no such file"), ("flip", "cannot be fetched: its sha256")])
def test_a_shard_that_a_server_loses_mid_run(
    server: tuple[str, Behaviour, Path], tmp_path: Path, fault: str, reason: str
) -> None:
    """Its samples are replaced and recorded, the epoch keeps its length: the file is not there, or wrong."""
    url, behaviour, folder = server
    open_shards(folder).index()  # published: nothing is fetched before it is needed
    data = recording(url, num_workers=2, cache_dir=str(tmp_path / "kept"), fetch_tries=2, fetch_timeout_s=0.3)
    assert data.samples_per_epoch == 20
    behaviour.always[SHARD] = fault
    batches = list(islice(iter(data.train_dataloader()), 10))
    assert [p for batch in batches for p in batch["position"].tolist()] == list(range(40))
    events = [event for batch in batches for event in batch["quarantined"]]
    lost = {f"{url}/train/{SHARD}:train-{number:03d}" for number in range(4, 8)}
    assert {event["sample"] for event in events} == lost
    assert all(reason in event["reason"] for event in events)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_goes_away_mid_run_is_no_fault_of_the_samples(
    server: tuple[str, Behaviour, Path], tmp_path: Path, workers: int
) -> None:
    """Other samples in their place would make the run another one: it ends, and may be started again."""
    url, behaviour, folder = server
    open_shards(folder).index()
    data = recording(url, num_workers=workers, cache_dir=str(tmp_path / "kept"), fetch_tries=2, fetch_timeout_s=0.3)
    assert data.samples_per_epoch == 20
    behaviour.always[SHARD] = "503"
    with pytest.raises(TransportError, match="the server answers 503, after 2 tries") as caught:
        list(islice(iter(data.train_dataloader()), 10))
    assert caught.value.exit_code == 76


def test_a_substitute_that_cannot_be_fetched_is_not_passed_over(
    server: tuple[str, Behaviour, Path], tmp_path: Path
) -> None:
    url, behaviour, folder = server
    open_shards(folder).index()
    data = recording(url, cache_dir=str(tmp_path / "kept"), fetch_tries=1, fetch_timeout_s=0.3)
    windows = data.train_dataloader().dataset
    for number in range(6):
        behaviour.always[f"{number:06d}.tar"] = "503"
    error = DataError("is faulty")
    with pytest.raises(TransportError):
        substitute(windows.samples, windows.order, 0, error, windows.samples.__getitem__)


def test_one_process_asks_a_server_about_its_shards(
    server: tuple[str, Behaviour, Path], tmp_path: Path, cache: ShardCache
) -> None:
    url, behaviour, folder = server
    open_shards(folder).index()
    open_shards(url, check=False, cache=cache).index()
    assert behaviour.asked(".tar", "HEAD") == 6
    for rank in range(3):
        another = ShardCache(tmp_path / f"cache-{rank}", 10**9, QUICK)
        assert len(open_shards(url, check=False, cache=another).index()) == 23
    assert behaviour.asked(".tar", "HEAD") == 6
    with pytest.raises(ConfigError, match=r"data\.cache_gb"):
        open_shards(url, check=False, cache=ShardCache(tmp_path / "tiny", 100, QUICK)).index()
    # Another manifest is another question.
    (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes() + b"\n")
    (folder / "train" / SHARD).unlink()
    with pytest.raises(DataError, match=r"1 of 6 shards.*is missing"):
        open_shards(url, check=False, cache=cache).index()
