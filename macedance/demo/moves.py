"""How a dance move is written down: key poses at counts of the beat, and the style a genre dances them in.

A move of 4 or 8 counts is a list of keys. A key says what the body has reached at one count (0 is the "one", 0.5 the
"and"); every channel eases from key to key on its own. A channel that a move leaves out goes back to the genre's
neutral pose on the move's first count. Moves are written once, for one side; :meth:`Move.mirrored` gives the other.

Units: degrees, metres, counts. +x is the dancer's left, +z the front; yaw + turns left, pitch + bends forward, roll +
leans left.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from macedance.errors import ConfigError

#: Scalar channels: ``w`` weight (-1 right foot .. +1 left foot); ``px pz`` pelvis pushed sideways or forward (m);
#: ``drop`` knees bent deeper (m); ``hy hp hr`` hips; ``cy cp cr`` chest against the hips; ``pop`` chest forward;
#: ``slide`` chest to the left; ``ny np nr`` head; ``sl sr`` shoulders raised.
SCALARS: tuple[str, ...] = (
    "w", "px", "pz", "drop", "hy", "hp", "hr", "cy", "cp", "cr", "pop", "slide", "ny", "np", "nr", "sl", "sr",
)  # fmt: skip
_MIRROR_SIGN = {"w": -1, "px": -1, "hy": -1, "hr": -1, "cy": -1, "cr": -1, "slide": -1, "ny": -1, "nr": -1}
_SWAP = {"sl": "sr", "sr": "sl"}

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class ArmPose:
    """A pose of the left arm in the chest's frame; the right arm's is its mirror image.

    Args:
        upper: Direction of the upper arm: (outwards, up, forward), any length.
        fore: Direction of the forearm. The two must not be parallel: their plane is the elbow's.
        wrist: Wrist flexion in the elbow's plane, degrees.
    """

    upper: Vector
    fore: Vector
    wrist: float = 8.0


#: The arm poses that moves name.
ARM_POSES: dict[str, ArmPose] = {
    # hanging and swinging
    "hang": ArmPose((0.24, -1.0, -0.02), (0.10, -1.0, 0.34)),
    "relaxed": ArmPose((0.34, -1.0, -0.05), (0.10, -0.62, 0.75)),
    "ready": ArmPose((0.42, -1.0, 0.05), (0.02, -0.12, 1.0)),
    "swing_front": ArmPose((0.20, -0.85, 0.55), (-0.18, 0.10, 1.0)),
    "swing_back": ArmPose((0.38, -0.85, -0.50), (0.24, -0.80, 0.10)),
    "run_front": ArmPose((0.26, -0.80, 0.62), (-0.10, 0.75, 0.70)),
    "run_back": ArmPose((0.38, -0.72, -0.62), (0.15, -0.62, 0.70)),
    "low_out": ArmPose((0.72, -0.80, 0.05), (0.62, -0.62, 0.42)),
    "low_front": ArmPose((0.22, -0.80, 0.55), (0.02, -0.62, 0.85)),
    # horizontal
    "side": ArmPose((1.0, -0.12, 0.10), (1.0, 0.02, 0.30)),
    "side_bent": ArmPose((0.95, -0.30, 0.15), (0.15, 0.05, 1.0)),
    "front": ArmPose((0.22, -0.18, 1.0), (-0.12, 0.02, 1.0)),
    "jab": ArmPose((0.12, 0.02, 1.0), (-0.10, 0.10, 1.0), 0.0),
    "cross": ArmPose((0.14, -0.42, 0.90), (-0.92, 0.12, 0.42)),
    "cross_low": ArmPose((0.14, -0.85, 0.55), (-0.72, -0.42, 0.62)),
    "chest": ArmPose((0.72, -0.55, 0.45), (-0.78, 0.18, 0.62)),
    # raised
    "up": ArmPose((0.36, 1.0, 0.12), (0.02, 1.0, 0.22)),
    "up_wide": ArmPose((0.75, 0.75, 0.12), (0.55, 0.90, 0.28)),
    "goal": ArmPose((0.98, 0.02, 0.16), (0.14, 1.0, 0.24)),
    "hook": ArmPose((0.96, 0.06, 0.22), (0.10, -1.0, 0.26)),
    "overhead": ArmPose((0.52, 0.92, 0.14), (-0.85, 0.48, 0.10)),
    "behind_head": ArmPose((0.86, 0.46, 0.02), (-0.72, 0.62, -0.26)),
    "shoulder": ArmPose((0.78, -0.42, 0.38), (-0.36, 0.95, 0.10), 25.0),
    "flex": ArmPose((0.92, -0.06, 0.22), (-0.10, 0.95, 0.28), 25.0),
    "fist_up": ArmPose((0.50, -0.10, 0.85), (0.06, 1.0, 0.32)),
    # genre signatures
    "guard": ArmPose((0.42, -0.85, 0.34), (-0.28, 0.70, 0.72)),
    "lock": ArmPose((0.82, -0.42, 0.34), (-0.12, -0.72, 0.62), 30.0),
    "point_up": ArmPose((0.58, 0.74, 0.30), (0.46, 0.88, 0.40), 0.0),
    "point_side": ArmPose((0.96, 0.04, 0.26), (0.92, 0.12, 0.44), 0.0),
    "point_down": ArmPose((0.56, -0.76, 0.30), (0.44, -0.76, 0.48), 0.0),
    "point_front": ArmPose((0.30, 0.05, 0.95), (0.12, 0.14, 1.0), 0.0),
    "hip": ArmPose((0.82, -0.70, -0.30), (-0.52, -0.62, 0.58), 30.0),
    "salsa": ArmPose((0.46, -0.86, 0.05), (0.10, 0.12, 1.0), 0.0),
    "salsa_in": ArmPose((0.34, -0.80, 0.34), (-0.62, 0.26, 0.75), 0.0),
    "stab": ArmPose((0.24, -0.46, 0.86), (-0.02, -0.62, 0.80), 0.0),
    "smash": ArmPose((0.40, -0.80, 0.46), (0.10, -0.80, 0.60), 0.0),
    "wide_low": ArmPose((0.88, -0.52, -0.05), (0.72, -0.60, 0.36)),
    "whip_out": ArmPose((0.92, 0.22, 0.16), (0.96, 0.34, 0.36), -10.0),
}


@dataclass(frozen=True)
class Foot:
    """Where a foot is put: metres from its home under the hip, ``yaw`` in degrees from its home direction.

    Args:
        x: To the dancer's left.
        z: To the front.
        yaw: Positive turns the toes to the dancer's left.
        pitch: Degrees; positive heel up, negative toes up.
        lift: Height of the toes above the floor at this key, metres: 0 for a planted foot.
        glide: The foot gets there along the floor instead of stepping.
    """

    x: float = 0.0
    z: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    lift: float = 0.0
    glide: bool = False

    def mirrored(self) -> Foot:
        """The same for the other foot."""
        return replace(self, x=-self.x, yaw=-self.yaw)


@dataclass(frozen=True)
class Key:
    """What is reached at one count.

    Args:
        count: Count within the move, 0 first.
        values: Scalar channels.
        left_arm: Name of the left arm's pose.
        right_arm: Name of the right arm's pose.
        left_foot: Placement of the left foot.
        right_foot: Placement of the right foot.
    """

    count: float
    values: dict[str, float] = field(default_factory=dict)
    left_arm: str | None = None
    right_arm: str | None = None
    left_foot: Foot | None = None
    right_foot: Foot | None = None

    def mirrored(self) -> Key:
        """The same key for the other side."""
        values = {_SWAP.get(name, name): _MIRROR_SIGN.get(name, 1) * value for name, value in self.values.items()}
        return Key(
            self.count,
            values,
            self.right_arm,
            self.left_arm,
            self.right_foot.mirrored() if self.right_foot else None,
            self.left_foot.mirrored() if self.left_foot else None,
        )


def at(
    count: float,
    *,
    arms: str | None = None,
    la: str | None = None,
    ra: str | None = None,
    lf: Foot | None = None,
    rf: Foot | None = None,
    **values: float,
) -> Key:
    """A key at ``count``: ``arms`` for both arms or ``la``/``ra``, ``lf``/``rf`` feet, the rest scalar channels.

    Raises:
        ConfigError: An unknown channel or arm pose.
    """
    for name in values:
        if name not in SCALARS:
            raise ConfigError(f"unknown channel {name!r} in a dance move", expected=", ".join(SCALARS))
    for pose in (arms, la, ra):
        if pose is not None and pose not in ARM_POSES:
            raise ConfigError(f"unknown arm pose {pose!r} in a dance move", expected=", ".join(ARM_POSES))
    return Key(count, dict(values), la or arms, ra or arms, lf, rf)


@dataclass(frozen=True)
class Move:
    """A named move.

    Args:
        name: Its name in the dance studio.
        keys: Key poses in any order.
        energy: 0 (small, for verses) .. 1 (big, for the chorus).
        counts: Length in beats.
        snap: Share of a beat in which a key is reached; None takes the style's.
    """

    name: str
    keys: tuple[Key, ...]
    energy: float = 0.5
    counts: int = 4
    snap: float | None = None

    def mirrored(self) -> Move:
        """The move begun on the other side."""
        return replace(self, keys=tuple(key.mirrored() for key in self.keys))


@dataclass(frozen=True)
class Style:
    """How a genre carries its body between and under the moves.

    Args:
        moves: The vocabulary.
        groove: What is danced where the music is thin: a small move on the spot.
        arms: Neutral arm pose.
        drop_m: Depth of the knees in the neutral pose.
        bounce_m: Depth of the bounce of each beat; negative goes up on the beat.
        rock: Chest and head nod of each beat, degrees.
        sway: Roll of the hips from side to side, degrees, one side a beat.
        lean: Forward lean of the chest, degrees.
        stance_m: Distance from the middle to each foot.
        toe_out: Feet turned out, degrees.
        snap: Share of a beat in which a key is reached: small is sharp.
        lift_m: Height of the feet in a step.
    """

    moves: tuple[Move, ...]
    groove: Move
    arms: str = "relaxed"
    drop_m: float = 0.05
    bounce_m: float = 0.03
    rock: float = 4.0
    sway: float = 0.0
    lean: float = 4.0
    stance_m: float = 0.12
    toe_out: float = 10.0
    snap: float = 0.8
    lift_m: float = 0.06


def alternating(*keys: Key, period: float = 2.0) -> tuple[Key, ...]:
    """The keys, and their mirror image ``period`` counts later: right-left moves are written once."""
    return keys + tuple(replace(key.mirrored(), count=key.count + period) for key in keys)


def repeated(*keys: Key, period: float = 2.0, times: int = 2) -> tuple[Key, ...]:
    """The keys ``times`` times, each ``period`` counts after the last."""
    return tuple(replace(key, count=key.count + period * i) for i in range(times) for key in keys)
