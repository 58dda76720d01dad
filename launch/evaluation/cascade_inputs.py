"""What ``macedance evaluate cascade`` reads: folders of motions, pictures of dancers, true videos, a renderer."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.options import say
from macedance.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from macedance.metrics.cascade import CascadeClip
    from macedance.rendering.motion_to_video import Danced, MotionRenderer

DEFAULT_RENDERER = "macedance.rendering.MeshDancer"


@dataclass(frozen=True)
class CascadeInputs:
    """What is compared.

    Args:
        clips: The reference's clips, with pictures and true videos where there are some.
        generated: Clip -> generated motion, of the same length.
        left_out: ``generated``, ``reference``, ``videos`` -> file -> why.
        notes: What a reader must know, one sentence each.
    """

    clips: list[CascadeClip]
    generated: dict[str, Danced]
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_cascade(options: argparse.Namespace) -> CascadeInputs:
    """Everything that the options name.

    Raises:
        DataError: Folders that cannot be compared; every file at fault is named.
        ConfigError: An impossible option.
    """
    from macedance.metrics.cascade import CascadeClip
    from macedance.metrics.clips import clip_files

    motions: dict[str, dict[str, Danced]] = {}
    left_out: dict[str, dict[str, str]] = {}
    ignored: list[str] = []
    only = _chosen(options)
    errors: list[DataError] = []
    for which in ("generated", "reference"):
        try:
            folder = Path(getattr(options, which))
            motions[which], left_out[which] = read_motions(
                folder, fps=options.fps, leave_out_bad=options.leave_out_bad, only=only
            )
            ignored += _ignored_note(which, clip_files(folder)[1], "motions")
        except DataError as error:
            errors.append(error)
    if len(errors) > 1:
        told = " and ".join(f"{error.what} at {error.where}" for error in errors)
        raise DataError(told, expected=errors[0].expected, fix=errors[0].fix)
    if errors:
        raise errors[0]
    _pair(motions, left_out)
    notes = ignored + _equal_lengths(motions, options.max_seconds)
    names = sorted(motions["reference"])
    if only is not None:
        notes.append(f"{len(names)} clips, drawn by the seed {options.seed} (--max-clips), are compared")
    pictures: dict[str, np.ndarray] = {}
    if options.reference_images:
        pictures = read_pictures(Path(options.reference_images), names)
        notes += picture_notes(Path(options.reference_images), names)
    videos: dict[str, Any] = {}
    if options.videos:
        videos, left_out["videos"], more = read_true_videos(
            Path(options.videos), motions["reference"], leave_out_bad=options.leave_out_bad
        )
        notes += more
    for which, files in left_out.items():
        for name, why in files.items():
            say(f"left out of {which}: {name}: {why}")
    clips = [CascadeClip(name, motions["reference"][name], pictures.get(name), videos.get(name)) for name in names]
    return CascadeInputs(clips, motions["generated"], left_out, notes)


def read_motions(
    folder: Path, *, fps: float | None, leave_out_bad: bool, only: set[str] | None
) -> tuple[dict[str, Danced], dict[str, str]]:
    """The dances of a folder by name, with rotations where a file has them, and what was left out.

    Raises:
        DataError: As read_clips, or clips that hold keypoints.
    """
    from macedance.metrics.clips import read_clips
    from macedance.motion.files import JointClip, load_motion

    found = read_clips(folder, kind="joints", fps=fps, leave_out_bad=leave_out_bad, only=only)
    flat = [clip.name for clip in found.clips if not isinstance(clip, JointClip)]
    if flat:
        raise DataError(
            f"{len(flat)} clips hold keypoints, which have no depth: {', '.join(flat)}",
            where=folder,
            expected="motions: poses and trans, or joints",
        )
    motions: dict[str, Danced] = {}
    for clip in found.clips:
        assert isinstance(clip, JointClip)  # all others were refused
        path = folder / f"{clip.name}.npz"
        motions[clip.name] = load_motion(path) if path.is_file() and _has_rotations(path) else clip
    return motions, dict(found.left_out)


def read_pictures(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The reference image (H, W, 3) uint8 RGB of each clip: one picture for all, or a folder with one for each.

    Raises:
        DataError: Nothing there, a file that is no picture, or clips without one, with two or with a damaged one (all
            are listed).
    """
    from macedance.vision import picture_folders
    from macedance.vision.pictures import read_picture

    if path.is_file():
        return dict.fromkeys(names, read_picture(path))
    if not path.is_dir():
        raise DataError("no such file or folder", where=path, expected="a picture, or a folder with one for each clip")
    return picture_folders.read_pictures(path, names)


def picture_notes(path: Path, names: Sequence[str]) -> list[str]:
    """Whose pictures were given, and which files of their folder are of no clip."""
    if path.is_file():
        return [f"the reference image of all clips is {path.name}"]
    others = [file.name for file in sorted(path.iterdir()) if file.is_file() and file.stem not in set(names)]
    more = f"; of no clip: {', '.join(others)}" if others else ""
    return [f"the reference images of the {len(names)} clips are those of the folder {path.name}{more}"]


