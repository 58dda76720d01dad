"""The page of a study: pairs of videos of two systems, blind and seeded, for raters with a browser and no server.

``OUT/page`` goes to the raters; ``OUT/key.json``, which says which file is whose, stays.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from macedance.errors import ConfigError, DataError
from macedance.metrics.study import Question
from macedance.metrics.study_files import StudyKey, Trial, read_key, write_key
from macedance.motion.atomic import write_atomically
from macedance.report.study_media import (
    IMAGE_SUFFIXES,
    SONG_SUFFIXES,
    Format,
    by_stem,
    copy_image,
    copy_song,
    copy_video,
    fingerprint_file,
    probe_format,
)

PAGE, MEDIA, KEY = "page", "media", "key.json"
#: Seconds of each video that must have been played before a pair may be judged.
WATCH_S = 5.0
#: Pairs shown twice, of all: one rater's agreement with themselves.
_REPEATED_SHARE = 0.1
_FEWEST_FOR_REPEATS = 6
_SECONDS_PER_ANSWER = 6.0
#: Differences in length below this are not seen.
_SAME_LENGTH_S = 0.25
Videos = Mapping[str, Path]


@dataclass(frozen=True)
class StudyRequest:
    """What a study compares and asks.

    Args:
        a: Clip -> video of system a.
        b: Clip -> video of system b, of the same clips.
        names: What ``a`` and ``b`` are called; raters do not see it.
        folders: Where the videos are.
        questions: What is asked.
        seed: Of the choice of clips, of the names of files, and of order and sides.
        max_clips: At most so many pairs, drawn by the seed; None: all.
        repeats: Pairs shown twice; None: a tenth, none below six pairs.
        songs: Folder of songs by the clips' names, which are played instead of the videos' own sound.
        references: Folder of reference pictures by the clips' names, shown beside the pair.
        title: Of the page.
    """

    a: Videos
    b: Videos
    names: Mapping[str, str]
    folders: Mapping[str, str]
    questions: Sequence[Question]
    seed: int = 0
    max_clips: int | None = None
    repeats: int | None = None
    songs: Path | None = None
    references: Path | None = None
    title: str = "Which of the two?"


def make_study(request: StudyRequest, out: str | Path, progress: Callable[[int, int], None] | None = None) -> StudyKey:
    """Write the page, its media and the key.

    Args:
        request: What is compared.
        out: The folder; ``page`` and ``key.json`` are made in it.
        progress: Called with (videos copied, videos in all).

    Returns:
        The key, whose remarks say what may unblind raters and what they cannot judge.

    Raises:
        ConfigError: Another study is in the folder, or more repeats than a third of the pairs.
        DataError: Videos that browsers do not play, songs or pictures that are missing (all are listed), or a folder
            that cannot be written.
    """
    out = Path(out)
    clips = _chosen(request)
    again = _repeated(request, clips)
    formats = _formats(request, clips)
    songs = _companions(request.songs, SONG_SUFFIXES, "songs", clips)
    references = _companions(request.references, IMAGE_SUFFIXES, "reference pictures", clips)
    study, names = _anonymous(request, clips)
    trials = [Trial(f"p{number:03d}", clip, *names[clip]) for number, clip in enumerate(clips, start=1)]
    shown_again = [
        Trial(f"p{len(trials) + number:03d}", clip, *names[clip], repeat=True)
        for number, clip in enumerate(again, start=1)
    ]
    remarks = _remarks(request, formats, songs, references)
    key = StudyKey(
        study, request.seed, dict(request.names), dict(request.folders),
        tuple(question.key for question in request.questions), (*trials, *shown_again), tuple(remarks),
    )  # fmt: skip
    _refuse_another(out, key)
    media = out / PAGE / MEDIA
    # In the order of names that mean nothing: the dates of the files must not tell either.
    copies = sorted(
        (names[clip][which], videos[clip]) for clip in clips for which, videos in ((0, request.a), (1, request.b))
    )
    for number, (name, source) in enumerate(copies, start=1):
        copy_video(source, media / f"{name}.mp4", sound=not songs)
        if progress is not None:
            progress(number, len(copies))
    song_names = {clip: _hidden(study, "song", clip) + path.suffix.lower() for clip, path in songs.items()}
    for clip, path in songs.items():
        copy_song(path, media / song_names[clip])
    picture_names = {clip: _hidden(study, "reference", clip) + ".png" for clip in references}
    for clip, path in references.items():
        copy_image(path, media / picture_names[clip])
    sound = bool(songs) or any(format_.sound for pair in formats.values() for format_ in pair)
    data = _page_data(request, key, song_names, picture_names)
    write_atomically(
        out / PAGE / "index.html",
        _html(request, data, len(key.trials), sound, formats).encode("utf-8", "backslashreplace"),
    )
    write_key(out / KEY, key)
    return key


def _chosen(request: StudyRequest) -> list[str]:
    clips = sorted(request.a)
    if request.max_clips is None or request.max_clips >= len(clips):
        return clips
    order = np.random.default_rng(request.seed).permutation(len(clips))
    return sorted(clips[index] for index in order[: request.max_clips])


def _repeated(request: StudyRequest, clips: Sequence[str]) -> list[str]:
    count = request.repeats
    if count is None:
        count = math.ceil(_REPEATED_SHARE * len(clips)) if len(clips) >= _FEWEST_FOR_REPEATS else 0
    if count > len(clips) // 3:
        raise ConfigError(
            f"{count} repeated pairs of {len(clips)}", expected="at most a third, so that raters do not remember them"
        )
    order = np.random.default_rng([request.seed, 1]).permutation(len(clips))
    return [clips[index] for index in sorted(order[:count])]


def _formats(request: StudyRequest, clips: Sequence[str]) -> dict[str, tuple[Format, Format]]:
    found, bad = {}, []
    for clip in clips:
        try:
            found[clip] = (probe_format(request.a[clip]), probe_format(request.b[clip]))
        except DataError as error:
            bad.append(f"{Path(str(error.where)).name}: {error.what}")
    if bad:
        raise DataError(
            f"{len(bad)} videos cannot be shown: {'; '.join(bad)}",
            expected="h264 and aac",
            fix="ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p -c:a aac OUT.mp4",
        )
    return found


def _companions(folder: Path | None, suffixes: tuple[str, ...], what: str, clips: Sequence[str]) -> dict[str, Path]:
    if folder is None:
        return {}
    found = by_stem(folder, suffixes, what)
    missing = [clip for clip in clips if clip not in found]
    if missing:
        raise DataError(f"{len(missing)} clips have no {what}: {', '.join(missing)}", where=folder)
    return {clip: found[clip] for clip in clips}


def _anonymous(request: StudyRequest, clips: Sequence[str]) -> tuple[str, dict[str, tuple[str, str]]]:
    """The study's number, and for each clip the names of a's and b's file, which follow from what is in them."""
    content = hashlib.sha256(f"{request.seed}\n{','.join(q.key for q in request.questions)}\n".encode())
    for clip in clips:
        files = f"{clip} {fingerprint_file(request.a[clip])} {fingerprint_file(request.b[clip])}\n"
        content.update(files.encode("utf-8", "backslashreplace"))
    secret = content.hexdigest()
    return _hidden(secret, "study", ""), {
        clip: (_hidden(secret, "a", clip), _hidden(secret, "b", clip)) for clip in clips
    }


