"""Dances of the toy corpus: the built-in choreography to songs that are composed and never played.

Shapes: T frames, J = 24 joints. Metres, y-up.
"""

from __future__ import annotations

import numpy as np

from macedance.demo.arrangement import BEATS_PER_BAR, BEATS_PER_PHRASE, Composer
from macedance.demo.choreography import make_dance
from macedance.demo.songs import GENRES, SAMPLE_RATE, Song, SongSpec, random_spec
from macedance.demo.styles import STYLES
from macedance.motion.files import Motion
from macedance.motion.skeleton import NUM_JOINTS, PARENTS


def toy_dance(name: str, number: int, seed: int, dancer_seed: int) -> tuple[str, Motion]:
    """(song, dance) of about 28 seconds at the choreography's rate; the genres go round with the number."""
    spec = random_spec(name, GENRES[number % len(GENRES)], seed)
    return spec.name, make_dance(_unplayed(spec), dancer_seed)


def excerpt(motion: Motion, share: float, frames: int, fps: float) -> tuple[float, Motion]:
    """(start in seconds, part of a dance) of ``frames`` at ``fps``; a share of 0 takes the beginning, of 1 the end."""
    needed = int(np.ceil((frames - 1) * motion.fps / fps)) + 1
    start = int(share * (motion.num_frames - needed))
    part = motion.slice(start, start + needed).resampled(fps)
    return start / motion.fps, part.slice(0, frames)


def _unplayed(spec: SongSpec) -> Song:
    """The song as ``demo.songs.make_song`` composes it, with silence for its samples: dancing needs only the score."""
    seed = (spec.seed, GENRES.index(spec.genre))
    score = Composer(STYLES[spec.genre], spec.tempo_bpm, spec.duration_s, seed).compose()
    beats_s = score.lead_in_s + score.period_s * np.arange(score.num_beats)
    played = np.flatnonzero(score.beat_strength > 0)
    return Song(
        spec=spec,
        samples=np.zeros(round(spec.duration_s * SAMPLE_RATE), np.float32),
        sample_rate=SAMPLE_RATE,
        beats_s=beats_s,
        accents_s=beats_s[played],
        accent_strengths=score.beat_strength[played],
        downbeats_s=beats_s[::BEATS_PER_BAR],
        eight_counts_s=beats_s[::BEATS_PER_PHRASE],
        sections=score.sections,
    )


def of_build(joints_TJ3: np.ndarray, bones_J: np.ndarray) -> np.ndarray:
    """Joints (T, 24, 3) of a dancer whose bones are ``bones_J`` (24,) times as long; the lowest point keeps its height.

    Every bone keeps its direction. The pelvis starts from the middle of the floor.
    """
    joints = np.asarray(joints_TJ3, dtype=np.float64)
    grown = np.empty_like(joints)
    grown[:, 0] = joints[:, 0] - joints[:, 0].mean(axis=0) * np.array([1.0, 0.0, 1.0])
    for joint in range(1, NUM_JOINTS):
        parent = PARENTS[joint]
        grown[:, joint] = grown[:, parent] + bones_J[joint] * (joints[:, joint] - joints[:, parent])
    grown[..., 1] += (joints[..., 1].min(axis=1) - grown[..., 1].min(axis=1))[:, None]
    return grown.astype(np.float32)
