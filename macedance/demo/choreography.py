"""Choreography made by code: a dancer hears a song's form and beats and dances its genre's vocabulary to them.

The song is cut into 8-counts. Each kind of section has its own motifs, phrased A A' B A as a choreographer would (A' is
A on the other side), bigger in the chorus, a small groove on the spot where the music breaks or the drums stop. Moves
become keys on the counts (:mod:`macedance.demo.moves`), keys become eased channels (:mod:`macedance.demo.tracks`),
planted feet (:mod:`macedance.demo.footwork`) and finally poses (:mod:`macedance.demo.body`).

Shapes: T frames, 2 = left and right, 3 = x y z or yaw pitch roll.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from macedance.demo.body import BodyControls, solve_body
from macedance.demo.footwork import Placement, settle, take_turns, toe_positions
from macedance.demo.moves import SCALARS, Foot, Move, Style
from macedance.demo.songs import GENRES, Song
from macedance.demo.tracks import Track, arm_value, evaluate_arm, swing_angle
from macedance.demo.vocabulary import DANCE_STYLES
from macedance.errors import DataError
from macedance.motion.files import Motion

FloatArray = npt.NDArray[np.float64]

FPS = 30.0
COUNTS_PER_PHRASE = 8
#: Height of the pelvis over the floor with nearly straight legs.
_STANDING_M = 0.958
#: The pelvis stands this far in front of the ankles, over the middle of the feet.
_PELVIS_AHEAD_M = 0.05
#: Deeper knees bend the hips forward, radians per metre, or the body would fall on its back.
_LEAN_PER_DROP = 1.0
#: Chest and hips are written as seen on a reserved dancer: shown this much larger.
_TORSO_SIZE = 1.35
#: Steps likewise.
_STEP_SIZE = 1.2
#: Peak angular speed of an upper arm, radians per second: bigger swings take longer.
_ARM_SPEED = 9.5
_PATTERN = ("A", "A'", "B", "A")
#: Channels in metres or shares; the others are degrees.
_WEIGHT = frozenset({"w", "px", "pz"})
_PLAIN = _WEIGHT | {"drop"}


@dataclass(frozen=True)
class Dancer:
    """What makes one dancer's performance of the same moves differ from another's.

    Attributes:
        mirrored: Dances everything on the other side.
        amplitude: Size of the moves, about 1.
        bounce: Depth of the groove, about 1.
        late_s: Behind the beat (positive) or ahead, at most 20 ms.
        sharpness: Scales the duration of movements, about 1.
        facing: Yaw of the dance's front, radians.
        x: Place of the dance on the floor, metres.
        z: The same.
        opened_deg: Arms carried away from the body.
        lean_deg: Chest leant forward.
        turned_deg: Chest turned.
        stance: Width of the stance, about 1.
        drop_m: Knees bent deeper.
        sway_phases: Phases of the slow drift that keeps a resting body alive.
    """

    mirrored: bool
    amplitude: float
    bounce: float
    late_s: float
    sharpness: float
    facing: float
    x: float
    z: float
    opened_deg: float
    lean_deg: float
    turned_deg: float
    stance: float
    drop_m: float
    sway_phases: tuple[float, ...]


@dataclass(frozen=True)
class Phrase:
    """One 8-count: where it starts, what is danced, how big, and which way."""

    beat: int
    moves: tuple[Move, ...]
    amplitude: float
    facing: float
    x: float
    z: float


def draw_dancer(rng: np.random.Generator) -> Dancer:
    """A dancer drawn from ``rng``."""
    return Dancer(
        mirrored=bool(rng.random() < 0.5),
        amplitude=float(rng.uniform(0.88, 1.1)),
        bounce=float(rng.uniform(0.75, 1.25)),
        late_s=float(rng.uniform(-0.02, 0.02)),
        sharpness=float(rng.uniform(0.92, 1.08)),
        facing=float(rng.uniform(-0.3, 0.3)),
        x=float(rng.uniform(-0.3, 0.3)),
        z=float(rng.uniform(-0.3, 0.3)),
        opened_deg=float(rng.uniform(0.0, 8.0)),
        lean_deg=float(rng.uniform(-3.0, 4.0)),
        turned_deg=float(rng.uniform(-5.0, 5.0)),
        stance=float(rng.uniform(0.9, 1.15)),
        drop_m=float(rng.uniform(-0.01, 0.02)),
        sway_phases=tuple(float(v) for v in rng.uniform(0.0, 2 * np.pi, 6)),
    )


def moves_by_genre() -> dict[str, list[str]]:
    """Names of the moves of every genre, for tables and documents."""
    return {genre: [move.name for move in DANCE_STYLES[genre].moves] for genre in GENRES}


def plan_phrases(song: Song, style: Style, dancer: Dancer, rng: np.random.Generator) -> list[Phrase]:
    """The 8-counts of a song, each with its moves."""
    motifs = {kind: _draw_motifs(style, kind, rng) for kind in ("intro", "verse", "chorus", "break", "outro")}
    danced: dict[str, int] = {}
    phrases = []
    for number, start_s in enumerate(song.eight_counts_s):
        name, energy = _section_at(song, float(start_s))
        motif = motifs.get(name, motifs["verse"])
        letter = _PATTERN[danced.get(name, 0) % len(_PATTERN)]
        danced[name] = danced.get(name, 0) + 1
        moves = tuple(
            move if _is_played(song, number, half) else style.groove for half, move in enumerate(motif[letter])
        )
        if dancer.mirrored:
            moves = tuple(move.mirrored() for move in moves)
        phrases.append(
            Phrase(
                beat=number * COUNTS_PER_PHRASE,
                moves=moves,
                amplitude=dancer.amplitude * (0.82 + 0.25 * energy),
                facing=dancer.facing + float(rng.choice([-0.3, -0.15, 0.0, 0.0, 0.15, 0.3])),
                x=dancer.x + float(rng.uniform(-0.12, 0.12)),
                z=dancer.z + float(rng.uniform(-0.12, 0.12)),
            )
        )
    return phrases


def _section_at(song: Song, time_s: float) -> tuple[str, float]:
    for section in song.sections:
        if section.start_s <= time_s + 0.05 < section.end_s:
            return section.name, section.energy
    return song.sections[-1].name, song.sections[-1].energy


def _is_played(song: Song, number: int, half: int) -> bool:
    """Whether the drums play at least two beats of one half of an 8-count: a dancer holds back where they stop."""
    first = number * COUNTS_PER_PHRASE + half * COUNTS_PER_PHRASE // 2
    beats_s = song.beats_s[first : first + COUNTS_PER_PHRASE // 2]
    return bool(np.isin(np.round(beats_s, 4), np.round(song.accents_s, 4)).sum() >= min(2, len(beats_s)))


def _draw_motifs(style: Style, kind: str, rng: np.random.Generator) -> dict[str, tuple[Move, ...]]:
    """The motifs A, A' and B of one kind of section."""
    energies = np.array([move.energy for move in style.moves])
    wanted = {"chorus": 1.0, "verse": 0.4, "intro": 0.2, "outro": 0.6}.get(kind, 0.3)
    weights = np.exp(-((energies - wanted) ** 2) / (2 * 0.3**2))
    first, second, third = rng.choice(len(style.moves), 3, replace=False, p=weights / weights.sum())
    a, b, c = (style.moves[i] for i in (first, second, third))
    if kind == "break":
        return {letter: (style.groove, style.groove.mirrored()) for letter in ("A", "A'", "B")}
    if kind == "intro":
        return {"A": (style.groove, a), "A'": (style.groove.mirrored(), a.mirrored()), "B": (a, b)}
    if rng.random() < 0.6:
        motif: tuple[Move, ...] = (a, a.mirrored())
    else:
        motif = (a, b)
    return {"A": motif, "A'": tuple(move.mirrored() for move in motif), "B": (c, b)}


