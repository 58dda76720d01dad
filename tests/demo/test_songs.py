"""Songs made by code: exact beats, musical form, clean sound, and genres that can be told apart."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from macedance.demo.instruments import SAMPLE_RATE
from macedance.demo.songs import GENRES, Song, SongSpec, make_song, random_spec, tempo_range_bpm
from macedance.demo.styles import STYLES
from macedance.errors import DataError
from macedance.music.audio import Audio
from macedance.music.features import music_features


@pytest.fixture(scope="module")
def songs() -> dict[str, Song]:
    return {genre: make_song(random_spec(genre, genre, 7)) for genre in GENRES}


@pytest.fixture(scope="module")
def tracked(songs: dict[str, Song]) -> dict[str, np.ndarray]:
    return {genre: music_features(Audio(song.samples, song.sample_rate)) for genre, song in songs.items()}


def test_there_are_eight_genres_at_90_to_150_bpm() -> None:
    assert len(GENRES) == len(set(GENRES)) == 8
    assert list(GENRES) == sorted(GENRES)
    for genre in GENRES:
        low, high = tempo_range_bpm(genre)
        assert 90 <= low < high <= 150


@pytest.mark.parametrize("genre", GENRES)
def test_song_has_the_asked_length_a_full_scale_peak_and_no_clipping(songs: dict[str, Song], genre: str) -> None:
    song = songs[genre]
    assert song.samples.dtype == np.float32
    assert len(song.samples) == round(song.spec.duration_s * song.sample_rate)
    assert np.isfinite(song.samples).all()
    assert np.abs(song.samples).max() == pytest.approx(0.89, abs=1e-3)
    assert (np.abs(song.samples) > 0.885).mean() < 1e-3
    assert 0.08 < np.sqrt((song.samples**2).mean()) < 0.4
    assert abs(song.samples.mean()) < 0.02
    assert np.abs(song.samples[-40:]).max() < 1e-3


@pytest.mark.parametrize("genre", GENRES)
def test_beats_stand_on_an_exact_grid_and_cover_the_song(songs: dict[str, Song], genre: str) -> None:
    song = songs[genre]
    period = 60 / song.spec.tempo_bpm
    np.testing.assert_allclose(np.diff(song.beats_s), period, atol=1e-9)
    assert 0 < song.beats_s[0] < period
    assert song.duration_s - 1.2 * period < song.beats_s[-1] < song.duration_s
    np.testing.assert_array_equal(song.downbeats_s, song.beats_s[::4])
    np.testing.assert_array_equal(song.eight_counts_s, song.beats_s[::8])
    assert np.isin(song.accents_s, song.beats_s).all()
    assert song.accents_s.shape == song.accent_strengths.shape
    assert ((song.accent_strengths > 0) & (song.accent_strengths <= 1)).all()
    assert 0.5 < len(song.accents_s) / len(song.beats_s) <= 1


@pytest.mark.parametrize("genre", GENRES)
def test_sections_follow_each_other_and_change_at_eight_counts(songs: dict[str, Song], genre: str) -> None:
    song = songs[genre]
    assert song.sections[0].start_s == 0
    assert song.sections[-1].end_s == pytest.approx(song.duration_s)
    for before, after in zip(song.sections, song.sections[1:], strict=False):
        assert before.end_s == after.start_s
        assert before.name != after.name
        assert np.abs(song.eight_counts_s - after.start_s).min() < 1e-9
    energy = {section.name: section.energy for section in song.sections}
    assert set(energy) <= {"intro", "verse", "chorus", "break", "outro"}
    assert {"chorus", "break"} <= set(energy)
    assert energy["chorus"] > energy["break"] + 0.5


@pytest.mark.parametrize("genre", GENRES)
def test_drums_drop_out_in_a_break_and_play_the_chorus(songs: dict[str, Song], genre: str) -> None:
    song = songs[genre]
    for section in song.sections:
        inside = (song.accents_s >= section.start_s - 1e-6) & (song.accents_s < section.end_s - 1e-6)
        beats = (song.beats_s >= section.start_s - 1e-6) & (song.beats_s < section.end_s - 1e-6)
        share = inside.sum() / beats.sum()
        if section.name == "break":
            assert share <= 0.55
        elif section.name == "chorus":
            assert share > 0.5


@pytest.mark.parametrize("genre", GENRES)
def test_accents_are_onsets_of_the_sound(songs: dict[str, Song], tracked: dict[str, np.ndarray], genre: str) -> None:
    song, envelope = songs[genre], tracked[genre][:, 0]

    def strongest(times_s: np.ndarray) -> float:
        frames = np.round(times_s * 30).astype(int)[:, None] + np.arange(4)
        return float(envelope[np.minimum(frames, len(envelope) - 1)].max(axis=1).mean())

    period = 60 / song.spec.tempo_bpm
    assert strongest(song.accents_s) > 1.5 * strongest(song.accents_s + 0.3 * period)
    silent = song.beats_s[~np.isin(song.beats_s, song.accents_s)]
    assert strongest(song.accents_s) > 1.2 * strongest(silent)


@pytest.mark.parametrize("genre", GENRES)
def test_every_sound_starts_and_ends_at_zero(genre: str) -> None:
    style, rng = STYLES[genre], np.random.default_rng(0)
    sounds = [drum.render(rng) for drum in style.kit.values()]
    sounds += [tone.render(57, 0.3) for tone in (*style.chords, *style.bass, *style.lead)]
    for sound in sounds:
        assert sound.dtype == np.float32
        assert np.isfinite(sound).all()
        assert sound[0] == sound[-1] == 0
        assert 0.5 < np.abs(sound).max() <= 1.01
        assert np.abs(sound[-20:]).max() < 0.05


def test_tones_sound_at_their_pitch() -> None:
    for genre in GENRES:
        for tone in (*STYLES[genre].chords, *STYLES[genre].bass):
            sound = tone.render(69, 0.5)
            spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 16))
            harmonic = np.argmax(spectrum) * SAMPLE_RATE / (1 << 16) / 440
            assert harmonic == pytest.approx(round(harmonic), abs=0.02)
            assert round(harmonic) >= 1


def test_patterns_are_whole_bars_of_known_symbols() -> None:
    for style in STYLES.values():
        for groove in (*style.grooves, *style.fills):
            for role, steps in groove.items():
                assert role in ("kick", "snare", "clap", "hat", "open", "perc", "perc2", "tom", "crash")
                assert len(steps) in (8, 16, 32), steps
                assert set(steps) <= set("Xxo.")
        for steps in (*style.chord_rhythms, *style.bass_lines, *style.lead_rhythms):
            assert len(steps) in (16, 32), steps
            assert set(steps) <= set("XxoRFOTA.")
        assert all(0 <= degree < 7 for progression in style.progressions for degree in progression)


def test_equal_specs_give_equal_samples_in_every_process_and_seeds_differ() -> None:
    spec = SongSpec("a", "krump", 99.0, 3, 6.0)
    code = (
        "import hashlib; from macedance.demo.songs import *; "
        "print(hashlib.sha256(make_song(SongSpec('b', 'krump', 99.0, 3, 6.0)).samples.tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    samples = make_song(spec).samples
    assert done.stdout.strip() == hashlib.sha256(samples.tobytes()).hexdigest()
    other = make_song(SongSpec("a", "krump", 99.0, 4, 6.0)).samples
    assert abs(np.corrcoef(samples, other)[0, 1]) < 0.5
    assert random_spec("a", "latin", 1) == random_spec("a", "latin", 1)
    assert random_spec("a", "latin", 1).tempo_bpm != random_spec("a", "latin", 2).tempo_bpm


@pytest.mark.parametrize("duration_s", [4.0, 7.3, 12.0, 61.0])
def test_any_length_has_a_form(duration_s: float) -> None:
    song = make_song(SongSpec("a", "house", 120.0, 0, duration_s))
    assert len(song.samples) == round(duration_s * SAMPLE_RATE)
    assert len(song.accents_s) > 2
    assert song.sections[-1].end_s == pytest.approx(duration_s)


def test_wrong_specs_are_one_clear_line() -> None:
    with pytest.raises(DataError, match=r"unknown genre 'polka'.*breaking, hiphop"):
        SongSpec("a", "polka", 100, 0)
    with pytest.raises(DataError, match="unknown genre"):
        random_spec("a", "polka", 0)
    for spec in ((20, 0, 30), (100, 0, 1), (100, -1, 30), (float("nan"), 0, 30), (100, 0, float("nan"))):
        with pytest.raises(DataError):
            SongSpec("a", "house", *spec)


def test_librosa_finds_tempo_and_beats_of_the_songs(songs: dict[str, Song], tracked: dict[str, np.ndarray]) -> None:
    right_tempo, near = [], []
    for genre, song in songs.items():
        beats = np.flatnonzero(tracked[genre][:, 34]) / 30
        tempo = 60 / np.median(np.diff(beats))
        right_tempo.append(abs(tempo / song.spec.tempo_bpm - 1) < 0.07)
        # librosa's beats lag the strokes by about 50 ms.
        near.append(np.mean(np.abs(beats[:, None] - 0.05 - song.beats_s).min(axis=1) < 0.07))
    assert np.mean(right_tempo) >= 0.85
    assert np.mean(near) > 0.9


def test_genres_are_told_apart_by_simple_statistics_of_the_features() -> None:
    statistics, labels = [], []
    for index, genre in enumerate(GENRES):
        for seed in range(4):
            song = make_song(random_spec(genre, genre, 50 + seed, duration_s=9.0))
            found = music_features(Audio(song.samples, song.sample_rate))
            statistics.append(np.concatenate([found.mean(axis=0), found.std(axis=0)]))
            labels.append(index)
    values, genre_of = np.array(statistics), np.array(labels)
    right = 0
    for left_out in range(len(values)):
        kept = np.arange(len(values)) != left_out
        scale = values[kept].std(axis=0) + 1e-6
        centroids = np.stack([values[kept & (genre_of == k)].mean(axis=0) for k in range(8)])
        distance = (((values[left_out] - centroids) / scale) ** 2).sum(axis=1)
        right += int(distance.argmin() == genre_of[left_out])
    assert right / len(values) > 0.6  # chance is 0.125