def read_true_videos(
    folder: Path, motions: Mapping[str, Danced], *, leave_out_bad: bool
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """The true videos by clip, what was left out, and what a reader must know of them.

    Raises:
        DataError: As read_videos, clips without a video (all are listed), or videos of several formats.
    """
    from macedance.vision.video import read_videos, same_format

    found = read_videos(folder, leave_out_bad=leave_out_bad)
    videos = {video.name: video for video in found.videos if video.name in motions}
    lacking = sorted(motions.keys() - videos.keys())
    if lacking and not (leave_out_bad and videos):
        raise DataError(
            f"{len(lacking)} clips have no true video: {', '.join(lacking)}",
            where=folder,
            expected="a video of each clip's name",
            fix="leave --videos out, or ask for clips without one to be left out of the arms that need it",
        )
    same_format(list(videos.values()))
    seconds = {
        name: (video.num_frames / video.fps, _frames(motions[name]) / motions[name].fps)
        for name, video in videos.items()
        if video.num_frames
    }
    other = [f"{name} ({a:.2f} s, motion {b:.2f} s)" for name, (a, b) in seconds.items() if abs(a - b) > 0.1]
    notes = _ignored_note("true videos'", found.ignored, "videos")
    strangers = [video.name for video in found.videos if video.name not in motions]
    if strangers:
        notes.append(f"{len(strangers)} true videos are of no clip that is compared: {', '.join(strangers)}")
    if other:
        notes.append(f"{len(other)} true videos are not as long as their motion: {', '.join(other)}")
    return videos, dict(found.left_out), notes


def _ignored_note(which: str, files: Sequence[str], what: str) -> list[str]:
    return [f"files of the {which} folder that are no {what}: {', '.join(files)}"] if files else []


def make_renderer(options: argparse.Namespace, fps: float) -> MotionRenderer:
    """The renderer of the options; the built-in one at the frame rate of the motions.

    Raises:
        ConfigError: No such class, options that it does not take, or something that is no renderer.
    """
    from macedance.rendering.motion_to_video import MotionRenderer

    given = _renderer_options(options.renderer_option)
    if options.renderer == DEFAULT_RENDERER:
        given = {"width": options.size, "height": options.size, "camera": options.camera, "fps": fps} | given
    module, _, name = options.renderer.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"no renderer {options.renderer!r}: {error}", expected=f"the path of a class, such as {DEFAULT_RENDERER}"
        ) from error
    try:
        renderer = kind(**given)
    except TypeError as error:
        raise ConfigError(
            f"{name} cannot be made of these options: {error}", fix="see its --renderer-option"
        ) from error
    if not isinstance(renderer, MotionRenderer):
        raise ConfigError(
            f"{options.renderer} is no renderer",
            expected="reference_image, render, driving_keypoints, fps, weights, settings",
        )
    return renderer


def _renderer_options(texts: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for text in texts:
        key, found, value = text.partition("=")
        if not found or not key.isidentifier():
            raise ConfigError(f"--renderer-option {text!r}", expected="KEY=VALUE")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def _chosen(options: argparse.Namespace) -> set[str] | None:
    """The clips that --max-clips leaves, drawn by the seed among those of both folders; None for all."""
    if options.max_clips is None:
        return None
    import numpy as np

    from macedance.metrics.clips import clip_files

    stems = [{file.stem for file in clip_files(Path(getattr(options, w)))[0]} for w in ("generated", "reference")]
    if stems[0] != stems[1]:
        return None  # the pairing says which
    order = np.random.default_rng(options.seed).permutation(sorted(stems[0]))
    return set(order[: options.max_clips].tolist())


def _pair(motions: dict[str, dict[str, Danced]], left_out: dict[str, dict[str, str]]) -> None:
    """Keep the clips of both folders; a partner that was left out takes the other with it, any other lack is an error.

    Raises:
        DataError: Names that only one folder has (all are listed), or nothing left.
    """
    gone = {which: {Path(file).stem for file in files} for which, files in left_out.items()}
    parts = []
    for which, other in (("generated", "reference"), ("reference", "generated")):
        for name in sorted(motions[which].keys() - motions[other].keys()):
            if name in gone[other]:
                del motions[which][name]
                left_out[which][name] = f"its {other} clip was left out"
            else:
                parts.append((which, name))
    if parts:
        told = [
            f"{len(names)} only among the {which}: {', '.join(names)}"
            for which in ("generated", "reference")
            if (names := [name for where, name in parts if where == which])
        ]
        raise DataError(f"unmatched names: {'; '.join(told)}", expected="each clip in both folders")
    if not motions["reference"]:
        raise DataError("no clip is left in both folders", expected="at least one")


def _equal_lengths(motions: dict[str, dict[str, Danced]], most_seconds: float | None) -> list[str]:
    """Cut both dances of a clip to their common length; says which were cut."""
    notes, cut = [], []
    for name in motions["reference"]:
        pair = {which: motions[which][name] for which in ("generated", "reference")}
        seconds = {which: _frames(motion) / motion.fps for which, motion in pair.items()}
        shortest = min(*seconds.values(), most_seconds or float("inf"))
        if abs(seconds["generated"] - seconds["reference"]) > 0.5 / min(motion.fps for motion in pair.values()):
            cut.append(f"{name} ({seconds['generated']:.2f} and {seconds['reference']:.2f} s)")
        for which, motion in pair.items():
            motions[which][name] = _first(motion, max(1, round(shortest * motion.fps)))
    if cut:
        notes.append(f"{len(cut)} clips were cut to the shorter of the two dances: {', '.join(cut)}")
    if most_seconds is not None:
        notes.append(f"the first {most_seconds:g} s of each clip were compared")
    return notes


def _first(motion: Danced, frames: int) -> Danced:
    from macedance.motion.files import Motion

    if frames >= _frames(motion):
        return motion
    if isinstance(motion, Motion):
        return motion.slice(0, frames)
    beats = motion.music_beats_s
    beats = None if beats is None else beats[beats < frames / motion.fps]
    return replace(motion, joints=motion.joints[:frames], music_beats_s=beats)


def _frames(motion: Danced) -> int:
    from macedance.motion.files import Motion

    return motion.num_frames if isinstance(motion, Motion) else len(motion.joints)


def _has_rotations(path: Path) -> bool:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return {"poses.npy", "trans.npy"} <= set(archive.namelist())
