from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_corpora import clip_motion, clip_music

from datamodules.streams import index as index_module
from datamodules.streams.dataset import MotionSamples
from datamodules.streams.index import build_index
from datamodules.streams.index_file import INDEX_NAME
from datamodules.streams.keys import safe_key
from datamodules.streams.reader import ShardReader
from datamodules.streams.samples import ClipMeta, MotionSample, decode_sample, encode_members, split_members
from datamodules.streams.shards import open_shards
from macedance.errors import DataError

MakeCorpus = Callable[..., Path]


def members() -> dict[str, bytes]:
    return encode_members(MotionSample("k", clip_motion(0, 20), clip_music(0, 20), ClipMeta("song")))


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def write_tar(path: Path, items: dict[str, bytes], **options: object) -> Path:
    with tarfile.open(path, "w", **options) as archive:  # type: ignore[call-overload]
        for name, data in items.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def count_scans(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    scanned: list[Path] = []
    scan = index_module.scan_shard
    monkeypatch.setattr(index_module, "scan_shard", lambda path: scanned.append(path) or scan(path))
    return scanned


def test_index_agrees_with_tarfile(corpus: Path) -> None:
    files = open_shards(corpus).files
    index = build_index(files)
    expected = []
    for shard, file in enumerate(files):
        with tarfile.open(file) as archive:
            expected += [(shard, m.name.split(".")[0], m.offset) for m in archive if m.name.endswith(".meta.json")]
    assert [(index.locate(n)[0], index.key(n), index.locate(n)[1]) for n in range(len(index))] == expected
    assert index.where(5) == f"{files[1]}:train-005"


def test_index_stays_small(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", {f"sequence-with-a-long-name-{n:06d}.meta.json": b"{}" for n in range(2000)})
    index = build_index([shard])
    assert len(index) == 2000
    assert index.nbytes / len(index) < 100


def test_index_is_cached_until_a_shard_changes(make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    files = open_shards(make_corpus()).files
    scanned = count_scans(monkeypatch)
    first = build_index(files)
    assert len(scanned) == 6
    second = build_index(files)
    assert len(scanned) == 6
    np.testing.assert_array_equal(first.offsets_N, second.offsets_N)
    np.testing.assert_array_equal(first.key_bytes_K, second.key_bytes_K)
    os.utime(files[3], ns=(1, 1))
    build_index(files)
    assert scanned[6:] == [files[3]]


@pytest.mark.parametrize("damage", [b"", b"not a zip", None])
def test_damaged_cache_costs_a_scan(make_corpus: MakeCorpus, damage: bytes | None) -> None:
    files = open_shards(make_corpus()).files
    first = build_index(files)
    cache = files[0].parent / INDEX_NAME
    cache.write_bytes(cache.read_bytes()[:-300] if damage is None else damage)
    np.testing.assert_array_equal(build_index(files).sizes_N, first.sizes_N)


def test_lying_cache_costs_a_scan(make_corpus: MakeCorpus) -> None:
    files = open_shards(make_corpus()).files
    first = build_index(files)
    cache = files[0].parent / INDEX_NAME
    with np.load(cache) as data:
        arrays = dict(data)
    arrays["sizes"] = arrays["sizes"] + np.uint32(10**9)
    with cache.open("wb") as stream:
        np.savez(stream, **arrays)
    np.testing.assert_array_equal(build_index(files).sizes_N, first.sizes_N)


def test_read_only_shards_are_cached_elsewhere(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = open_shards(make_corpus()).files
    blocked = files[0].parent / INDEX_NAME
    blocked.mkdir()  # stands in for a folder that cannot be written, also for root
    scanned = count_scans(monkeypatch)
    for _ in range(2):
        build_index(files, cache_dir=tmp_path / "cache")
    assert len(scanned) == 6
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 1


@pytest.mark.parametrize("keep", [0, 100, 700, 5000, -20000])
def test_truncated_tar_is_named(make_corpus: MakeCorpus, keep: int) -> None:
    shard = open_shards(make_corpus()).files[0]
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"truncated|damaged") as caught:
        build_index([shard])
    assert str(shard) in str(caught.value)


def test_tar_cut_within_its_last_member_is_named(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", {"k.a": b"x" * 3000})
    shard.write_bytes(shard.read_bytes()[: 512 + 2000])
    with pytest.raises(DataError, match="truncated"):
        build_index([shard])


def test_damaged_header_in_the_middle_is_no_silent_end(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", {"a.x": b"1", "b.x": b"1", "c.x": b"1"})
    raw = bytearray(shard.read_bytes())
    raw[1024 + 3] ^= 64
    shard.write_bytes(raw)
    with pytest.raises(DataError, match="damaged tar"):
        build_index([shard])


@pytest.mark.parametrize("name", ["../a.meta.json", "/a.meta.json", "a/b.meta.json", "noext", "a b.json"])
def test_member_that_escapes_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="refused member"):
        build_index([write_tar(tmp_path / "a.tar", {name: b"{}"})])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_member_that_is_no_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("a.meta.json")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(DataError, match="refused member"):
        build_index([tmp_path / "a.tar"])


def test_sample_in_two_places_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lie apart"):
        build_index([write_tar(tmp_path / "a.tar", {"a.x": b"1", "b.x": b"1", "a.y": b"1"})])


def test_no_shards_are_refused() -> None:
    with pytest.raises(DataError, match="no shards"):
        build_index([])


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_other_programs_are_read(tmp_path: Path, tar_format: int) -> None:
    path, items = tmp_path / "a.tar", members()
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name, data in items.items():
            member = tarfile.TarInfo(f"k.{name}")
            member.size, member.mtime = len(data), 1.5  # a fraction makes PAX write extended headers
            archive.addfile(member, io.BytesIO(data))
    index = build_index([path])
    block = ShardReader([path]).read(*index.locate(0))
    assert split_members(block, "a:k") == items


def test_sample_counts_must_match_the_manifest(make_corpus: MakeCorpus) -> None:
    folder = make_corpus(train=4, val=0, test=0)
    text = (folder / "manifest.json").read_text().replace('"samples": 4', '"samples": 5')
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="holds 4 samples"):
        MotionSamples(open_shards(folder))


def test_shard_that_shrinks_mid_run_is_named(make_corpus: MakeCorpus) -> None:
    samples = MotionSamples(open_shards(make_corpus()))
    shard = samples.shards.files[2]
    shard.write_bytes(b"")
    with pytest.raises(DataError, match="became shorter") as caught:
        samples[9]
    assert str(shard) in str(caught.value)


def test_shard_that_vanishes_mid_run_is_named(make_corpus: MakeCorpus) -> None:
    samples = MotionSamples(open_shards(make_corpus()))
    samples.shards.files[2].unlink()
    with pytest.raises(DataError, match="cannot be read"):
        samples[9]


def test_decoded_samples_are_kept_within_the_limit(corpus: Path) -> None:
    samples = MotionSamples(open_shards(corpus), cache_mb=0.05)
    one = samples[0]
    assert samples[0] is one
    for number in range(20):
        samples[number]
    assert samples._held_bytes <= 0.05 * 2**20
    assert samples[0] is not one
    assert sum(item.nbytes for item in samples._held.values()) == samples._held_bytes


def test_reader_keeps_few_files_open_and_survives_pickling(corpus: Path) -> None:
    samples = MotionSamples(open_shards(corpus), cache_mb=0)
    samples[0]
    copy = pickle.loads(pickle.dumps(samples))
    assert len(copy._reader._open) == 0
    np.testing.assert_array_equal(copy[7].motion.poses, samples[7].motion.poses)
    reader = ShardReader([samples.shards.files[n % 6] for n in range(40)])
    for number in range(40):
        reader.read(number, 0, 10)
    assert len(reader._open) <= 16


@pytest.mark.parametrize("cut", [100, 512, 600])
def test_sample_cut_short_is_named(cut: int, tmp_path: Path) -> None:
    block = write_tar(tmp_path / "a.tar", {"k.a": b"x" * 600}).read_bytes()
    with pytest.raises(DataError, match=r"s:k.*"):
        split_members(block[:cut], "s:k")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"poses.npy": None}, "lacks poses.npy"),
        ({"poses.npy": None, "meta.json": None}, "lacks poses.npy, meta.json"),
        ({"meta.json": b"{"}, "meta.json cannot be used"),
        ({"meta.json": b"[]"}, "meta.json cannot be used"),
        ({"meta.json": b"\xff\xfe"}, "meta.json cannot be used"),
        ({"meta.json": b"{}"}, "meta.json cannot be used"),
        ({"poses.npy": npy(np.full((20, 24, 3), np.nan))}, "NaN"),
        ({"trans.npy": npy(np.full((20, 3), np.inf))}, "NaN or infinite"),
        ({"music.npy": npy(np.full((20, 35), np.nan))}, "not finite"),
        ({"poses.npy": npy(np.zeros((20, 22, 3)))}, "shape"),
        ({"poses.npy": npy(np.zeros((19, 24, 3)))}, "19 frames, trans 20"),
        ({"trans.npy": npy(np.zeros((21, 3)))}, "trans 21"),
        ({"music.npy": npy(np.zeros((19, 35)))}, "19 rows"),
        ({"music.npy": npy(np.zeros((20, 438)))}, "shape"),
        ({"poses.npy": b"\x93NUMPY"}, "poses.npy cannot be used"),
        ({"poses.npy": b""}, "poses.npy cannot be used"),
        ({"poses.npy": npy(np.array([{"a": 1}], dtype=object))}, "poses.npy cannot be used"),
        ({"poses.npy": npy(np.zeros((20, 24, 3), complex))}, "poses.npy cannot be used"),
        ({"poses.npy": npy(np.zeros((0, 24, 3))), "trans.npy": npy(np.zeros((0, 3)))}, "0 frames"),
    ],
)
def test_sample_that_cannot_be_used_is_named(change: dict[str, bytes | None], message: str) -> None:
    changed = {name: data for name, data in {**members(), **change}.items() if data is not None}
    with pytest.raises(DataError, match=message) as caught:
        decode_sample(changed, "k", "shard.tar:k", 30.0)
    assert "shard.tar:k" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"fps": "fast"}, {"fps": 0}, {"fps": 25}, {"frames": 19}, {"genre": 3}, {"beats_s": [[1.0]]}, {"beats_s": ["a"]}],
)
def test_meta_that_contradicts_is_refused(change: dict[str, object]) -> None:
    changed = members()
    changed["meta.json"] = json.dumps({**json.loads(changed["meta.json"]), **change}).encode()
    with pytest.raises(DataError, match="s:k"):
        decode_sample(changed, "k", "s:k", 30.0)


def test_safe_key_keeps_to_the_allowed_characters() -> None:
    assert safe_key("a/b.c d") == "a__b-c-d"
    assert len(safe_key("x" * 200)) == 80
