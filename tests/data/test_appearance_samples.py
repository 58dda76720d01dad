"""Clips of dancers in shards: what is written is read, and what cannot be used is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_clips import FPS, FRAMES, SPARE, clip, frame_of, keypoints, members, pictures, write_clips

from datamodules.appearance_corpora import AppearanceWriter, load_appearance_manifest
from datamodules.streams.shards import open_shards
from macedance.appearance_data.media import decode_jpeg, decode_mp4, encode_jpeg, encode_mp4
from macedance.appearance_data.samples import ClipFacts, raw_clip, raw_members, read_facts
from macedance.appearance_data.windows import (
    Bucket,
    cropped_share,
    fitted_keypoints,
    nearest_bucket,
    read_window,
    reference_choices,
    window_starts,
)
from macedance.errors import ConfigError, DataError
from macedance.rendering.pose_drawing import PALETTE, draw_pose


def test_a_clip_comes_back_as_it_was() -> None:
    facts = clip(3, palette=tuple(reversed(PALETTE)), person_box=(1.0, 2.0, 3.0, 4.0))
    parts = members(3, facts)
    assert parts == members(3, facts)
    read = raw_clip(parts, "k", "shard:k")
    assert read.facts == facts
    assert read.keypoints_TK3 is not None
    assert np.array_equal(read.keypoints_TK3, keypoints(3, FRAMES + SPARE, 32, 32))
    assert read.mask_THW is not None
    assert read.mask_THW[:, 8:24, 8:16].all()
    assert read.mask_THW.mean() == 16 * 8 / 32**2
    assert [frame_of(picture) for picture in decode_mp4(read.video, "here")] == list(range(FRAMES + SPARE))


def test_frames_come_in_the_order_in_which_they_are_wanted() -> None:
    data = encode_mp4(pictures(0, 7, 32, 32), 25.0)
    assert [frame_of(picture) for picture in decode_mp4(data, "here", [4, 5, 1, 1])] == [4, 5, 1, 1]
    with pytest.raises(DataError, match="7 frames of the video"):
        decode_mp4(data, "here", [6, 7])
    with pytest.raises(DataError, match="the video has 7 frames; at here; expected 9"):
        decode_mp4(data, "here", [1], 9)


def test_pictures_keep_their_colours() -> None:
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(0, 255, (2, 8, 8, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    assert np.abs(decode_mp4(encode_mp4(coarse, 8), "here").astype(int) - coarse).mean() < 4
    assert np.abs(decode_jpeg(encode_jpeg(coarse[0]), "here").astype(int) - coarse[0]).mean() < 4
    with pytest.raises(DataError, match="31 x 32 pixels"):
        encode_mp4(coarse[:, :32, :31], 8)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"video.mp4": None}, "lacks video.mp4"),
        ({"keypoints.npy": None}, "lacks pose.mp4 or keypoints.npy"),
        ({"meta.json": b"{"}, "meta.json cannot be used"),
        ({"meta.json": json.dumps({**clip(0).to_dict(), "source": 3})}, "source is no text"),
        ({"keypoints.npy": b"nothing"}, "keypoints.npy cannot be used"),
        ({"keypoints.npy": 8}, "keypoints of 8 frames, the video has 9"),
        ({"mask.npy": 8}, "the mask has shape"),
    ],
)  # fmt: skip
def test_a_sample_that_cannot_be_used_is_refused_by_name(change: dict[str, Any], told: str) -> None:
    parts: dict[str, Any] = dict(members(0, clip(0)))
    for name, value in change.items():
        if value is None:
            del parts[name]
        elif isinstance(value, int):
            parts[name] = members(0, clip(0, value, reference_times_s=()))[name]
        else:
            parts[name] = value if isinstance(value, bytes) else value.encode()
    with pytest.raises(DataError, match=told) as caught:
        raw_clip(parts, "k", "000.tar:k")
    assert caught.value.where == "000.tar:k"


def test_pickles_are_not_run() -> None:
    parts: dict[str, bytes] = dict(members(0, clip(0)))
    import io

    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    parts["keypoints.npy"] = stream.getvalue()
    with pytest.raises(DataError, match=r"keypoints\.npy cannot be used"):
        raw_clip(parts, "k", "w")


def test_facts_out_of_range_are_refused() -> None:
    for wrong, told in (
        ({"source": "drawn"}, "source is 'drawn'"),
        ({"reference_times_s": (5.0,)}, r"name frames \[50\]"),
        ({"palette": ((0, 0, 0),)}, "palette has 1 colours"),
        ({"fps": 0.0}, "at 0 per second"),
    ):
        with pytest.raises(DataError, match=told):
            raw_members(clip(0, **wrong), b"", keypoints_TK3=keypoints(0, 9, 32, 32))
    for text in (b"[]", b'{"fps": 1}', b'{"fps":1,"frames":9,"height":1,"width":1,"palette":[[300,0,0]]}'):
        with pytest.raises(DataError, match="cannot be used"):
            read_facts(text, "w")


def test_a_window_shows_its_frames_and_its_reference() -> None:
    read = raw_clip(members(1, clip(1)), "k", "w")
    window = read_window(read, 2, Bucket(32, 32), 5, 8)
    assert [frame_of(picture) for picture in window.video_THW3] == [2, 3, 4, 5, 6]
    assert frame_of(window.reference_HW3) == 8
    points = read.keypoints_TK3
    assert points is not None
    drawn = draw_pose(points[4, :20], 32, 32, left_hand_K3=points[4, 20:41], right_hand_K3=points[4, 41:])
    assert np.array_equal(window.pose_THW3[2], drawn)
    assert frame_of(read_window(read, 0, Bucket(32, 32), 5, None).reference_HW3) == 8  # reference.jpg is the last frame
    with pytest.raises(DataError, match="the clip has 9 frames"):
        read_window(read, 5, Bucket(32, 32), 5, 0)


def test_another_palette_draws_other_colours() -> None:
    usual = read_window(raw_clip(members(1, clip(1)), "k", "w"), 0, Bucket(32, 32), 5, 8)
    facts = clip(1, palette=tuple(reversed(PALETTE)))
    other = read_window(raw_clip(members(1, facts), "k", "w"), 0, Bucket(32, 32), 5, 8)
    assert not np.array_equal(usual.pose_THW3, other.pose_THW3)
    assert np.array_equal(usual.video_THW3, other.video_THW3)


def test_a_pose_video_of_another_length_or_size_is_refused() -> None:
    facts = clip(0)
    for frames, size, told in ((8, 32, "the video has 8 frames"), (9, 64, "pose.mp4 has 64 x 64 pixels")):
        pose = encode_mp4(pictures(0, frames, size, size), FPS)
        parts = raw_members(facts, members(0, facts)["video.mp4"], pose=pose)
        with pytest.raises(DataError, match=told):
            read_window(raw_clip(parts, "k", "w"), 0, Bucket(32, 32), 5, 8)
    parts = raw_members(facts, members(0, facts)["video.mp4"], pose=encode_mp4(pictures(0, 9, 32, 32), FPS))
    window = read_window(raw_clip(parts, "k", "w"), 3, Bucket(32, 32), 5, 8)
    assert [frame_of(picture) for picture in window.pose_THW3] == [3, 4, 5, 6, 7]


def test_a_bucket_scales_and_crops_pictures_and_points_alike() -> None:
    facts = clip(0, height=64, width=96, reference_times_s=())
    frames = np.zeros((9, 64, 96, 3), np.uint8)
    frames[:, 30:34, 60:64] = 255
    points = np.zeros((9, 20, 3), np.float32)
    points[..., :2], points[..., 2] = (62.0, 32.0), 1.0
    parts = raw_members(facts, encode_mp4(frames, FPS), keypoints_TK3=points, reference=encode_jpeg(frames[0]))
    bucket = Bucket(32, 32)
    window = read_window(raw_clip(parts, "k", "w"), 0, bucket, 5, None)
    rows, columns = np.nonzero(window.video_THW3[0].mean(-1) > 128)
    fitted = fitted_keypoints(points, facts, bucket)[0, 0]
    assert abs(columns.mean() + 0.5 - fitted[0]) < 1
    assert abs(rows.mean() + 0.5 - fitted[1]) < 1
    assert window.pose_THW3.shape == window.video_THW3.shape == (5, 32, 32, 3)


def test_a_clip_goes_to_the_bucket_that_crops_it_least() -> None:
    wide, tall, large = Bucket(480, 832), Bucket(832, 480), Bucket(720, 1280)
    assert nearest_bucket(1080, 1920, [wide, tall]) == wide
    assert nearest_bucket(1920, 1080, [wide, tall]) == tall
    assert nearest_bucket(720, 1280, [wide, tall, large]) == large
    assert nearest_bucket(1000, 10_000, [wide, tall]) is None
    assert cropped_share(480, 832, wide) == pytest.approx(0)
    with pytest.raises(ConfigError, match="a bucket of"):
        Bucket(0, 4)


def test_a_clip_is_not_enlarged_by_much() -> None:
    small, large = Bucket(480, 832), Bucket(720, 1280)
    assert nearest_bucket(180, 320, [large]) is None
    assert nearest_bucket(640, 1136, [large]) == large  # 1.13 times
    assert nearest_bucket(610, 1080, [large]) is None  # 1.19 times
    # That it would be cropped less does not make a bucket fit that is too large.
    assert nearest_bucket(480, 854, [small, large]) == small
    assert nearest_bucket(180, 320, [large], max_upscale=4) == large


def test_windows_cover_a_clip_and_references_lie_outside_of_them() -> None:
    assert window_starts(8, 9) == []
    assert window_starts(9, 9) == [0]
    assert window_starts(15, 9) == [0, 6]
    assert window_starts(20, 5) == [0, 5, 10, 15]
    assert window_starts(23, 9) == [0, 7, 14]
    assert window_starts(150, 81) == [0, 69]  # five seconds
    for frames in range(9, 60):
        assert {k + start for start in window_starts(frames, 9) for k in range(9)} == set(range(frames))
    assert window_starts(150, 81, (15, 75, 135)) == [0, 69]
    assert window_starts(150, 81, (100, 149)) == [0]  # the second window would hold both
    assert window_starts(9, 9, (3,)) == [0]


def test_as_many_windows_of_a_clip_as_are_asked_for() -> None:
    assert window_starts(15, 9, windows=1) == [0]
    assert window_starts(15, 9, windows=4) == [0, 2, 4, 6]
    assert window_starts(10, 9, windows=4) == [0, 1]  # there are no more
    assert window_starts(8, 9, windows=4) == []
    assert window_starts(40, 9, windows=2) == [0, 31]  # fewer than cover it
    # The last of three would hold both references; where every one holds them, the first is kept.
    assert window_starts(15, 9, (10, 14), windows=3) == [0, 3]
    assert window_starts(10, 9, (4,), windows=2) == [0]
    facts = ClipFacts(10.0, 9, 32, 32, reference_times_s=(0.0, 0.4, 0.8))
    assert reference_choices(facts, 0, 5) == (8,)
    assert reference_choices(facts, 0, 9) == (0, 4, 8)
    assert reference_choices(clip(0, reference_times_s=()), 0, 5) == ()


def test_a_corpus_is_written_by_size_and_whole(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "corpus", train=10, val=2, sizes=((32, 32), (32, 48)))
    manifest = load_appearance_manifest(folder)
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 10, "val": 2}
    assert set(manifest.shapes.values()) == {(32, 32, 9), (32, 48, 9)}
    assert manifest.absent_splits == {"test": "no clips"}
    again = write_clips(tmp_path / "again", train=10, val=2, sizes=((32, 32), (32, 48)))
    assert load_appearance_manifest(again).sha256 == manifest.sha256
    assert len(open_shards(folder, check=False).index()) == 10


def test_the_writer_refuses_what_would_leak(tmp_path: Path) -> None:
    facts = clip(0, song="s", person="p")
    with AppearanceWriter(tmp_path / "c", fps=FPS) as writer:
        writer.add("train", "a", facts, members(0, facts))
        with pytest.raises(DataError, match="song 's' is in 'train' already"):
            writer.add("val", "b", facts, members(0, facts))
        with pytest.raises(DataError, match="person 'p' is in 'train' already"):
            writer.add("val", "b", clip(0, song="t", person="p"), members(0, facts))
        with pytest.raises(DataError, match="two clips have one key"):
            writer.add("train", "a", facts, members(0, facts))
        with pytest.raises(DataError, match="frames per second"):
            writer.add("train", "c", clip(0, fps=9.0), members(0, facts))
    with pytest.raises(DataError, match="not empty"), AppearanceWriter(tmp_path / "c", fps=FPS):
        pass
    with pytest.raises(DataError, match="no training clips"), AppearanceWriter(tmp_path / "d", fps=FPS):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_a_motion_corpus_is_no_corpus_of_videos_and_the_other_way_round(corpus: Path, tmp_path: Path) -> None:
    from datamodules.motion import MotionDataModule

    with pytest.raises(DataError, match="a corpus of motion and music"):
        load_appearance_manifest(corpus)
    folder = write_clips(tmp_path / "clips", train=2, val=1)
    with pytest.raises(DataError, match="a corpus of videos"):
        MotionDataModule(str(folder)).setup("fit")
