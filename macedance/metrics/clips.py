"""Folders of dances as the metrics read them: nothing is dropped in silence.

A clip is a file: an ``.npz`` with poses and trans, joints (T, 24, 3) or keypoints (T, K, 3), ``fps`` and optionally
``music_beats_s``, ``song``, ``genre`` (for keypoints also ``layout`` and ``axes``); or a result file of a published
system, see result_files.py. Its name is the file's stem, by which sets are matched.
"""

from __future__ import annotations

import zipfile
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from macedance.errors import DataError, MaceDanceError
from macedance.metrics.conventions import Clip, points_of
from macedance.metrics.keypoints import LAYOUTS, KeypointClip
from macedance.metrics.motion import MIN_FRAMES
from macedance.metrics.result_files import SUFFIXES, read_result_file
from macedance.motion.files import load_joints

Kind = Literal["joints", "keypoints"]


@dataclass(frozen=True)
class ClipFolder:
    """The clips of a folder.

    Args:
        path: The folder.
        clips: Those that can be used, by name.
        left_out: File name -> why it was left out; empty unless that was asked for.
        ignored: Names of files that are no clips.
    """

    path: Path
    clips: list[Clip]
    left_out: dict[str, str]
    ignored: list[str]

    @property
    def kind(self) -> Kind:
        """What the clips hold."""
        return _kind(self.clips[0])


def read_clips(
    folder: str | Path,
    *,
    kind: Kind | None = None,
    fps: float | None = None,
    leave_out_bad: bool = False,
    only: Collection[str] | None = None,
) -> ClipFolder:
    """Read every clip of a folder, not of those inside it.

    Args:
        folder: The folder.
        kind: What to read of a file that holds both; None: joints.
        fps: Frame rate of result files, where it is not their system's; an .npz says its own.
        leave_out_bad: Leave files that cannot be used out, with the reason, instead of refusing the folder.
        only: Stems of the files to read; None: all.

    Raises:
        DataError: No folder, no clip, files that cannot be used (all are listed with their reasons), two files of one
            stem, or clips of different frame rates or kinds (all are listed).
    """
    folder = Path(folder)
    known, ignored = clip_files(folder)
    if not known:
        holds = f"; it holds {', '.join(ignored[:8])}" if ignored else ""
        raise DataError(f"no clips{holds}", where=folder, expected=f"files ending in .npz {' '.join(SUFFIXES)}")
    _refuse_twins(known, folder)
    known = [path for path in known if only is None or path.stem in only]
    clips: list[Clip] = []
    bad: dict[str, str] = {}
    for path in known:
        try:
            clips.append(_checked_length(read_clip(path, kind=kind, fps=fps)))
        except MaceDanceError as error:
            bad[path.name] = f"{error.what}; expected {error.expected}" if error.expected else error.what
    if bad and not (leave_out_bad and clips):
        raise DataError(
            f"{len(bad)} of {len(known)} files cannot be used: {_listed(bad)}",
            where=folder,
            fix="mend or remove them, or ask for them to be left out",
        )
    _refuse_mixtures(clips, folder)
    return ClipFolder(folder, clips, bad, ignored)


