"""Folders of videos become clips of keypoints, found once for each content and source."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "vision"))

from keypoint_stand_ins import CountingSource, grey_video, standing_body

from macedance.errors import DataError
from macedance.metrics.clips import read_clips
from macedance.metrics.keypoint_clips import (
    SHAKING,
    keypoint_clip,
    keypoints_of_folder,
    keypoints_of_video,
)
from macedance.metrics.protocol import evaluate_protocol
from macedance.vision.keypoints import VideoKeypoints
from macedance.vision.video import Video

STEPS = [(60 + 10 * (t % 8), 0) for t in range(24)]


def standing(name: str = "a", frames: int = 6, **changes: object) -> VideoKeypoints:
    points = np.stack([standing_body(60 + t) for t in range(frames)])
    found = VideoKeypoints(
        points, 25.0, name, np.tile([0.0, 0, 30, 40], (frames, 1)), np.ones(frames), width=64, height=48
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def test_a_clip_holds_what_was_found() -> None:
    beats = np.array([0.1, 0.2])
    clip = keypoint_clip(standing(), genre="house", music_beats_s=beats, song="tune")
    np.testing.assert_array_equal(clip.keypoints, standing().keypoints)
    assert (clip.fps, clip.name, clip.genre, clip.song, clip.axes) == (25.0, "a", "house", "tune", "xy")
    assert clip.layout is not None
    assert clip.layout.name == "coco_17"
    with pytest.raises(DataError, match="unknown layout wholebody"):
        keypoint_clip(standing(layout="wholebody"))


@pytest.mark.parametrize(
    "change",
    [
        {"keypoints": np.zeros((6, 17))},
        {"boxes": np.zeros((5, 4))},
        {"persons": np.zeros(7)},
        {"keypoints": np.full((6, 17, 3), np.nan)},
    ],
)
def test_what_does_not_belong_together_is_refused(change: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError):
        standing(**change)


def test_a_video_is_looked_at_once_for_its_content_and_its_source(tmp_path: Path) -> None:
    path, cache = grey_video(tmp_path / "dance.mp4", STEPS), tmp_path / "cache"
    source = CountingSource()
    first = keypoints_of_video(Video.open(path), source, cache=cache)
    progress: list[int] = []
    again = keypoints_of_video(Video.open(path), source, cache=cache, progress=progress.append)
    assert source.read == ["dance"]
    assert progress == [24]
    np.testing.assert_array_equal(first.keypoints, again.keypoints)
    np.testing.assert_array_equal(first.persons, again.persons)
    # The same content under another name is not looked at again; other content under the same name is.
    moved = path.rename(tmp_path / "renamed.mp4")
    assert keypoints_of_video(Video.open(moved), source, cache=cache).name == "renamed"
    assert source.read == ["dance"]
    grey_video(moved, STEPS[::-1])
    keypoints_of_video(Video.open(moved), source, cache=cache)
    assert source.read == ["dance", "renamed"]
    other = CountingSource(setting=1)
    keypoints_of_video(Video.open(moved), other, cache=cache)
    assert other.read == ["renamed"]
    changed = CountingSource()
    changed.weights = {"counting": "34" * 32}
    keypoints_of_video(Video.open(moved), changed, cache=cache)
    assert changed.read == ["renamed"]


def test_damaged_entries_are_said_and_found_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, cache, source = grey_video(tmp_path / "dance.mp4", STEPS), tmp_path / "cache", CountingSource()
    first = keypoints_of_video(Video.open(path), source, cache=cache)
    (entry,) = cache.iterdir()
    entry.write_bytes(entry.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        again = keypoints_of_video(Video.open(path), source, cache=cache)
    assert "cannot be read" in caplog.text
    assert source.read == ["dance", "dance"]
    np.testing.assert_array_equal(first.keypoints, again.keypoints)
    keypoints_of_video(Video.open(path), source, cache=cache)
    assert len(source.read) == 2


def test_a_cache_that_cannot_be_written_costs_the_reuse_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = grey_video(tmp_path / "dance.mp4", STEPS)
    (tmp_path / "file").write_text("x")
    with caplog.at_level(logging.WARNING):
        found = keypoints_of_video(Video.open(path), CountingSource(), cache=tmp_path / "file" / "cache")
    assert len(found.keypoints) == 24
    assert "are not kept" in caplog.text


def test_videos_in_memory_are_not_kept(tmp_path: Path) -> None:
    source = CountingSource()
    video = Video.from_frames(np.full((5, 32, 32, 3), 90, dtype=np.uint8), 25.0, "held")
    for _ in range(2):
        keypoints_of_video(video, source, cache=tmp_path / "cache")
    assert source.read == ["held", "held"]
    assert not (tmp_path / "cache").exists()


def test_a_folder_gives_clips_and_says_who_was_missing_or_not_alone(tmp_path: Path) -> None:
    grey_video(tmp_path / "b.mp4", [*STEPS[:5], (0, 0), (0, 0), *STEPS[:5]])
    grey_video(tmp_path / "a.mp4", [(90, 200)] * 3 + STEPS)
    (tmp_path / "notes.txt").write_text("x")
    progress: list[int] = []
    folder = keypoints_of_folder(tmp_path, CountingSource(), cache=tmp_path / "cache", progress=progress.append)
    assert [clip.name for clip in folder.clips] == ["a", "b"]
    assert [one.name for one in folder.found] == ["a", "b"]
    assert folder.kind == "keypoints"
    assert folder.ignored == ["notes.txt"]
    assert (folder.source, folder.resolution, sum(progress)) == ("counting", (48, 48), 39)
    assert folder.weights == {"counting": "12" * 32}
    assert not folder.found[1].keypoints[5:7].any()
    assert folder.notes == [
        SHAKING,
        "the dancer was not found, and keypoints are zeros, in 2 of 39 frames: b (2)",
        "more than one person was seen in 3 of 39 frames: a (3)",
    ]


def test_only_chosen_videos_are_looked_at(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        grey_video(tmp_path / f"{name}.mp4", STEPS)
    (tmp_path / "d.mp4").write_bytes(b"damaged, and nobody asks for it")
    source = CountingSource()
    folder = keypoints_of_folder(tmp_path, source, cache=tmp_path / "cache", only={"a", "c"})
    assert [clip.name for clip in folder.clips] == ["a", "c"]
    assert source.read == ["a"]  # the content of c is that of a
    assert folder.left_out == {}
    with pytest.raises(DataError, match="none of the 3 videos"):
        keypoints_of_folder(tmp_path, source, only={"x"})


def bad_folder(folder: Path) -> Path:
    grey_video(folder / "good.mp4", STEPS)
    grey_video(folder / "empty.mp4", [(0, 0)] * 8)
    grey_video(folder / "picture.mp4", STEPS[:1])
    return folder


def test_videos_that_cannot_be_used_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        keypoints_of_folder(bad_folder(tmp_path), CountingSource(), cache=tmp_path / "cache")
    assert "2 of 3 videos cannot be used" in str(refused.value)
    assert "empty.mp4 (nobody was found in any of 8 frames" in str(refused.value)
    assert "picture.mp4 (too short: 1 frame;" in str(refused.value)


def test_or_left_out_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    folder = keypoints_of_folder(bad_folder(tmp_path), CountingSource(), cache=tmp_path / "cache", leave_out_bad=True)
    assert [clip.name for clip in folder.clips] == ["good"]
    assert sorted(folder.left_out) == ["broken.mp4", "empty.mp4", "picture.mp4"]


def test_corrupt_videos_are_refused_before_the_work(tmp_path: Path) -> None:
    grey_video(tmp_path / "a.mp4", STEPS)
    (tmp_path / "z.mp4").write_bytes(b"no video")
    source = CountingSource()
    with pytest.raises(DataError, match=r"1 of 2 videos cannot be used: z\.mp4"):
        keypoints_of_folder(tmp_path, source, cache=tmp_path / "cache")
    assert source.read == []


def test_mixed_frame_rates_are_refused_and_mixed_sizes_said(tmp_path: Path) -> None:
    grey_video(tmp_path / "a.mp4", STEPS)
    grey_video(tmp_path / "b.mp4", STEPS, size=64)
    folder = keypoints_of_folder(tmp_path, CountingSource(), cache=tmp_path / "cache")
    assert folder.resolution is None
    assert "48x48: a; 64x64: b" in folder.notes[-1]
    grey_video(tmp_path / "c.mp4", STEPS, fps=16.0)
    source = CountingSource()
    with pytest.raises(DataError, match="25 fps: a, b; 16 fps: c"):
        keypoints_of_folder(tmp_path, source, cache=tmp_path / "other")
    assert source.read == []


def test_the_protocol_takes_them_beside_keypoints_from_files(tmp_path: Path) -> None:
    """Where the source finds what a file says, both give the same numbers."""
    videos, files = tmp_path / "videos", tmp_path / "files"
    files.mkdir()
    for name in ("a", "b", "c"):
        rng = np.random.default_rng(ord(name))
        grey_video(videos / f"{name}.mp4", [(int(level), 0) for level in rng.integers(60, 200, 30)])
    folder = keypoints_of_folder(videos, CountingSource(), cache=tmp_path / "cache")
    for clip in folder.clips:
        np.savez(files / f"{clip.name}.npz", keypoints=clip.keypoints, fps=clip.fps)  # type: ignore[union-attr]
    written = read_clips(files).clips
    settings = {"allow_small_n": True, "resamples": 0, "floor_draws": 0}
    ours, theirs = (evaluate_protocol(clips, folder.clips, **settings).presets for clips in (folder.clips, written))
    assert ours == theirs
    assert ours["clean"]["fid_k"]["value"] == pytest.approx(0, abs=1e-6)
