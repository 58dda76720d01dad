"""Corpora on servers: fetched once, verified, kept within a limit, through every way in which a server fails."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from faulty_server import QUICK, Behaviour

from datamodules.motion import MotionDataModule
from datamodules.streams import remote as remote_module
from datamodules.streams.dataset import MotionSamples
from datamodules.streams.index_file import INDEX_NAME
from datamodules.streams.mixture import MixtureSource
from datamodules.streams.reader import Prefetcher
from datamodules.streams.shard_cache import RemoteShard, ShardCache
from datamodules.streams.shards import open_shards
from datamodules.streams.transport import (
    FsspecTransport,
    HttpTransport,
    MissingFile,
    Patience,
    RefusedFile,
    join_url,
    parent_url,
    retrying,
    shown,
    transport_for,
)
from macedance.errors import ConfigError, DataError, DependencyError, TransportError

MakeCorpus = Callable[..., Path]
SHARD = "000001.tar"


@pytest.fixture(autouse=True)
def own_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACEDANCE_CACHE", str(tmp_path / "user-cache"))


def remote_shard(url: str, folder: Path, number: int = 1) -> RemoteShard:
    entry = open_shards(folder).info.shards[number]
    return RemoteShard(f"{url}/{entry.file}", entry.bytes, entry.sha256)


def test_a_served_corpus_is_the_local_one(server: tuple[str, Behaviour, Path], cache: ShardCache) -> None:
    url, behaviour, folder = server
    local, remote = MotionSamples(open_shards(folder)), MotionSamples(open_shards(url, cache=cache))
    assert len(local) == len(remote) == 23
    for number in range(23):
        one, other = local[number], remote[number]
        assert one.key == other.key
        np.testing.assert_array_equal(one.motion.poses, other.motion.poses)
        np.testing.assert_array_equal(one.music_TC, other.music_TC)
    assert remote.where(4) == f"{url}/train/{SHARD}:train-004"
    assert all(behaviour.asked(f"train/{n:06d}.tar") == 1 for n in range(6))
    assert behaviour.asked("val/000000.tar") == 0
    again = MotionSamples(open_shards(url, cache=cache))
    assert again[7].key == "train-007"
    assert all(behaviour.asked(f"train/{n:06d}.tar") == 1 for n in range(6))


def test_a_split_is_named_by_its_folder(server: tuple[str, Behaviour, Path], cache: ShardCache) -> None:
    shards = open_shards(f"{server[0]}/val/", cache=cache)
    assert (shards.split, shards.info.samples) == ("val", 5)
    assert open_shards(f"file://{server[2]}").files == open_shards(server[2]).files


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_a_server_is_training_on_the_folder(
    server: tuple[str, Behaviour, Path], tmp_path: Path, workers: int
) -> None:
    url, _, folder = server
    seen = []
    for shards in (url, str(folder)):
        data = MotionDataModule(
            shards, global_batch_size=8, window_frames=20, num_workers=workers, cache_dir=str(tmp_path / "kept")
        )
        batches = list(islice(iter(data.train_dataloader()), 5))
        seen.append([(batch["keys"], batch["poses"].sum().item()) for batch in batches])
        assert [clip.key for clip in data.clips("val")] == [f"val-{n:03d}" for n in range(23, 28)]
    assert seen[0] == seen[1]


def test_validation_on_a_server(server: tuple[str, Behaviour, Path], corpus: Path, tmp_path: Path) -> None:
    for val, count in ((server[0], 5), (f"{server[0]}/test", 3), (f"{server[0]}/train", 23)):
        data = MotionDataModule(str(corpus), val_shards=val, cache_dir=str(tmp_path / "kept"))
        assert len(data.clips("val")) == count


# ---------------------------------------------------------------- faults of the server
@pytest.mark.parametrize("fault", ["drop", "stall", "cut", "flip", "503", "429"])
def test_a_fault_that_passes_is_tried_again(server: tuple[str, Behaviour, Path], cache: ShardCache, fault: str) -> None:
    url, behaviour, folder = server
    behaviour.faults[SHARD] = [fault, fault]
    shard = remote_shard(url, folder)
    os.close(cache.open(shard))
    assert cache.path(shard).read_bytes() == (folder / "train" / SHARD).read_bytes()
    assert behaviour.asked(SHARD) == 3
    assert [path.suffix for path in cache.folder.iterdir() if path.suffix != ".lock"] == [".tar"]


def test_a_broken_connection_goes_on_where_it_stopped(server: tuple[str, Behaviour, Path], cache: ShardCache) -> None:
    url, behaviour, folder = server
    behaviour.faults[SHARD] = ["drop"]
    shard = remote_shard(url, folder)
    cache.fetch(shard)
    asked = [wanted for _, path, wanted in behaviour.requests if path.endswith(SHARD)]
    assert asked == [None, f"bytes={shard.bytes // 2}-"]


@pytest.mark.parametrize("fault", ["drop", "stall", "trickle", "cut", "flip", "500"])
def test_a_fault_that_stays_is_one_clear_error(
    server: tuple[str, Behaviour, Path], cache: ShardCache, fault: str
) -> None:
    url, behaviour, folder = server
    # A trickle would go on for ever: its speed counts.
    behaviour.always[SHARD] = fault
    behaviour.ranges = False
    started = time.monotonic()
    with pytest.raises(DataError, match="after 3 tries") as caught:
        cache.open(remote_shard(url, folder))
    # Wrong bytes speak against the sample; a server that does not answer does not.
    assert isinstance(caught.value, TransportError) == (fault not in ("cut", "flip"))
    assert time.monotonic() - started < 8
    assert f"{url}/train/{SHARD}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [path for path in cache.folder.iterdir() if path.suffix in (".tar", ".part")]


@pytest.mark.parametrize("status", ["403", "404", "401"])
def test_a_refusal_is_not_tried_again(server: tuple[str, Behaviour, Path], cache: ShardCache, status: str) -> None:
    url, behaviour, folder = server
    behaviour.always[SHARD] = status
    with pytest.raises(DataError, match=r"no such file|server answers"):
        cache.open(remote_shard(url, folder))
    assert behaviour.asked(SHARD) == 1


def test_a_server_without_ranges_serves(server: tuple[str, Behaviour, Path], cache: ShardCache) -> None:
    url, behaviour, folder = server
    behaviour.ranges = False
    behaviour.faults[SHARD] = ["drop"]
    shard = remote_shard(url, folder)
    cache.fetch(shard)
    assert cache.path(shard).read_bytes() == (folder / "train" / SHARD).read_bytes()
    raw = (folder / "manifest.json").read_bytes()
    assert HttpTransport(1.0).read(f"{url}/manifest.json", 10, 30) == raw[10:30]


def test_a_server_without_head_says_its_sizes(server: tuple[str, Behaviour, Path], cache: ShardCache) -> None:
    url, behaviour, _ = server
    behaviour.head = False
    assert len(open_shards(url, cache=cache).index()) == 23


def test_nobody_there(cache: ShardCache) -> None:
    with pytest.raises(TransportError, match="after 3 tries"):
        open_shards("http://127.0.0.1:1/corpus", cache=cache)


def test_a_store_that_forbids_what_it_does_not_have(
    server: tuple[str, Behaviour, Path], cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = HttpTransport.read

    def forbidding(self: HttpTransport, url: str, start: int, stop: int | None) -> bytes:
        try:
            return real(self, url, start, stop)
        except MissingFile as error:
            raise RefusedFile("the server answers 403 Forbidden", where=url) from error

    monkeypatch.setattr(HttpTransport, "read", forbidding)
    assert open_shards(f"{server[0]}/val", cache=cache).split == "val"
    with pytest.raises(DataError, match="403"):
        open_shards(f"{server[0]}/no/where", cache=cache)


def test_a_shard_of_another_user_is_read(
    server: tuple[str, Behaviour, Path], cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = remote_shard(server[0], server[2])

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    descriptor = cache.open(shard)
    assert len(os.read(descriptor, shard.bytes + 1)) == shard.bytes
    os.close(descriptor)


def test_rows_are_the_same_in_a_spawned_worker(server: tuple[str, Behaviour, Path], tmp_path: Path) -> None:
    """Which gets everything by pickle."""
    sources = [MixtureSource(server[0], 1), MixtureSource(str(server[2]), 2)]
    data = MotionDataModule(mixture=sources, global_batch_size=4, window_frames=20, cache_dir=str(tmp_path / "kept"))
    windows = data.train_dataloader().dataset
    copy = pickle.loads(pickle.dumps(windows))
    for position in range(0, 40, 3):
        one, other = windows[position], copy[position]
        assert one["key"] == other["key"]
        np.testing.assert_array_equal(one["poses"], other["poses"])


def test_no_corpus_there(server: tuple[str, Behaviour, Path], cache: ShardCache) -> None:
    with pytest.raises(DataError, match="a shard set without manifest"):
        open_shards(f"{server[0]}/music/nowhere", cache=cache)


def test_all_missing_and_changed_shards_are_in_one_error(
    server: tuple[str, Behaviour, Path], cache: ShardCache
) -> None:
    url, _, folder = server
    (folder / "train" / "000001.tar").unlink()
    cut = folder / "train" / "000004.tar"
    cut.write_bytes(cut.read_bytes()[:4096])
    with pytest.raises(DataError) as caught:
        open_shards(url, cache=cache)
    for part in ("2 of 6 shards", "train/000001.tar is missing", "train/000004.tar has 4096 bytes"):
        assert part in str(caught.value)


def test_a_shard_that_changed_on_the_server_is_refused(server: tuple[str, Behaviour, Path], cache: ShardCache) -> None:
    url, _, folder = server
    shard = folder / "train" / SHARD
    shard.write_bytes(shard.read_bytes()[::-1])
    with pytest.raises(DataError, match=r"1 of 6 shards.*train/000001\.tar.*sha256 is not the manifest's"):
        open_shards(url, cache=cache).index()


def test_secrets_stay_out_of_messages(server: tuple[str, Behaviour, Path], cache: ShardCache) -> None:
    url, behaviour, _ = server
    behaviour.always["manifest.json"] = "403"
    with pytest.raises(DataError) as caught:
        open_shards(url.replace("//", "//me:hush@") + "?token=hush", cache=cache)
    assert "hush" not in str(caught.value)


def test_a_signed_address_keeps_its_query(server: tuple[str, Behaviour, Path], cache: ShardCache) -> None:
    assert len(open_shards(f"{server[0]}/?token=a", cache=cache).index()) == 23
    assert join_url("https://h/c/?t=1", "train/a.tar") == "https://h/c/train/a.tar?t=1"
    assert parent_url("https://h/c/val/?t=1") == ("https://h/c?t=1", "val")
    assert shown("https://me:x@h/c?t=1") == "https://h/c"


# ---------------------------------------------------------------- the index
def test_the_published_index_spares_the_scan(
    server: tuple[str, Behaviour, Path], cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, behaviour, folder = server
    local = open_shards(folder).index()
    assert (folder / "train" / INDEX_NAME).is_file()
    monkeypatch.setattr(remote_module.RemoteFolder, "scan", lambda *_: pytest.fail("scanned"))
    remote = open_shards(url, cache=cache).index()
    np.testing.assert_array_equal(local.offsets_N, remote.offsets_N)
    assert behaviour.asked(SHARD) == 0
    behaviour.always[INDEX_NAME] = "404"
    assert len(open_shards(url, cache=cache).index()) == 23, "kept in the cache folder"


def test_a_published_index_of_other_shards_is_not_believed(
    server: tuple[str, Behaviour, Path], cache: ShardCache, make_corpus: MakeCorpus
) -> None:
    url, _, folder = server
    other = make_corpus("other", clips_per_shard=3)
    open_shards(other).index()
    shutil.copy(other / "train" / INDEX_NAME, folder / "train" / INDEX_NAME)
    assert len(open_shards(url, cache=cache).index()) == 23


def test_large_samples_are_indexed_by_ranges(
    server: tuple[str, Behaviour, Path], cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, behaviour, folder = server
    monkeypatch.setattr(remote_module, "_LARGE_SAMPLE", 0)
    monkeypatch.setattr(remote_module, "_READ_AHEAD", 1024)
    behaviour.faults[SHARD] = ["drop"]
    remote = open_shards(url, cache=cache).index()
    np.testing.assert_array_equal(remote.sizes_N, open_shards(folder).index().sizes_N)
    assert all(wanted for _, path, wanted in behaviour.requests if path.endswith(".tar") and wanted is not None)
    assert not list(cache.folder.glob("*.tar"))


# ---------------------------------------------------------------- the cache
def test_the_cache_drops_what_was_used_longest_ago(server: tuple[str, Behaviour, Path], tmp_path: Path) -> None:
    url, _, folder = server
    shards = [remote_shard(url, folder, number) for number in range(4)]
    cache = ShardCache(tmp_path / "small", sum(s.bytes for s in shards[:3]), QUICK)
    for shard in shards[:3]:
        os.close(cache.open(shard))
        time.sleep(0.01)
    os.close(cache.open(shards[0]))
    os.close(cache.open(shards[3]))
    assert [cache.holds(shard) for shard in shards] == [True, False, True, True]
    assert sum(path.stat().st_size for path in cache.folder.glob("*.tar")) <= cache.limit_bytes


def test_a_shard_being_read_is_never_dropped(
    server: tuple[str, Behaviour, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, _, folder = server
    shards = [remote_shard(url, folder, number) for number in range(3)]
    cache = ShardCache(tmp_path / "small", max(shard.bytes for shard in shards) + 10, QUICK)
    held = cache.open(shards[0])
    os.close(cache.open(shards[1]))
    assert cache.holds(shards[0])
    assert "more than data.cache_gb allows" in caplog.text
    os.close(held)
    os.close(cache.open(shards[2]))
    assert [cache.holds(shard) for shard in shards] == [False, False, True]


def test_training_goes_on_in_a_cache_for_one_shard(server: tuple[str, Behaviour, Path], tmp_path: Path) -> None:
    url, _, folder = server
    largest = max(shard.bytes for shard in open_shards(folder).info.shards)
    samples = MotionSamples(open_shards(url, cache=ShardCache(tmp_path / "small", largest + 10, QUICK)), cache_mb=0)
    for number in np.random.default_rng(0).permutation(23):
        assert samples[int(number)].key == f"train-{number:03d}"


def test_a_shard_larger_than_the_cache_is_one_clear_error(server: tuple[str, Behaviour, Path], tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "tiny", 100, QUICK)
    with pytest.raises(ConfigError, match=r"data\.cache_gb"):
        cache.open(remote_shard(server[0], server[2]))
    with pytest.raises(ConfigError, match=r"data\.cache_gb"):
        open_shards(server[0], cache=cache)


def test_a_damaged_file_in_the_cache_is_fetched_again(server: tuple[str, Behaviour, Path], cache: ShardCache) -> None:
    url, behaviour, folder = server
    shard = remote_shard(url, folder)
    cache.fetch(shard)
    cache.path(shard).write_bytes(b"short")
    os.close(cache.open(shard))
    assert cache.path(shard).stat().st_size == shard.bytes
    assert behaviour.asked(SHARD) == 2


def test_leftovers_of_a_killed_process_go(server: tuple[str, Behaviour, Path], cache: ShardCache) -> None:
    url, _, folder = server
    cache.folder.mkdir()
    leftover = cache.folder / ".abc.1.part"
    leftover.write_bytes(b"x" * 100)
    cache.fetch(remote_shard(url, folder))
    assert not leftover.exists()


def test_a_cache_that_cannot_be_written_is_named(server: tuple[str, Behaviour, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"data\.cache_dir"):
        ShardCache(tmp_path / "file" / "cache", 10**9, QUICK).open(remote_shard(server[0], server[2]))


def _open_all(cache: ShardCache, shards: list[RemoteShard], failures: multiprocessing.Queue[str]) -> None:
    try:
        for _ in range(3):
            for shard in shards:
                descriptor = cache.open(shard)
                assert len(os.read(descriptor, shard.bytes + 1)) == shard.bytes
                os.close(descriptor)
    except BaseException as error:
        failures.put(repr(error))


def test_processes_share_one_cache(server: tuple[str, Behaviour, Path], tmp_path: Path) -> None:
    """Each shard is fetched once for all while there is room; with room for two nobody reads half a shard."""
    url, behaviour, folder = server
    shards = [remote_shard(url, folder, number) for number in range(5)]
    context = multiprocessing.get_context("fork")
    for limit in (10**9, 2 * max(shard.bytes for shard in shards)):
        behaviour.requests.clear()
        failures = context.Queue()
        cache = ShardCache(tmp_path / str(limit), limit, Patience(timeout_s=5))
        processes = [context.Process(target=_open_all, args=(cache, shards, failures)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(30)
        assert [process.exitcode for process in processes] == [0, 0, 0]
        assert failures.empty()
        if limit == 10**9:
            assert [behaviour.asked(f"train/{n:06d}.tar") for n in range(5)] == [1] * 5


def test_the_next_shards_are_fetched_ahead(server: tuple[str, Behaviour, Path], cache: ShardCache) -> None:
    url, _, _ = server
    shards = open_shards(url, cache=cache).shards
    ahead = Prefetcher(shards)
    ahead.want([2, 0])
    deadline = time.monotonic() + 10
    while not all(cache.holds(shards[n].remote) for n in (2, 0)) and time.monotonic() < deadline:  # type: ignore[union-attr]
        time.sleep(0.01)
    assert [cache.holds(shard.remote) for shard in shards[:3]] == [True, False, True]  # type: ignore[union-attr]


def test_a_lost_shard_is_not_waited_for_at_every_sample(server: tuple[str, Behaviour, Path], cache: ShardCache) -> None:
    url, behaviour, folder = server
    open_shards(folder).index()
    samples = MotionSamples(open_shards(url, cache=cache))
    behaviour.always[SHARD] = "404"
    for number in (4, 5, 6):
        with pytest.raises(DataError, match="no such file on the server"):
            samples[number]
    assert behaviour.asked(SHARD) == 1


# ---------------------------------------------------------------- other kinds of addresses
def test_fsspec_file_systems(corpus: Path, cache: ShardCache) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for file in ("manifest.json", *(shard.file for shard in open_shards(corpus).info.shards)):
        memory.pipe(f"/bucket/corpus/{file}", (corpus / file).read_bytes())
    samples = MotionSamples(open_shards("memory://bucket/corpus", cache=cache))
    assert samples[9].key == "train-009"
    assert samples.where(9).startswith("memory://bucket/corpus/train/000002.tar:")
    memory.rm("/bucket/corpus/train/000002.tar")
    shutil.rmtree(cache.folder)
    with pytest.raises(DataError, match=r"train/000002\.tar is missing"):
        open_shards("memory://bucket/corpus", cache=cache)


def test_fsspec_fault_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    transport, calls = FsspecTransport("memory", 1.0), []

    def failing(*_: object) -> int:
        calls.append(1)
        raise ConnectionResetError("gone")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", failing)
    with pytest.raises(TransportError, match="ConnectionResetError gone, after 3 tries"):
        retrying(lambda: transport.size("memory://a/b"), "memory://a/b", QUICK)
    assert len(calls) == 3


@pytest.mark.parametrize(("url", "package"), [("s3://b/c", "s3fs"), ("gs://b/c", "gcsfs")])
def test_a_store_whose_package_is_missing_is_named(
    url: str, package: str, cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=rf"'{package}'.*pip install {package}") as caught:
        open_shards(url, cache=cache)
    assert caught.value.exit_code == 2


def test_an_unknown_kind_of_address_is_refused(cache: ShardCache) -> None:
    with pytest.raises(ConfigError, match="nothing reads carrier-pigeon://"):
        transport_for("carrier-pigeon://b/c", 1.0)


def test_music_is_fetched_when_it_is_asked_for(server: tuple[str, Behaviour, Path], tmp_path: Path) -> None:
    url, behaviour, folder = server
    (folder / "music").mkdir()
    (folder / "music" / "train-song-0.flac").write_bytes(b"fLaC")
    data = MotionDataModule(url, cache_dir=str(tmp_path / "kept"))
    for _ in range(2):
        path = data.music_file("train-song-0")
        assert path is not None
        assert path.read_bytes() == b"fLaC"
    assert behaviour.asked("train-song-0.flac") == 1
    assert data.music_file("no-song") is None
    assert data.music_file("../../secret") is None


def test_missing_file_is_a_data_error() -> None:
    assert issubclass(MissingFile, DataError)


@pytest.mark.parametrize("options", [{"cache_gb": 0.0}, {"fetch_tries": 0}, {"fetch_timeout_s": 0.0}])
def test_impossible_cache_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        MotionDataModule("http://h/c", **options)  # type: ignore[arg-type]
