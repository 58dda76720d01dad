"""What the built-in corpus consists of: which songs, which dancers, which excerpts, in which split.

The plan is cheap and complete before any sound or motion is made, so that a writer can hand songs to several processes.
No two splits share a song.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from macedance.demo.arrangement import Composer
from macedance.demo.choreography import FPS, make_dance
from macedance.demo.songs import GENRES, Song, SongSpec, make_song, random_spec
from macedance.demo.styles import STYLES
from macedance.errors import ConfigError
from macedance.motion.files import Motion

SPLITS: tuple[str, str, str] = ("train", "val", "test")
MIN_CLIPS = 16
CLIPS_PER_SONG = 4
#: Clip lengths, whole seconds.
CLIP_SECONDS: tuple[int, ...] = (5, 6, 7, 8, 9, 10)
_VAL_SHARE, _TEST_SHARE = 0.10, 0.25


@dataclass(frozen=True)
class PlannedClip:
    """One clip.

    Attributes:
        key: Its name, made of letters, digits, ``_`` and ``-``.
        start_s: Start in the song, seconds, a whole number of frames.
        frames: Length at 30 fps.
        dancer_seed: Who dances.
    """

    key: str
    start_s: float
    frames: int
    dancer_seed: int


@dataclass(frozen=True)
class PlannedSong:
    """One song with its split and clips."""

    spec: SongSpec
    split: str
    clips: tuple[PlannedClip, ...]


def plan_corpus(num_clips: int = 400, seed: int = 0) -> list[PlannedSong]:
    """Plan a corpus of ``num_clips`` clips in all splits together.

    About four clips a song; about 65 / 10 / 25% of the songs train / validate / test, none of the three empty. From
    400 clips on every split has all genres and the test split at least 90 clips.

    Args:
        num_clips: At least 16.
        seed: Songs, dancers and excerpts follow from it.

    Raises:
        ConfigError: ``num_clips`` below 16 or a negative seed.
    """
    if num_clips < MIN_CLIPS:
        raise ConfigError(
            f"{num_clips} clips are too few for three splits", expected=f"at least {MIN_CLIPS}", fix="raise --clips"
        )
    if seed < 0:
        raise ConfigError(f"negative seed {seed}", expected="0 or more")
    rng = np.random.default_rng([seed, 4])
    num_songs = max(4, round(num_clips / CLIPS_PER_SONG))
    counts = _clips_per_song(num_clips, num_songs)
    songs = []
    for number, split in enumerate(_splits(num_songs)):
        # Genres go round within each split, so that each has as many of them as it can.
        genre = GENRES[number % len(GENRES)]
        name = f"{genre}-{number:03d}"
        spec = random_spec(name, genre, int(rng.integers(2**31)))
        clips = tuple(_plan_clip(spec, index, rng) for index in range(counts[number]))
        songs.append(PlannedSong(spec, split, clips))
    return songs


def _splits(num_songs: int) -> list[str]:
    """The split of every song: consecutive blocks, so that the genres' round covers each block."""
    test = max(1, round(num_songs * _TEST_SHARE))
    val = max(1, round(num_songs * _VAL_SHARE))
    return ["train"] * (num_songs - val - test) + ["val"] * val + ["test"] * test


def _clips_per_song(num_clips: int, num_songs: int) -> list[int]:
    base, extra = divmod(num_clips, num_songs)
    return [base + (number < extra) for number in range(num_songs)]


def _plan_clip(spec: SongSpec, index: int, rng: np.random.Generator) -> PlannedClip:
    seconds = int(rng.choice(CLIP_SECONDS))
    latest_s = spec.duration_s - seconds - 0.5
    start_s = float(rng.uniform(0.0, latest_s))
    if rng.random() < 0.5:
        # With the pick-up: half a beat before the "one" of the nearest 8-count.
        first_s, beat_s = _beat_grid(spec)
        phrase = round((start_s - first_s) / (8 * beat_s))
        start_s = min(max(first_s + (8 * phrase - 0.5) * beat_s, 0.0), latest_s)
    frames = round(seconds * FPS)
    return PlannedClip(
        key=f"{spec.name}-d{index}",
        start_s=math.floor(start_s * FPS) / FPS,
        frames=frames,
        dancer_seed=int(rng.integers(2**31)),
    )


def _beat_grid(spec: SongSpec) -> tuple[float, float]:
    """The first beat and the length of a beat, seconds, known before a song is made."""
    seed = (spec.seed, GENRES.index(spec.genre))
    score = Composer(STYLES[spec.genre], spec.tempo_bpm, spec.duration_s, seed).score
    return score.lead_in_s, score.period_s


def make_clips(planned: PlannedSong) -> tuple[Song, list[tuple[PlannedClip, Motion]]]:
    """The song and the motions of its clips, each with ``music_beats_s`` relative to the clip."""
    song = make_song(planned.spec)
    dances = [
        (clip, make_dance(song, clip.dancer_seed, start_s=clip.start_s, num_frames=clip.frames))
        for clip in planned.clips
    ]
    return song, dances
