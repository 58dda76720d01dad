"""What ``macedance evaluate video`` reads: videos, reference images, driving keypoints, and what finds the dancer."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from launch.keypoint_sources import best_keypoint_source, keypoint_source
from launch.options import say
from macedance.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from macedance.metrics.honest.driven import KeptKeypoints
    from macedance.vision.video import Video, VideoFolder

#: What finds the dancer: the best source whose weights are there, or nothing.
AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class VideoSets:
    """The folders as read.

    Args:
        generated: Videos to judge.
        reference: Videos for comparison; may be empty.
        left_out: Set -> file -> why it was left out.
        notes: What a reader must know of the inputs, one sentence each.
    """

    generated: list[Video]
    reference: list[Video]
    left_out: dict[str, dict[str, str]]
    notes: list[str]


def read_sets(options: argparse.Namespace) -> VideoSets:
    """The folder or folders of the options; what is wrong with either is said at once.

    Raises:
        DataError: Folders that cannot be judged; every file at fault is named.
    """
    from macedance.vision.video import match_videos, read_videos

    folders: dict[str, VideoFolder] = {}
    errors: list[DataError] = []
    for which in ("generated", "reference"):
        path = getattr(options, which)
        if path is None:
            continue
        try:
            folders[which] = read_videos(path, leave_out_bad=options.leave_out_bad)
        except DataError as error:
            errors.append(error)
    if len(errors) > 1:
        raise DataError("; ".join(f"{error.what} at {error.where}" for error in errors), expected=errors[0].expected)
    if errors:
        raise errors[0]
    if options.match:
        match_videos(folders["generated"].videos, folders["reference"].videos)
    notes = _notes(folders)
    if options.max_clips is not None:
        notes += _draw(folders, options.max_clips, options.seed)
    say_left_out({which: folder.left_out for which, folder in folders.items()})
    notes += _check_format([video for folder in folders.values() for video in folder.videos], options.allow_mixed)
    return VideoSets(
        folders["generated"].videos,
        folders["reference"].videos if "reference" in folders else [],
        {which: dict(folder.left_out) for which, folder in folders.items()},
        notes,
    )


def say_left_out(
    left_out: Mapping[str, Mapping[str, str]], *, known: Mapping[str, Mapping[str, str]] | None = None
) -> None:
    """Say which videos were left out and why.

    Args:
        left_out: Set -> file -> why.
        known: Those that were said before.
    """
    for which, files in left_out.items():
        for name, why in files.items():
            if name not in (known or {}).get(which, {}):
                say(f"left out of the {which} videos: {name}: {why}")


def find_keypoints(chosen: str, weights: str | None, device: str) -> tuple[KeptKeypoints | None, str]:
    """What finds the dancer; None with the reason.

    Args:
        chosen: AUTO, NONE or a name of KEYPOINT_SOURCES, which then must be there.
        weights: Root of the weights.
        device: Where its networks run.

    Raises:
        DependencyError: The named source is not there.
        CheckpointError: Weights that are there and are not the published ones.
    """
    from macedance.metrics.honest.driven import KeptKeypoints

    if chosen == NONE:
        return None, "--keypoints none: nothing finds the dancer"
    if chosen != AUTO:
        return KeptKeypoints(keypoint_source(chosen, weights, device)), ""
    source, why_not = best_keypoint_source(weights, device)
    return None if source is None else KeptKeypoints(source), why_not


def read_references(folder: str, videos: Sequence[Video]) -> dict[str, np.ndarray]:
    """The reference image (H, W, 3) of every video.

    Raises:
        DataError: Videos without one; all are listed.
    """
    from macedance.vision.picture_folders import read_pictures

    return read_pictures(folder, [video.name for video in videos])


def read_driving(folder: str, videos: Sequence[Video]) -> dict[str, np.ndarray]:
    """The driving keypoints (T, 17, 3) of every video, in its pixels.

    Raises:
        DataError: Videos without any, or with another number of frames or another frame rate; all are listed.
    """
    from macedance.metrics.clips import read_clips
    from macedance.metrics.keypoints import KeypointClip, coco_keypoints

    names = [video.name for video in videos]
    clips = {clip.name: clip for clip in read_clips(folder, kind="keypoints", only=names).clips}
    found: dict[str, np.ndarray] = {}
    bad: list[str] = []
    for video in videos:
        clip = clips.get(video.name)
        if not isinstance(clip, KeypointClip):
            bad.append(f"{video.name}: none")
        elif video.num_frames is not None and len(clip.keypoints) != video.num_frames:
            bad.append(f"{video.name}: {len(clip.keypoints)} frames, the video {video.num_frames}")
        elif abs(clip.fps - video.fps) > 0.01 * video.fps:
            bad.append(f"{video.name}: {clip.fps:g} fps, the video {video.fps:g}")
        else:
            found[video.name] = coco_keypoints(clip)
    if bad:
        raise DataError(
            f"driving keypoints do not fit {len(bad)} of {len(videos)} videos: {'; '.join(bad)}",
            where=Path(folder),
            expected="(frames, K, 3) in an .npz of each video's name, one row for each of its frames",
        )
    return found


def _notes(folders: dict[str, VideoFolder]) -> list[str]:
    notes = [
        f"files of the {which} folder that are no videos: {', '.join(folder.ignored)}"
        for which, folder in folders.items()
        if folder.ignored
    ]
    if "reference" in folders and folders["reference"].path.resolve() == folders["generated"].path.resolve():
        notes.append("generated and reference are one folder")
    return notes


def _check_format(videos: Sequence[Video], allow_mixed: bool) -> list[str]:
    """A note where formats are mixed and that was allowed."""
    from macedance.vision.video import same_format

    try:
        same_format(videos)
    except DataError as error:
        if allow_mixed:
            return [f"{error.what}: numbers of all presets but aesthetics depend on both, and were mixed as asked"]
        raise DataError(
            error.what, expected=error.expected, fix=f"{error.fix}; --allow-mixed judges them as they are"
        ) from error
    return []


def _draw(folders: dict[str, VideoFolder], count: int, seed: int) -> list[str]:
    """Keep ``count`` videos of each folder, of names that both have the same ones; returns what must be said."""
    import numpy as np

    order: dict[str, int] = {}
    names = sorted({video.name for folder in folders.values() for video in folder.videos})
    both = [name for name in names if all(any(v.name == name for v in folder.videos) for folder in folders.values())]
    generator = np.random.default_rng(seed)
    for group in (both, [name for name in names if name not in set(both)]):
        for k in generator.permutation(len(group)):
            order[group[k]] = len(order)
    notes = []
    for which, folder in folders.items():
        kept = set(sorted((video.name for video in folder.videos), key=order.__getitem__)[:count])
        if len(kept) < len(folder.videos):
            notes.append(f"{len(kept)} of {len(folder.videos)} {which} videos were drawn by the seed {seed}")
        folders[which] = replace(folder, videos=[video for video in folder.videos if video.name in kept])
    return notes
