"""The beats of the songs that dances belong to, found by name in a folder of music.

A clip's song is the file whose stem is the clip's ``song``, its own name, its name without the number that ``macedance
generate`` adds (``song-3``), or the music's token in a name of AIST++ (``gBR_sBM_cAll_d04_mBR0_ch01`` dances to
``mBR0``). Clip and song are taken to begin together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from macedance.errors import DataError
from macedance.metrics.conventions import Clip

#: File endings that are read as music.
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".aif")
#: Videos whose sound is taken where there is no file of music of their name.
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
#: Beats are tracked at this rate whatever the clips' own, as the music features of the models are: one song, one grid.
BEAT_FPS = 30.0

_NUMBERED = re.compile(r"-\d+$")
_AIST_MUSIC = re.compile(r"(?:^|_)(m[A-Z]{2}\d+)(?=_|$)")
#: Pieces of a dance do not begin where the song does.
_PIECE = re.compile(r"slice\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Heard:
    """Clips with the beats of their songs.

    Args:
        clips: All clips, in their order.
        songs: For each clip the file whose beats it got; None where it brought beats of its own or found no song.
    """

    clips: list[Clip]
    songs: list[Path | None]

    @property
    def found(self) -> list[str]:
        """Names of the clips that got beats."""
        return [clip.name for clip, song in zip(self.clips, self.songs, strict=True) if song is not None]

    @property
    def own(self) -> list[str]:
        """Names of the clips that had beats before and keep them."""
        pairs = zip(self.clips, self.songs, strict=True)
        return [clip.name for clip, song in pairs if song is None and clip.music_beats_s is not None]

    @property
    def without(self) -> list[str]:
        """Names of the clips that have no beats and whose song is not there."""
        return [clip.name for clip in self.clips if clip.music_beats_s is None]

    def part(self, start: int, stop: int) -> Heard:
        """Of the clips ``start`` to ``stop`` (exclusive)."""
        return Heard(self.clips[start:stop], self.songs[start:stop])

    def notes(self, which: str) -> list[str]:
        """What a reader must know, one sentence each; names are all listed.

        Args:
            which: What the clips are called, ``generated`` or ``reference``.
        """
        notes = []
        if self.found:
            notes.append(
                f"{len(self.found)} {which} clips were judged by beats that librosa tracked in the files of their songs"
            )
        if self.own:
            notes.append(f"{len(self.own)} {which} clips brought beats of their own and were judged by those")
        if self.without:
            notes.append(
                f"{len(self.without)} {which} clips have no beats and no song of their name: {', '.join(self.without)}"
            )
        return notes


def song_files(folder: str | Path) -> dict[str, Path]:
    """Stem -> file of the music of a folder; the sound of a video where no file of music has its stem.

    Raises:
        DataError: No folder, no music in it, or two files of one stem (all are listed).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no such folder", where=folder, expected="a folder of music")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    sound = [path for path in files if path.suffix.lower() in SUFFIXES]
    heard = {path.stem for path in sound}
    files = sound + [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES and path.stem not in heard]
    if not files:
        raise DataError("no music", where=folder, expected=f"files ending in {' '.join(SUFFIXES + VIDEO_SUFFIXES)}")
    twins = [stem for stem, count in Counter(path.stem for path in files).items() if count > 1]
    if twins:
        names = ", ".join(path.name for path in files if path.stem in twins)
        raise DataError(f"several files of one name: {names}", where=folder, expected="one file for each song")
    return {path.stem: path for path in files}


def song_names(clip: Clip) -> list[str]:
    """The names under which the song of a clip is looked for, the surest first."""
    names = [clip.song or "", clip.name, _NUMBERED.sub("", clip.name)]
    if not _PIECE.search(clip.name):
        names += _AIST_MUSIC.findall(clip.name)
    return list(dict.fromkeys(name for name in names if name))


def with_songs(
    clips: Sequence[Clip],
    songs: Mapping[str, Path],
    *,
    cache_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Heard:
    """Clips that have no beats get those of their songs, and the song's name; files of equal beats are one song.

    Args:
        clips: The clips.
        songs: See song_files.
        cache_dir: Where the beats are kept between runs, see macedance.music.features.
        progress: Called with (songs heard, songs in all).

    Raises:
        DataError: Files that are no sound; all are listed with their reasons.
    """
    from macedance.music.beats import beat_times

    found: dict[int, Path] = {}
    for index, clip in enumerate(clips):
        name = next((name for name in song_names(clip) if name in songs), None)
        if name is not None and clip.music_beats_s is None:
            found[index] = songs[name]
    wanted = sorted(set(found.values()))
    beats: dict[Path, np.ndarray] = {}
    bad: list[str] = []
    for done, path in enumerate(wanted):
        try:
            beats[path] = beat_times(path, BEAT_FPS, cache_dir=cache_dir)
        except DataError as error:
            bad.append(f"{path.name} ({error.what})")
        if progress is not None:
            progress(done + 1, len(wanted))
    if bad:
        raise DataError(
            f"{len(bad)} of {len(wanted)} songs cannot be heard: {'; '.join(bad)}",
            where=wanted[0].parent,
            fix="mend them, or remove them and do without their beats",
        )
    # Videos of one song are several files: against each other's beats they would seem to dance to them by chance.
    first: dict[bytes, str] = {}
    song = {path: first.setdefault(beats[path].tobytes(), path.stem) for path in wanted}
    heard: list[Clip] = [
        clip if index not in found else replace(clip, music_beats_s=beats[found[index]], song=song[found[index]])
        for index, clip in enumerate(clips)
    ]
    return Heard(heard, [found.get(index) for index in range(len(clips))])
