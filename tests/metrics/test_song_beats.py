"""Songs are found by the names of clips, heard once, and clips that know their beats keep them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import random_clips

from macedance.errors import DataError
from macedance.metrics.conventions import Clip
from macedance.metrics.song_beats import song_files, song_names, with_songs
from macedance.music.audio import write_audio


def write_clicks(path: Path, period_s: float, seconds: float = 8.0, rate: int = 22050) -> None:
    t = np.arange(round(seconds * rate)) / rate
    write_audio(path, (0.5 * np.sin(2 * np.pi * 880 * t) * (t % period_s < 0.03)).astype(np.float32), rate)


def unheard(name: str, song: str | None = None) -> Clip:
    return replace(random_clips(1)[0], name=name, song=song, music_beats_s=None)


@pytest.mark.parametrize(
    ("name", "song", "names"),
    [
        ("unheard-12", None, ["unheard-12", "unheard"]),
        ("a", "b", ["b", "a"]),
        ("gBR_sBM_cAll_d04_mBR0_ch01", None, ["gBR_sBM_cAll_d04_mBR0_ch01", "mBR0"]),
        # A piece of a dance does not begin with the song: only music of its own name is its music.
        ("gBR_sBM_cAll_d04_mBR0_ch01_slice3", None, ["gBR_sBM_cAll_d04_mBR0_ch01_slice3"]),
        ("007", None, ["007"]),
    ],
)
def test_names_under_which_a_song_is_looked_for(name: str, song: str | None, names: list[str]) -> None:
    assert song_names(unheard(name, song)) == names


def test_beats_are_those_of_the_song(tmp_path: Path) -> None:
    for name, period in (("slow", 0.6), ("fast", 0.4)):
        write_clicks(tmp_path / f"{name}.wav", period)
    own = replace(random_clips(1)[0], name="fast-9")
    clips = [unheard("slow-0"), unheard("lost"), own, unheard("fast"), unheard("slow-1")]
    heard_of: list[tuple[int, int]] = []
    heard = with_songs(clips, song_files(tmp_path), progress=lambda *numbers: heard_of.append(numbers))
    assert (heard.found, heard.own, heard.without) == (["slow-0", "fast", "slow-1"], ["fast-9"], ["lost"])
    assert heard_of == [(1, 2), (2, 2)]
    assert heard.clips[2] is own
    for index, period in ((0, 0.6), (3, 0.4), (4, 0.6)):
        beats = heard.clips[index].music_beats_s
        assert beats is not None
        assert np.median(np.diff(beats)) == pytest.approx(period, abs=1 / 30)
    assert heard.clips[0].song == heard.clips[4].song == "slow"
    notes = heard.part(0, 2).notes("generated")
    assert len(notes) == 2
    assert notes[0].startswith("1 generated clips were judged by beats that librosa tracked")
    assert notes[1].endswith("no song of their name: lost")


def test_songs_that_cannot_be_heard_are_all_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.wav").write_bytes(b"RIFF nothing")
    write_clicks(tmp_path / "c.wav", 0.5)
    clips = [unheard(name) for name in "abc"]
    with pytest.raises(DataError, match=r"2 of 3 songs cannot be heard: a\.wav \(.*\); b\.wav \("):
        with_songs(clips, song_files(tmp_path))


def test_folders_without_music_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        song_files(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="no music"):
        song_files(tmp_path)
    for suffix in ("mp3", "wav"):
        (tmp_path / f"song.{suffix}").write_bytes(b"")
    with pytest.raises(DataError, match=r"several files of one name: song\.mp3, song\.wav"):
        song_files(tmp_path)


def test_the_sound_of_videos_is_music_where_there_is_no_other(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "b.wav", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    assert {stem: path.name for stem, path in song_files(tmp_path).items()} == {"a": "a.mp4", "b": "b.wav"}


def test_files_of_one_song_are_one_song(tmp_path: Path) -> None:
    """Chance is measured against other songs' beats: another file of the same song is none."""
    for name, period in (("song-0", 0.5), ("song-1", 0.5), ("other", 0.4)):
        write_clicks(tmp_path / f"{name}.wav", period)
    clips = [unheard(name) for name in ("song-0", "song-1", "other")]
    heard = with_songs(clips, song_files(tmp_path))
    assert [clip.song for clip in heard.clips] == ["song-0", "song-0", "other"]
    assert [path.stem for path in heard.songs if path] == ["song-0", "song-1", "other"]
