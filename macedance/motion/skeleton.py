"""The SMPL skeleton of 24 joints and its forward kinematics.

Shapes: B any leading dimensions, T frames, J = 24 joints. Positions are in metres; the world is y-up and right-handed,
and the rest pose faces +z (the left hand points to +x).

Offsets: the SMPL male template as published with EDGE (Tseng et al., CVPR 2023).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from macedance.motion.rotations import matrix_from_axis_angle

NUM_JOINTS = 24

JOINT_NAMES: tuple[str, ...] = (
    "root", "lhip", "rhip", "belly", "lknee", "rknee", "spine", "lankle", "rankle", "chest", "ltoes", "rtoes",
    "neck", "linshoulder", "rinshoulder", "head", "lshoulder", "rshoulder", "lelbow", "relbow", "lwrist", "rwrist",
    "lhand", "rhand",
)  # fmt: skip

PARENTS: tuple[int, ...] = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)

#: Index of the mirrored joint: left and right swapped.
MIRROR: tuple[int, ...] = (0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22)

#: Joints without a child.
LEAVES: tuple[int, ...] = tuple(joint for joint in range(NUM_JOINTS) if joint not in PARENTS)

#: Ankles and toes in the order of the representation's contact channels.
FOOT_JOINTS: tuple[int, ...] = (7, 8, 10, 11)

OFFSETS_M: tuple[tuple[float, float, float], ...] = (
    (0.0, 0.0, 0.0),
    (0.05858135, -0.08228004, -0.01766408),
    (-0.06030973, -0.09051332, -0.01354254),
    (0.00443945, 0.12440352, -0.03838522),
    (0.04345142, -0.38646945, 0.008037),
    (-0.04325663, -0.38368791, -0.00484304),
    (0.00448844, 0.1379564, 0.02682033),
    (-0.01479032, -0.42687458, -0.037428),
    (0.01905555, -0.4200455, -0.03456167),
    (-0.00226458, 0.05603239, 0.00285505),
    (0.04105436, -0.06028581, 0.12204243),
    (-0.03483987, -0.06210566, 0.13032329),
    (-0.0133902, 0.21163553, -0.03346758),
    (0.07170245, 0.11399969, -0.01889817),
    (-0.08295366, 0.11247234, -0.02370739),
    (0.01011321, 0.08893734, 0.05040987),
    (0.12292141, 0.04520509, -0.019046),
    (-0.11322832, 0.04685326, -0.00847207),
    (0.2553319, -0.01564902, -0.02294649),
    (-0.26012748, -0.01436928, -0.03126873),
    (0.26570925, 0.01269811, -0.00737473),
    (-0.26910836, 0.00679372, -0.00602676),
    (0.08669055, -0.01063603, -0.01559429),
    (-0.0887537, -0.00865157, -0.01010708),
)

#: Rest position of the pelvis in smplx's male SMPL model: smplx places the pelvis at this plus ``transl``.
PELVIS_REST_M: tuple[float, float, float] = (-0.0022, -0.2408, 0.0286)

#: Height of the toe joint above the sole of a standing foot. Our motions keep the lowest toe joint at this height.
TOE_HEIGHT_M = 0.02

PelvisConvention = Literal["edge", "smplx"]


def rest_offsets(dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """Offsets (24, 3) of each joint from its parent in the rest pose, metres."""
    return torch.tensor(OFFSETS_M, dtype=dtype, device=device)


def forward_kinematics(rotations: Tensor, root: Tensor, *, pelvis: PelvisConvention = "edge") -> Tensor:
    """Joint positions (..., 24, 3) in metres.

    Args:
        rotations: Local rotation matrices (..., 24, 3, 3), the root's first. Those of leaf joints change nothing.
        root: Translation (..., 3), metres.
        pelvis: ``edge``: the pelvis stands at ``root``. ``smplx``: at ``root`` + PELVIS_REST_M, a constant that the
            root rotation does not turn, as in smplx's SMPL class.
    """
    if pelvis == "smplx":
        root = root + torch.tensor(PELVIS_REST_M, dtype=root.dtype, device=root.device)
    offsets = rest_offsets(rotations.dtype, rotations.device).unsqueeze(-1)
    # Frames last (N): each product then runs over long contiguous rows, about four times faster forward and backward
    # on a CPU than batches of 3 x 3 matrix products, and with no more kernels on a GPU.
    local_J33N = rotations.reshape(-1, NUM_JOINTS, 9).permute(1, 2, 0).contiguous().unflatten(1, (3, 3)).unbind(0)
    positions = [root.reshape(-1, 3).T]
    globals_ = [local_J33N[0]]
    for joint in range(1, NUM_JOINTS):
        turned_33N = globals_[PARENTS[joint]]
        positions.append(positions[PARENTS[joint]] + (turned_33N * offsets[joint]).sum(1))
        # A leaf's own rotation moves no joint; its place in the list is never read.
        globals_.append(turned_33N if joint in LEAVES else (turned_33N.unsqueeze(2) * local_J33N[joint]).sum(1))
    return torch.stack(positions).permute(2, 0, 1).reshape(*root.shape[:-1], NUM_JOINTS, 3)


def global_rotations(rotations: Tensor) -> Tensor:
    """World rotations (..., 24, 3, 3) of local ones (..., 24, 3, 3)."""
    globals_: list[Tensor] = [rotations[..., 0, :, :]]
    for joint in range(1, NUM_JOINTS):
        globals_.append(globals_[PARENTS[joint]] @ rotations[..., joint, :, :])
    return torch.stack(globals_, dim=-3)


def joints_from_poses(poses: Tensor, trans: Tensor, *, pelvis: PelvisConvention = "edge") -> Tensor:
    """Joint positions (..., 24, 3) in metres from axis-angle poses (..., 24, 3) and translations (..., 3)."""
    return forward_kinematics(matrix_from_axis_angle(poses), trans, pelvis=pelvis)