def _hidden(secret: str, what: str, clip: str) -> str:
    name = f"{what}\n{clip}".encode("utf-8", "backslashreplace")
    return hashlib.blake2b(name, key=secret.encode()[:64], digest_size=6).hexdigest()


def _remarks(
    request: StudyRequest,
    formats: Mapping[str, tuple[Format, Format]],
    songs: Mapping[str, Path],
    references: Mapping[str, Path],
) -> list[str]:
    """What may tell raters the systems apart, and what they cannot judge."""
    remarks = []
    checks: tuple[tuple[str, Callable[[Format], Any]], ...] = (
        ("frame rate", lambda f: f.fps), ("size", lambda f: (f.width, f.height)), ("sound", lambda f: f.sound),
    )  # fmt: skip
    for what, of in checks:
        different = [clip for clip, (a, b) in formats.items() if of(a) != of(b)]
        if different and not (what == "sound" and songs):
            remarks.append(f"raters may tell the systems by the {what} of {len(different)} pairs: {_few(different)}")
    longer = [clip for clip, (a, b) in formats.items() if abs(a.seconds - b.seconds) > _SAME_LENGTH_S]
    if longer:
        remarks.append(f"raters may tell the systems by the length of {len(longer)} pairs: {_few(longer)}")
    asked = {question.key for question in request.questions}
    silent = [clip for clip, pair in formats.items() if not any(format_.sound for format_ in pair)]
    if silent and not songs and asked & {"ds", "gm", "rm"}:
        remarks.append(
            f"{len(silent)} pairs have no sound, without which questions about the music cannot be judged: "
            f"{_few(silent)}; --music DIR plays the songs"
        )
    if "ic" in asked and not references:
        remarks.append("identity is judged against the video's own first frames: --reference-images DIR shows pictures")
    return remarks


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _refuse_another(out: Path, key: StudyKey) -> None:
    if not (out / KEY).exists():
        return
    other = read_key(out / KEY)
    if (other.study, other.trials) != (key.study, key.trials):
        raise ConfigError(
            f"study {other.study} is already here, and answers to it need its key", where=out / KEY,
            fix="choose another --out",
        )  # fmt: skip


def _page_data(
    request: StudyRequest, key: StudyKey, songs: Mapping[str, str], references: Mapping[str, str]
) -> dict[str, Any]:
    first = {trial.clip: trial.trial for trial in key.trials if not trial.repeat}
    return {
        "study": key.study,
        "seed": key.seed,
        "watch_s": WATCH_S,
        "questions": [{"key": question.key, "text": question.text} for question in request.questions],
        "trials": [
            {
                "trial": trial.trial,
                # In the order of names that mean nothing: whose comes first must not tell.
                "files": sorted((trial.a, trial.b)),
                "song": songs.get(trial.clip),
                "reference": references.get(trial.clip),
                "again": first[trial.clip] if trial.repeat else None,
            }
            for trial in key.trials
        ],
    }


def _html(
    request: StudyRequest,
    data: Mapping[str, Any],
    pairs: int,
    sound: bool,
    formats: Mapping[str, tuple[Format, Format]],
) -> str:
    from jinja2 import Environment, StrictUndefined

    room = files("macedance.report")
    lengths = [max(a.seconds, b.seconds) for a, b in formats.values()]
    seconds = pairs * (float(np.mean(lengths)) + _SECONDS_PER_ANSWER * len(request.questions))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(room.joinpath("study.html.j2").read_text(encoding="utf-8")).render(
        title=request.title,
        pairs=pairs,
        sound=sound,
        minutes=max(1, round(seconds / 60)),
        style="\n".join(room.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "study.css")),
        script=room.joinpath("study.js").read_text(encoding="utf-8"),
        study=dict(data),
    )
