"""BVH texts made by the tests: a known SMPL motion told by a foreign skeleton (names, axes, unit, rotation order).

The Euler angles come from scipy, not from the code under test.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from macedance.motion.files import Motion
from macedance.motion.skeleton import JOINT_NAMES, NUM_JOINTS, OFFSETS_M, PARENTS

#: SMPL joint -> name, for three ways of naming; joints without a name are left out of the file.
MIXAMO = dict(
    enumerate(
        [
            "mixamorig:Hips", "mixamorig:LeftUpLeg", "mixamorig:RightUpLeg", "mixamorig:Spine", "mixamorig:LeftLeg",
            "mixamorig:RightLeg", "mixamorig:Spine1", "mixamorig:LeftFoot", "mixamorig:RightFoot",
            "mixamorig:Spine2", "mixamorig:LeftToeBase", "mixamorig:RightToeBase", "mixamorig:Neck",
            "mixamorig:LeftShoulder", "mixamorig:RightShoulder", "mixamorig:Head", "mixamorig:LeftArm",
            "mixamorig:RightArm", "mixamorig:LeftForeArm", "mixamorig:RightForeArm", "mixamorig:LeftHand",
            "mixamorig:RightHand", "mixamorig:LeftHandMiddle1", "mixamorig:RightHandMiddle1",
        ]
    )
)  # fmt: skip
UNREAL = dict(
    enumerate(
        [
            "pelvis", "thigh_l", "thigh_r", "spine_01", "calf_l", "calf_r", "spine_02", "foot_l", "foot_r",
            "spine_03", "ball_l", "ball_r", "neck_01", "clavicle_l", "clavicle_r", "head", "upperarm_l",
            "upperarm_r", "lowerarm_l", "lowerarm_r", "hand_l", "hand_r", "middle_01_l", "middle_01_r",
        ]
    )
)  # fmt: skip
SMPLX = dict(
    enumerate(
        [
            "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
            "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head",
            "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
            "left_middle1", "right_middle1",
        ]
    )
)  # fmt: skip
BIPED = dict(
    enumerate(
        ["Bip01 Pelvis", "Bip01 L Thigh", "Bip01 R Thigh", "Bip01 Spine", "Bip01 L Calf", "Bip01 R Calf",
         "Bip01 Spine1", "Bip01 L Foot", "Bip01 R Foot", "Bip01 Spine2", "Bip01 L Toe0", "Bip01 R Toe0", "Bip01 Neck",
         "Bip01 L Clavicle", "Bip01 R Clavicle", "Bip01 Head", "Bip01 L UpperArm", "Bip01 R UpperArm",
         "Bip01 L Forearm", "Bip01 R Forearm", "Bip01 L Hand", "Bip01 R Hand", "Bip01 L Finger1", "Bip01 R Finger1"]
    )
)  # fmt: skip
OURS = dict(enumerate(JOINT_NAMES))

Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
ARMS = {side: joints for side, joints in (("left", (16, 18, 20, 22)), ("right", (17, 19, 21, 23)))}


def dance(num_frames: int = 40, fps: float = 30.0, seed: int = 0) -> Motion:
    """A smooth motion with every joint moving: knees and elbows bend as hinges, the root travels and turns."""
    rng = np.random.default_rng(seed)
    time = np.arange(num_frames)[:, None, None] / fps
    rate, phase = rng.uniform(0.5, 1.5, (1, 24, 3)), rng.uniform(0, 2 * np.pi, (1, 24, 3))
    poses = 0.25 * np.sin(2 * np.pi * rate * time + phase)
    swing = 0.5 + 0.5 * np.sin(2 * np.pi * rate[..., :1] * time + phase[..., :1])[..., 0]
    poses[:, (4, 5, 18, 19)] = 0.0
    poses[:, (4, 5), 0] = 0.2 + 1.2 * swing[:, (4, 5)]
    poses[:, 18, 1] = -0.2 - 1.4 * swing[:, 18]
    poses[:, 19, 1] = 0.2 + 1.4 * swing[:, 19]
    poses[:, 16, 2] -= 0.8
    poses[:, 17, 2] += 0.8
    poses[:, (10, 11, 22, 23)] = 0.0
    poses[:, 0] = 0.15 * poses[:, 0]
    poses[:, 0, 1] = 0.6 + 0.5 * np.sin(2 * np.pi * 0.4 * time[:, 0, 0])
    trans = np.stack([0.3 * time[:, 0, 0], 0.95 + 0.03 * np.sin(4 * time[:, 0, 0]), -0.2 * time[:, 0, 0]], axis=1)
    return Motion(poses, trans, fps).grounded()


@dataclass
class Foreign:
    """How the foreign skeleton differs from SMPL's.

    Attributes:
        names: SMPL joint -> name in the file.
        order: Rotation channels, outermost first.
        unit_m: Metres per file unit.
        z_up: Whether the file's up axis is z.
        axes: SMPL joint -> matrix from the joint's own axes in the file to SMPL's rest axes; identity if absent.
    """

    names: dict[int, str] = field(default_factory=lambda: MIXAMO)
    order: str = "ZXY"
    unit_m: float = 0.01
    z_up: bool = False
    axes: dict[int, np.ndarray] = field(default_factory=dict)


def lowered_arms(degrees: float) -> dict[int, np.ndarray]:
    """Axes of a skeleton whose rest pose holds the arms this far below the horizontal."""
    angle = np.radians(degrees)
    turns = {"left": angle, "right": -angle}
    return {j: Rotation.from_euler("z", turns[s]).as_matrix() for s, joints in ARMS.items() for j in joints}


def random_axes(seed: int) -> dict[int, np.ndarray]:
    """Axes without any meaning, all but the root's: the pose of all zero rotations is a heap of limbs."""
    turns = Rotation.random(NUM_JOINTS, random_state=seed).as_matrix()
    return {joint: turns[joint] for joint in range(1, NUM_JOINTS)}


