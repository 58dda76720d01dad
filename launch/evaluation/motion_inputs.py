"""The two folders that ``macedance evaluate motion`` compares, whatever they hold."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.keypoint_sources import KEYPOINT_SOURCES, keypoint_source
from launch.options import say
from macedance.errors import DataError, MaceDanceError

if TYPE_CHECKING:
    from macedance.metrics.clips import ClipFolder, Kind
    from macedance.metrics.conventions import Clip
    from macedance.metrics.song_beats import Heard
    from macedance.vision.keypoints import KeypointSource

SETS = ("generated", "reference")


@dataclass(frozen=True)
class Sets:
    """The two folders as read.

    Args:
        generated: Clips to judge.
        reference: Clips to judge them by.
        left_out: Set -> file -> why it was left out.
        notes: What a reader must know of the inputs, one sentence each.
        weights: Model -> sha256, where keypoints were found by networks.
        resolution: Width and height of the videos, where both sets have one and the same.
        settings: What else the numbers depend on: where keypoints and beats come from.
    """

    generated: list[Clip]
    reference: list[Clip]
    left_out: dict[str, dict[str, str]]
    notes: list[str]
    weights: dict[str, str]
    resolution: tuple[int, int] | None
    settings: dict[str, Any]


def read_sets(options: argparse.Namespace) -> Sets:
    """Both folders, with the beats of their songs; what is wrong with either is said at once.

    Raises:
        DataError: Folders that cannot be judged; every file at fault is named.
        DependencyError: The weights of the keypoint networks are not there.
    """
    from macedance.metrics.song_beats import BEAT_FPS

    source = keypoint_source(options.keypoints, options.weights, options.device) if options.keypoints else None
    chosen = _chosen(options, source)
    folders: dict[str, ClipFolder] = {}
    errors: list[MaceDanceError] = []
    for which in SETS:
        path = Path(getattr(options, which))
        try:
            folders[which] = _read_folder(path, options, source, chosen[which])
        except DataError as error:
            errors.append(error)
    if len(errors) > 1:
        told = " and ".join(f"{error.what} at {error.where}" for error in errors)
        raise DataError(told, expected=errors[0].expected, fix=errors[0].fix)
    if errors:
        raise errors[0]
    generated, reference = (folders[which] for which in SETS)
    if generated.kind != reference.kind:
        raise DataError(
            f"{generated.path} holds {generated.kind} and {reference.path} {reference.kind}",
            expected="clips of one kind",
            fix="--kind keypoints where files hold both, --keypoints for videos",
        )
    for which, folder in folders.items():
        for name, why in folder.left_out.items():
            say(f"left out of the {which} clips: {name}: {why}")
    clips = {which: folder.clips for which, folder in folders.items()}
    notes = _input_notes(folders, options)
    settings: dict[str, Any] = {}
    if source is not None:
        settings["keypoints"] = {"source": source.name, **source.settings}
    if options.music:
        clips, heard = _with_music(clips, Path(options.music))
        notes += [note for which in SETS for note in heard[which].notes(which)]
        if any(part.found for part in heard.values()):
            settings["tracked_beats_fps"] = BEAT_FPS
    return Sets(
        clips["generated"],
        clips["reference"],
        {which: folder.left_out for which, folder in folders.items()},
        notes,
        {} if source is None else dict(source.weights),
        _resolution(folders),
        settings,
    )


def _with_music(clips: dict[str, list[Clip]], folder: Path) -> tuple[dict[str, list[Clip]], dict[str, Heard]]:
    """The clips with the beats of their songs, by set, and which of them got any."""
    from macedance.metrics.song_beats import song_files, with_songs
    from macedance.music.cache import cache_root
    from macedance.report.progress import Progress

    songs = song_files(folder)
    both = [*clips["generated"], *clips["reference"]]
    with Progress("beats of songs", len(songs)) as bar:
        heard = with_songs(both, songs, cache_dir=cache_root() / "music", progress=lambda done, _: bar.update(done))
    if not heard.found and heard.without:
        raise DataError(
            f"none of {len(songs)} songs belongs to any of the clips without beats, for example {heard.without[0]}",
            where=folder,
            expected="songs named as the clips, as their `song`, or as AIST++ names its music",
        )
    half = len(clips["generated"])
    parts = {"generated": heard.part(0, half), "reference": heard.part(half, len(both))}
    return {which: part.clips for which, part in parts.items()}, parts


def _input_notes(folders: dict[str, ClipFolder], options: argparse.Namespace) -> list[str]:
    """What a reader must know of the folders as they were read."""
    from macedance.metrics.keypoint_clips import KeypointFolder

    notes = []
    for which, folder in folders.items():
        if options.max_clips is not None and len(folder.clips) == options.max_clips:
            notes.append(
                f"{which} clips: {options.max_clips} were drawn by the seed {options.seed}, the others not read"
            )
        if isinstance(folder, KeypointFolder):
            notes.append(f"{which} clips are videos, their keypoints were found by {folder.source}")
            notes += [f"{which} clips: {note}" for note in folder.notes]
    if folders["generated"].path.resolve() == folders["reference"].path.resolve():
        notes.append("generated and reference are one folder: the numbers say nothing but that the protocol works")
    sizes = {which: f.resolution for which, f in folders.items() if isinstance(f, KeypointFolder) and f.resolution}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{which} {width}x{height}" for which, (width, height) in sizes.items())
        notes.append(f"videos of different resolutions, which presets that judge pixels confuse: {listed}")
    return notes


def _resolution(folders: dict[str, ClipFolder]) -> tuple[int, int] | None:
    """Width and height of the videos, where all that are videos have one and the same."""
    from macedance.metrics.keypoint_clips import KeypointFolder

    sizes = {folder.resolution for folder in folders.values() if isinstance(folder, KeypointFolder)}
    return sizes.pop() if len(sizes) == 1 else None


def _read_folder(
    path: Path, options: argparse.Namespace, source: KeypointSource | None, only: set[str] | None
) -> ClipFolder:
    from macedance.metrics.clips import read_clips
    from macedance.metrics.keypoint_clips import keypoints_of_folder
    from macedance.report.progress import Progress
    from macedance.vision.video import read_videos

    videos = _video_stems(path)
    if source is not None and videos:
        opened = read_videos(path, leave_out_bad=True).videos
        total = sum(video.num_frames or 0 for video in opened if only is None or video.name in only)
        done = 0
        with Progress(f"keypoints of {path.name}", total) as bar:

            def advance(frames: int) -> None:
                nonlocal done
                done += frames
                bar.update(min(done, total))

            return keypoints_of_folder(path, source, leave_out_bad=options.leave_out_bad, only=only, progress=advance)
    if videos and source is None and not _clip_stems(path):
        raise DataError(
            f"{len(videos)} videos and no clips",
            where=path,
            expected="files of joints or keypoints",
            fix=f"find keypoints in the videos with --keypoints {' or --keypoints '.join(KEYPOINT_SOURCES)}",
        )
    kind: Kind | None = "keypoints" if source is not None else options.kind
    return read_clips(path, kind=kind, fps=options.fps, leave_out_bad=options.leave_out_bad, only=only)


def _chosen(options: argparse.Namespace, source: KeypointSource | None) -> dict[str, set[str] | None]:
    """The names to judge in each folder, None for all; with --match, an error that lists the unmatched ones."""
    stems = {}
    for which in SETS:
        path = Path(getattr(options, which))
        stems[which] = (_video_stems(path) if source is not None else set()) or _clip_stems(path)
    ours, theirs = (stems[which] for which in SETS)
    if options.match and ours and theirs and ours != theirs:
        parts = [
            f"{len(names)} only among the {which}: {', '.join(sorted(names))}"
            for which, names in zip(SETS, (ours - theirs, theirs - ours), strict=True)
            if names
        ]
        raise DataError(
            f"unmatched names: {'; '.join(parts)}",
            expected="each clip in both folders",
            fix="leave --match out to compare unpaired sets",
        )
    if options.max_clips is None:
        return dict.fromkeys(SETS)
    return {which: _drawn(stems[which], ours & theirs, options.max_clips, options.seed) for which in SETS}


def _drawn(names: set[str], paired: set[str], count: int, seed: int) -> set[str]:
    """``count`` of the names: pairs first, the same in both folders, then others."""
    import numpy as np

    generator = np.random.default_rng(seed)
    first, rest = sorted(names & paired), sorted(names - paired)
    ordered = [first[i] for i in generator.permutation(len(first))] + [
        rest[i] for i in generator.permutation(len(rest))
    ]
    return set(ordered[:count])


def _clip_stems(path: Path) -> set[str]:
    """Stems of the clips of a folder; beside videos, a .json is none of them."""
    from macedance.metrics.clips import clip_files

    known = clip_files(path)[0] if path.is_dir() else []
    videos = _video_stems(path)
    return {file.stem for file in known if file.suffix.lower() != ".json" or not videos}


def _video_stems(path: Path) -> set[str]:
    from macedance.vision.video import SUFFIXES

    if not path.is_dir():
        return set()
    return {file.stem for file in path.iterdir() if file.is_file() and file.suffix.lower() in SUFFIXES}
