"""Eased channels of a dance: keys at counts of the beat, and their values in every frame.

Shapes: K keys, T frames, Q = 4 quaternion components (w, x, y, z), V any trailing dimensions.

Between two keys a channel rests, moves once with a minimum-jerk profile (Flash and Hogan, "The coordination of arm
movements", J. Neuroscience 1985) and rests again, so that everything arrives at the beat, is slowest on it and never
jumps in speed or acceleration.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from macedance.demo.moves import ARM_POSES, ArmPose

FloatArray = npt.NDArray[np.float64]


def minimum_jerk(s: FloatArray) -> FloatArray:
    """0 to 1 while ``s`` goes from 0 to 1, with zero speed and acceleration at both ends."""
    s = np.clip(s, 0.0, 1.0)
    return np.asarray(s * s * s * (s * (6.0 * s - 15.0) + 10.0))


def bump(s: FloatArray) -> FloatArray:
    """0 to 1 and back to 0 while ``s`` goes from 0 to 1, with zero speed and acceleration at both ends."""
    s = np.clip(s, 0.0, 1.0)
    return np.asarray(64.0 * (s * (1.0 - s)) ** 3)


@dataclass
class Track:
    """Keys of one channel.

    Attributes:
        beats: Count at which each key is reached, ascending.
        values: Their values, scalars or arrays of one shape.
        snaps: Share of a beat that each movement takes.
    """

    beats: list[float] = field(default_factory=list)
    values: list[float | FloatArray] = field(default_factory=list)
    snaps: list[float] = field(default_factory=list)

    def add(self, beat: float, value: float | FloatArray, snap: float) -> None:
        """Append a key; a key at the same or a later beat that is already there is replaced."""
        while self.beats and self.beats[-1] >= beat - 1e-6:
            self.beats.pop()
            self.values.pop()
            self.snaps.pop()
        self.beats.append(beat)
        self.values.append(value)
        self.snaps.append(snap)

    def windows(self) -> tuple[FloatArray, FloatArray]:
        """Begin and end (K,) of the movement to every key, in beats; the first key is held from the start."""
        return movement_windows(np.asarray(self.beats), np.asarray(self.snaps))

    def progress(self, beat_T: FloatArray) -> tuple[npt.NDArray[np.intp], FloatArray]:
        """For every frame: the index of the key it moves to or rests at, and how far along 0..1 it is (not eased)."""
        begin_K, end_K = self.windows()
        index_T = np.maximum(np.searchsorted(begin_K, beat_T, side="right") - 1, 0)
        s_T = (beat_T - begin_K[index_T]) / (end_K[index_T] - begin_K[index_T])
        return index_T, np.clip(s_T, 0.0, 1.0)

    def evaluate(self, beat_T: FloatArray) -> FloatArray:
        """Values (T, *V) at fractional beats (T,)."""
        index_T, s_T = self.progress(beat_T)
        values_K = np.asarray(self.values, dtype=np.float64)
        before = values_K[np.maximum(index_T - 1, 0)]
        after = values_K[index_T]
        weight = minimum_jerk(s_T).reshape(-1, *[1] * (values_K.ndim - 1))
        return np.asarray(before + weight * (after - before))


def movement_windows(beats_K: FloatArray, snaps_K: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Begin and end (K,) of the movement to each key: within the last beat before it, centred so that the rest that
    follows is centred on the beat."""
    gap_K = np.minimum(np.diff(beats_K, prepend=beats_K[0] - 1.0), 1.0)
    length_K = snaps_K * gap_K
    # A very sharp move would come in too early if the rest were centred on the beat.
    lead_K = np.minimum(0.5 * (gap_K - length_K), 0.22)
    end_K = beats_K - lead_K
    begin_K = end_K - length_K
    return begin_K, end_K


