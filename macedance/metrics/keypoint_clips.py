"""Keypoints found in videos, as the clips that the 2-D protocol judges; extraction is kept between runs."""

from __future__ import annotations

import io
import json
import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from macedance.errors import DataError
from macedance.metrics.clips import ClipFolder
from macedance.metrics.conventions import Clip
from macedance.metrics.keypoints import LAYOUTS, KeypointClip, body_in_torso_lengths
from macedance.metrics.motion import MIN_FRAMES
from macedance.motion.atomic import write_atomically
from macedance.music.cache import cache_root, content_hash
from macedance.vision.keypoints import KeypointSource, Progress, VideoKeypoints
from macedance.vision.video import Video, read_videos

_LOG = logging.getLogger(__name__)
#: What is true of all keypoints that were found in each picture for itself.
SHAKING = "keypoints of videos shake: compare jerk only between videos of one size that one source has read"


@dataclass(frozen=True)
class KeypointFolder(ClipFolder):
    """The clips of a folder of videos.

    Args:
        found: What the source found, one for each clip.
        source: Name of the source.
        weights: Model -> sha256.
        notes: What a reader of numbers from these clips must know, one sentence each; names are all listed.
        resolution: Width and height, where all videos have one.
    """

    found: list[VideoKeypoints] = field(default_factory=list)
    source: str = ""
    weights: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    resolution: tuple[int, int] | None = None


def keypoint_clip(
    found: VideoKeypoints,
    *,
    genre: str | None = None,
    music_beats_s: np.ndarray | None = None,
    song: str | None = None,
) -> KeypointClip:
    """The keypoints of a video as a clip for the metrics, which fill in what is not seen.

    Raises:
        DataError: A layout that the metrics do not know.
    """
    layout = LAYOUTS.get(found.layout)
    if layout is None:
        raise DataError(
            f"unknown layout {found.layout}", where=found.name or None, expected=f"one of {', '.join(LAYOUTS)}"
        )
    return KeypointClip(found.keypoints, found.fps, genre, music_beats_s, found.name, song, layout, axes="xy")


def keypoints_of_video(
    video: Video, source: KeypointSource, *, cache: Path | None = None, progress: Progress | None = None
) -> VideoKeypoints:
    """The keypoints of one video; of a file, computed once for its content and the source.

    Args:
        video: A file, or a clip in memory, which is computed every time.
        source: What finds them.
        cache: Where they are kept; None: ``keypoints`` in the cache folder.
        progress: Called with numbers of frames.

    Raises:
        DataError: The video cannot be decoded.
    """
    if video.path is None:
        return source(video, progress)
    settings = json.dumps([source.name, source.layout, source.weights, source.settings], sort_keys=True)
    key = content_hash(video.path, "keypoints-1", settings)
    path = (cache_root() / "keypoints" if cache is None else cache) / f"{key}.npz"
    kept = _kept(path, video, source)
    if kept is not None:
        if progress is not None:
            progress(len(kept.keypoints))
        return kept
    found = source(video, progress)
    stream = io.BytesIO()
    np.savez(stream, keypoints=found.keypoints, boxes=found.boxes, persons=found.persons)
    try:
        write_atomically(path, stream.getvalue())
    except DataError as error:
        _LOG.warning("keypoints of %s are not kept: %s", video.path.name, error)
    return found


