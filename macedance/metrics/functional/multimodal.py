"""Distances between what was asked for and what was danced.

Shapes: n clips, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from macedance.errors import DataError


def multimodal_distance(text: Tensor, motion: Tensor) -> Tensor:
    """Euclidean distance (n,) of each text embedding (n, D) to the embedding (n, D) of the motion made for it.

    Source: Guo et al., "Generating Diverse and Natural 3D Human Motions from Text" (CVPR 2022), sec. 5; its MM-Dist is
    the mean. Both must come from one jointly trained pair of encoders; values of different encoders do not compare.

    Raises:
        DataError: Different shapes, or numbers that are not finite.
    """
    if text.ndim != 2 or text.shape != motion.shape:
        raise DataError(
            f"text {tuple(text.shape)} against motion {tuple(motion.shape)} embeddings", expected="(n, D) of both"
        )
    text, motion = text.double(), motion.double()
    if not (torch.isfinite(text).all() and torch.isfinite(motion).all()):
        raise DataError("embeddings have NaN or infinite numbers", expected="finite numbers")
    return (text - motion).norm(dim=-1)


def genre_hits(predicted: Sequence[str], wanted: Sequence[str | None]) -> Tensor:
    """For each clip (n,): 1 where the genre is the wanted one, 0 where not, NaN where none was asked for.

    Raises:
        DataError: Lists of different lengths.
    """
    if len(predicted) != len(wanted):
        raise DataError(f"{len(predicted)} classified genres for {len(wanted)} clips", expected="one for each clip")
    hits = [float("nan") if w is None else float(p == w) for p, w in zip(predicted, wanted, strict=True)]
    return torch.tensor(hits, dtype=torch.float64)
