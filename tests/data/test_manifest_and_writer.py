from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from small_corpora import clip_motion, clip_music, write_corpus

from datamodules.streams.dataset import MotionSamples
from datamodules.streams.manifest import load_manifest
from datamodules.streams.samples import ClipMeta
from datamodules.streams.shards import open_shards
from datamodules.streams.writer import CorpusWriter
from macedance.errors import DataError
from macedance.motion.representation import encode_motion

MakeCorpus = Callable[..., Path]


def rewrite_manifest(folder: Path, change: Callable[[dict], None]) -> None:
    data = json.loads((folder / "manifest.json").read_text())
    change(data)
    (folder / "manifest.json").write_text(json.dumps(data))


def test_manifest_describes_every_shard(corpus: Path) -> None:
    manifest = load_manifest(corpus)
    assert manifest.num_samples == 31
    assert [split.samples for split in manifest.splits.values()] == [23, 5, 3]
    assert len(manifest.splits["train"].shards) == 6
    assert manifest.genres == ("house", "waack")
    assert manifest.representation == "edge-151-zup"
    for split in manifest.splits.values():
        for shard in split.shards:
            raw = (corpus / shard.file).read_bytes()
            assert (len(raw), hashlib.sha256(raw).hexdigest()) == (shard.bytes, shard.sha256)
    train = MotionSamples(open_shards(corpus))
    assert manifest.splits["train"].frames == sum(train[n].motion.num_frames for n in range(len(train)))


def test_samples_come_back_as_written(corpus: Path) -> None:
    samples = MotionSamples(open_shards(corpus, split="val"))
    sample = samples[2]
    expected = clip_motion(25, 20 + 7 * 25 % 25, "waack")
    assert sample.key == "val-025"
    np.testing.assert_array_equal(sample.motion.poses, expected.poses)
    np.testing.assert_array_equal(sample.motion.trans, expected.trans)
    np.testing.assert_array_equal(sample.music_TC, clip_music(25, expected.num_frames))
    np.testing.assert_allclose(sample.motion.music_beats_s, expected.music_beats_s)
    assert sample.meta == ClipMeta("val-song-12", "dancer-1", 12.5)
    assert (sample.motion.genre, sample.motion.licence, sample.motion.song) == ("waack", "CC0", "val-song-12")


def test_webdataset_reads_the_shards(corpus: Path) -> None:
    shard = str(corpus / "train" / "000000.tar")
    decoded = list(wds.WebDataset([shard], shardshuffle=False).decode())
    assert [sample["__key__"] for sample in decoded] == [f"train-{n:03d}" for n in range(4)]
    np.testing.assert_array_equal(decoded[1]["poses.npy"], clip_motion(1, 27).poses)
    assert decoded[1]["meta.json"]["genre"] == "waack"


def test_normaliser_is_fitted_on_train_only(corpus: Path) -> None:
    motion, music = load_manifest(corpus).normalizers()
    frames = []
    for n in range(23):
        clip = clip_motion(n, 20 + 7 * n % 25)
        frames.append(encode_motion(torch.from_numpy(clip.poses), torch.from_numpy(clip.trans), 30.0))
    everything = torch.cat(frames)
    torch.testing.assert_close(motion.minimum, everything.amin(0))
    torch.testing.assert_close(motion.maximum, everything.amax(0))
    assert float(motion.maximum[4]) < 23.1  # trans x of clip n is n: val and test clips lie above
    assert float(music.maximum[0]) == 43.0


def test_two_writings_have_equal_hashes(tmp_path: Path) -> None:
    first, second = (load_manifest(write_corpus(tmp_path / name)) for name in "ab")
    assert first == second
    assert first.sha256 == second.sha256


def test_split_folder_opens_that_split(corpus: Path) -> None:
    assert open_shards(corpus).split == "train"
    shards = open_shards(corpus / "val")
    assert (shards.split, shards.info.samples) == ("val", 5)


def test_verify_finds_a_flipped_bit_that_sizes_miss(make_corpus: MakeCorpus) -> None:
    folder = make_corpus()
    shard = folder / "train" / "000002.tar"
    raw = bytearray(shard.read_bytes())
    raw[5000] ^= 1
    shard.write_bytes(raw)
    open_shards(folder)
    with pytest.raises(DataError, match=r"train/000002.tar has another sha256"):
        open_shards(folder, verify=True)


def test_missing_and_cut_shards_are_listed_in_one_error(make_corpus: MakeCorpus) -> None:
    folder = make_corpus()
    (folder / "train" / "000001.tar").unlink()
    cut = folder / "train" / "000004.tar"
    cut.write_bytes(cut.read_bytes()[:4096])
    with pytest.raises(DataError) as caught:
        open_shards(folder)
    message = str(caught.value)
    assert "2 of 6 shards" in message
    assert "train/000001.tar is missing" in message
    assert "train/000004.tar has 4096 bytes" in message
    assert "\n" not in message
    open_shards(folder, split="val")