def arm_rotation(pose: ArmPose, side: int, opened_deg: float = 0.0) -> tuple[FloatArray, float, float]:
    """The upper arm's rotation (4,) in the chest frame, the elbow's and the wrist's flexion in radians.

    Args:
        pose: Written for the left arm.
        side: 0 left, 1 right.
        opened_deg: Turns the whole arm outwards.
    """
    upper = np.asarray(pose.upper, dtype=np.float64)
    fore = np.asarray(pose.fore, dtype=np.float64)
    upper, fore = upper / np.linalg.norm(upper), fore / np.linalg.norm(fore)
    hinge = np.cross(upper, fore)
    hinge /= np.linalg.norm(hinge)
    # The T-pose's arm points along +x and its elbow bends towards +z, about -y.
    target = np.stack([upper, -hinge, np.cross(upper, -hinge)], axis=-1)
    quaternion = _quaternion_from_matrix(target)
    half = 0.5 * np.deg2rad(opened_deg)
    quaternion = _multiply(np.array([np.cos(half), 0.0, 0.0, np.sin(half)]), quaternion)
    if side == 1:
        # Mirrored in the plane x = 0.
        quaternion = quaternion * np.array([1.0, 1.0, -1.0, -1.0])
    flexion = float(np.arccos(np.clip(upper @ fore, -1.0, 1.0)))
    return quaternion, flexion, float(np.deg2rad(pose.wrist))


def arm_value(name: str, neutral: str, side: int, amount: float, opened_deg: float) -> FloatArray:
    """The key value (6,) of a named arm pose danced with ``amount`` (0 = ``neutral``, 1 = the full pose)."""
    quaternion, elbow, wrist = arm_rotation(ARM_POSES[name], side, opened_deg)
    if amount < 1.0 and name != neutral:
        rest, rest_elbow, rest_wrist = arm_rotation(ARM_POSES[neutral], side, opened_deg)
        quaternion = slerp(rest[None], quaternion[None], np.array([amount]))[0]
        elbow, wrist = rest_elbow + amount * (elbow - rest_elbow), rest_wrist + amount * (wrist - rest_wrist)
    return np.concatenate([quaternion, [elbow, wrist]])


def swing_angle(before: FloatArray, after: FloatArray) -> float:
    """Angle in radians that the upper arm or the elbow, whichever is more, turns between two :func:`arm_value` keys."""
    turned = 2.0 * float(np.arccos(min(abs(float(before[:4] @ after[:4])), 1.0)))
    return max(turned, abs(float(after[4] - before[4])))


def evaluate_arm(track: Track, beat_T: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Upper-arm rotations (T, 4), elbow and wrist flexion (T,) of a track of :func:`arm_value` keys."""
    index_T, s_T = track.progress(beat_T)
    values_K6 = np.asarray(track.values, dtype=np.float64)
    before, after = values_K6[np.maximum(index_T - 1, 0)], values_K6[index_T]
    weight_T = minimum_jerk(s_T)
    flexions = before[:, 4:] + weight_T[:, None] * (after[:, 4:] - before[:, 4:])
    return slerp(before[:, :4], after[:, :4], weight_T), flexions[:, 0], flexions[:, 1]


def slerp(start: FloatArray, end: FloatArray, weight: FloatArray) -> FloatArray:
    """Unit quaternions (N, 4) between ``start`` and ``end`` (N, 4) along the shorter arc, ``weight`` (N,) in 0..1."""
    dot = (start * end).sum(-1, keepdims=True)
    end = np.where(dot < 0, -end, end)
    angle = np.arccos(np.clip(np.abs(dot), 0.0, 1.0))
    near = angle < 1e-4
    safe = np.where(near, 1.0, angle)
    w = weight[:, None]
    mixed = np.where(
        near, (1 - w) * start + w * end, (np.sin((1 - w) * safe) * start + np.sin(w * safe) * end) / np.sin(safe)
    )
    return np.asarray(mixed / np.linalg.norm(mixed, axis=-1, keepdims=True))


def _multiply(left: FloatArray, right: FloatArray) -> FloatArray:
    w, v = left[0], left[1:]
    u, r = right[0], right[1:]
    return np.concatenate([[w * u - v @ r], w * r + u * v + np.cross(v, r)])


def _quaternion_from_matrix(matrix: FloatArray) -> FloatArray:
    # The eigenvector of Bar-Itzhack's symmetric matrix: no special case near any rotation.
    m = matrix
    k = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[1, 0] + m[0, 1], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[1, 0] + m[0, 1], m[1, 1] - m[0, 0] - m[2, 2], m[2, 1] + m[1, 2]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[2, 1] + m[1, 2], m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    return np.asarray(np.linalg.eigh(k)[1][:, -1])
