"""From a dancer's controls to SMPL-24 poses: eased spine, arm and head rotations, and legs by inverse kinematics.

Shapes: T frames, 2 = left and right, 3 = x y z or yaw pitch roll, Q = 4 quaternion components (w, x, y, z). Metres and
radians; y-up, the dancer faces +z at yaw 0, +x is the dancer's left. Positive yaw turns left, positive pitch bends
forward (toes down for a foot), positive roll leans to the left.

The legs follow the feet, never the other way round: a planted foot is given in the world, and hips, knees and ankles
are solved so that it stays there (two-bone analytic inverse kinematics with the knee pointing over the foot).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from macedance.motion.rotations import axis_angle_from_matrix
from macedance.motion.skeleton import OFFSETS_M

FloatArray = npt.NDArray[np.float64]

_OFFSETS_J3: FloatArray = np.asarray(OFFSETS_M, dtype=np.float64)
_HIPS, _KNEES, _ANKLES, _TOES = (1, 2), (4, 5), (7, 8), (10, 11)
_COLLARS, _SHOULDERS, _ELBOWS, _WRISTS = (13, 14), (16, 17), (18, 19), (20, 21)
#: A leg is never stretched beyond this share of its length: a locked knee pops.
_MAX_REACH = 0.985
#: How the bend of the whole spine is shared by belly, spine and chest.
_SPINE_SHARES = (0.3, 0.35, 0.35)
#: Sharpness, in metres, of the smooth minimum that keeps the pelvis within reach of both feet.
_REACH_SOFTNESS_M = 0.008


@dataclass(frozen=True)
class BodyControls:
    """What the choreography decides in every frame; see the head of this file for the axes.

    Attributes:
        pelvis_T3: Wished pelvis position; its height is lowered where a leg would not reach the floor.
        hips_T3: Pelvis yaw (in the world), pitch and roll.
        spine_T3: Chest relative to the pelvis: yaw, pitch, roll.
        pop_T: Chest pushed forward (positive) or hollowed, as an angle.
        slide_T: Chest shifted to the left over the hips without leaning, as an angle.
        head_T3: Head relative to a level gaze: yaw, pitch, roll.
        shrug_T2: Raised shoulders, as an angle.
        arms_T2Q: Upper-arm rotation in the chest frame, from the T-pose.
        elbows_T2: Elbow flexion.
        wrists_T2: Wrist flexion, in the plane of the elbow.
        toes_T23: Toe joints in the world.
        foot_yaw_T2: Foot yaw in the world.
        foot_pitch_T2: Positive raises the heel over the ball of the foot, negative the toes over the heel.
    """

    pelvis_T3: FloatArray
    hips_T3: FloatArray
    spine_T3: FloatArray
    pop_T: FloatArray
    slide_T: FloatArray
    head_T3: FloatArray
    shrug_T2: FloatArray
    arms_T2Q: FloatArray
    elbows_T2: FloatArray
    wrists_T2: FloatArray
    toes_T23: FloatArray
    foot_yaw_T2: FloatArray
    foot_pitch_T2: FloatArray


def rotation_about(axis: int, angle: FloatArray) -> FloatArray:
    """Rotation matrices (..., 3, 3) about the x (0), y (1) or z (2) axis by ``angle`` (...), radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.zeros((*np.shape(angle), 3, 3))
    matrix[..., axis, axis] = 1.0
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix[..., first, first] = matrix[..., second, second] = cos
    matrix[..., second, first], matrix[..., first, second] = sin, -sin
    return matrix


def turned(yaw: FloatArray, pitch: FloatArray, roll: FloatArray) -> FloatArray:
    """Rotation matrices (..., 3, 3) of yaw, then pitch, then roll, each (...), in the signs of this file."""
    return rotation_about(1, yaw) @ rotation_about(0, pitch) @ rotation_about(2, -roll)


def matrices_from_quaternions(quaternion: FloatArray) -> FloatArray:
    """Rotation matrices (..., 3, 3) of unit quaternions (..., 4)."""
    w, x, y, z = np.moveaxis(quaternion, -1, 0)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return np.stack(rows, axis=-1).reshape(*quaternion.shape[:-1], 3, 3)


