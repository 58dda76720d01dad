"""Songs made by code: the music of the built-in corpus, with every beat known.

A song is composed (form in 8-counts, grooves, harmony, melody) and rendered from the instruments of
:mod:`macedance.demo.instruments` in the style of one of :data:`GENRES`. The same :class:`SongSpec` gives the same
samples in every process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from macedance.demo.arrangement import BEATS_PER_BAR, BEATS_PER_PHRASE, Composer, Section
from macedance.demo.instruments import SAMPLE_RATE, Samples
from macedance.demo.mixing import render_score
from macedance.demo.styles import STYLES
from macedance.errors import DataError

GENRES: tuple[str, ...] = tuple(STYLES)
"""The eight genres, alphabetical: the labels of the corpus."""

MIN_DURATION_S = 4.0
TEMPO_RANGE_BPM = (60.0, 200.0)

__all__ = ["GENRES", "SAMPLE_RATE", "Section", "Song", "SongSpec", "make_song", "random_spec"]


@dataclass(frozen=True)
class SongSpec:
    """What identifies a song.

    Args:
        name: Key of the song in a corpus.
        genre: One of :data:`GENRES`.
        tempo_bpm: Beats per minute, 60..200 (genres live at 90..150, see :func:`tempo_range_bpm`).
        seed: Every choice follows from it.
        duration_s: Exact length in seconds, at least 4.

    Raises:
        DataError: An unknown genre, or a tempo or length out of range.
    """

    name: str
    genre: str
    tempo_bpm: float
    seed: int
    duration_s: float = 30.0

    def __post_init__(self) -> None:
        if self.genre not in STYLES:
            raise DataError(f"unknown genre {self.genre!r}", where=self.name, expected=", ".join(GENRES))
        if not TEMPO_RANGE_BPM[0] <= self.tempo_bpm <= TEMPO_RANGE_BPM[1]:
            raise DataError(f"tempo {self.tempo_bpm} BPM is out of range", where=self.name, expected="60 to 200 BPM")
        if not self.duration_s >= MIN_DURATION_S:
            raise DataError(f"a song of {self.duration_s} s is too short", where=self.name, expected="at least 4 s")
        if self.seed < 0:
            raise DataError(f"negative seed {self.seed}", where=self.name, expected="a seed of 0 or more")


@dataclass(frozen=True)
class Song:
    """A rendered song and what a dancer would hear in it.

    Attributes:
        spec: What it was made from.
        samples: (N,) float32 mono, peak 0.89.
        sample_rate: Samples per second.
        beats_s: Every metrical beat, seconds, from the first to the end; beat 0 opens the first bar and 8-count.
        accents_s: The beats that the drums play (kick, snare, clap or toms), a subset of ``beats_s``: none in a break.
        accent_strengths: (len(accents_s),) in 0..1.
        downbeats_s: The first beat of every bar of four.
        eight_counts_s: The first beat of every 8-count.
        sections: (name, start_s, end_s, energy) covering the song; names: intro, verse, chorus, break, outro.
    """

    spec: SongSpec
    samples: Samples
    sample_rate: int
    beats_s: NDArray[np.floating]
    accents_s: NDArray[np.floating]
    accent_strengths: NDArray[np.floating]
    downbeats_s: NDArray[np.floating]
    eight_counts_s: NDArray[np.floating]
    sections: list[Section]

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate


def tempo_range_bpm(genre: str) -> tuple[float, float]:
    """The tempi at which a genre is danced here."""
    return STYLES[genre].tempo_bpm


def random_spec(name: str, genre: str, seed: int, *, duration_s: float | None = None) -> SongSpec:
    """A song of a genre with tempo (to 0.1 BPM) and length (25..32 s, if not given) drawn from ``seed``."""
    if genre not in STYLES:
        raise DataError(f"unknown genre {genre!r}", where=name, expected=", ".join(GENRES))
    rng = np.random.default_rng([seed, GENRES.index(genre), 11])
    tempo_bpm = round(float(rng.uniform(*tempo_range_bpm(genre))), 1)
    length_s = round(float(rng.uniform(25, 32)), 1)
    return SongSpec(name, genre, tempo_bpm, seed, length_s if duration_s is None else duration_s)


def make_song(spec: SongSpec) -> Song:
    """Compose and render a song.

    Args:
        spec: Genre, tempo, length and seed.

    Returns:
        The song; equal specs (names aside) give equal samples.
    """
    style = STYLES[spec.genre]
    seed = (spec.seed, GENRES.index(spec.genre))
    score = Composer(style, spec.tempo_bpm, spec.duration_s, seed).compose()
    beats_s = score.lead_in_s + score.period_s * np.arange(score.num_beats)
    played = np.flatnonzero(score.beat_strength > 0)
    return Song(
        spec=spec,
        samples=render_score(score, style, spec.duration_s, seed),
        sample_rate=SAMPLE_RATE,
        beats_s=beats_s,
        accents_s=beats_s[played],
        accent_strengths=score.beat_strength[played],
        downbeats_s=beats_s[::BEATS_PER_BAR],
        eight_counts_s=beats_s[::BEATS_PER_PHRASE],
        sections=score.sections,
    )