def clip_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The files of a folder that are clips, by name, and the names of the others.

    Raises:
        DataError: No folder.
    """
    if not folder.is_dir():
        raise DataError("no such folder", where=folder, expected="a folder of clips")
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    known = [path for path in files if path.suffix.lower() in (".npz", *SUFFIXES)]
    # Settings and scores lie about as .json beside other clips; as clips they come alone.
    known = [path for path in known if path.suffix.lower() != ".json"] or known
    return known, [path.name for path in files if path not in set(known)]


def read_clip(path: str | Path, *, kind: Kind | None = None, fps: float | None = None) -> Clip:
    """Read one clip; see read_clips.

    Raises:
        DataError: The file cannot be used.
    """
    path = Path(path)
    if path.suffix.lower() != ".npz":
        return read_result_file(path, fps=fps)
    keys = _npz_keys(path)
    planar = "keypoints" in keys and (kind == "keypoints" or not keys & {"joints", "poses"})
    return _read_npz_keypoints(path) if planar else load_joints(path)


def unmatched(generated: Sequence[Clip], reference: Sequence[Clip]) -> tuple[list[str], list[str]]:
    """Names that only the generated clips have, and those that only the reference has, in order."""
    ours, theirs = ({clip.name for clip in clips} for clips in (generated, reference))
    return sorted(ours - theirs), sorted(theirs - ours)


def match_clips(generated: Sequence[Clip], reference: Sequence[Clip]) -> list[tuple[Clip, Clip]]:
    """Pairs of clips of one name, in the order of the generated ones.

    Raises:
        DataError: A name that only one of the sets has; all are listed.
    """
    lone = unmatched(generated, reference)
    if any(lone):
        parts = [
            f"{len(names)} only among the {which}: {', '.join(names)}"
            for names, which in zip(lone, ("generated", "reference"), strict=True)
            if names
        ]
        raise DataError(f"unmatched names: {'; '.join(parts)}", expected="each clip in both sets")
    by_name = {clip.name: clip for clip in reference}
    return [(clip, by_name[clip.name]) for clip in generated]


def with_music_of(generated: Sequence[Clip], reference: Sequence[Clip], *, replace_own: bool = False) -> list[Clip]:
    """Generated clips with the beats and the song of the reference clip of their name, where they have none.

    Args:
        generated: The clips.
        reference: Where to look.
        replace_own: Take the reference's beats even where a clip has its own, as MACE-Dance's 2-D protocol does.
    """
    by_name = {clip.name: clip for clip in reference}
    result: list[Clip] = []
    for clip in generated:
        other = by_name.get(clip.name)
        if other is not None and other.music_beats_s is not None and (replace_own or clip.music_beats_s is None):
            clip = replace(clip, music_beats_s=other.music_beats_s, song=clip.song or other.song)
        result.append(clip)
    return result


def _npz_keys(path: Path) -> set[str]:
    """Names of the arrays; empty where the file is damaged, which its reader then says."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return set()


def _read_npz_keypoints(path: Path) -> KeypointClip:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {key: archive[key] for key in archive.files}
    except Exception as error:
        # A damaged archive raises whatever zipfile, zlib or numpy stumble over.
        raise DataError(f"damaged .npz, or pickled objects: {error}", where=path) from error
    if "fps" not in arrays or arrays["fps"].size != 1 or arrays["fps"].dtype.kind not in "fiu":
        raise DataError("lacks fps", where=path, expected="keypoints (T, K, 3) and one number fps")
    texts = {key: str(arrays[key]) for key in ("genre", "song", "layout", "axes") if key in arrays}
    if "layout" in texts and texts["layout"] not in LAYOUTS:
        raise DataError(f"unknown layout {texts['layout']}", where=path, expected=f"one of {', '.join(LAYOUTS)}")
    layout = LAYOUTS[texts.pop("layout")] if "layout" in texts else None
    try:
        return KeypointClip(
            arrays["keypoints"],
            float(arrays["fps"].reshape(())),
            music_beats_s=arrays.get("music_beats_s"),
            name=path.stem,
            layout=layout,
            **texts,  # type: ignore[arg-type]
        )
    except DataError as error:
        raise DataError(error.what, where=path, expected=error.expected) from error


def _checked_length(clip: Clip) -> Clip:
    frames = len(points_of(clip))
    if frames < MIN_FRAMES:
        raise DataError(f"too short: {frames} frame{'s' if frames > 1 else ''}", expected=f"at least {MIN_FRAMES}")
    return clip


def _refuse_twins(paths: Sequence[Path], folder: Path) -> None:
    twins = [stem for stem, count in Counter(path.stem for path in paths).items() if count > 1]
    if twins:
        names = ", ".join(path.name for path in paths if path.stem in twins)
        raise DataError(f"several files of one name: {names}", where=folder, expected="one file for each clip")


def _refuse_mixtures(clips: Sequence[Clip], folder: Path) -> None:
    """One frame rate, one kind and one number of points: every clip that differs from most is named."""
    for what, value in (
        ("frame rates", lambda clip: f"{clip.fps:g} fps"),
        ("contents", lambda clip: f"{points_of(clip).shape[1]} {_kind(clip)}"),
    ):
        groups: dict[str, list[str]] = defaultdict(list)
        for clip in clips:
            groups[value(clip)].append(clip.name)
        if len(groups) > 1:
            ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
            rest = "; ".join(f"{name}: {', '.join(names)}" for name, names in ordered[1:])
            raise DataError(
                f"mixed {what}: {ordered[0][0]} in {len(ordered[0][1])} clips, but {rest}",
                where=folder,
                expected=f"one of {what} in a folder",
                fix="convert the clips to one",
            )


def _kind(clip: Clip) -> Kind:
    return "keypoints" if isinstance(clip, KeypointClip) else "joints"


def _listed(bad: dict[str, str]) -> str:
    return "; ".join(f"{name} ({why})" for name, why in bad.items())