def write_foreign(motion: Motion, skeleton: Foreign) -> str:
    """The BVH text in which the foreign skeleton does exactly what the motion does."""
    local = Rotation.from_rotvec(motion.poses.reshape(-1, 3).astype(float)).as_matrix().reshape(-1, 24, 3, 3)
    world_up = Z_UP if skeleton.z_up else np.eye(3)
    # From the joint's axes in the file to SMPL's: out of the file's up axis, then what the joint differs by.
    to_smpl = [skeleton.axes.get(joint, np.eye(3)) @ world_up.T for joint in range(24)]
    smpl_world = np.empty_like(local)
    for joint, parent in enumerate(PARENTS):
        smpl_world[:, joint] = local[:, joint] if parent < 0 else smpl_world[:, parent] @ local[:, joint]
    file_world = np.stack([world_up @ smpl_world[:, j] @ to_smpl[j] for j in range(24)], axis=1)
    kept = [joint for joint in _depth_first(0) if joint in skeleton.names]
    columns = []
    for joint in kept:
        parent = PARENTS[joint]
        turn = file_world[:, joint] if parent < 0 else np.swapaxes(file_world[:, parent], 1, 2) @ file_world[:, joint]
        if parent < 0:
            columns.append(motion.trans.astype(float) @ world_up.T / skeleton.unit_m)
        columns.append(Rotation.from_matrix(turn).as_euler(skeleton.order, degrees=True))
    rows = np.concatenate(columns, axis=1)
    lines = ["HIERARCHY", *_nest(0, skeleton, to_smpl), "MOTION", f"Frames: {len(rows)}"]
    lines += [f"Frame Time: {1 / motion.fps:.9f}", *(" ".join(f"{v:.7f}" for v in row) for row in rows)]
    return "\n".join(lines) + "\n"


def _depth_first(joint: int) -> list[int]:
    return [joint, *(below for child in range(24) if PARENTS[child] == joint for below in _depth_first(child))]


def _nest(joint: int, skeleton: Foreign, to_smpl: list[np.ndarray]) -> list[str]:
    parent = PARENTS[joint]
    offset = np.zeros(3) if parent < 0 else to_smpl[parent].T @ np.array(OFFSETS_M[joint]) / skeleton.unit_m
    turning = " ".join(f"{axis}rotation" for axis in skeleton.order)
    channels = f"6 Xposition Yposition Zposition {turning}" if parent < 0 else f"3 {turning}"
    lines = [f"{'ROOT' if parent < 0 else 'JOINT'} {skeleton.names[joint]}", "{"]
    lines += ["OFFSET " + " ".join(f"{v:.7f}" for v in offset), f"CHANNELS {channels}"]
    children = [child for child in range(24) if PARENTS[child] == joint and child in skeleton.names]
    for child in children:
        lines += _nest(child, skeleton, to_smpl)
    if not children:
        lines += ["End Site", "{", "OFFSET 0 0 0", "}"]
    return [*lines, "}"]