def _unit(vector: FloatArray) -> FloatArray:
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    return np.asarray(vector / np.maximum(length, 1e-9))


def _frames(direction: FloatArray, axis: FloatArray) -> FloatArray:
    """Orthonormal frames (..., 3, 3), columns: the hinge ``axis`` made perpendicular, ``direction``, their product."""
    down = _unit(direction)
    hinge = _unit(axis - (axis * down).sum(-1, keepdims=True) * down)
    return np.stack([hinge, down, np.cross(hinge, down)], axis=-1)


def ankle_positions(controls: BodyControls) -> FloatArray:
    """Ankles (T, 2, 3) in the world: over the ball of the foot where the heel is raised, else over the heel."""
    offsets_23 = _OFFSETS_J3[list(_TOES)]
    raised = turned(controls.foot_yaw_T2, np.maximum(controls.foot_pitch_T2, 0.0), np.zeros_like(controls.foot_yaw_T2))
    return np.asarray(controls.toes_T23 - np.einsum("tfij,fj->tfi", raised, offsets_23))


def _reachable_height(controls: BodyControls, hips_R: FloatArray, ankles_T23: FloatArray) -> FloatArray:
    """Pelvis height (T,): the wished one, smoothly lowered to where both legs reach their ankles."""
    heights = [controls.pelvis_T3[:, 1]]
    for side in range(2):
        hip_T3 = hips_R @ _OFFSETS_J3[_HIPS[side]]
        length = sum(float(np.linalg.norm(_OFFSETS_J3[j])) for j in (_KNEES[side], _ANKLES[side])) * _MAX_REACH
        gap_T2 = (controls.pelvis_T3 + hip_T3 - ankles_T23[:, side])[:, [0, 2]]
        rise_T = np.sqrt(np.maximum(length**2 - (gap_T2**2).sum(-1), 0.04))
        heights.append(ankles_T23[:, side, 1] + rise_T - hip_T3[:, 1])
    stacked = np.stack(heights)
    lowest = stacked.min(axis=0)
    return np.asarray(lowest - _REACH_SOFTNESS_M * np.log(np.exp(-(stacked - lowest) / _REACH_SOFTNESS_M).sum(axis=0)))


