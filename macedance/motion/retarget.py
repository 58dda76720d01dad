"""From any named human skeleton to SMPL-24.

Shapes: T frames, J = 24 SMPL joints. Arms and legs point exactly where the source's do in every frame; trunk, neck,
head and feet turn as the source's do, from a common standing pose; the path of the hips is scaled by the length of the
legs; facing is kept. Bone lengths are SMPL's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from macedance.motion.bvh import BvhClip, read_bvh
from macedance.motion.files import Motion
from macedance.motion.joint_names import find_body
from macedance.motion.rotations import axis_angle_from_matrix, matrix_from_quaternion, quaternion_from_matrix, slerp
from macedance.motion.skeleton import NUM_JOINTS, OFFSETS_M, PARENTS
from macedance.motion.source_pose import (
    SIDES,
    SMPL_LIMBS,
    Array,
    SourceBody,
    SourceFacts,
    Turns,
    smallest_turn,
    smpl_bone,
    smpl_leg_m,
)

logger = logging.getLogger(__name__)

LEG_PARTS = ("hip", "knee", "ankle", "toe")
ARM_PARTS = ("collar", "shoulder", "elbow", "wrist", "hand")
#: Parts of limbs whose bones are made to point exactly as the source's.
EXACT_PARTS = ("hip", "knee", "shoulder", "elbow", "wrist")


def retarget_to_smpl(
    clip: BvhClip,
    *,
    up: str | None = None,
    unit_m: float | None = None,
    mapping: Mapping[str, str] | None = None,
) -> Motion:
    """The clip as a Motion of the SMPL skeleton: y-up, metres, feet on the floor, at the clip's own frame rate.

    Args:
        clip: What read_bvh gave.
        up: "y", "z", "x" or one of them with a minus; inferred from how the body stands over the clip if None.
        unit_m: Metres per file unit; inferred from the length of the legs if None. The size of the result does not
            depend on it, the legs decide; it is checked against them and reported.
        mapping: Joints to use whatever their names say, as joint_names.find_body.

    Raises:
        DataError: No feet, legs or arms under any known name; an impossible unit; an unknown axis.
    """
    body = _source(clip, up, unit_m, mapping)
    logger.info("%s: %s, %g fps, %d frames", clip.source, body.facts.sentence(), clip.fps, clip.num_frames)
    world_TJ33 = _world_rotations(body)
    local_TJ33 = world_TJ33.copy()
    for joint in range(1, NUM_JOINTS):
        local_TJ33[:, joint] = np.swapaxes(world_TJ33[:, PARENTS[joint]], 1, 2) @ world_TJ33[:, joint]
    poses = axis_angle_from_matrix(torch.from_numpy(local_TJ33)).numpy()
    # The middle of the hips, not the pelvis joint: skeletons put that one anywhere between hips and navel.
    hips = [body.joints.limbs[("hip", side)] for side in SIDES]
    scale = smpl_leg_m() / body.leg
    middle_T3 = scale * body.positions_TJ3[:, hips].mean(1)
    offset = 0.5 * (np.array(OFFSETS_M[1]) + np.array(OFFSETS_M[2]))
    trans = middle_T3 - world_TJ33[:, 0] @ offset
    return Motion(poses, trans, clip.fps, source=clip.source or None).grounded()


def source_facts(
    clip: BvhClip, *, up: str | None = None, unit_m: float | None = None, mapping: Mapping[str, str] | None = None
) -> SourceFacts:
    """What retarget_to_smpl infers about the clip's unit, axes and rest pose; arguments and errors as there."""
    return _source(clip, up, unit_m, mapping).facts


def load_bvh_motion(path: str | Path, fps: float = 30.0) -> Motion:
    """Read a BVH file, retarget it to SMPL-24 and resample it; grounded again after resampling.

    Raises:
        DataError: As read_bvh and retarget_to_smpl.
    """
    return retarget_to_smpl(read_bvh(path)).resampled(fps).grounded()


def _source(clip: BvhClip, up: str | None, unit_m: float | None, mapping: Mapping[str, str] | None) -> SourceBody:
    return SourceBody(clip, find_body(clip.names, clip.parents, clip.source, mapping), up=up, unit_m=unit_m)


def _world_rotations(body: SourceBody) -> Array:
    """World rotations (T, 24, 3, 3) of the SMPL joints."""
    turns = Turns(body)
    joints = body.joints
    world = np.zeros((body.clip.num_frames, NUM_JOINTS, 3, 3))
    root = turns.world(joints.pelvis)
    chest = turns.world(joints.trunk[-1]) if joints.trunk else root
    # SMPL bends its trunk at belly, spine and chest; shorter spines share their bend out evenly.
    if len(joints.trunk) >= 3:
        belly = turns.world(joints.trunk[(len(joints.trunk) - 2) // 2])
        spine = turns.world(joints.trunk[-2])
    else:
        belly = turns.world(joints.trunk[0]) if len(joints.trunk) == 2 else _between(root, chest, 1 / 3)
        spine = _between(belly, chest, 0.5)
    head = turns.world(joints.head) if joints.head is not None else None
    if joints.necks:
        neck = turns.world(joints.necks[-1])
    else:
        neck = chest if head is None else _between(chest, head, 0.5)
    for joint, rotation in (
        (0, root),
        (3, belly),
        (6, spine),
        (9, chest),
        (12, neck),
        (15, neck if head is None else head),
    ):
        world[:, joint] = rotation
    for number, side in enumerate(SIDES):
        for chain, start in (
            (("hip", "knee", "ankle", "toe"), root),
            (("collar", "shoulder", "elbow", "wrist", "hand"), chest),
        ):
            rotation = start
            for part in chain:
                # A joint that the source lacks keeps still relative to the one before it.
                source = body.joint(part, side)
                if source is not None:
                    rotation = turns.world(source)
                bone = body.bone(part, side) if part in EXACT_PARTS else None
                if bone is not None:
                    rotation = smallest_turn(rotation @ smpl_bone(part, side), bone) @ rotation
                world[:, SMPL_LIMBS[part][number]] = rotation
    return world


def _between(start_T33: Array, end_T33: Array, share: float) -> Array:
    quaternions = [quaternion_from_matrix(torch.from_numpy(np.ascontiguousarray(m))) for m in (start_T33, end_T33)]
    weight = torch.full((len(start_T33),), share, dtype=torch.float64)
    return matrix_from_quaternion(slerp(quaternions[0], quaternions[1], weight)).numpy()
