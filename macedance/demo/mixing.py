"""Renders a score: distinct one-shots and notes are synthesised once and mixed by addition."""

from __future__ import annotations

import dataclasses

import numpy as np

from macedance.demo.arrangement import Score
from macedance.demo.instruments import SAMPLE_RATE, Drum, Samples, Tone
from macedance.demo.styles import Style

_DRUM_LEVELS = {
    "kick": 1.0, "snare": 0.75, "clap": 0.7, "hat": 0.2, "open": 0.2, "perc": 0.32, "perc2": 0.16, "tom": 0.65,
    "crash": 0.28,
}  # fmt: skip
_ROOM_SIZE = 1 << 14
_FILTER_TAPS = 1025
_HISS = 0.004
PEAK = 0.89
"""Peak of a finished song (-1 dBFS)."""


def _varied(drum: Drum, rng: np.random.Generator) -> Drum:
    """The drum with its pitches and decays some percent off: no two songs own the same kit."""
    names = [
        f.name for f in dataclasses.fields(drum) if f.name in ("pitch_hz", "decay_s", "start_hz", "end_hz", "low_hz")
    ]
    return dataclasses.replace(drum, **{n: getattr(drum, n) * float(np.exp(rng.normal(0, 0.07))) for n in names})


def _tone_varied(tone: Tone, rng: np.random.Generator) -> Tone:
    factor = float(np.exp(rng.normal(0, 0.15)))
    return dataclasses.replace(tone, brightness_hz=tone.brightness_hz * factor, dark_hz=tone.dark_hz * factor)


def _add(bus: Samples, sound: Samples, start_s: float, gain: float) -> None:
    start = round(start_s * SAMPLE_RATE)
    part = sound[: max(0, len(bus) - start)]
    bus[start : start + len(part)] += np.float32(gain) * part


def _room(bus: Samples, rng: np.random.Generator, seconds: float) -> Samples:
    """The bus in a small room: convolution with decaying noise, block by block."""
    from scipy.signal import oaconvolve

    count = min(_ROOM_SIZE, int(4 * seconds * SAMPLE_RATE))
    impulse = rng.standard_normal(count).astype(np.float32) * np.exp(-np.arange(count) / (seconds * SAMPLE_RATE))
    impulse = impulse.astype(np.float32) / np.float32(np.sqrt((impulse**2).sum()))
    return oaconvolve(bus, impulse)[: len(bus)].astype(np.float32)


def _equalised(mix: Samples, points: tuple[tuple[float, float], ...]) -> Samples:
    """The mix through a linear-phase filter of the given gains."""
    from scipy.signal import oaconvolve

    hz = np.fft.rfftfreq(_FILTER_TAPS - 1, 1 / SAMPLE_RATE)
    knots_hz, knots_db = zip(*points, strict=True)
    gains = 10 ** (np.interp(np.log(np.maximum(hz, 10)), np.log(knots_hz), knots_db) / 20)
    impulse = np.fft.fftshift(np.fft.irfft(gains, _FILTER_TAPS - 1)) * np.hanning(_FILTER_TAPS)[:-1]
    return oaconvolve(mix, impulse.astype(np.float32), mode="same")


def render_score(score: Score, style: Style, duration_s: float, seed: tuple[int, ...]) -> Samples:
    """The finished song.

    Args:
        score: What to play.
        style: The genre's instruments and mix.
        duration_s: Exact length in seconds.
        seed: Entropy of the choice and variation of the instruments.

    Returns:
        (duration_s * SAMPLE_RATE,) float32, peak :data:`PEAK`.
    """
    rng = np.random.default_rng([*seed, 7])
    count = round(duration_s * SAMPLE_RATE)
    drums, wet, melodic, bass = (np.zeros(count, dtype=np.float32) for _ in range(4))
    duck = np.ones(count, dtype=np.float32)
    for role in sorted(style.kit):
        sound = _varied(style.kit[role], rng).render(rng)
        for start_s, velocity in score.drums.get(role, []):
            _add(drums, sound, start_s, velocity * _DRUM_LEVELS[role])
            if role != "kick":
                _add(wet, sound, start_s, velocity * _DRUM_LEVELS[role])
    if style.duck:
        recovery = np.exp(-np.arange(int(0.35 * SAMPLE_RATE), dtype=np.float32) / np.float32(0.09 * SAMPLE_RATE))
        for start_s, velocity in score.drums.get("kick", []):
            start = max(0, round(start_s * SAMPLE_RATE))
            part = duck[start : start + len(recovery)]
            np.minimum(part, 1 - style.duck * velocity * recovery[: len(part)], out=part)
    tones = {
        "bass": _tone_varied(style.bass[rng.integers(len(style.bass))], rng),
        "chords": _tone_varied(style.chords[rng.integers(len(style.chords))], rng),
        "lead": _tone_varied(style.lead[rng.integers(len(style.lead))], rng),
    }
    notes: dict[tuple[str, int, int], Samples] = {}
    for note in score.notes:
        # Lengths to 1/64 s: repeated notes share one rendering.
        key = (note.layer, note.midi, max(2, round(note.duration_s * 64)))
        if key not in notes:
            notes[key] = tones[note.layer].render(note.midi, key[2] / 64)
        bus = bass if note.layer == "bass" else melodic
        _add(bus, notes[key], note.start_s, note.velocity * style.levels[note.layer])
    if style.echo:
        delay = round(0.75 * score.period_s * SAMPLE_RATE)
        for repeat in (1, 2):
            if repeat * delay < count:
                melodic[repeat * delay :] += style.echo**repeat * melodic[: count - repeat * delay]
    room = _room(0.35 * wet + 0.5 * melodic, rng, float(rng.uniform(0.1, 0.2)))
    mix = style.levels["drums"] * drums + duck * (bass + melodic) + 0.3 * room
    mix = _equalised(mix, style.equaliser)
    mix = np.tanh(0.9 * mix / np.quantile(np.abs(mix[::16]), 0.998))
    # Hiss, as on tape: without it every ghost note rises from digital silence and, in decibels, beats the kick.
    mix += _HISS * rng.standard_normal(count, dtype=np.float32)
    fade = min(count // 4, int(0.25 * SAMPLE_RATE))
    mix[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32) ** 2
    return (mix * np.float32(PEAK / np.abs(mix).max())).astype(np.float32)
