"""Optical flow of a video, and what of it is the camera's.

Shapes: h rows and w columns of the scaled picture; a flow (h, w, 2) is the movement in pixels, x and y, from a picture
to the next; T frames of the video, P pairs of pictures.

Source: DIS flow, Kroeger et al. (ECCV 2016), of OpenCV; the occlusion test is that of Sundaram et al. (ECCV 2010).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Pictures are brought to this shorter side: flow needs no more, and what it measures depends on it.
SHORTER_SIDE = 360
#: Pairs are about a thirtieth of a second apart: of a video of 60 fps every second frame is looked at.
PAIRS_PER_SECOND = 30.0
#: The camera's movement is read from this share of the picture's width and height at each edge.
BORDER = 0.1
# Forward and backward flow disagree by more than this where something is covered up: share of the squares, pixels^2.
_OCCLUSION_SHARE, _OCCLUSION_PX2 = 0.01, 0.5


@dataclass(frozen=True)
class PicturePair:
    """Two pictures of a video and the movement between them.

    Attributes:
        first_frame: Number of the first picture in the video.
        second_frame: Number of the second.
        scale: Pixels of the scaled pictures for one of the video.
        first_hw3: Scaled picture (h, w, 3) uint8 RGB.
        second_hw3: The next.
        forward_hw2: Flow from the first to the second, in scaled pixels.
        backward_hw2: Flow from the second to the first; None unless asked for.
    """

    first_frame: int
    second_frame: int
    scale: float
    first_hw3: np.ndarray
    second_hw3: np.ndarray
    forward_hw2: np.ndarray
    backward_hw2: np.ndarray | None


@dataclass
class PairFlow:
    """Makes pairs of neighbouring pictures with their flow out of the portions of a video; keeps one picture.

    Args:
        fps: Of the video.
        backward: Whether the flow back is needed too.
        shorter_side: What pictures are brought to.
    """

    fps: float
    backward: bool = False
    shorter_side: int = SHORTER_SIDE
    _count: int = field(default=0, init=False)
    _last: tuple[int, np.ndarray, np.ndarray] | None = field(default=None, init=False)
    _flow: Any = field(default=None, init=False)

    @property
    def stride(self) -> int:
        """Frames from one picture of a pair to the other."""
        return max(1, round(self.fps / PAIRS_PER_SECOND))

    @property
    def pairs_per_s(self) -> float:
        """Pairs in a second of video."""
        return self.fps / self.stride

    def add(self, frames_tHW3: np.ndarray) -> Iterator[PicturePair]:
        """The pairs that end in these frames (t, H, W, 3) uint8 RGB, which follow the ones added before."""
        for frame_HW3 in frames_tHW3:
            number = self._count
            self._count += 1
            if number % self.stride:
                continue
            picture, scale = at_side(frame_HW3, self.shorter_side)
            grey = _grey(picture)
            last, self._last = self._last, (number, picture, grey)
            if last is not None:
                forward = self._between(last[2], grey)
                backward = self._between(grey, last[2]) if self.backward else None
                yield PicturePair(last[0], number, scale, last[1], picture, forward, backward)

    def _between(self, first_hw: np.ndarray, second_hw: np.ndarray) -> np.ndarray:
        import cv2

        if np.array_equal(first_hw, second_hw):
            return np.zeros((*first_hw.shape, 2), dtype=np.float32)
        if self._flow is None:
            self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        return self._flow.calc(first_hw, second_hw, None)


def at_side(frame_HW3: np.ndarray, shorter_side: int = SHORTER_SIDE) -> tuple[np.ndarray, float]:
    """A picture (H, W, 3) with its shorter side at ``shorter_side``, and the scale that this took.

    Small pictures grow: DIS works at a quarter of the size, so that what is measured would otherwise depend on it.
    """
    import cv2

    height, width = frame_HW3.shape[:2]
    scale = shorter_side / min(height, width)
    if scale == 1.0:
        return np.ascontiguousarray(frame_HW3), 1.0
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(frame_HW3), size, interpolation=how), scale


def camera_motion(flow_hw2: np.ndarray, box: np.ndarray | None = None, border: float = BORDER) -> np.ndarray:
    """The background's movement (2,) in pixels: the median of the flow along the picture's edges.

    The person's box is left out, unless so little of the edges is beside it (under a tenth) that it says less. A pan is
    taken out by this, as is a camera that follows the dancer; a zoom is not.

    Args:
        flow_hw2: Flow.
        box: Left, top, right, bottom of the person in pixels of the flow; None or NaN: no one is left out.
        border: Share of width and height at each edge.
    """
    edges = _edges(flow_hw2.shape[:2], border)
    beside = edges & ~box_mask(flow_hw2.shape[:2], box)
    if beside.sum() < 0.1 * edges.sum():
        beside = edges
    return np.median(flow_hw2[beside], axis=0).astype(np.float64)


def box_mask(shape: tuple[int, ...], box: np.ndarray | None) -> np.ndarray:
    """Pixels (h, w) bool inside a box, left, top, right, bottom; none for None or NaN."""
    mask = np.zeros(shape[:2], dtype=bool)
    if box is None or not np.isfinite(box).all():
        return mask
    low = np.maximum(np.floor(box[:2]), 0).astype(int)
    high = np.maximum(np.ceil(box[2:4]), 0).astype(int)
    mask[low[1] : high[1], low[0] : high[0]] = True
    return mask


def visible_in_both(forward_hw2: np.ndarray, backward_hw2: np.ndarray) -> np.ndarray:
    """Pixels (h, w) bool of the first picture that the second shows too: the flow there leads back to where it started.

    |f(x) + b(x + f(x))|^2 <= 0.01 (|f|^2 + |b|^2) + 0.5, and x + f(x) lies on a pixel of the picture.
    """
    target = _targets(forward_hw2)
    back = _sampled(backward_hw2, target)
    squares = (forward_hw2**2).sum(axis=-1) + (back**2).sum(axis=-1)
    apart = ((forward_hw2 + back) ** 2).sum(axis=-1)
    height, width = forward_hw2.shape[:2]
    inside = ((target >= -0.5) & (target <= (width - 0.5, height - 0.5))).all(axis=-1)
    return inside & (apart <= _OCCLUSION_SHARE * squares + _OCCLUSION_PX2)


def pulled_back(second_hw3: np.ndarray, forward_hw2: np.ndarray) -> np.ndarray:
    """The second picture (h, w, 3) float32 as it would be seen in the first one's place."""
    return _sampled(second_hw3.astype(np.float32), _targets(forward_hw2))


def _targets(flow_hw2: np.ndarray) -> np.ndarray:
    height, width = flow_hw2.shape[:2]
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack([columns, rows], axis=-1) + flow_hw2


def _sampled(picture: np.ndarray, where_hw2: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.remap(picture, where_hw2[..., 0], where_hw2[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _edges(shape: tuple[int, ...], border: float) -> np.ndarray:
    height, width = shape[:2]
    rows, columns = max(1, round(border * height)), max(1, round(border * width))
    mask = np.ones((height, width), dtype=bool)
    mask[rows : height - rows, columns : width - columns] = False
    return mask


def _grey(picture_hw3: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.cvtColor(picture_hw3, cv2.COLOR_RGB2GRAY)
