"""Real recordings: decoded whole, and the tracked tempo of a song whose tempo is known."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from macedance.music.audio import Audio, load_audio
from macedance.music.features import MUSIC_DIM, music_features, num_frames

pytestmark = pytest.mark.shared


def midi_tempo_bpm(path: Path) -> float:
    """The first tempo event (FF 51 03, microseconds per quarter) of a MIDI file."""
    raw = path.read_bytes()
    place = raw.index(b"\xff\x51\x03") + 3
    return 60e6 / struct.unpack(">I", b"\0" + raw[place : place + 3])[0]


def test_sectoid_tempo_is_tracked_with_a_constant_lag(shared_dir: Path) -> None:
    folder = shared_dir / "data/music/sectoid/war_of_freedom"
    stems = [load_audio(folder / name, duration_s=45.0) for name in ("song.ogg", "guitar.ogg")]
    audio = Audio.from_array(stems[0].samples + stems[1].samples, stems[0].sample_rate)
    features_TC = music_features(audio)
    assert features_TC.shape == (1350, MUSIC_DIM)
    beats = np.flatnonzero(features_TC[:, 34]) / 30
    period = 60 / midi_tempo_bpm(folder / "notes.mid")
    inside = beats[(beats > 8) & (beats < 43)]
    assert np.median(np.diff(inside)) == pytest.approx(period, rel=0.05)
    # The recording's onsets lie 50 ms behind its grid and librosa's beats 55 ms behind the onsets; with eighth notes
    # throughout, the tracker sits on the beats in some parts and on the off-beats in others: hence modulo half a beat.
    direction = np.exp(4j * np.pi * inside / period).mean()
    lag_s = (np.angle(direction) % (2 * np.pi)) * period / (4 * np.pi)
    assert abs(direction) > 0.8
    assert 0.06 < lag_s < 0.15


@pytest.mark.parametrize(
    ("name", "duration_s"), [("vibe_ace", 61.46), ("lets_go_fishin", 132.99), ("hungarian_dance_5", 45.84)]
)
def test_real_songs_decode_whole_and_have_features(shared_dir: Path, name: str, duration_s: float) -> None:
    path = shared_dir / "data/music/librosa_examples" / f"{name}.ogg"
    audio = load_audio(path)
    assert audio.duration_s == pytest.approx(duration_s, abs=0.01)
    features_TC = music_features(audio.slice(0, 30))
    assert len(features_TC) == num_frames(30.0, 30) == 900
    assert np.isfinite(features_TC).all()
    assert features_TC[:, 34].sum() > 20