class _Score:
    """Every channel's keys of a whole dance."""

    def __init__(self, style: Style, dancer: Dancer, beat_s: float) -> None:
        self.style, self.dancer, self.beat_s = style, dancer, beat_s
        self.scalars = {name: Track() for name in SCALARS}
        self.arms = (Track(), Track())
        self.feet: tuple[list[Placement], list[Placement]] = ([], [])
        self.facing, self.amplitude = Track(), Track()
        self.lands_left: dict[float, bool] = {}

    def add_phrase(self, phrase: Phrase) -> None:
        self.facing.add(phrase.beat, phrase.facing, 0.9)
        self.amplitude.add(phrase.beat, phrase.amplitude, 1.0)
        beat = float(phrase.beat)
        for move in phrase.moves:
            self._add_move(move, beat, phrase)
            beat += move.counts

    def _add_move(self, move: Move, start: float, phrase: Phrase) -> None:
        style, dancer = self.style, self.dancer
        snap = float(np.clip((move.snap or style.snap) * dancer.sharpness, 0.35, 1.0))
        keys = sorted(move.keys, key=lambda key: key.count)
        used = {name for key in keys for name in key.values}
        for name in SCALARS:
            if name not in used:
                self.scalars[name].add(start, 0.0, snap)
        for side in range(2):
            if all((key.left_arm, key.right_arm)[side] is None for key in keys):
                self._add_arm(side, style.arms, start, 1.0, snap)
            if all((key.left_foot, key.right_foot)[side] is None or key.count > 0 for key in keys):
                self._add_foot(side, Foot(), start, phrase, home=True)
        reach = 0.25 + 0.75 * min(phrase.amplitude, 1.0)
        for key in keys:
            beat = start + key.count
            for name, value in key.values.items():
                size = 1.0 if name == "w" else phrase.amplitude * (1.0 if name in _PLAIN else _TORSO_SIZE)
                # Weight travels more slowly than arms and chest.
                self.scalars[name].add(beat, value * size, max(snap, 0.7) if name in _WEIGHT else snap)
            if "w" in key.values:
                self.lands_left[round(beat, 3)] = key.values["w"] > 0
            for side, (arm, foot) in enumerate(((key.left_arm, key.left_foot), (key.right_arm, key.right_foot))):
                if arm is not None:
                    self._add_arm(side, arm, beat, reach, snap)
                if foot is not None:
                    self._add_foot(side, foot, beat, phrase)

    def _add_arm(self, side: int, name: str, beat: float, amount: float, snap: float) -> None:
        track = self.arms[side]
        value = arm_value(name, self.style.arms, side, amount, self.dancer.opened_deg)
        if track.values:
            # A minimum-jerk movement's peak speed is 1.875 times its mean.
            needed_s = 1.875 * swing_angle(np.asarray(track.values[-1]), value) / _ARM_SPEED
            snap = max(snap, min(needed_s / (self.beat_s * min(beat - track.beats[-1], 1.0)), 0.96))
        track.add(beat, value, snap)

    def _add_foot(self, side: int, foot: Foot, beat: float, phrase: Phrase, *, home: bool = False) -> None:
        sign = 1.0 if side == 0 else -1.0
        size = _STEP_SIZE * min(phrase.amplitude, 1.05)
        x = sign * self.style.stance_m * self.dancer.stance + foot.x * size
        z = foot.z * size
        sin, cos = np.sin(phrase.facing), np.cos(phrase.facing)
        # The skeleton's feet already point outwards by about 17 degrees.
        yaw = phrase.facing + np.deg2rad(foot.yaw + sign * (self.style.toe_out - 17.0))
        placement = Placement(
            beat=beat,
            x=phrase.x + cos * x + sin * z,
            z=phrase.z - sin * x + cos * z,
            yaw=float(yaw),
            pitch=float(np.deg2rad(foot.pitch)),
            lift=foot.lift * phrase.amplitude,
            glide=foot.glide,
            snap=float(np.clip(0.75 * self.dancer.sharpness, 0.5, 0.9)),
            home=home,
        )
        self.feet[side].append(placement)

    def controls(self, beat_T: FloatArray, time_T: FloatArray) -> BodyControls:
        """The body's controls at frames given by their fractional beat and time (seconds), each (T,)."""
        style, dancer = self.style, self.dancer
        value = {
            name: track.evaluate(beat_T) if name in _PLAIN else np.deg2rad(track.evaluate(beat_T))
            for name, track in self.scalars.items()
        }
        amplitude_T = self.amplitude.evaluate(beat_T)
        down_T = 0.5 + 0.5 * np.cos(2 * np.pi * beat_T)
        nod_T = np.deg2rad(style.rock) * amplitude_T * dancer.bounce * down_T
        side_T = np.cos(np.pi * beat_T) * amplitude_T * (-1.0 if dancer.mirrored else 1.0)
        drift = _slow_drift(time_T, dancer.sway_phases)

        left, right = (settle(placements) for placements in self.feet)
        take_turns(left, right, self.lands_left)
        feet = [toe_positions(p, side, style.lift_m, beat_T) for side, p in enumerate((left, right))]
        toes_T23 = np.stack([foot[0] for foot in feet], axis=1)
        support_T22 = np.stack([foot[3] for foot in feet], axis=1)

        facing_T = self.facing.evaluate(beat_T)
        sin_T, cos_T = np.sin(facing_T), np.cos(facing_T)
        weight_T = np.clip(value["w"], -1.0, 1.0)
        middle_T2, half_T2 = support_T22.mean(axis=1), 0.5 * (support_T22[:, 0] - support_T22[:, 1])
        pushed_x_T = value["px"] + 0.7 * np.deg2rad(style.sway) * 0.3 * side_T
        pushed_z_T = value["pz"] + _PELVIS_AHEAD_M
        drop_T = style.drop_m + dancer.drop_m + value["drop"] + style.bounce_m * dancer.bounce * amplitude_T * down_T
        ground_T2 = middle_T2 + 0.75 * weight_T[:, None] * half_T2
        pelvis_T3 = np.stack(
            [
                ground_T2[:, 0] + cos_T * pushed_x_T + sin_T * pushed_z_T,
                _STANDING_M - drop_T,
                ground_T2[:, 1] - sin_T * pushed_x_T + cos_T * pushed_z_T,
            ],
            axis=-1,
        )
        hips_T3 = np.stack(
            [
                facing_T + value["hy"],
                value["hp"] + np.deg2rad(2.0) + _LEAN_PER_DROP * drop_T,
                value["hr"] + np.deg2rad(style.sway) * side_T,
            ],
            axis=-1,
        )
        chest_pitch_T = value["cp"] + np.deg2rad(style.lean + dancer.lean_deg) + nod_T + drift[0]
        spine_T3 = np.stack(
            [
                value["cy"] + np.deg2rad(dancer.turned_deg) + drift[1],
                chest_pitch_T,
                value["cr"] - 0.8 * np.deg2rad(style.sway) * side_T + drift[2],
            ],
            axis=-1,
        )
        head_T3 = np.stack([value["ny"] + drift[3], value["np"] + 0.9 * nod_T + drift[4], value["nr"]], axis=-1)
        arms = [evaluate_arm(track, beat_T) for track in self.arms]
        return BodyControls(
            pelvis_T3=pelvis_T3,
            hips_T3=hips_T3,
            spine_T3=spine_T3,
            pop_T=value["pop"],
            slide_T=value["slide"],
            head_T3=head_T3,
            shrug_T2=np.stack([value["sl"], value["sr"]], axis=-1),
            arms_T2Q=np.stack([arm[0] for arm in arms], axis=1),
            elbows_T2=np.stack([arm[1] for arm in arms], axis=1),
            wrists_T2=np.stack([arm[2] for arm in arms], axis=1),
            toes_T23=toes_T23,
            foot_yaw_T2=np.stack([foot[1] for foot in feet], axis=1),
            foot_pitch_T2=np.stack([foot[2] for foot in feet], axis=1),
        )


