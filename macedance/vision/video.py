"""Videos as sequences of pictures: read in portions, so that a song's length does not matter, and never half.

Shapes: t frames of a portion, T frames in all, H rows, W columns; RGB, uint8.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from macedance.errors import DataError

#: File endings that are read as videos.
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
#: Frames decoded at once, unless another number is asked for: 720p frames of this many take 90 MB.
CHUNK_FRAMES = 32
#: A frame is out of step when it lasts longer or shorter than the others by this share, and a video when so many are.
_UNEVEN, _UNEVEN_SHARE = 0.5, 0.02


@dataclass(frozen=True)
class Video:
    """A clip of video, in a file or in memory.

    Args:
        name: Name of the clip, unique within a set; a file's stem.
        fps: Pictures per second.
        width: Pixels, as shown: a file that says it is rotated is read upright.
        height: Pixels.
        num_frames: Pictures, None where the file does not say it.
        path: The file; None for a clip in memory.
        held: The pictures (T, H, W, 3) of a clip in memory.
        drawn: Starts to draw the pictures (H, W, 3) of a clip that is made as it is looked at.
    """

    name: str
    fps: float
    width: int
    height: int
    num_frames: int | None = None
    path: Path | None = None
    held: np.ndarray | None = field(default=None, repr=False, compare=False)
    drawn: Callable[[], Iterator[np.ndarray]] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path) -> Video:
        """A video file, of which the first picture was decoded and the others' times were read.

        Raises:
            DataError: The file is missing, empty, cut off or no video, says no frame rate, or shows its frames at
                uneven times, which would make every speed in it wrong.
        """
        path = Path(path)
        with _decoding(path) as (container, stream):
            first = next(container.decode(stream), None)
            if first is None:
                raise DataError("the video holds no picture", where=path, expected="at least one frame")
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            if not 0 < fps < 1000:
                raise DataError(f"the video says {fps:g} frames per second", where=path, expected="a frame rate")
            height, width = _upright(first).shape[:2]
        return cls(path.stem, fps, width, height, _shown_frames(path), path)

    @classmethod
    def from_frames(cls, frames_THW3: np.ndarray, fps: float, name: str = "") -> Video:
        """A clip in memory.

        Raises:
            DataError: Another shape or type than (T, H, W, 3) uint8 with T at least 1.
        """
        shape = np.shape(frames_THW3)
        if len(shape) != 4 or shape[3] != 3 or not all(shape) or np.asarray(frames_THW3).dtype != np.uint8:
            raise DataError(
                f"frames of shape {shape} and type {np.asarray(frames_THW3).dtype} are no video",
                where=name or None,
                expected="(frames, height, width, 3) uint8, RGB",
            )
        return cls(name, float(fps), shape[2], shape[1], shape[0], None, np.asarray(frames_THW3))

    def chunks(self, frames: int = CHUNK_FRAMES) -> Iterator[np.ndarray]:
        """The pictures in order, in portions (t, H, W, 3) of ``frames`` each but the last; can be asked for again.

        Raises:
            DataError: The file breaks off, or changes its size on the way; nothing is skipped.
        """
        if self.held is not None:
            for start in range(0, len(self.held), frames):
                yield self.held[start : start + frames]
            return
        portion: list[np.ndarray] = []
        for picture in self.pictures():
            portion.append(picture)
            if len(portion) == frames:
                yield np.stack(portion)
                portion = []
        if portion:
            yield np.stack(portion)

    def pictures(self) -> Iterator[np.ndarray]:
        """The pictures (H, W, 3), one after the other; can be asked for again.

        Raises:
            DataError: As ``chunks``.
        """
        if self.held is not None:
            yield from self.held
        elif self.drawn is not None:
            yield from self.drawn()
        else:
            assert self.path is not None  # one of the three is there
            yield from self._decoded(self.path)

    def frames(self) -> np.ndarray:
        """All pictures (T, H, W, 3); of a long video that is much memory, see ``chunks``.

        Raises:
            DataError: As ``chunks``.
        """
        return self.held if self.held is not None else np.concatenate(list(self.chunks()))

    def _decoded(self, path: Path) -> Iterator[np.ndarray]:
        count = 0
        with _decoding(path) as (container, stream):
            for frame in container.decode(stream):
                picture = _upright(frame)
                if picture.shape != (self.height, self.width, 3):
                    raise DataError(
                        f"frame {count} is {picture.shape[1]} x {picture.shape[0]} pixels, the ones before it are "
                        f"{self.width} x {self.height}",
                        where=path,
                        expected="one size throughout",
                    )
                yield picture
                count += 1
        if self.num_frames is not None and count < self.num_frames:
            raise DataError(
                f"{count} of the {self.num_frames} frames that the file holds can be decoded",
                where=path,
                expected="a whole video",
                fix="write or copy it again",
            )


@dataclass(frozen=True)
class VideoFolder:
    """The videos of a folder.

    Args:
        path: The folder.
        videos: Those that can be used, by name.
        left_out: File name -> why it was left out; empty unless that was asked for.
        ignored: Names of files that are no videos.
    """

    path: Path
    videos: list[Video]
    left_out: dict[str, str]
    ignored: list[str]


def read_videos(folder: str | Path, *, leave_out_bad: bool = False) -> VideoFolder:
    """Open every video of a folder, not of those inside it; pictures beyond the first are decoded later.

    Args:
        folder: The folder.
        leave_out_bad: Leave files that cannot be used out, with the reason, instead of refusing the folder.

    Raises:
        DataError: No folder, no video, files that cannot be used (all are listed with their reasons), or two files of
            one stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no such folder", where=folder, expected="a folder of videos")
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    known = [path for path in files if path.suffix.lower() in SUFFIXES]
    ignored = [path.name for path in files if path.suffix.lower() not in SUFFIXES]
    if not known:
        holds = f"; it holds {', '.join(ignored[:8])}" if ignored else ""
        raise DataError(f"no videos{holds}", where=folder, expected=f"files ending in {' '.join(SUFFIXES)}")
    stems: dict[str, list[str]] = defaultdict(list)
    for path in known:
        stems[path.stem].append(path.name)
    twins = [" and ".join(names) for names in stems.values() if len(names) > 1]
    if twins:
        raise DataError(f"videos of one name: {'; '.join(twins)}", where=folder, expected="one file for each name")
    videos: list[Video] = []
    bad: dict[str, str] = {}
    for path in known:
        try:
            videos.append(Video.open(path))
        except DataError as error:
            bad[path.name] = error.what
    if bad and not (leave_out_bad and videos):
        listed = "; ".join(f"{name}: {why}" for name, why in bad.items())
        raise DataError(
            f"{len(bad)} of {len(known)} videos cannot be used: {listed}",
            where=folder,
            fix="mend or remove them, or ask for them to be left out",
        )
    return VideoFolder(folder, videos, bad, ignored)