def keypoints_of_folder(
    folder: str | Path,
    source: KeypointSource,
    *,
    cache: Path | None = None,
    leave_out_bad: bool = False,
    only: Collection[str] | None = None,
    progress: Progress | None = None,
) -> KeypointFolder:
    """The keypoints of every video of a folder as clips, in the order of their names.

    A video too short to measure, or in which no frame shows the dancer's shoulders and hips, is one that cannot be
    used. Music is not read from videos.

    Args:
        folder: The folder.
        source: What finds them.
        cache: See keypoints_of_video.
        leave_out_bad: Leave videos that cannot be used out, with the reason, instead of refusing the folder.
        only: Stems of the videos to judge; None: all.
        progress: Called with numbers of frames.

    Raises:
        DataError: No video, videos that cannot be used (all are listed with their reasons), two files of one stem, or
            different frame rates (all are listed).
    """
    opened = read_videos(folder, leave_out_bad=True)
    bad = {name: why for name, why in opened.left_out.items() if only is None or Path(name).stem in only}
    videos = [video for video in opened.videos if only is None or video.name in only]
    if not videos and not bad:
        raise DataError(f"none of the {len(opened.videos)} videos is asked for", where=opened.path)
    if bad and not (leave_out_bad and videos):
        # What will be refused is refused before hours of work; short or empty dances show up in the work itself.
        raise _refusal(bad, len(videos) + len(bad), opened.path)
    _refuse_mixed_rates(videos, opened.path)
    found: list[VideoKeypoints] = []
    clips: list[Clip] = []
    for video in videos:
        try:
            one = keypoints_of_video(video, source, cache=cache, progress=progress)
            clips.append(_usable(one))
            found.append(one)
        except DataError as error:
            name = video.path.name if video.path else video.name
            bad[name] = f"{error.what}; expected {error.expected}" if error.expected else error.what
    if bad and not (leave_out_bad and clips):
        raise _refusal(bad, len(clips) + len(bad), opened.path)
    sizes = {(one.width, one.height) for one in found}
    return KeypointFolder(
        opened.path,
        clips,
        bad,
        opened.ignored,
        found,
        source.name,
        dict(source.weights),
        keypoint_notes(found),
        next(iter(sizes)) if len(sizes) == 1 else None,
    )


def _refusal(bad: dict[str, str], total: int, folder: Path) -> DataError:
    listed = "; ".join(f"{name} ({why})" for name, why in sorted(bad.items()))
    return DataError(
        f"{len(bad)} of {total} videos cannot be used: {listed}",
        where=folder,
        fix="mend or remove them, or ask for them to be left out",
    )


def keypoint_notes(found: Sequence[VideoKeypoints]) -> list[str]:
    """What a reader must know of these keypoints: frames without a dancer, frames with others, mixed resolutions."""
    notes = [SHAKING]
    for what, frames in (
        ("the dancer was not found, and keypoints are zeros,", [one.missing for one in found]),
        ("more than one person was seen", [one.crowded for one in found]),
    ):
        counts = {one.name: int(rows.sum()) for one, rows in zip(found, frames, strict=True) if rows.any()}
        if counts:
            listed = ", ".join(f"{name} ({count})" for name, count in counts.items())
            total = sum(len(rows) for rows in frames)
            notes.append(f"{what} in {sum(counts.values())} of {total} frames: {listed}")
    sizes: dict[tuple[int, int], list[str]] = defaultdict(list)
    for one in found:
        sizes[one.width, one.height].append(one.name)
    if len(sizes) > 1:
        listed = "; ".join(f"{width}x{height}: {', '.join(names)}" for (width, height), names in sizes.items())
        notes.append(f"videos of {len(sizes)} resolutions, which presets that judge pixels confuse: {listed}")
    return notes


def _usable(found: VideoKeypoints) -> KeypointClip:
    frames = len(found.keypoints)
    if frames < MIN_FRAMES:
        raise DataError(f"too short: {frames} frame{'s' if frames > 1 else ''}", expected=f"at least {MIN_FRAMES}")
    if found.missing.all():
        raise DataError(f"nobody was found in any of {frames} frames", expected="a dancer")
    clip = keypoint_clip(found)
    body_in_torso_lengths(clip)
    return clip


def _kept(path: Path, video: Video, source: KeypointSource) -> VideoKeypoints | None:
    """What an earlier run found; None where there is none or it is damaged, which is said."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return VideoKeypoints(
                archive["keypoints"],
                video.fps,
                video.name,
                archive["boxes"],
                archive["persons"],
                source.layout,
                video.width,
                video.height,
            )
    except Exception as error:
        # A damaged archive raises whatever zipfile, zlib or numpy stumble over.
        _LOG.warning("kept keypoints %s cannot be read (%s): found again", path, error)
        return None


def _refuse_mixed_rates(videos: Sequence[Video], folder: Path) -> None:
    rates: dict[float, list[str]] = defaultdict(list)
    for video in videos:
        rates[round(video.fps, 3)].append(video.name)
    if len(rates) > 1:
        listed = "; ".join(f"{fps:g} fps: {', '.join(names)}" for fps, names in rates.items())
        raise DataError(
            f"mixed frame rates: {listed}",
            where=folder,
            expected="one frame rate in a folder",
            fix="convert the videos to one",
        )
