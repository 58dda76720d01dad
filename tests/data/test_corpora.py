from __future__ import annotations

import json
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from small_corpora import clip_motion

from datamodules import corpora
from datamodules.corpora import (
    build_bvh_corpus,
    build_demo_corpus,
    cached_demo_corpus,
    demo_corpus_cache_dir,
    even_cuts,
    split_files,
)
from datamodules.motion import MotionDataModule
from datamodules.streams.dataset import MotionSamples
from datamodules.streams.manifest import load_manifest
from datamodules.streams.samples import MotionSample
from datamodules.streams.shards import open_shards
from macedance.demo import corpus as demo_corpus
from macedance.demo.songs import GENRES
from macedance.errors import ConfigError, DataError
from macedance.motion.bvh import write_bvh
from macedance.motion.retarget import load_bvh_motion
from macedance.music.audio import load_audio, write_audio
from macedance.music.features import music_features


def samples_of(folder: Path, split: str) -> list[MotionSample]:
    samples = MotionSamples(open_shards(folder, split=split))
    return [samples[number] for number in range(len(samples))]


def write_bvhs(folder: Path, *frames: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, count in enumerate(frames):
        write_bvh(folder / f"take {number}.bvh", clip_motion(0, count, None))
    return folder


def write_tone(path: Path, seconds: float) -> Path:
    time = np.arange(int(seconds * 22050)) / 22050
    write_audio(path, (0.5 * np.sin(2 * np.pi * 220 * time) * (np.sin(4 * np.pi * time) > 0)), 22050)
    return path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    build_demo_corpus(folder, 16, seed=5, workers=1)
    return folder


# ---------------------------------------------------------------- the built-in corpus
def test_demo_corpus_has_all_splits_and_its_music(demo: Path) -> None:
    manifest = load_manifest(demo)
    assert set(manifest.splits) == {"train", "val", "test"}
    assert manifest.num_samples == 16
    assert manifest.genres == tuple(GENRES)
    songs = [song for split in manifest.splits.values() for song in split.songs]
    assert len(songs) == len(set(songs))
    assert {path.stem for path in (demo / "music").iterdir()} == set(songs)


def test_demo_clips_fit_their_song(demo: Path) -> None:
    sample = samples_of(demo, "val")[1]
    features = music_features(load_audio(demo / "music" / f"{sample.meta.song}.flac"), 30)
    first = round(sample.meta.start_s * 30)
    ours = features[first : first + sample.motion.num_frames]
    # The flac holds 16 bits and the features were made from the samples before: nearly equal, and of the same rows.
    assert np.corrcoef(ours[:, 0], sample.music_TC[:, 0])[0, 1] > 0.999
    assert np.corrcoef(ours[1:, 0], sample.music_TC[:-1, 0])[0, 1] < 0.9
    assert sample.motion.genre in GENRES
    beats = sample.motion.music_beats_s
    assert beats is not None
    assert len(beats) >= 5
    assert beats[0] >= 0
    assert beats[-1] < sample.motion.duration_s


def test_demo_corpus_does_not_depend_on_workers(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    songs = [song for song in demo_corpus.plan_corpus(16, 5) if song.split == "train"]
    monkeypatch.setattr(demo_corpus, "plan_corpus", lambda clips, seed: songs)  # a part of it: less to make
    seen: list[tuple[int, int]] = []
    manifest = build_demo_corpus(
        tmp_path / "again", 8, seed=5, workers=2, progress=lambda done, total: seen.append((done, total))
    )
    assert manifest.splits["train"] == load_manifest(demo).splits["train"]
    assert manifest.normalizer == load_manifest(demo).normalizer
    for song in (tmp_path / "again" / "music").iterdir():
        assert (demo / "music" / song.name).read_bytes() == song.read_bytes()
    assert seen == [(done, 8) for done in range(1, 9)]


def test_demo_corpus_trains(demo: Path) -> None:
    data = MotionDataModule(str(demo), global_batch_size=4)
    batch = next(iter(data.train_dataloader()))
    assert batch["poses"].shape == (4, 150, 24, 3)
    assert bool(batch["mask"].all())
    assert [len(data.clips(split)) > 0 for split in ("train", "val", "test")] == [True] * 3


def test_too_few_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 16"):
        build_demo_corpus(tmp_path / "out", 15)
    assert list(tmp_path.iterdir()) == []


def test_cache_makes_the_corpus_once_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MACEDANCE_CACHE", str(tmp_path))
    made: list[Path] = []

    def build(folder: Path, *rest: object) -> None:
        made.append(folder)
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")

    monkeypatch.setattr(corpora, "build_demo_corpus", build)
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(cached_demo_corpus(16, 3))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [demo_corpus_cache_dir(16, 3)]
    assert set(folders) == set(made)
    assert tmp_path in made[0].parents
    assert str(made[0]) in caplog.text
    assert demo_corpus_cache_dir(16, 4) != made[0] != demo_corpus_cache_dir(17, 3)


def test_cache_that_cannot_be_written_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MACEDANCE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cache folder cannot be written.*MACEDANCE_CACHE"):
        cached_demo_corpus(16, 0)


# ---------------------------------------------------------------- BVH
def test_bvh_corpus_holds_every_frame(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_bvhs(tmp_path / "in", 40, 301, 305)
    manifest = build_bvh_corpus(source, tmp_path / "out")
    clips = samples_of(tmp_path / "out", "train")
    assert [clip.key for clip in clips] == [
        "take-0_0000",
        "take-1_0000",
        "take-1_0001",
        "take-2_0000",
        "take-2_0001",
    ]
    assert [clip.motion.num_frames for clip in clips] == [40, 150, 151, 152, 153]
    whole = load_bvh_motion(source / "take 1.bvh")
    np.testing.assert_array_equal(np.concatenate([clip.motion.poses for clip in clips[1:3]]), whole.poses)
    assert [clip.meta.start_s for clip in clips[1:3]] == [0.0, 5.0]
    assert all(not clip.music_TC.any() for clip in clips)
    assert manifest.notes == ("no music: all music features are zero",)
    assert set(manifest.absent_splits) == {"val", "test"}
    assert caplog.text.count("3 files are too few to hold some out") == 1
    assert not (tmp_path / "out" / "music").exists()


def test_bvh_corpus_with_music(tmp_path: Path) -> None:
    source = write_bvhs(tmp_path / "in", 30, 60, 75, 45, 50)
    tone = write_tone(tmp_path / "my tone.wav", 2.0)
    manifest = build_bvh_corpus(source, tmp_path / "out", tone, genre="house", seed=1)
    clips = [clip for split in manifest.splits for clip in samples_of(tmp_path / "out", split)]
    assert len(clips) == 5
    features = music_features(tone, 30)
    for clip in clips:
        rows = min(clip.motion.num_frames, len(features))
        np.testing.assert_array_equal(clip.music_TC[:rows], features[:rows])
        assert not clip.music_TC[rows:].any()
        assert (clip.meta.song, clip.motion.genre) == ("my-tone", "house")
    assert (tmp_path / "out" / "music" / "my-tone.flac").is_file()
    assert manifest.notes == ("15 frames lie beyond the end of my tone.wav: their music features are zero",)
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 3, "val": 1, "test": 1}


def test_unusable_bvhs_are_listed_in_one_error(tmp_path: Path) -> None:
    source = write_bvhs(tmp_path / "in", 30)
    (source / "a.bvh").write_text("hello")
    (source / "sub").mkdir()
    good = (source / "take 0.bvh").read_text()
    (source / "sub" / "b.BVH").write_text(good[: good.index("MOTION")] + "MOTION\nFrames: 0\nFrame Time: 0.0333\n")
    with pytest.raises(DataError) as caught:
        build_bvh_corpus(source, tmp_path / "out")
    message = str(caught.value)
    assert "2 of 3 BVH files cannot be used" in message
    assert "a.bvh: not a BVH file" in message
    assert "sub/b.BVH: " in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_folder_without_bvh_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.bvh file"):
        build_bvh_corpus(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match=r"no \.bvh file"):
        build_bvh_corpus(tmp_path / "nowhere", tmp_path / "out")


def test_bvh_target_is_checked_before_the_work(tmp_path: Path) -> None:
    source = write_bvhs(tmp_path / "in", 30)
    (source / "bad.bvh").write_text("")
    with pytest.raises(DataError, match="not empty"):
        build_bvh_corpus(source, tmp_path / "in")


def test_bvh_music_that_is_no_sound_leaves_nothing(tmp_path: Path) -> None:
    source = write_bvhs(tmp_path / "in", 30)
    (tmp_path / "x.wav").write_text("no sound")
    with pytest.raises(DataError, match=r"x\.wav"):
        build_bvh_corpus(source, tmp_path / "out", tmp_path / "x.wav")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "x.wav"]


@pytest.mark.parametrize("options", [{"fps": 0.0}, {"max_clip_s": 0.0}, {"fps": -30.0}])
def test_impossible_clip_lengths_are_refused(tmp_path: Path, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="two frames"):
        build_bvh_corpus(tmp_path, tmp_path / "out", **options)


@pytest.mark.parametrize(("frames", "longest"), [(1, 300), (300, 300), (301, 300), (1000, 300), (7, 2)])
def test_cuts_are_even_and_complete(frames: int, longest: int) -> None:
    cuts = even_cuts(frames, longest)
    assert [cuts[0][0], cuts[-1][1]] == [0, frames]
    assert all(one[1] == two[0] for one, two in pairwise(cuts))
    lengths = [stop - start for start, stop in cuts]
    assert max(lengths) <= longest
    assert max(lengths) - min(lengths) <= 1


def test_files_are_split_by_the_seed() -> None:
    splits = split_files(40, 0)
    assert {name: splits.count(name) for name in ("train", "val", "test")} == {"train": 32, "val": 4, "test": 4}
    assert splits == split_files(40, 0) != split_files(40, 1)
    assert split_files(4, 0) == ["train"] * 4
    assert sorted(split_files(5, 0)) == ["test", "train", "train", "train", "val"]


def test_files_with_one_name_keep_apart(tmp_path: Path) -> None:
    source = write_bvhs(tmp_path / "in", 30)
    (source / "take-0.bvh").write_text((source / "take 0.bvh").read_text())
    build_bvh_corpus(source, tmp_path / "out")
    assert [clip.key for clip in samples_of(tmp_path / "out", "train")] == ["take-0_0000", "take-0-2_0000"]


@pytest.mark.shared
def test_real_mocap_becomes_a_corpus(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "data" / "motion"
    manifest = build_bvh_corpus(source, tmp_path / "out")
    files = [path for path in source.rglob("*") if path.suffix.lower() == ".bvh"]
    assert len({song for split in manifest.splits.values() for song in split.songs}) == len(files)
    data = MotionDataModule(str(tmp_path / "out"), global_batch_size=4)
    batch = next(iter(data.train_dataloader()))
    assert bool(batch["poses"].isfinite().all())
    assert batch["genre"].tolist() == [0] * 4
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["genres"] == []
