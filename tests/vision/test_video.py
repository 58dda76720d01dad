"""Videos are read whole or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from macedance.errors import DataError
from macedance.rendering.video import VideoWriter
from macedance.vision.video import Video, match_videos, read_videos, same_format


def moving_square(count: int = 20, height: int = 48, width: int = 64) -> np.ndarray:
    frames = np.full((count, height, width, 3), 40, dtype=np.uint8)
    for i in range(count):
        frames[i, 10:26, 2 * i : 2 * i + 16] = (220, 60, 30)
    return frames


def write(path: Path, frames: np.ndarray, fps: float = 30.0) -> Path:
    with VideoWriter(path.with_suffix(".mp4"), fps, frames.shape[2], frames.shape[1]) as writer:
        for frame in frames:
            writer.add(frame)
    return path.with_suffix(".mp4").rename(path)


def test_a_file_gives_its_frames_again_and_again(tmp_path: Path) -> None:
    frames = moving_square()
    video = Video.open(write(tmp_path / "dance.mp4", frames))
    assert (video.name, video.fps, video.width, video.height, video.num_frames) == ("dance", 30.0, 64, 48, 20)
    sizes = [len(chunk) for chunk in video.chunks(8)]
    assert sizes == [8, 8, 4]
    for decoded in (video.frames(), np.concatenate(list(video.chunks(7)))):
        assert decoded.shape == frames.shape
        assert np.abs(decoded.astype(int) - frames).mean() < 6  # h264 is lossy, above all in colour


def test_memory_and_file_are_read_alike(tmp_path: Path) -> None:
    video = Video.open(write(tmp_path / "dance.mp4", moving_square()))
    held = Video.from_frames(video.frames(), video.fps, "dance")
    assert held.num_frames == 20
    assert all(np.array_equal(a, b) for a, b in zip(held.chunks(6), video.chunks(6), strict=True))


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "dance.mp4", np.random.default_rng(0).integers(0, 255, (60, 96, 96, 3), dtype=np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"dance\.mp4"):
        Video.open(path).frames()


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_what_is_no_video_is_refused_and_listed(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "good.mp4", moving_square(4))
    (tmp_path / "bad.mp4").write_bytes(content)
    (tmp_path / "worse.mov").write_bytes(content)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"2 of 3 videos.*bad\.mp4.*worse\.mov"):
        read_videos(tmp_path)
    folder = read_videos(tmp_path, leave_out_bad=True)
    assert [video.name for video in folder.videos] == ["good"]
    assert set(folder.left_out) == {"bad.mp4", "worse.mov"}
    assert folder.ignored == ["notes.txt"]


def test_folders_without_videos_and_twins_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_videos(tmp_path / "absent")
    with pytest.raises(DataError, match="no videos"):
        read_videos(tmp_path)
    write(tmp_path / "a.mov", moving_square(3))
    write(tmp_path / "a.mp4", moving_square(3))
    with pytest.raises(DataError, match=r"a\.mov and a\.mp4"):
        read_videos(tmp_path)


def test_sets_are_matched_by_name_and_formats_compared() -> None:
    a, b, c = (Video.from_frames(moving_square(3), 30, name) for name in "abc")
    assert [pair[1].name for pair in match_videos([b, a], [a, b])] == ["b", "a"]
    with pytest.raises(DataError, match=r"only among the generated: c.*only among the reference: b"):
        match_videos([a, c], [a, b])
    assert same_format([a, b]) == (30.0, 64, 48)
    with pytest.raises(DataError, match=r"30 fps 64x48: a; 25 fps 64x48: d"):
        same_format([a, Video.from_frames(moving_square(3), 25, "d")])


def test_frames_of_another_type_are_refused() -> None:
    with pytest.raises(DataError, match="float64"):
        Video.from_frames(np.zeros((3, 8, 8, 3)), 30)
    with pytest.raises(DataError, match="shape"):
        Video.from_frames(np.zeros((0, 8, 8, 3), dtype=np.uint8), 30)


def remuxed(source: Path, out: Path, time_of: Callable[[int], int]) -> Path:
    """The same packets at other times, in units of the stream."""
    import av

    with av.open(str(source)) as read, av.open(str(out), "w") as written:
        stream = read.streams.video[0]
        copied = written.add_stream_from_template(stream)
        for packet in read.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = time_of(packet.pts), time_of(packet.dts)
                packet.stream = copied
                written.mux(packet)
    return out


def ticks_of_a_frame(path: Path, fps: int = 30) -> int:
    import av

    with av.open(str(path)) as container:
        return int(1 / (fps * container.streams.video[0].time_base))


def test_a_video_cut_without_encoding_it_anew_is_whole(tmp_path: Path) -> None:
    source = write(tmp_path / "long.mp4", moving_square(24))
    frame = ticks_of_a_frame(source)
    video = Video.open(remuxed(source, tmp_path / "cut.mp4", lambda t: t - 8 * frame))
    assert video.num_frames == 16
    assert np.array_equal(video.frames(), Video.open(source).frames()[8:])


def test_a_variable_frame_rate_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "even.mp4", moving_square(24))
    middle = 12 * ticks_of_a_frame(source)
    with pytest.raises(DataError, match="variable frame rate"):
        Video.open(remuxed(source, tmp_path / "uneven.mp4", lambda t: t if t < middle else middle + 3 * (t - middle)))


def test_a_file_cut_behind_its_index_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 96, 96, 3), dtype=np.uint8)
    path = write(tmp_path / "dance.mp4", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(DataError, match=r"of the 40 frames.*dance\.mp4"):
        Video.open(path)
