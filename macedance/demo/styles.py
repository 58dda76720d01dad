"""What makes each of the eight genres of the built-in corpus sound like itself: tempo, grooves, kit, harmony, timbre.

Grooves are step patterns, sixteen steps a bar: ``X`` an accent, ``x`` a normal hit, ``o`` a soft one, ``.`` a rest; a
pattern of one bar repeats. Bass patterns name the chord tone: ``R`` root, ``F`` fifth, ``O`` octave, ``T`` third,
``A`` the approach to the next chord's root.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from macedance.demo.instruments import Clap, Drum, Hat, Kick, Membrane, Snare, Tone

Groove = dict[str, str]

VELOCITY = {"X": 1.0, "x": 0.75, "o": 0.4}
"""Velocity of a step symbol."""

SCALES = {
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "major": (0, 2, 4, 5, 7, 9, 11),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}
"""Semitones of the seven degrees."""


@dataclass(frozen=True)
class Style:
    """One genre: everything a song of it is drawn from.

    Args:
        tempo_bpm: Range of tempi.
        swing: Range of the delay of every second sixteenth, as a share of a sixteenth.
        kit: Drum voices by role (kick, snare, clap, hat, open, perc, perc2, tom, crash).
        grooves: Alternatives of the full beat, pattern by role.
        fills: One-bar alternatives that close a phrase.
        scales: Scales to choose from.
        progressions: Degrees (0 = tonic) of the chords, one a bar.
        chord_sizes: Notes in a chord (3 = triad, 4 = seventh, 2 = power chord).
        chords, bass, lead: Instruments to choose from.
        chord_rhythms: Step patterns at which the chord is struck; a note sounds until the next step, at most
            ``chord_gate`` sixteenths.
        bass_lines: Step patterns of chord tones.
        lead_rhythms: Two-bar step patterns of the melody.
        lead_midi: Centre of the melody.
        levels: Loudness of each layer.
        duck: How far the kick pushes chords and bass down, 0..1.
        echo: Level of a dotted-eighth echo on chords and lead.
        equaliser: The record's sound: (Hz, dB) points, straight lines on a logarithmic frequency axis between them.
    """

    tempo_bpm: tuple[float, float]
    swing: tuple[float, float]
    kit: dict[str, Drum]
    grooves: tuple[Groove, ...]
    fills: tuple[Groove, ...]
    scales: tuple[str, ...]
    progressions: tuple[tuple[int, ...], ...]
    chord_sizes: tuple[int, ...]
    chords: tuple[Tone, ...]
    bass: tuple[Tone, ...]
    lead: tuple[Tone, ...]
    chord_rhythms: tuple[str, ...]
    bass_lines: tuple[str, ...]
    lead_rhythms: tuple[str, ...]
    lead_midi: int = 74
    chord_gate: float = 16.0
    bass_gate: float = 3.0
    levels: dict[str, float] = field(default_factory=dict)
    duck: float = 0.2
    echo: float = 0.15
    equaliser: tuple[tuple[float, float], ...] = ((20, 0), (16000, 0))


_CRASH = Hat(decay_s=0.5, low_hz=4000, high_hz=12000, metal=0.3)
_RIM = Membrane(pitch_hz=820, partials=((1.0, 1.0), (2.1, 0.5)), decay_s=0.018, bend=0.0, slap=0.5)
_COWBELL = Membrane(pitch_hz=540, partials=((1.0, 1.0), (1.48, 0.9), (2.9, 0.3)), decay_s=0.07, bend=0.0, slap=0.1)
_CLAVE = Membrane(pitch_hz=2450, partials=((1.0, 1.0),), decay_s=0.022, bend=0.0, slap=0.1)
_CONGA = Membrane(pitch_hz=210, partials=((1.0, 1.0), (1.6, 0.35)), decay_s=0.09, bend=0.15, slap=0.35)
_TOM = Membrane(pitch_hz=110, decay_s=0.15)
_SHAKER = Hat(decay_s=0.035, low_hz=5000, high_hz=11000, metal=0.0, attack_s=0.012)

_EPIANO = Tone(drawbars=(1, 0.35, 0.08, 0.12, 0, 0, 0.1), brightness_hz=5000, dark_hz=900, decay_s=0.7, sustain=0.35)
_ORGAN = Tone(drawbars=(1, 0.8, 0.6, 0.5, 0, 0.3, 0, 0.35), sustain=1.0, filter_s=5.0, brightness_hz=7000)
_STRINGS = Tone(attack_s=0.09, sustain=0.9, release_s=0.12, detune_cents=14, vibrato_cents=9, brightness_hz=4500,
                dark_hz=2600, filter_s=-0.2)  # fmt: skip
_BRASS = Tone(attack_s=0.018, sustain=0.8, filter_s=-0.04, brightness_hz=5200, dark_hz=700, detune_cents=9, decay_s=0.2)
_CLAV = Tone(comb=0.13, rolloff=0.6, brightness_hz=6500, dark_hz=1500, filter_s=0.08, decay_s=0.12, sustain=0.1)
_GUITAR = Tone(comb=0.21, rolloff=0.9, brightness_hz=5200, dark_hz=1200, filter_s=0.05, decay_s=0.06, sustain=0.05,
               release_s=0.02)  # fmt: skip
_PIANO = Tone(rolloff=1.4, comb=0.12, brightness_hz=4500, dark_hz=900, filter_s=0.2, decay_s=0.5, sustain=0.15)
_PAD = Tone(attack_s=0.15, sustain=0.95, release_s=0.2, detune_cents=18, brightness_hz=1800, dark_hz=900, filter_s=-0.5)
_SAW = Tone(detune_cents=16, brightness_hz=7500, dark_hz=1800, filter_s=0.12, decay_s=0.25, sustain=0.5)
_SQUARE = Tone(even=0.0, rolloff=0.9, brightness_hz=6500, dark_hz=1500, filter_s=0.15, sustain=0.6)
_BELL = Tone(drawbars=(1, 0, 0.25, 0.5, 0, 0, 0.3, 0, 0.15), decay_s=0.35, sustain=0.05, brightness_hz=8000)
_FLUTE = Tone(drawbars=(1, 0.3, 0.12, 0.04), attack_s=0.03, sustain=0.9, vibrato_cents=18, brightness_hz=4000)
_PHATT = Tone(rolloff=0.9, drive=3.0, brightness_hz=3500, dark_hz=600, filter_s=0.2, detune_cents=22, sustain=0.8)

_SUB = Tone(rolloff=3.0, attack_s=0.006, decay_s=0.9, sustain=0.5, brightness_hz=500, dark_hz=200, drive=1.2)
_ROUND = Tone(rolloff=1.5, comb=0.2, brightness_hz=1400, dark_hz=350, filter_s=0.12, decay_s=0.3, sustain=0.5)
_SLAP = Tone(rolloff=0.8, comb=0.11, brightness_hz=4200, dark_hz=600, filter_s=0.05, decay_s=0.15, sustain=0.4)
_REESE = Tone(detune_cents=30, brightness_hz=1600, dark_hz=350, filter_s=0.3, sustain=0.8, drive=1.5)
_SYNTH_BASS = Tone(even=0.4, brightness_hz=2600, dark_hz=350, filter_s=0.09, decay_s=0.2, sustain=0.5)

_SNARE_FILL = {"kick": "X...x...", "snare": "....X..oX.xxXxXX", "tom": "........x.x....."}
_TOM_FILL = {"kick": "X...x...x...x...", "snare": "....X...........", "tom": "......x.XoxoXxXx"}
_STOP_FILL = {"kick": "X.......", "snare": "....X...X.X.X..."}
_CLAP_FILL = {"kick": "X...X...X...X...", "clap": "....X...X.X.XXXX", "hat": "x.x.x.x.x.x.x.x."}

HOUSE = Style(
    tempo_bpm=(118, 128), swing=(0.0, 0.18),
    kit={"kick": Kick(170, 50, 0.03, 0.13, 0.6, 1.8), "clap": Clap(0.09), "snare": Snare(200, 0.3, 0.06),
         "hat": Hat(0.02, 8000), "open": Hat(0.09, 7000), "perc": _CONGA, "perc2": _SHAKER, "tom": _TOM,
         "crash": _CRASH},
    grooves=(
        {"kick": "X...X...X...X...", "clap": "....X.......X...", "open": "..o...o...o...o.",
         "perc2": "oooooooooooooooo"},
        {"kick": "X...X...X...X...", "clap": "....X.......X..o", "hat": "..x...x...x...x.", "perc": "...o..o....o..x."},
        {"kick": "X...X...X...X..o", "clap": "....X.......X...", "open": "..o...o...o...o.",
         "perc": "o..o..o...o..o.."},
    ),
    fills=(_CLAP_FILL, _SNARE_FILL),
    scales=("minor", "dorian"), progressions=((0, 5, 3, 4), (0, 0, 3, 4), (5, 3, 0, 4), (0, 2, 5, 3)),
    chord_sizes=(4, 4, 5), chords=(_ORGAN, _EPIANO, _SAW), bass=(_SYNTH_BASS, _ROUND), lead=(_PIANO, _SAW, _ORGAN),
    chord_rhythms=("X..x..x...x..x..", "..x...x...x...x.", "X.....x..x......"),
    bass_lines=("R.R...R.R...R.O.", "R.RR..R.R.RR..RA", "R..RR.O.R..RR.F."),
    lead_rhythms=("x..x..x...x.....x..x..x.x.......", "....x.x.x...............x.xxx..."), chord_gate=2.0,
    levels={"drums": 1.0, "bass": 0.55, "chords": 0.5, "lead": 0.42}, duck=0.6, echo=0.2,
    equaliser=((40, 3), (120, 2), (500, -3), (3000, 0), (9000, 4)),
)  # fmt: skip

HIPHOP = Style(
    tempo_bpm=(90, 102), swing=(0.12, 0.3),
    kit={"kick": Kick(140, 44, 0.05, 0.24, 0.4, 2.0), "snare": Snare(175, 0.7, 0.1, 700, 6500), "clap": Clap(0.06),
         "hat": Hat(0.03, 5500, 10000), "open": Hat(0.12, 5500, 10000), "perc": _RIM, "tom": _TOM, "crash": _CRASH},
    grooves=(
        {"kick": "X......x.ox.....", "snare": "....X.......X...", "hat": "x.o.x.o.x.o.x.o."},
        {"kick": "X..x....x.x....o", "snare": "....X.......X..o", "hat": "x.x.x.x.x.x.x.oo"},
        {"kick": "X.....x.x..x....X.x.....x.......", "snare": "....X.......X...", "hat": "x.o.x.o.x.o.x.o.",
         "perc": ".......o..o....."},
    ),
    fills=(_STOP_FILL, _TOM_FILL),
    scales=("minor", "dorian"), progressions=((0, 0, 5, 4), (0, 3, 0, 4), (0, 6, 5, 4), (0, 0, 3, 3)),
    chord_sizes=(4, 4, 3), chords=(_EPIANO, _PIANO), bass=(_SUB, _ROUND), lead=(_FLUTE, _BELL, _STRINGS),
    chord_rhythms=("X.........x.....", "X......x........", "X...x...X...x..."),
    bass_lines=("R......R.RR.....", "R..R....R.O....A", "R.....R.R..F...."),
    lead_rhythms=("..x.x.....x...x...x.x...........", "x.....x.....x.......x.x........."), lead_midi=72,
    levels={"drums": 1.0, "bass": 0.75, "chords": 0.5, "lead": 0.45}, duck=0.25, echo=0.12, bass_gate=5,
    equaliser=((40, 4), (200, 2), (1500, 0), (4000, -5), (9000, -14)),
)  # fmt: skip

BREAKING = Style(
    tempo_bpm=(106, 122), swing=(0.0, 0.12),
    kit={"kick": Kick(120, 62, 0.02, 0.09, 0.5, 1.2), "snare": Snare(230, 0.8, 0.11, 500, 9000), "clap": Clap(0.05),
         "hat": Hat(0.045, 6500), "open": Hat(0.14, 5500), "perc": _COWBELL, "perc2": _CONGA,
         "tom": Membrane(150, decay_s=0.13), "crash": _CRASH},
    grooves=(
        {"kick": "X.x.......xx....", "snare": "....X..o.o..X..o", "hat": "X.o.X.o.X.o.X.o."},
        {"kick": "X..x......x.....X.x.......xx....", "snare": "....X..o.o..X...", "hat": "x.x.x.x.x.x.x.x.",
         "perc": "x...x...x...x..."},
        {"kick": "X.x...x...x.....", "snare": "....X..o.x..X.o.", "hat": "x.x.x.x.x.x.x.x.",
         "perc2": "x.o.x.xox.o.x.xo"},
    ),
    fills=(_SNARE_FILL, _TOM_FILL),
    scales=("dorian", "mixolydian"), progressions=((0, 0, 0, 0), (0, 0, 3, 3), (0, 3, 0, 6)),
    chord_sizes=(3, 4), chords=(_BRASS, _GUITAR), bass=(_ROUND, _SLAP), lead=(_BRASS, _ORGAN),
    chord_rhythms=("X..x............", "X.......X..x....", "..............xxX..............."),
    bass_lines=("R..RR.....R.RFO.", "R.R...O.R...F.R.", "R..R..RFR..R..TA"),
    lead_rhythms=("x.xx....x.xx....x.xx..x.x.......", "x...x..xx.......x...x..xx.x....."), chord_gate=3.0,
    levels={"drums": 1.15, "bass": 0.5, "chords": 0.3, "lead": 0.25}, duck=0.1, echo=0.05,
    equaliser=((60, -6), (150, 0), (900, 4), (4000, 3), (9000, -6)),
)  # fmt: skip

POPPING = Style(
    tempo_bpm=(98, 112), swing=(0.0, 0.1),
    kit={"kick": Kick(200, 48, 0.04, 0.2, 0.3, 2.5), "snare": Snare(240, 0.4, 0.08, 1500, 11000), "clap": Clap(0.13),
         "hat": Hat(0.018, 9000), "open": Hat(0.1, 8500), "perc": _COWBELL, "tom": Membrane(160, decay_s=0.2, bend=2.0),
         "crash": _CRASH},
    grooves=(
        {"kick": "X.....x.X.......", "clap": "....X.......X...", "hat": "XoxoXoxoXoxoXoxo", "perc": "..o..o....o..o.."},
        {"kick": "X..o..x.X.......", "clap": "....X.......X...", "hat": "X.ooX.ooX.ooX.oo"},
        {"kick": "X.....o.X...x.o.", "clap": "....X.......X...", "hat": "XoxoXoxoXoxoXoxo", "tom": "..............oo"},
    ),
    fills=(_CLAP_FILL, {"kick": "X...X...", "tom": "....X..xX..xX.xx", "clap": "....X.......X..."}),
    scales=("minor", "dorian"), progressions=((0, 0, 3, 3), (0, 6, 5, 6), (0, 3, 6, 4)),
    chord_sizes=(4,), chords=(_SQUARE, _SAW), bass=(_REESE, _SYNTH_BASS), lead=(_SQUARE, _PHATT),
    chord_rhythms=("....x.......x..x", "X.....x.........", "..x...x.....x..."),
    bass_lines=("R.R..R.OR.R..FO.", "RR.O..R.RR.O..TA", "R.O.R.OOR.O.R.FA"),
    lead_rhythms=("x.x.x..x..x.....x.x.x..x..x.x...", "x..x..x.x.......x..x..x.xxx....."), lead_midi=76,
    levels={"drums": 1.0, "bass": 0.62, "chords": 0.42, "lead": 0.34}, duck=0.15, echo=0.3, chord_gate=2.0,
    bass_gate=1.6,
    equaliser=((40, 2), (300, -3), (1500, 2), (5000, 5), (12000, 6)),
)  # fmt: skip

LOCKING = Style(
    tempo_bpm=(100, 118), swing=(0.0, 0.15),
    kit={"kick": Kick(110, 66, 0.02, 0.08, 0.6, 1.0), "snare": Snare(260, 0.6, 0.07, 1200, 10000), "clap": Clap(0.05),
         "hat": Hat(0.025, 7500), "open": Hat(0.08, 7000), "perc": Hat(0.06, 5200, 9000, 0.9), "tom": Membrane(170),
         "crash": _CRASH},
    grooves=(
        {"kick": "X.....x.X..o....", "snare": "....X..o.o..X...", "hat": "XoooXoooXoooXooo"},
        {"kick": "X..o....X.x.....", "snare": "....X..o....X..o", "hat": "X.o.X.o.X.o.X.o."},
        {"kick": "Xo......X..o....", "snare": "....X..o.o..X...", "hat": "XoooXoooXoooXooo",
         "perc": "x...x...x...x..."},
    ),
    fills=(_SNARE_FILL, _STOP_FILL),
    scales=("mixolydian", "dorian"), progressions=((0, 3, 0, 3), (0, 0, 3, 4), (0, 6, 3, 0)),
    chord_sizes=(4, 5), chords=(_GUITAR, _CLAV), bass=(_SLAP, _ROUND), lead=(_BRASS, _BRASS, _CLAV),
    chord_rhythms=("X.xxX...X.xxX...", "X...X.x.X...Xxx.", "Xx..X...Xx..X.x."),
    bass_lines=("R..OR...R.F.R.TA", "R...R.O.F...R.TA", "R.R.R...R.OOR..A"),
    lead_rhythms=("x..x............x..x..xxx.......", "......x.x.......x.x.x..x........"), lead_midi=70,
    levels={"drums": 0.95, "bass": 0.55, "chords": 0.34, "lead": 0.3}, duck=0.05, echo=0.05, chord_gate=1.0,
    bass_gate=2.5,
    equaliser=((60, -4), (300, 0), (2500, 5), (6000, 1), (12000, -2)),
)  # fmt: skip

KRUMP = Style(
    tempo_bpm=(92, 104), swing=(0.0, 0.05),
    kit={"kick": Kick(130, 40, 0.06, 0.32, 0.8, 4.0), "snare": Snare(150, 0.5, 0.16, 400, 7000), "clap": Clap(0.18, 6),
         "hat": Hat(0.04, 4500, 9000, 0.8), "open": Hat(0.2, 4500), "perc": Membrane(75, decay_s=0.25, slap=0.8),
         "tom": Membrane(85, decay_s=0.22, slap=0.6), "crash": Hat(0.7, 3000, 10000)},
    grooves=(
        {"kick": "X...o..xX...x.x.", "clap": "....X.......X...", "perc": "..............xx"},
        {"kick": "X..X..X.X...x...", "clap": "....X.......X...", "tom": "..........x..x.x", "hat": "x...x...x...x..."},
        {"kick": "X...x...X.X.x.xx", "snare": "....X.......X...", "perc": "......X.......X."},
    ),
    fills=(_TOM_FILL, {"kick": "X...X...X.X.XXXX", "snare": "....X.......X...", "tom": "..xx..xx..xx...."}),
    scales=("phrygian", "minor"), progressions=((0, 0, 1, 0), (0, 0, 5, 1), (0, 0, 0, 6)),
    chord_sizes=(2, 3), chords=(_BRASS, _PHATT, _STRINGS), bass=(_REESE, _SUB), lead=(_PHATT, _STRINGS, _BRASS),
    chord_rhythms=("X...........X...", "X..X..X.........", "X...............X.....X...X....."),
    bass_lines=("R.......R.R.....", "R..R..R.R.......", "R.......R...R.A."),
    lead_rhythms=("x...x...x.x.x...x...x...xxx.....", "x.......x...x...x.......x......."), lead_midi=62,
    levels={"drums": 1.2, "bass": 0.7, "chords": 0.7, "lead": 0.6}, duck=0.35, echo=0.1, bass_gate=6, chord_gate=6.0,
    equaliser=((40, 7), (150, 3), (700, -2), (2500, -6), (8000, -9)),
)  # fmt: skip

WAACKING = Style(
    tempo_bpm=(112, 126), swing=(0.0, 0.05),
    kit={"kick": Kick(120, 58, 0.02, 0.1, 0.7, 1.2), "snare": Snare(210, 0.5, 0.09, 1000, 10000), "clap": Clap(0.07),
         "hat": Hat(0.025, 7500), "open": Hat(0.07, 6500, 13000), "perc": Hat(0.05, 4500, 8000, 0.9),
         "perc2": _CONGA, "tom": Membrane(180, decay_s=0.15, bend=1.5), "crash": _CRASH},
    grooves=(
        {"kick": "X...X...X...X...", "snare": "....X.......X...", "hat": "x.o.x.o.x.o.x.o.",
         "open": "..o...o...o...o."},
        {"kick": "X...X...X...X...", "snare": "....X.......X...", "hat": "xooxxooxxooxxoox",
         "perc2": "..x..xx...x..xx."},
        {"kick": "X...X...X...X.x.", "clap": "....X.......X...", "open": "..o...o...o...o.",
         "perc": "x.x.x.x.x.x.x.x."},
    ),
    fills=(_SNARE_FILL, {"kick": "X...X...X...X...", "snare": "....X...XxxxXXXX", "tom": "....xx.xxx......"}),
    scales=("minor", "dorian"), progressions=((0, 3, 6, 2), (0, 5, 3, 4), (5, 6, 0, 0), (0, 6, 5, 4)),
    chord_sizes=(3, 4), chords=(_STRINGS,), bass=(_ROUND, _SLAP), lead=(_STRINGS, _FLUTE),
    chord_rhythms=("X...............", "X...X...X...X...", "X.....X.....X..."),
    bass_lines=("R.O.R.O.R.O.R.O.", "R.OOR.OOR.OOR.OA", "R.O.F.O.R.O.T.A."),
    lead_rhythms=("x...x.x.x.......x...x.x.x.x.x...", "xxx.x...x.......xxx.x...x...x..."), lead_midi=81,
    levels={"drums": 0.75, "bass": 0.5, "chords": 0.6, "lead": 0.45}, duck=0.1, echo=0.15, bass_gate=1.5,
    equaliser=((60, -5), (250, -3), (1200, 0), (4000, 4), (12000, 6)),
)  # fmt: skip

LATIN = Style(
    tempo_bpm=(124, 150), swing=(0.0, 0.03),
    kit={"kick": Kick(110, 60, 0.02, 0.09, 0.4, 1.0), "snare": Membrane(330, decay_s=0.09, slap=0.7),
         "clap": Clap(0.04),
         "hat": Membrane(620, decay_s=0.03, slap=0.6), "open": _CRASH, "perc": _CONGA,
         "perc2": _CLAVE, "tom": Membrane(300, decay_s=0.12, slap=0.4), "crash": _CRASH},
    grooves=(
        {"kick": "X...x...X...x...", "perc": "X.o.X.o.X.o.X.ox", "perc2": "X..o..X...X.X...",
         "hat": "X.x.X.x.X.x.X.x."},
        {"kick": "X...x...X...x...", "perc": "X.o.X.xoX.o.X.xx", "perc2": "..X.X...X..o..X.",
         "hat": "X.o.X.o.X.o.X.o.", "snare": "....x..o....x.o."},
        {"kick": "X...X...X...X...", "snare": "o..xX..oo..xX..x", "perc": "x.oox.oox.oox.oo",
         "hat": "x...x...x...x..."},
    ),
    fills=({"kick": "X...X...X...X...", "snare": "X.xxX.xxXxxxXxXx"}, {"kick": "X...X...", "tom": "..xxX.xxX.xxXXXX"}),
    scales=("major", "minor"), progressions=((0, 3, 4, 3), (0, 4, 4, 0), (0, 5, 1, 4), (0, 3, 4, 0)),
    chord_sizes=(3, 4), chords=(_PIANO,), bass=(_ROUND,), lead=(_BRASS, _FLUTE),
    chord_rhythms=("X.xxX.x.x.xxX.x.", "X.x.x..xX.x.x..x", "X.x.xxx.X.x.xxx."),
    bass_lines=("R...F.F.R...F.F.", "R...F...R...F..A", "R...F.O.R...F.A."),
    lead_rhythms=("x.x.x..x..x.x...x.x.x..x........", "..x.x.x.x..x..x.....x.x.x......."), lead_midi=74,
    levels={"drums": 1.0, "bass": 0.5, "chords": 0.45, "lead": 0.34}, duck=0.0, echo=0.05, chord_gate=1.5, bass_gate=5,
    equaliser=((60, -3), (250, 2), (1000, 3), (4000, -1), (10000, -4)),
)  # fmt: skip

STYLES: dict[str, Style] = {
    "breaking": BREAKING,
    "hiphop": HIPHOP,
    "house": HOUSE,
    "krump": KRUMP,
    "latin": LATIN,
    "locking": LOCKING,
    "popping": POPPING,
    "waacking": WAACKING,
}
"""The styles by public genre name, alphabetical."""