def _slow_drift(time_T: FloatArray, phases: tuple[float, ...]) -> list[FloatArray]:
    """Breathing and balance: five channels (T,) of about a degree, slower than the beat."""
    rates_hz = (0.31, 0.19, 0.23, 0.17, 0.27)
    return [
        np.deg2rad(1.2) * np.sin(2 * np.pi * f * time_T + phase) for f, phase in zip(rates_hz, phases, strict=False)
    ]


def make_dance(song: Song, dancer_seed: int, *, start_s: float = 0.0, num_frames: int | None = None) -> Motion:
    """Dance a song.

    Args:
        song: The song, with its known beats and sections.
        dancer_seed: Who dances: side, size, timing, place and the motifs that are chosen.
        start_s: Where the excerpt begins, seconds into the song.
        num_frames: Length of the excerpt at 30 fps; by default to the end of the song.

    Returns:
        A motion at 30 fps whose ``music_beats_s`` are the song's beats relative to the excerpt. An excerpt equals the
        same frames of the whole dance.

    Raises:
        DataError: The excerpt is empty or leaves the song.
    """
    available = round((song.duration_s - start_s) * FPS)
    frames = available if num_frames is None else num_frames
    if start_s < 0 or not 0 < frames <= available:
        raise DataError(
            f"cannot dance {frames} frames from {start_s:g} s",
            where=song.spec.name,
            expected=f"an excerpt of a song of {song.duration_s:.2f} s",
        )
    style = DANCE_STYLES[song.spec.genre]
    rng = np.random.default_rng([song.spec.seed, GENRES.index(song.spec.genre), dancer_seed])
    dancer = draw_dancer(rng)
    score = _Score(style, dancer, float(np.median(np.diff(song.beats_s))))
    for phrase in plan_phrases(song, style, dancer, rng):
        score.add_phrase(phrase)

    time_T = start_s + np.arange(frames, dtype=np.float64) / FPS
    beat_T = _beats_at(song.beats_s, time_T - dancer.late_s)
    poses, trans = solve_body(score.controls(beat_T, time_T))
    beats_s = song.beats_s - start_s
    return Motion(
        poses=poses,
        trans=trans,
        fps=FPS,
        genre=song.spec.genre,
        source="macedance.demo",
        licence="Apache-2.0",
        music_beats_s=beats_s[(beats_s >= 0) & (beats_s < frames / FPS)],
        song=song.spec.name,
    )


def _beats_at(beats_s: npt.NDArray[np.floating], time_T: npt.NDArray[np.floating]) -> FloatArray:
    """Fractional beat number (T,) of times (T,), seconds; the grid goes on at its tempo before and after the song."""
    beat_T = np.interp(time_T, beats_s, np.arange(len(beats_s), dtype=np.float64))
    before, after = time_T < beats_s[0], time_T > beats_s[-1]
    beat_T[before] = (time_T[before] - beats_s[0]) / (beats_s[1] - beats_s[0])
    beat_T[after] = len(beats_s) - 1 + (time_T[after] - beats_s[-1]) / (beats_s[-1] - beats_s[-2])
    return np.asarray(beat_T)
