"""Videos of one clip side by side, and such rows below each other, to look at.

Shapes: T frames, H rows, W columns; RGB, uint8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from macedance.vision.pictures import fit_picture


def clip_row(parts: Sequence[np.ndarray], side: int) -> np.ndarray:
    """Pictures of one clip side by side, no side of one longer than ``side`` pixels, as (T, H, W, 3) of even sides.

    Args:
        parts: Videos (T, H, W, 3), and pictures (H, W, 3), which stand still; one size, one length.
        side: Larger ones are made smaller; others stay, cropped to even sides.
    """
    length = max(len(part) for part in parts if part.ndim == 4)
    moving = [part if part.ndim == 4 else np.broadcast_to(part, (length, *part.shape)) for part in parts]
    height, width = moving[0].shape[1:3]
    scale = min(1.0, side / max(height, width))
    rows, columns = (max(2, int(size * scale) // 2 * 2) for size in (height, width))
    return np.stack([np.hstack([fit_picture(part[t], columns, rows) for part in moving]) for t in range(length)])


def stacked_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows (T, H, W, 3) below each other; narrower ones have black beside them, shorter ones end on a still."""
    length, width = (max(row.shape[axis] for row in rows) for axis in (0, 2))
    padded = []
    for row in rows:
        wide = np.pad(row, ((0, 0), (0, 0), (0, width - row.shape[2]), (0, 0)))
        padded.append(np.pad(wide, ((0, length - len(row)), (0, 0), (0, 0), (0, 0)), mode="edge"))
    return np.concatenate(padded, axis=1)