def match_videos(generated: Sequence[Video], reference: Sequence[Video]) -> list[tuple[Video, Video]]:
    """Pairs of videos of one name, in the order of the generated ones.

    Raises:
        DataError: A name that only one of the sets has; all are listed.
    """
    named = {video.name: video for video in reference}
    ours = {video.name for video in generated}
    lone = {"generated": sorted(ours - named.keys()), "reference": sorted(named.keys() - ours)}
    if any(lone.values()):
        parts = [f"{len(names)} only among the {which}: {', '.join(names)}" for which, names in lone.items() if names]
        raise DataError(f"unmatched names: {'; '.join(parts)}", expected="each video in both sets")
    return [(video, named[video.name]) for video in generated]


def same_format(videos: Sequence[Video]) -> tuple[float, int, int]:
    """The frame rate, width and height that all of the videos have.

    Raises:
        DataError: They differ; every format is listed with its videos.
    """
    formats: dict[tuple[float, int, int], list[str]] = defaultdict(list)
    for video in videos:
        formats[round(video.fps, 3), video.width, video.height].append(video.name or "(unnamed)")
    if len(formats) != 1:
        listed = "; ".join(
            f"{fps:g} fps {width}x{height}: {', '.join(names)}" for (fps, width, height), names in formats.items()
        )
        raise DataError(
            f"videos of {len(formats)} formats: {listed}" if formats else "no videos",
            expected="one frame rate and one resolution, or numbers that depend on both cannot be compared",
            fix="bring them to one format, for example with ffmpeg -r and -s",
        )
    return next(iter(formats))


def _shown_frames(path: Path) -> int | None:
    """Frames that a player shows, None where the file does not state how many it holds.

    Read from the packets, without decoding: a video cut without encoding it anew holds packets before its start that
    are decoded and not shown.
    """
    with _decoding(path) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.dts is not None or packet.pts is not None]
        stated = int(stream.frames)
        times = sorted(float(p.pts * p.time_base) for p in packets if p.pts is not None and not p.is_discard)
    if stated and len(packets) < stated:
        raise DataError(
            f"{len(packets)} of the {stated} frames that the file states are there",
            where=path,
            expected="a whole video",
            fix="write or copy it again",
        )
    gaps = np.diff(np.array(times))
    typical = float(np.median(gaps)) if len(gaps) else 0.0
    uneven = np.abs(gaps - typical) > _UNEVEN * typical
    if typical > 0 and uneven.mean() > _UNEVEN_SHARE:
        raise DataError(
            f"frames are shown for {gaps.min() * 1000:.0f} to {gaps.max() * 1000:.0f} ms: a variable frame rate",
            where=path,
            expected="evenly spaced frames, from which speeds can be computed",
            fix="ffmpeg -i IN -vf fps=30 OUT",
        )
    return sum(not packet.is_discard for packet in packets) if stated else None


@contextmanager
def _decoding(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream; whatever breaks in between becomes one DataError."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError("the file holds no video", where=path, expected="a video file")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except (av.FFmpegError, OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise DataError(f"the video cannot be decoded ({told})", where=path, expected="a video file") from error


def _upright(frame: Any) -> np.ndarray:
    """A decoded frame as (H, W, 3), turned as the file says that players must turn it."""
    picture = frame.to_ndarray(format="rgb24")
    turns = round(float(getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