def _leg(
    side: int,
    pelvis_T3: FloatArray,
    hips_R: FloatArray,
    ankle_T3: FloatArray,
    foot_R: FloatArray,
    pole_yaw_T: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Local rotations (T, 3, 3) of hip, knee and ankle that bring the ankle to its place and turn the foot."""
    thigh_3, shin_3 = _OFFSETS_J3[_KNEES[side]], _OFFSETS_J3[_ANKLES[side]]
    thigh, shin = float(np.linalg.norm(thigh_3)), float(np.linalg.norm(shin_3))
    hip_T3 = pelvis_T3 + hips_R @ _OFFSETS_J3[_HIPS[side]]
    reach_T3 = ankle_T3 - hip_T3
    distance_T = np.clip(np.linalg.norm(reach_T3, axis=-1), 0.25, (thigh + shin) * 0.998)
    down_T3 = _unit(reach_T3)
    pole_T3 = np.stack([np.sin(pole_yaw_T), np.zeros_like(pole_yaw_T), np.cos(pole_yaw_T)], axis=-1)
    # A leg swung forward bends its knee upwards, one swung backwards downwards: keeps the hinge well defined.
    pole_T3[:, 1] = (down_T3 * pole_T3).sum(-1)
    axis_T3 = _unit(np.cross(pole_T3, down_T3))
    along_T = (thigh**2 - shin**2 + distance_T**2) / (2 * distance_T)
    bend_T = np.sqrt(np.maximum(thigh**2 - along_T**2, 0.0))
    knee_T3 = along_T[:, None] * down_T3 + bend_T[:, None] * np.cross(down_T3, axis_T3)
    rest_axis_3 = np.array([1.0, 0.0, 0.0])
    thigh_R = _frames(knee_T3, axis_T3) @ _frames(thigh_3, rest_axis_3).T
    shin_R = _frames(distance_T[:, None] * down_T3 - knee_T3, axis_T3) @ _frames(shin_3, rest_axis_3).T
    return _relative(hips_R, thigh_R), _relative(thigh_R, shin_R), _relative(shin_R, foot_R)


def _relative(parent: FloatArray, child: FloatArray) -> FloatArray:
    return np.swapaxes(parent, -1, -2) @ child


def _smooth_step(value: FloatArray) -> FloatArray:
    s = np.clip(value, 0.0, 1.0)
    return np.asarray(s * s * s * (s * (6 * s - 15) + 10))


def solve_body(controls: BodyControls) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Poses (T, 24, 3), axis-angle, and pelvis positions (T, 3), metres, of the controls of T frames."""
    frames = len(controls.pelvis_T3)
    local = np.broadcast_to(np.eye(3), (frames, 24, 3, 3)).copy()
    hips_R = turned(*controls.hips_T3.T)
    local[:, 0] = hips_R

    yaw_T, pitch_T, roll_T = controls.spine_T3.T
    zero_T = np.zeros(frames)
    # A pop or a slide bends the belly one way and the chest back, so that the chest travels but stays upright.
    pops = (0.9, -0.5, -0.75)
    slides = (1.0, -0.2, -0.8)
    for share, pop, slide, joint in zip(_SPINE_SHARES, pops, slides, (3, 6, 9), strict=True):
        local[:, joint] = turned(
            share * yaw_T, share * pitch_T + pop * controls.pop_T, share * roll_T + slide * controls.slide_T
        )
    # The gaze stays nearly level while the chest works.
    head_yaw_T, head_pitch_T, head_roll_T = controls.head_T3.T
    neck_pitch_T = head_pitch_T - 0.55 * (pitch_T + controls.hips_T3[:, 1]) + 0.3 * controls.pop_T
    neck_roll_T = head_roll_T - 0.5 * (roll_T + controls.hips_T3[:, 2])
    neck_yaw_T = head_yaw_T - 0.35 * yaw_T
    local[:, 12] = turned(0.5 * neck_yaw_T, 0.5 * neck_pitch_T, 0.5 * neck_roll_T)
    local[:, 15] = local[:, 12]

    for side, sign in enumerate((1.0, -1.0)):
        arm_R = matrices_from_quaternions(controls.arms_T2Q[:, side])
        # The collar bone rises with the arm, as the shoulder blade turns above the horizontal.
        height_T = sign * arm_R[:, 1, 0]
        collar_T = controls.shrug_T2[:, side] + np.deg2rad(24) * _smooth_step((height_T + 0.6) / 1.6)
        collar_R = turned(zero_T, zero_T, -sign * collar_T)
        local[:, _COLLARS[side]] = collar_R
        local[:, _SHOULDERS[side]] = _relative(collar_R, arm_R)
        local[:, _ELBOWS[side]] = rotation_about(1, -sign * controls.elbows_T2[:, side])
        local[:, _WRISTS[side]] = rotation_about(1, -sign * controls.wrists_T2[:, side])

    ankles_T23 = ankle_positions(controls)
    feet_R = turned(controls.foot_yaw_T2, controls.foot_pitch_T2, np.zeros((frames, 2)))
    pelvis_T3 = controls.pelvis_T3.copy()
    pelvis_T3[:, 1] = _reachable_height(controls, hips_R, ankles_T23)
    for side, sign in enumerate((1.0, -1.0)):
        # Knees track over the feet, slightly outwards.
        pole_T = 0.55 * controls.foot_yaw_T2[:, side] + 0.45 * controls.hips_T3[:, 0] + sign * np.deg2rad(12)
        hip, knee, ankle = _leg(side, pelvis_T3, hips_R, ankles_T23[:, side], feet_R[:, side], pole_T)
        local[:, _HIPS[side]], local[:, _KNEES[side]], local[:, _ANKLES[side]] = hip, knee, ankle
    poses = axis_angle_from_matrix(torch.from_numpy(local)).numpy()
    return poses.astype(np.float32), pelvis_T3.astype(np.float32)
