"""A picture at several scales as one sequence of patches: the input of MUSIQ.

Shapes: T pictures, H rows, W columns, P = 32 pixels of a patch, L patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PATCH = 32
#: Positions are hashed into a grid of this many rows and columns.
GRID = 10
#: Longer sides of the two smaller copies; the third scale is the picture itself.
LONGER_SIDES = (224, 384)


@dataclass(frozen=True)
class PatchSequence:
    """The patches of T pictures of one size.

    Args:
        patches: (T, L, 3, P, P).
        positions: (L,) int64, hashed place of each patch, row * GRID + column.
        scales: (L,) int64, 0 and 1 of the copies, 2 of the picture itself.
        mask: (L,) bool, False for patches that only fill up.
    """

    patches: Tensor
    positions: Tensor
    scales: Tensor
    mask: Tensor


def multiscale_patches(pictures_T3HW: Tensor, *, fill_up: bool = False) -> PatchSequence:
    """Cut pictures and their two smaller (or larger) copies into patches.

    Copies are bicubic without antialiasing, their sides rounded to the nearest, halves to even. What does not fill a
    patch is filled with zeros around, as TensorFlow's SAME does.

    Source: Ke et al., MUSIQ, arXiv:2108.05997, section 3; google-research/musiq, as converted for pyiqa.

    Args:
        pictures_T3HW: Values from -1 to 1.
        fill_up: Also append the patches of zeros that give each copy ceil(side / P)^2 of them, as the publication does.
            They are masked, so that a score does not depend on them.
    """
    height, width = pictures_T3HW.shape[-2:]
    parts = []
    for scale, side in enumerate(LONGER_SIDES):
        ratio = side / max(height, width)
        size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        copy = F.interpolate(pictures_T3HW, size=size, mode="bicubic", align_corners=False)
        parts.append(_cut(copy, scale, math.ceil(side / PATCH) ** 2 if fill_up else None))
    parts.append(_cut(pictures_T3HW, len(LONGER_SIDES), None))
    return PatchSequence(
        torch.cat([part.patches for part in parts], dim=1),
        torch.cat([part.positions for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat([part.mask for part in parts]),
    )


def hashed_positions(rows: int, columns: int) -> Tensor:
    """Place (rows * columns,) int64 of each patch in the GRID x GRID table, nearest below, row by row."""
    row = torch.arange(rows) * GRID // rows
    column = torch.arange(columns) * GRID // columns
    return (row[:, None] * GRID + column[None, :]).reshape(-1)


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after a side, so that ceil(length / stride) windows fit: TensorFlow's SAME."""
    total = max(0, (math.ceil(length / stride) - 1) * stride + kernel - length)
    return total // 2, total - total // 2


def _cut(pictures_T3HW: Tensor, scale: int, fill_up_to: int | None) -> PatchSequence:
    count, _, height, width = pictures_T3HW.shape
    rows, columns = math.ceil(height / PATCH), math.ceil(width / PATCH)
    padded = F.pad(pictures_T3HW, (*same_padding(width, PATCH, PATCH), *same_padding(height, PATCH, PATCH)))
    patches = padded.reshape(count, 3, rows, PATCH, columns, PATCH).permute(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(count, rows * columns, 3, PATCH, PATCH)
    positions = hashed_positions(rows, columns)
    scales = torch.full_like(positions, scale)
    mask = torch.ones_like(positions, dtype=torch.bool)
    empty = 0 if fill_up_to is None else fill_up_to - rows * columns
    if empty > 0:
        patches = torch.cat([patches, patches.new_zeros(count, empty, 3, PATCH, PATCH)], dim=1)
        # The publication fills the whole row of a patch with zeros, its position and scale too.
        positions, scales, mask = (F.pad(x, (0, empty)) for x in (positions, scales, mask))
    device = pictures_T3HW.device
    return PatchSequence(patches, positions.to(device), scales.to(device), mask.to(device))
