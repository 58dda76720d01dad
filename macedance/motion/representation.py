"""The 151-d training representation of a dance, and the only place where the world turns z-up.

Shapes: ... any leading dimensions, T frames, J = 24 joints, C = 151 channels.

Layout of a frame: 4 contacts (left ankle, right ankle, left toe, right toe), 3 root position in metres, 24 x 6 rotation
rows, root first. Inside, the world is z-up: +90 degrees about x, so (x, y, z) becomes (x, -z, y), and the root rotation
is turned likewise. Nothing is normalised here.

Source: EDGE (Tseng et al., CVPR 2023), as released; MACE-Dance uses the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from macedance.errors import DataError
from macedance.motion.contacts import foot_contacts
from macedance.motion.rotations import (
    axis_angle_from_matrix,
    matrix_from_axis_angle,
    matrix_from_rotation_6d,
    rotation_6d_from_matrix,
)
from macedance.motion.skeleton import NUM_JOINTS, forward_kinematics

NAME = "edge-151-zup"
REPRESENTATION_DIM = 151
CONTACTS = slice(0, 4)
ROOT = slice(4, 7)
ROTATIONS = slice(7, 151)


def to_z_up(points: Tensor) -> Tensor:
    """Points (..., 3) of the y-up world in the z-up one: (x, y, z) -> (x, -z, y)."""
    x, y, z = points.unbind(-1)
    return torch.stack([x, -z, y], dim=-1)


def to_y_up(points: Tensor) -> Tensor:
    """Points (..., 3) of the z-up world in the y-up one: (x, y, z) -> (x, z, -y)."""
    x, y, z = points.unbind(-1)
    return torch.stack([x, z, -y], dim=-1)


def encode_motion(poses: Tensor, trans: Tensor, fps: float) -> Tensor:
    """The representation (..., T, 151), z-up, of a y-up motion.

    Args:
        poses: Axis-angle (..., T, 24, 3), radians.
        trans: Pelvis position (..., T, 3), metres.
        fps: Frames per second; contacts depend on it.

    Raises:
        DataError: Wrong shapes.
    """
    if poses.shape[-2:] != (NUM_JOINTS, 3) or trans.shape != (*poses.shape[:-2], 3):
        raise DataError(
            f"poses have shape {tuple(poses.shape)} and trans {tuple(trans.shape)}",
            expected="(..., T, 24, 3) and (..., T, 3)",
        )
    rotations = matrix_from_axis_angle(poses)
    # Turning the world from the left permutes the rows of the root rotation exactly as it does the points' coordinates.
    root = rotations[..., 0, :, :]
    turned = torch.stack([root[..., 0, :], -root[..., 2, :], root[..., 1, :]], dim=-2)
    rotations = torch.cat([turned.unsqueeze(-3), rotations[..., 1:, :, :]], dim=-3)
    position = to_z_up(trans)
    joints = forward_kinematics(rotations, position)
    return torch.cat([foot_contacts(joints, fps), position, rotation_6d_from_matrix(rotations).flatten(-2)], dim=-1)


def decode_motion(x: Tensor) -> tuple[Tensor, Tensor]:
    """Poses (..., T, 24, 3) and trans (..., T, 3) of the y-up world from a representation (..., T, 151).

    Rotations are made orthonormal; contacts are not used.

    Raises:
        DataError: The last dimension is not 151.
    """
    rotations, position = _split(x)
    root = rotations[..., 0, :, :]
    turned = torch.stack([root[..., 0, :], root[..., 2, :], -root[..., 1, :]], dim=-2)
    rotations = torch.cat([turned.unsqueeze(-3), rotations[..., 1:, :, :]], dim=-3)
    return axis_angle_from_matrix(rotations), to_y_up(position)


def joints_from_representation(x: Tensor) -> Tensor:
    """Joint positions (..., T, 24, 3) in metres, z-up, of a representation (..., T, 151) that is not normalised.

    Differentiable; the training losses call it.

    Raises:
        DataError: The last dimension is not 151.
    """
    rotations, position = _split(x)
    return forward_kinematics(rotations, position)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Local rotation matrices (..., T, 24, 3, 3) and root position (..., T, 3)."""
    if x.shape[-1] != REPRESENTATION_DIM:
        raise DataError(f"a motion has {x.shape[-1]} channels", expected=f"{REPRESENTATION_DIM} ({NAME})")
    return matrix_from_rotation_6d(x[..., ROTATIONS].unflatten(-1, (NUM_JOINTS, 6))), x[..., ROOT]
