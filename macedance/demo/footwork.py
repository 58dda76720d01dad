"""Where the feet are in every frame: planted until they step, and never both in the air by accident.

Shapes: T frames, 2 = left and right, 3 = x y z. World metres, y-up; counts of the beat in time. A placement is where
the ANKLE of a flat foot stands; the toe joint follows from the skeleton.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from macedance.demo.tracks import Track, bump
from macedance.motion.skeleton import OFFSETS_M, TOE_HEIGHT_M

FloatArray = npt.NDArray[np.float64]

_TOE_OFFSETS_23: FloatArray = np.asarray(OFFSETS_M, dtype=np.float64)[[10, 11]]
#: Placements nearer than this to the last one are danced without moving the foot.
_SAME_PLACE_M = 0.03
_SAME_YAW_RAD = np.deg2rad(9.0)
#: A foot that only turns, and no more than this, pivots on the floor.
_PIVOT_RAD = np.deg2rad(40.0)
#: The body takes the whole beat to get over its feet, however sharp the step.
_SUPPORT_SNAP = 0.95
#: A step of this length is lifted by the style's height; shorter ones less, longer ones more.
_LIFT_STEP_M = 0.2


@dataclass(frozen=True)
class Placement:
    """One key of one foot.

    Args:
        beat: Count at which the foot is there.
        x: World position of the flat foot's ankle.
        z: The same.
        yaw: Radians, world.
        pitch: Radians, positive heel up.
        lift: Metres of the toes above the floor at this key.
        glide: Reached along the floor.
        snap: Share of a beat that the step takes.
        home: Put in by the choreography to bring the foot under the hip, not asked for by a move.
        early: Counts by which ``beat`` was brought forward to let the other foot step after it.
    """

    beat: float
    x: float
    z: float
    yaw: float
    pitch: float = 0.0
    lift: float = 0.0
    glide: bool = False
    snap: float = 0.7
    home: bool = False
    early: float = 0.0

    @property
    def asked_beat(self) -> float:
        """The count that the choreography asked for."""
        return self.beat + self.early

    def moved_from(self, other: Placement) -> bool:
        """Whether the foot must leave its place to get here."""
        return self.distance(other) > _SAME_PLACE_M or abs(self.yaw - other.yaw) > _SAME_YAW_RAD

    def pivots_from(self, other: Placement) -> bool:
        """Whether the foot gets here by turning where it stands."""
        return self.distance(other) <= _SAME_PLACE_M and abs(self.yaw - other.yaw) <= _PIVOT_RAD

    def distance(self, other: Placement) -> float:
        """Metres along the floor."""
        return float(np.hypot(self.x - other.x, self.z - other.z))


def settle(placements: list[Placement]) -> list[Placement]:
    """The placements with tiny corrections left out: the foot stays planted where it is."""
    settled: list[Placement] = []
    for placement in sorted(placements, key=lambda p: p.beat):
        if settled and not placement.moved_from(settled[-1]):
            last = settled[-1]
            placement = replace(placement, x=last.x, z=last.z, yaw=last.yaw)
        settled.append(placement)
    return settled


def take_turns(left: list[Placement], right: list[Placement], lands_left_T: dict[float, bool]) -> None:
    """Let the two feet step one after the other where both would arrive on the same count.

    Args:
        left: Placements of the left foot in time order, changed in place.
        right: The same of the right foot.
        lands_left_T: For each count, whether the weight ends on the left foot, which then steps last.
    """
    by_beat = {round(p.beat, 3): i for i, p in enumerate(right)}
    for i in range(1, len(left)):
        j = by_beat.get(round(left[i].beat, 3), 0)
        if j == 0 or not (left[i].moved_from(left[i - 1]) and right[j].moved_from(right[j - 1])):
            continue
        if not (left[i].home or right[j].home):
            continue  # a move that moves both feet at once means it: a hop or a heel twist
        gap = left[i].beat - max(left[i - 1].beat, right[j - 1].beat)
        if gap < 0.9:
            continue
        left_last = lands_left_T.get(round(left[i].beat, 3), True)
        first, index = (right, j) if left_last else (left, i)
        first[index] = replace(first[index], beat=first[index].beat - 0.5, early=0.5)


def toe_positions(
    placements: list[Placement], side: int, lift_m: float, beat_T: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Toe joint (T, 3), foot yaw and pitch (T,), and the place (T, 2) that supports the body, at beats (T,)."""
    track, support = Track(), Track()
    lifts: list[float] = []
    planted = np.array([placements[0].x, placements[0].z])
    for i, p in enumerate(placements):
        track.add(p.beat, np.array([p.x, p.z, p.yaw, p.pitch, p.lift]), p.snap)
        if p.lift <= 0.005:
            planted = np.array([p.x, p.z])
        support.add(p.asked_beat, planted, _SUPPORT_SNAP)
        before = placements[i - 1] if i else p
        steps = i > 0 and p.moved_from(before) and not p.pivots_from(before) and not p.glide
        arc_m = lift_m * float(np.clip(p.distance(before) / _LIFT_STEP_M, 0.55, 1.5))
        lifts.append(arc_m if steps and max(p.lift, before.lift) < 0.02 else 0.0)
    values = track.evaluate(beat_T)
    index_T, s_T = track.progress(beat_T)
    arc_T = np.asarray(lifts)[index_T] * bump(s_T)
    # The heel leaves the floor first: the foot hangs a little, toes down, through the step.
    pitch_T = values[:, 3] + 1.8 * arc_T
    yaw_T = values[:, 2]
    offset_3 = _TOE_OFFSETS_23[side]
    sin, cos = np.sin(yaw_T), np.cos(yaw_T)
    toe_T3 = np.stack(
        [
            values[:, 0] + cos * offset_3[0] + sin * offset_3[2],
            TOE_HEIGHT_M + values[:, 4] + arc_T,
            values[:, 1] - sin * offset_3[0] + cos * offset_3[2],
        ],
        axis=-1,
    )
    return toe_T3, yaw_T, pitch_T, support.evaluate(beat_T)