@pytest.mark.parametrize("empty", [True, False])
def test_folder_without_manifest_is_refused(tmp_path: Path, make_corpus: MakeCorpus, empty: bool) -> None:
    folder = tmp_path / "empty" if empty else make_corpus()
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(DataError, match="a shard set without manifest") as caught:
        open_shards(folder if empty else folder / "train")
    assert caught.value.exit_code == 2


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_shards(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(schema=2), "another kind"),
        (lambda data: data.pop("format"), "another kind"),
        (lambda data: data.pop("normalizer"), "lacks a field"),
        (lambda data: data["normalizer"].update(music={}), "not a normaliser"),
        (lambda data: data["splits"]["train"]["shards"][0].update(file="../../etc/x.tar"), "leaves the corpus"),
        (lambda data: data["splits"]["train"]["shards"][0].update(sha256="../../x"), "sha256 of train/000000.tar"),
        (lambda data: data["splits"]["train"].update(samples=99), "do not add up"),
        (lambda data: data.update(fps=0), "fps is 0"),
        (lambda data: data.update(splits=[]), "lacks a field"),
    ],
)
def test_foreign_manifest_is_refused(make_corpus: MakeCorpus, change: Callable[[dict], None], message: str) -> None:
    folder = make_corpus(train=4, val=0, test=0)
    rewrite_manifest(folder, change)
    with pytest.raises(DataError, match=message) as caught:
        open_shards(folder)
    assert "manifest.json" in str(caught.value)


def test_manifest_that_is_not_json_is_refused(make_corpus: MakeCorpus) -> None:
    folder = make_corpus(train=4, val=0, test=0)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        open_shards(folder)


def test_absent_split_is_named_with_its_reason(make_corpus: MakeCorpus) -> None:
    folder = make_corpus(train=4, val=0, test=2)
    assert load_manifest(folder).absent_splits == {"val": "no clips"}
    with pytest.raises(DataError, match=r"no 'val' split \(no clips\).*\['test', 'train'\]"):
        open_shards(folder, split="val")


def test_exception_inside_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted() -> None:
        with CorpusWriter(tmp_path / "out") as writer:
            writer.add("train", "a", clip_motion(0, 20), clip_music(0, 20), ClipMeta("s"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_corpus_without_training_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training clips"), CorpusWriter(tmp_path / "out") as writer:
        writer.add("val", "a", clip_motion(0, 20), clip_music(0, 20), ClipMeta("s"))
    assert list(tmp_path.iterdir()) == []


def test_non_empty_target_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="exists and is not empty"):
        CorpusWriter(tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_empty_target_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_corpus(tmp_path / "out", train=2, val=0, test=0)
    assert load_manifest(tmp_path / "out").num_samples == 2


def test_target_that_fills_up_meanwhile_is_refused(tmp_path: Path) -> None:
    def overtaken() -> None:
        with CorpusWriter(tmp_path / "out") as writer:
            writer.add("train", "a", clip_motion(0, 20), clip_music(0, 20), ClipMeta("s"))
            write_corpus(tmp_path / "out", train=2, val=0, test=0)

    with pytest.raises(DataError, match="not empty"):
        overtaken()
    assert load_manifest(tmp_path / "out").num_samples == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_unwritable_target_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written") as caught, CorpusWriter(tmp_path / "file" / "out"):
        pass
    assert caught.value.exit_code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_without_permission_is_one_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot be written"), CorpusWriter(tmp_path / "out"):
        pass


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "x" * 81, "é"])
def test_key_that_webdataset_would_split_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match="cannot name a sample"), CorpusWriter(tmp_path / "out") as writer:
        writer.add("train", key, clip_motion(0, 20), clip_music(0, 20), ClipMeta("s"))


def test_clips_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    motion, music, meta = clip_motion(0, 20), clip_music(0, 20), ClipMeta("s")
    nan = music.copy()
    nan[3, 3] = np.nan
    with CorpusWriter(tmp_path / "out") as writer:
        writer.add("train", "a", motion, music, meta)
        for message, arguments in {
            "one key": ("train", "a", motion, music, meta),
            "no split": ("dev", "b", motion, music, meta),
            "in 'train' already": ("val", "b", motion, music, meta),
            "19 rows": ("train", "b", motion, music[:-1], meta),
            "shape": ("train", "b", motion, music[:, :34], meta),
            "not finite": ("train", "b", motion, nan, meta),
            "60.0 frames": ("train", "b", motion.resampled(60.0), music, meta),
        }.items():
            with pytest.raises(DataError, match=message):
                writer.add(*arguments)
    assert load_manifest(tmp_path / "out").num_samples == 1


def test_genres_are_listed_and_missing_ones_named(tmp_path: Path, make_corpus: MakeCorpus) -> None:
    assert load_manifest(make_corpus(train=4, val=0, test=0, genres=False)).genres == ()
    with CorpusWriter(tmp_path / "out") as writer:
        for number, genre in enumerate(("waack", None)):
            motion = clip_motion(number, 20, genre)
            writer.add("train", f"k{number}", motion, clip_music(0, 20), ClipMeta("s"))
    assert load_manifest(tmp_path / "out").genres == ("unknown", "waack")
