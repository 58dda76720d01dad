"""Rotations: axis-angle, matrix, quaternion (w, x, y, z) and the 6D form of two matrix rows.

Shapes: any leading dimensions; the last one or two hold the rotation. All functions are differentiable torch
functions that keep dtype and device. Angles are in radians.

Source of the 6D form: Zhou et al., "On the Continuity of Rotation Representations in Neural Networks" (CVPR 2019), in
the row convention that EDGE and its descendants store: the first two ROWS of the matrix, flattened.
"""

from __future__ import annotations

import torch
from torch import Tensor


def quaternion_from_axis_angle(axis_angle: Tensor) -> Tensor:
    """Unit quaternions (..., 4) of rotation vectors (..., 3); smooth through zero."""
    angle = torch.linalg.vector_norm(axis_angle, dim=-1, keepdim=True)
    half = 0.5 * angle
    # sin(a/2)/a, by its Taylor series near zero so that value and gradient stay finite.
    small = angle < 1e-4
    safe = torch.where(small, torch.ones_like(angle), angle)
    factor = torch.where(small, 0.5 - angle * angle / 48.0, torch.sin(0.5 * safe) / safe)
    return torch.cat([torch.cos(half), axis_angle * factor], dim=-1)


def axis_angle_from_quaternion(quaternion: Tensor) -> Tensor:
    """Rotation vectors (..., 3) with angle in [0, pi] of quaternions (..., 4) of any sign and length above zero."""
    quaternion = quaternion / torch.linalg.vector_norm(quaternion, dim=-1, keepdim=True)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    w, xyz = quaternion[..., :1], quaternion[..., 1:]
    sin_half = torch.linalg.vector_norm(xyz, dim=-1, keepdim=True)
    angle = 2.0 * torch.atan2(sin_half, w)
    small = sin_half < 1e-6
    safe = torch.where(small, torch.ones_like(sin_half), sin_half)
    return xyz * torch.where(small, 2.0 * torch.ones_like(angle), angle / safe)


def matrix_from_quaternion(quaternion: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4), normalised first."""
    w, x, y, z = (quaternion / torch.linalg.vector_norm(quaternion, dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(*quaternion.shape[:-1], 3, 3)


def quaternion_from_matrix(matrix: Tensor) -> Tensor:
    """Unit quaternions (..., 4) with w >= 0 of rotation matrices (..., 3, 3).

    The largest of the four components is taken from the diagonal and the others divided by it, so that no rotation is
    near a division by zero.
    """
    m = matrix
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    # Four times the square of each component.
    squares = torch.stack([1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], dim=-1)
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    candidates = torch.stack(
        [
            torch.stack([squares[..., 0], a, b, c], dim=-1),
            torch.stack([a, squares[..., 1], d, e], dim=-1),
            torch.stack([b, d, squares[..., 2], f], dim=-1),
            torch.stack([c, e, f, squares[..., 3]], dim=-1),
        ],
        dim=-2,
    )
    best = squares.argmax(dim=-1)
    index = best[..., None, None].expand(*best.shape, 1, 4)
    quaternion = torch.gather(candidates, -2, index).squeeze(-2)
    quaternion = quaternion / torch.linalg.vector_norm(quaternion, dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def matrix_from_axis_angle(axis_angle: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3)."""
    return matrix_from_quaternion(quaternion_from_axis_angle(axis_angle))


def axis_angle_from_matrix(matrix: Tensor) -> Tensor:
    """Rotation vectors (..., 3), angle in [0, pi], of rotation matrices (..., 3, 3)."""
    return axis_angle_from_quaternion(quaternion_from_matrix(matrix))


def rotation_6d_from_matrix(matrix: Tensor) -> Tensor:
    """The first two rows of (..., 3, 3), flattened to (..., 6): R00 R01 R02 R10 R11 R12."""
    return matrix[..., :2, :].reshape(*matrix.shape[:-2], 6)


def matrix_from_rotation_6d(rotation_6d: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of any (..., 6) by Gram-Schmidt on the two rows; the third is their cross product.

    Degenerate input (zero or parallel rows) gives a finite, if arbitrary, matrix: norms are floored at 1e-8.
    """
    a1, a2 = rotation_6d[..., :3], rotation_6d[..., 3:]
    b1 = a1 / torch.linalg.vector_norm(a1, dim=-1, keepdim=True).clamp_min(1e-8)
    a2 = a2 - (b1 * a2).sum(-1, keepdim=True) * b1
    b2 = a2 / torch.linalg.vector_norm(a2, dim=-1, keepdim=True).clamp_min(1e-8)
    return torch.stack([b1, b2, torch.linalg.cross(b1, b2, dim=-1)], dim=-2)


def quaternion_multiply(left: Tensor, right: Tensor) -> Tensor:
    """Hamilton product of (..., 4) and (..., 4): the rotation ``right`` first, then ``left``."""
    w1, x1, y1, z1 = left.unbind(-1)
    w2, x2, y2, z2 = right.unbind(-1)
    return torch.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        dim=-1,
    )


def slerp(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """Spherical interpolation of unit quaternions (..., 4) along the shorter arc; ``weight`` (...) in [0, 1]."""
    dot = (start * end).sum(-1, keepdim=True)
    end = torch.where(dot < 0, -end, end)
    angle = torch.acos(dot.abs().clamp(max=1.0))
    weight = weight.unsqueeze(-1)
    near = angle < 1e-4
    safe = torch.where(near, torch.ones_like(angle), angle)
    spherical = (torch.sin((1 - weight) * safe) * start + torch.sin(weight * safe) * end) / torch.sin(safe)
    mixed = torch.where(near, (1 - weight) * start + weight * end, spherical)
    return mixed / torch.linalg.vector_norm(mixed, dim=-1, keepdim=True)
