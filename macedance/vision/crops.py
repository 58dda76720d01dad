"""Where the dancer is in a video, whatever says so, and pictures cut out of it.

Shapes: T frames, H rows, W columns; boxes are left, top, right, bottom in pixels, NaN where nobody was found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from macedance.errors import DataError
from macedance.vision.people import PersonDetector, dancer_boxes
from macedance.vision.video import Video

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

#: Air around a person's box in a crop, share of its longer side.
CROP_MARGIN = 0.1
#: Colour beside the person and beyond the picture: ImageNet's mean, which such networks take for nothing.
_BEYOND = (124, 116, 104)


class BoxSource(Protocol):
    """Says where the dancer is in a video."""

    @property
    def name(self) -> str:
        """How it knows, for reports."""
        ...

    @property
    def weights(self) -> dict[str, str]:
        """Model -> sha256."""
        ...

    def boxes(self, video: Video) -> np.ndarray:
        """The dancer's box (T, 4) float32 in every frame; NaN where nobody was found."""
        ...


class Recent(Generic[T]):
    """What was found in the last two videos: the one that several metrics look at, and a reference image between."""

    def __init__(self) -> None:
        self._found: deque[tuple[Video, T]] = deque(maxlen=2)

    def of(self, video: Video, find: Callable[[Video], T]) -> T:
        """What was found in this video; ``find`` looks if it is none of the two."""
        for kept, found in self._found:
            if kept is video:
                return found
        found = find(video)
        self._found.append((video, found))
        return found


@dataclass
class DetectedBoxes:
    """Boxes of a person detector; the last videos' are kept, so that several metrics cost one detection.

    A copy of a metric shares it.
    """

    detector: PersonDetector
    _recent: Recent[np.ndarray] = field(default_factory=Recent, init=False, repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @property
    def name(self) -> str:
        """Name of the detector."""
        return self.detector.name

    @property
    def weights(self) -> dict[str, str]:
        """Of the detector."""
        return self.detector.weights

    def boxes(self, video: Video) -> np.ndarray:
        """The dancer's box (T, 4) in every frame.

        Raises:
            DataError: The video cannot be decoded.
        """
        return self._recent.of(video, self._find)

    def _find(self, video: Video) -> np.ndarray:
        return dancer_boxes([people for chunk in video.chunks() for people in self.detector.detect(chunk)])[0]


def boxes_of(source: BoxSource, video: Video) -> np.ndarray:
    """A source's boxes (T, 4) float64, inside the picture; boxes without area are NaN.

    Raises:
        DataError: Boxes of another shape.
    """
    boxes = np.array(source.boxes(video), dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DataError(
            f"{source.name} gives boxes of shape {boxes.shape}",
            where=video.path or video.name or None,
            expected="(frames, 4)",
        )
    boxes[:, 0::2] = boxes[:, 0::2].clip(0, video.width)
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, video.height)
    with np.errstate(invalid="ignore"):
        empty = ~((boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1))
    boxes[empty] = np.nan
    return boxes


def box_of_frame(boxes_T4: np.ndarray, frame: int) -> np.ndarray:
    """One frame's box (4,).

    Raises:
        DataError: The video has more frames than there are boxes.
    """
    if frame >= len(boxes_T4):
        raise DataError(f"{len(boxes_T4)} boxes for a video of more than {frame} frames", expected="one for each frame")
    return boxes_T4[frame]


def square_crop(picture_HW3: np.ndarray, box: np.ndarray, side: int, margin: float = CROP_MARGIN) -> np.ndarray:
    """What is in a box, with a margin, in the middle of a grey square (side, side, 3) uint8.

    The square is as long as the longer side of the box, so that nobody is stretched; beside the box and beyond the
    picture it is grey, so that the background says little. Reduced by area means.

    Args:
        picture_HW3: The picture.
        box: Left, top, right, bottom.
        side: Of the square, pixels.
        margin: Air around the box, share of its longer side.

    Raises:
        DataError: A box without numbers, without area or beside the picture.
    """
    import cv2

    low, high = np.asarray(box[:2], dtype=np.float64), np.asarray(box[2:4], dtype=np.float64)
    longer = float((high - low).max())
    if not np.isfinite(longer) or longer < 1:
        raise DataError(f"the box {np.round(box, 1).tolist()} has no area", expected="left, top, right, bottom")
    air = margin * longer
    # Whole pixels: the square first, then what of the box and of the picture is in it.
    size = max(1, round(longer + 2 * air))
    start = np.round((low + high - size) / 2).astype(int)
    shape = np.array(picture_HW3.shape[1::-1])
    first = np.maximum(np.maximum(np.round(low - air).astype(int), start), 0)
    last = np.minimum(np.minimum(np.round(high + air).astype(int), start + size), shape)
    square = np.empty((size, size, 3), dtype=np.uint8)
    square[:] = _BEYOND
    if (last <= first).any():
        raise DataError(f"the box {np.round(box, 1).tolist()} is beside the picture", expected="a box inside it")
    (left, top), (right, bottom) = first - start, last - start
    square[top:bottom, left:right] = picture_HW3[first[1] : last[1], first[0] : last[0]]
    return cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA if size > side else cv2.INTER_LINEAR)
