"""Which parts of a person a pose drawing shows: keypoints of COCO have neither hands nor toes, our motions have both.

A network that never saw hands in its driving videos is not to be shown any. Shapes: T frames, K keypoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from macedance.rendering.pose_drawing import BODY_20, MIN_CONFIDENCE

BODY, FEET, HANDS = "body", "feet", "hands"
#: In the order in which they are written.
POSE_PARTS = (BODY, FEET, HANDS)
TOES = [BODY_20.index(name) for name in ("ltoe", "rtoe")]


def parts_drawn(points_TK3: np.ndarray) -> tuple[str, ...]:
    """What some frame of these keypoints (T, 20 | 62, 3), pixels and confidence, draws."""
    sure_K: np.ndarray = np.any(points_TK3[..., 2] >= MIN_CONFIDENCE, axis=0)
    body, toes, hands = np.delete(sure_K[: len(BODY_20)], TOES), sure_K[TOES], sure_K[len(BODY_20) :]
    return tuple(part for part, seen in zip(POSE_PARTS, (body, toes, hands), strict=True) if seen.any())


def parts_united(all_parts: Iterable[Iterable[str] | None]) -> tuple[str, ...] | None:
    """What some of several drawings show; None where one of them does not tell, or there is none."""
    found: set[str] = set()
    told = False
    for parts in all_parts:
        if parts is None:
            return None
        found.update(parts)
        told = True
    return tuple(part for part in POSE_PARTS if part in found) if told else None


def parts_read(value: Any) -> tuple[str, ...] | None:
    """Parts as JSON holds them; None: they are not told.

    Raises:
        ValueError: Something else.
    """
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not set(value) <= set(POSE_PARTS):
        raise ValueError(f"pose_parts is {value!r}, not some of {', '.join(POSE_PARTS)}")
    return tuple(part for part in POSE_PARTS if part in value)


def lacking_said(parts: Iterable[str] | None) -> str | None:
    """What a corpus's drawings lack of what drives a network; None: nothing, or it is not told."""
    lacking = [] if parts is None else [part for part in POSE_PARTS if part not in tuple(parts)]
    if not lacking:
        return None
    absent = " and no ".join(lacking)
    return f"the pose drawings show no {absent}: models that are trained on them alone are driven without (pose_parts)"
