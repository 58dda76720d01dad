"""Composition of one song: form, drum events and notes on an exact beat grid, before any sound is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from macedance.demo.styles import SCALES, VELOCITY, Groove, Style

BEATS_PER_BAR = 4
BEATS_PER_PHRASE = 8
STEPS_PER_BAR = 16

_FORMS = (
    ("verse", "chorus", "break", "chorus"),
    ("verse", "verse", "chorus", "break", "chorus", "chorus"),
    ("chorus", "verse", "break", "chorus", "chorus"),
    ("verse", "chorus", "chorus", "break", "verse", "chorus"),
    ("verse", "break", "chorus", "chorus"),
    ("chorus", "break", "chorus", "verse"),
)
_ENERGY = {"intro": 0.45, "verse": 0.65, "chorus": 1.0, "break": 0.2, "outro": 0.55}
_WEIGHTS = {"kick": 1.0, "snare": 0.9, "clap": 0.9, "tom": 0.7, "crash": 0.3, "perc": 0.3}
_ACCENT_FLOOR = 0.3


class Section(NamedTuple):
    """A part of the form: name, start and end in seconds, energy 0..1."""

    name: str
    start_s: float
    end_s: float
    energy: float


class Note(NamedTuple):
    """A pitched note of one layer (``bass``, ``chords`` or ``lead``)."""

    layer: str
    start_s: float
    midi: int
    duration_s: float
    velocity: float


@dataclass
class Score:
    """What the mixer plays.

    Args:
        period_s: Seconds per beat.
        lead_in_s: Time of beat 0.
        num_beats: Metrical beats before the end.
        sections: The form, in order, covering the song.
        drums: Hits by role as (seconds, velocity).
        notes: Pitched notes.
        beat_strength: Per beat, how hard the drums play it, 0..1 (0 = not at all).
    """

    period_s: float
    lead_in_s: float
    num_beats: int
    sections: list[Section]
    drums: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    beat_strength: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def beat_s(self, beat: float) -> float:
        """Seconds of a (fractional) beat."""
        return self.lead_in_s + beat * self.period_s


class Composer:
    """Writes the score of one song.

    Args:
        style: The genre.
        tempo_bpm: Beats per minute.
        duration_s: Exact length of the song.
        seed: Entropy of every choice: the same numbers, the same song.
    """

    def __init__(self, style: Style, tempo_bpm: float, duration_s: float, seed: tuple[int, ...]) -> None:
        self.style = style
        # One generator per aspect: a change to the melody of a later release leaves grooves and form as they were.
        self.rng_form, self.rng_drums, self.rng_notes, self.rng_lead = (
            np.random.default_rng([*seed, aspect]) for aspect in range(4)
        )
        period_s = 60.0 / tempo_bpm
        lead_in_s = float(self.rng_form.uniform(0.08, 0.45))
        num_beats = int((duration_s - 0.05 - lead_in_s) / period_s) + 1
        # The last stroke rings for at least 0.6 s, on a downbeat.
        playable = max(0, int((duration_s - 0.6 - lead_in_s) / period_s))
        self.final_beat = playable - playable % BEATS_PER_BAR
        self.swing = float(self.rng_form.uniform(*style.swing))
        self.names = self._form(num_beats)
        energies = [float(np.clip(_ENERGY[n] + self.rng_form.uniform(-0.06, 0.06), 0, 1)) for n in self.names]
        self.score = Score(period_s, lead_in_s, num_beats, [])
        self._sections(energies, duration_s)

    def compose(self) -> Score:
        """The finished score."""
        self._drums()
        self._chords_and_bass()
        self._lead()
        return self.score

    def _form(self, num_beats: int) -> list[str]:
        num_phrases = -(-num_beats // BEATS_PER_PHRASE)
        opening = [] if num_phrases < 3 or self.rng_form.random() < 0.15 else ["intro"]
        length = num_phrases - 1 - len(opening)
        bodies = [[form[i % len(form)] for i in range(length)] for form in _FORMS]
        # A break must be left again, and a song of some length has one.
        bodies = [body for body in bodies if not body or body[-1] != "break"]
        bodies = [body for body in bodies if "break" in body] or bodies
        names = opening + bodies[self.rng_form.integers(len(bodies))]
        if num_phrases < 2:
            return ["chorus"]
        if 0 < num_beats % BEATS_PER_PHRASE <= BEATS_PER_BAR:
            names[-1] = "outro"  # the last phrase is but a bar: no section of its own
        return [*names, "outro"]

    def _sections(self, energies: list[float], duration_s: float) -> None:
        merged: list[Section] = []
        for phrase, (name, energy) in enumerate(zip(self.names, energies, strict=True)):
            start_s = 0.0 if phrase == 0 else self.score.beat_s(phrase * BEATS_PER_PHRASE)
            last = phrase == len(self.names) - 1
            end_s = duration_s if last else self.score.beat_s((phrase + 1) * BEATS_PER_PHRASE)
            if merged and merged[-1].name == name:
                merged[-1] = merged[-1]._replace(end_s=end_s)
            else:
                merged.append(Section(name, start_s, end_s, energy))
        self.score.sections = merged

    def _energy_at(self, beat: float) -> float:
        time_s = self.score.beat_s(beat) + 1e-6
        return next((s.energy for s in reversed(self.score.sections) if s.start_s <= time_s), 0.5)

    def _step_s(self, bar: int, step: float, rng: np.random.Generator) -> float:
        """Seconds of a sixteenth: beats are exact, the steps between swing and breathe by some milliseconds."""
        time_s = self.score.beat_s(bar * BEATS_PER_BAR + step / 4)
        if step % 4:
            time_s += float(np.clip(rng.normal(0, 0.003), -0.007, 0.007))
        if step % 2 == 1:
            time_s += self.swing * self.score.period_s / 4
        return time_s

    # Drums -----------------------------------------------------------------------------------------------------

    def _drums(self) -> None:
        rng, style = self.rng_drums, self.style
        groove = style.grooves[rng.integers(len(style.grooves))]
        chorus = style.grooves[rng.integers(len(style.grooves))]
        fill = style.fills[rng.integers(len(style.fills))]
        thin_intro = rng.random() < 0.4
        self.score.beat_strength = np.zeros(self.score.num_beats)
        for phrase, name in enumerate(self.names):
            next_name = self.names[phrase + 1] if phrase + 1 < len(self.names) else "end"
            if name in ("chorus", "outro") and (phrase == 0 or self.names[phrase - 1] != name):
                self._hit("crash", phrase * BEATS_PER_PHRASE, 0.0, 0.8)
            build = name == "break" and rng.random() < 0.6
            stop = name in ("verse", "chorus") and rng.random() < 0.3
            for half in range(2):
                bar = 2 * phrase + half
                parts: Groove = dict(groove)
                if name == "chorus":
                    parts = {**groove, **chorus}
                elif name == "intro":
                    kept = ("hat", "open", "perc", "perc2") if thin_intro and half == 0 else ("kick", "hat", "open")
                    parts = {role: steps for role, steps in groove.items() if role in kept}
                elif name == "break":
                    parts = {role: steps for role, steps in groove.items() if role == "perc2"}
                closing = half == 1 and next_name not in (name, "end") and (name != "break" or build)
                if closing or (half == 1 and rng.random() < 0.15 and name != "break"):
                    parts = {**{r: s for r, s in parts.items() if r in ("hat", "open", "perc2")}, **fill}
                elif half == 1 and stop:
                    parts = {role: (steps * 2)[16 * (len(steps) > 16) :][:8] + "." * 8 for role, steps in parts.items()}
                self._bar(bar, parts)
        self._hit("kick", self.final_beat, 0.0, 1.0)
        self._hit("crash", self.final_beat, 0.0, 1.0)
        np.clip(self.score.beat_strength, 0, 1, out=self.score.beat_strength)
        self.score.beat_strength[self.score.beat_strength < _ACCENT_FLOOR] = 0

    def _bar(self, bar: int, parts: Groove) -> None:
        for role, pattern in parts.items():
            if role not in self.style.kit:
                continue
            offset = STEPS_PER_BAR * (bar % 2) if len(pattern) > STEPS_PER_BAR else 0
            for step, symbol in enumerate(pattern[offset : offset + STEPS_PER_BAR]):
                if symbol in VELOCITY:
                    self._hit(role, bar * BEATS_PER_BAR + step // 4, step % 4, VELOCITY[symbol])

    def _hit(self, role: str, beat: int, substep: float, velocity: float) -> None:
        if beat + substep / 4 > self.final_beat or (beat == self.final_beat and role not in ("kick", "crash")):
            return
        if beat == self.final_beat and self.score.beat_strength[beat] >= 1 and role == "kick":
            return
        loud = velocity * (0.55 + 0.45 * self._energy_at(beat))
        step = (beat % BEATS_PER_BAR) * 4 + substep
        time_s = self._step_s(beat // BEATS_PER_BAR, step, self.rng_drums)
        human = 1.0 if substep == 0 else float(self.rng_drums.uniform(0.85, 1.0))
        self.score.drums.setdefault(role, []).append((time_s, loud * human))
        if substep == 0 and beat < self.score.num_beats:
            self.score.beat_strength[beat] += _WEIGHTS.get(role, 0.1) * loud

    # Harmony ---------------------------------------------------------------------------------------------------

    def _chords_and_bass(self) -> None:
        rng, style, score = self.rng_notes, self.style, self.score
        scale = SCALES[style.scales[rng.integers(len(style.scales))]]
        self.tonic, self.scale = int(rng.integers(29, 41)), scale
        self.progression = style.progressions[rng.integers(len(style.progressions))]
        size = int(style.chord_sizes[rng.integers(len(style.chord_sizes))])
        rhythm = style.chord_rhythms[rng.integers(len(style.chord_rhythms))]
        line = style.bass_lines[rng.integers(len(style.bass_lines))]
        intro_bass, break_bass = rng.random() < 0.5, rng.random() < 0.4
        for bar in range(self.final_beat // BEATS_PER_BAR + 1):
            name = self.names[bar // 2]
            chord = self._chord(bar, size)
            if bar * BEATS_PER_BAR == self.final_beat:
                self._strike(bar, 0, 8.0, chord, 0.8)
                self._bass_note(bar, 0, 8.0, chord[0], 0.9)
                break
            steps = "X" + "." * 15 if name in ("break", "intro") else _bar_of(rhythm, bar)
            gate = 16.0 if name in ("break", "intro") else style.chord_gate
            for step, length, symbol in _durations(steps):
                self._strike(bar, step, min(length, gate), chord, VELOCITY[symbol])
            if (name == "intro" and not intro_bass) or (name == "break" and not break_bass):
                continue
            root = self._bass_root(bar)
            for step, length, symbol in _durations(_bar_of(line, bar)):
                following = self._bass_root(bar + 1)
                third = self._pitch(self.progression[bar % len(self.progression)] + 2) % 12
                fifth = self._pitch(self.progression[bar % len(self.progression)] + 4) % 12
                midi = {
                    "R": root, "O": root + 12, "F": root + (fifth - root) % 12, "T": root + (third - root) % 12,
                    "A": following - 1 if following >= root else following + 1,
                }[symbol]  # fmt: skip
                self._bass_note(bar, step, min(length, style.bass_gate), midi, 1.0 if step == 0 else 0.8)
        score.notes.sort(key=lambda note: note.start_s)

    def _pitch(self, degree: int) -> int:
        octave, index = divmod(degree, len(self.scale))
        return self.tonic + 12 * octave + self.scale[index]

    def _bass_root(self, bar: int) -> int:
        root = self._pitch(self.progression[bar % len(self.progression)])
        return root - 12 if root > 43 else root

    def _chord(self, bar: int, size: int) -> list[int]:
        """Bass root, then the chord tones folded around middle C, so that chords connect without leaps."""
        degree = self.progression[bar % len(self.progression)]
        offsets = (0, 4) if size == 2 else range(0, 2 * size, 2)
        tones = sorted((self._pitch(degree + offset) - 54) % 12 + 54 for offset in offsets)
        return [self._bass_root(bar), *tones]

    def _strike(self, bar: int, step: int, steps: float, chord: list[int], velocity: float) -> None:
        start_s = self._step_s(bar, step, self.rng_notes)
        duration_s = steps * self.score.period_s / 4 * 0.95
        loud = velocity * (0.7 + 0.3 * self._energy_at(bar * BEATS_PER_BAR))
        for midi in chord[1:]:
            self.score.notes.append(Note("chords", start_s, midi, duration_s, loud / np.sqrt(len(chord) - 1)))

    def _bass_note(self, bar: int, step: int, steps: float, midi: int, velocity: float) -> None:
        start_s = self._step_s(bar, step, self.rng_notes)
        self.score.notes.append(Note("bass", start_s, midi, steps * self.score.period_s / 4 * 0.92, velocity))

    # Melody ----------------------------------------------------------------------------------------------------

    def _lead(self) -> None:
        rng, style = self.rng_lead, self.style
        rhythms = [style.lead_rhythms[i] for i in rng.permutation(len(style.lead_rhythms))]
        walks = [np.cumsum(rng.choice([-2, -1, -1, 0, 1, 1, 2], size=2 * STEPS_PER_BAR)) for _ in rhythms]
        in_verse, in_break = rng.random() < 0.35, rng.random() < 0.3
        base_degree = round((style.lead_midi - self.tonic) * len(self.scale) / 12)
        for phrase, name in enumerate(self.names):
            if name == "intro" or (name == "verse" and not in_verse) or (name == "break" and not in_break):
                continue
            answer = phrase % 4 == 2 and len(rhythms) > 1
            rhythm, walk = rhythms[int(answer)], walks[int(answer)]
            for order, (step, length, _) in enumerate(_durations(rhythm)):
                bar = 2 * phrase + step // STEPS_PER_BAR
                in_bar = step % STEPS_PER_BAR
                if bar * BEATS_PER_BAR + in_bar / 4 >= self.final_beat:
                    break
                degree = base_degree + int(np.clip((walk[order] + 4) % 9 - 4, -4, 4))
                if in_bar % 4 == 0:  # on the beat the melody rests on a chord tone
                    chord_degree = self.progression[bar % len(self.progression)]
                    degree = min(
                        (degree + d for d in (0, 1, -1)), key=lambda d: ((d - chord_degree) % 7) not in (0, 2, 4)
                    )
                start_s = self._step_s(bar, in_bar, rng)
                duration_s = min(length, 6) * self.score.period_s / 4 * 0.9
                self.score.notes.append(Note("lead", start_s, self._pitch(degree), duration_s, 0.9))


def _bar_of(pattern: str, bar: int) -> str:
    offset = STEPS_PER_BAR * (bar % 2) if len(pattern) > STEPS_PER_BAR else 0
    return pattern[offset : offset + STEPS_PER_BAR]


def _durations(pattern: str) -> list[tuple[int, int, str]]:
    """Every struck step of a pattern: step, sixteenths until the next one (or the pattern's end), symbol."""
    steps = [step for step, symbol in enumerate(pattern) if symbol != "."]
    ends = [*steps[1:], len(pattern)]
    return [(step, end - step, pattern[step]) for step, end in zip(steps, ends, strict=True)]
