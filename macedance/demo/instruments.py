"""The built-in corpus' instruments: every sound is computed, none is sampled.

A drum renders one shot, a :class:`Tone` renders one note; both return mono float32 at :data:`SAMPLE_RATE`, start and
end at zero (no clicks) and are mixed by addition, so a song costs little more than its distinct sounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 32000
"""Samples per second of everything that macedance.demo synthesises."""

Samples = NDArray[np.float32]

_TABLE_SIZE = 4096


def _seconds(duration_s: float) -> NDArray[np.float32]:
    return np.arange(max(8, int(duration_s * SAMPLE_RATE)), dtype=np.float32) / np.float32(SAMPLE_RATE)


def faded(samples: NDArray[np.floating], attack_s: float = 0.0006, release_s: float = 0.008) -> Samples:
    """The samples with linear ramps at both ends, so that mixing them in never clicks."""
    out = samples.astype(np.float32)
    attack = min(len(out) // 2, max(2, int(attack_s * SAMPLE_RATE)))
    release = min(len(out) // 2, max(2, int(release_s * SAMPLE_RATE)))
    out[:attack] *= np.linspace(0.0, 1.0, attack, dtype=np.float32)
    out[-release:] *= np.linspace(1.0, 0.0, release, dtype=np.float32)
    return out


def coloured_noise(rng: np.random.Generator, count: int, low_hz: float, high_hz: float) -> Samples:
    """White noise kept between two frequencies (soft edges), peak 1."""
    size = 1 << (count - 1).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal(size))
    hz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    gain = 1 / np.sqrt(1 + (low_hz / np.maximum(hz, 1.0)) ** 6) / np.sqrt(1 + (hz / high_hz) ** 6)
    noise = np.fft.irfft(spectrum * gain, size)[:count]
    return (noise / np.abs(noise).max()).astype(np.float32)


@dataclass(frozen=True)
class Kick:
    """A swept sine with a click: ``start_hz`` falls to ``end_hz``; ``drive`` saturates it."""

    start_hz: float = 160.0
    end_hz: float = 52.0
    sweep_s: float = 0.035
    decay_s: float = 0.16
    click: float = 0.5
    drive: float = 1.5

    def render(self, rng: np.random.Generator) -> Samples:
        """One hit, peak 1."""
        t = _seconds(self.decay_s * 4)
        phase = (
            2 * np.pi * (self.end_hz * t - (self.start_hz - self.end_hz) * self.sweep_s * np.expm1(-t / self.sweep_s))
        )
        body = np.tanh(self.drive * np.sin(phase) * np.exp(-t / self.decay_s)) / np.tanh(self.drive)
        click = coloured_noise(rng, len(t), 900, 7000) * np.exp(-t / 0.004)
        return faded(_peak(body + self.click * click))


@dataclass(frozen=True)
class Snare:
    """Two drum modes under band-passed noise; ``tone`` is their share."""

    pitch_hz: float = 190.0
    tone: float = 0.5
    decay_s: float = 0.09
    low_hz: float = 900.0
    high_hz: float = 9000.0

    def render(self, rng: np.random.Generator) -> Samples:
        """One hit, peak 1."""
        t = _seconds(self.decay_s * 5)
        modes = np.sin(2 * np.pi * self.pitch_hz * t) + 0.6 * np.sin(2 * np.pi * 1.78 * self.pitch_hz * t)
        modes = modes * np.exp(-t / (0.5 * self.decay_s))
        noise = coloured_noise(rng, len(t), self.low_hz, self.high_hz) * np.exp(-t / self.decay_s)
        return faded(_peak(self.tone * modes + noise))


@dataclass(frozen=True)
class Clap:
    """Several hands within ``spread_s``, then a short tail."""

    decay_s: float = 0.08
    hands: int = 4
    spread_s: float = 0.022
    centre_hz: float = 1500.0

    def render(self, rng: np.random.Generator) -> Samples:
        """One clap, peak 1."""
        t = _seconds(self.spread_s + self.decay_s * 5)
        envelope = 0.7 * np.exp(-np.maximum(t - self.spread_s, 0) / self.decay_s) * (t >= self.spread_s)
        for start_s in np.linspace(0, self.spread_s, self.hands, endpoint=False):
            envelope = np.maximum(envelope, np.exp(-np.maximum(t - start_s, 0) / 0.005) * (t >= start_s))
        noise = coloured_noise(rng, len(t), 0.6 * self.centre_hz, 3 * self.centre_hz)
        return faded(_peak(noise * envelope))


@dataclass(frozen=True)
class Hat:
    """High noise with metallic partials; a short decay is closed, a long one open; also shakers and crashes."""

    decay_s: float = 0.03
    low_hz: float = 6000.0
    high_hz: float = 14000.0
    metal: float = 0.4
    attack_s: float = 0.0006

    def render(self, rng: np.random.Generator) -> Samples:
        """One stroke, peak 1."""
        t = _seconds(self.decay_s * 5)
        noise = coloured_noise(rng, len(t), self.low_hz, self.high_hz)
        metal = sum(np.sign(np.sin(2 * np.pi * self.low_hz * ratio * t)) for ratio in (1.0, 1.342, 1.483, 1.932)) / 4
        return faded(_peak((noise + self.metal * metal) * np.exp(-t / self.decay_s)), self.attack_s)


@dataclass(frozen=True)
class Membrane:
    """A tuned skin or block: toms, congas, timbales, rims, claves, cowbells (by partials and decay)."""

    pitch_hz: float = 120.0
    partials: tuple[tuple[float, float], ...] = ((1.0, 1.0), (1.59, 0.4), (2.14, 0.2))
    decay_s: float = 0.12
    bend: float = 0.3
    slap: float = 0.3

    def render(self, rng: np.random.Generator) -> Samples:
        """One hit, peak 1."""
        t = _seconds(self.decay_s * 5)
        bent = t - self.bend * 0.03 * np.expm1(-t / 0.03)
        body = sum(gain * np.sin(2 * np.pi * self.pitch_hz * ratio * bent) for ratio, gain in self.partials)
        noise = coloured_noise(rng, len(t), 1500, 8000) * np.exp(-t / 0.006)
        return faded(_peak(body * np.exp(-t / self.decay_s) + self.slap * noise))


Drum = Kick | Snare | Clap | Hat | Membrane


def _peak(samples: NDArray[np.floating]) -> NDArray[np.floating]:
    return samples / np.abs(samples).max()


@dataclass(frozen=True)
class Tone:
    """A pitched instrument: a bright and a dark band-limited wave table, cross-faded by an envelope.

    Args:
        rolloff: Amplitude of harmonic k is ``k ** -rolloff`` (1 = saw, 2 = soft).
        even: Gain of the even harmonics (0 = square or clarinet).
        comb: Pluck position in (0, 0.5): harmonics are weighted by ``sin(pi k comb)``; 0 is off (clavinet, guitar).
        drawbars: Explicit gains of the first harmonics instead of ``rolloff`` (organ, electric piano, bell).
        brightness_hz: Cut-off of the bright table; ``dark_hz`` of the dark one.
        filter_s: Time constant of the fade from bright to dark; negative fades from dark to bright (brass swell).
        attack_s, decay_s, sustain, release_s: Amplitude envelope; ``sustain`` in 0..1.
        detune_cents: Two voices this far apart (0 = one voice).
        vibrato_cents: Depth of a 5.5 Hz vibrato that sets in after 0.15 s.
        drive: Saturation, 0 = none.
    """

    rolloff: float = 1.0
    even: float = 1.0
    comb: float = 0.0
    drawbars: tuple[float, ...] = ()
    brightness_hz: float = 6000.0
    dark_hz: float = 1200.0
    filter_s: float = 0.15
    attack_s: float = 0.004
    decay_s: float = 0.4
    sustain: float = 0.6
    release_s: float = 0.05
    detune_cents: float = 0.0
    vibrato_cents: float = 0.0
    drive: float = 0.0

    def _table(self, frequency_hz: float, cutoff_hz: float) -> NDArray[np.float32]:
        harmonics = np.arange(1, max(2, min(80, int(0.45 * SAMPLE_RATE / frequency_hz))) + 1)
        gains: NDArray[np.floating] = harmonics ** -float(self.rolloff)
        if self.drawbars:
            gains = np.zeros(len(harmonics))
            count = min(len(self.drawbars), len(harmonics))
            gains[:count] = self.drawbars[:count]
        gains[1::2] *= self.even
        if self.comb:
            gains = gains * np.abs(np.sin(np.pi * harmonics * self.comb))
        gains = gains / np.sqrt(1 + (harmonics * frequency_hz / cutoff_hz) ** 4)
        spectrum = np.zeros(_TABLE_SIZE // 2 + 1, dtype=np.complex128)
        spectrum[1 : len(harmonics) + 1] = -1j * gains * np.exp(1j * 0.37 * harmonics**2)
        spectrum[1] = -1j * gains[0]
        return (np.fft.irfft(spectrum) * (_TABLE_SIZE / 2)).astype(np.float32)

    def render(self, midi: float, duration_s: float) -> Samples:
        """One note of ``duration_s`` (plus the release), peak about 1."""
        hz = 440.0 * 2.0 ** ((midi - 69) / 12)
        t = _seconds(duration_s + self.release_s)
        bright, dark = self._table(hz, self.brightness_hz), self._table(hz, self.dark_hz)
        fade = np.exp(-t / abs(self.filter_s))
        if self.filter_s < 0:
            fade = 1 - fade
        cents = (-0.5 * self.detune_cents, 0.5 * self.detune_cents) if self.detune_cents else (0.0,)
        out = np.zeros(len(t), dtype=np.float32)
        for voice, offset in enumerate(cents):
            cycles = hz * 2.0 ** (offset / 1200) * t.astype(np.float64) + 0.31 * voice
            if self.vibrato_cents:
                depth = (2.0 ** (self.vibrato_cents / 1200) - 1) * hz / (2 * np.pi * 5.5)
                cycles = cycles + depth * np.sin(2 * np.pi * 5.5 * t) * np.clip((t - 0.15) / 0.2, 0, 1)
            index = (cycles * _TABLE_SIZE).astype(np.int64) & (_TABLE_SIZE - 1)
            out += dark[index] + fade * (bright[index] - dark[index])
        settling = np.exp(-np.maximum(t - self.attack_s, 0) / self.decay_s)
        envelope = self.sustain + (1 - self.sustain) * settling
        envelope *= np.clip((duration_s + self.release_s - t) / self.release_s, 0, 1)
        out *= envelope.astype(np.float32)
        peak = float(np.abs(out).max())
        if self.drive:
            out = np.tanh(self.drive * out / peak)
            peak = float(np.abs(out).max())
        return faded(out / peak, self.attack_s, 0.005)
