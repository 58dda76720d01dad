"""The keypoints of a video's dancer, whatever network found them.

Shapes: T frames, K keypoints of the source's layout, 17 of COCO. Pixels, x to the right and y down; a frame in which
nobody was found is zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from macedance.errors import DataError
from macedance.vision.video import Video

#: Called with the number of frames done since the last call.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class VideoKeypoints:
    """Keypoints of one dancer in every frame of a video.

    Args:
        keypoints: (T, K, 3) float32: x and y in pixels, confidence in [0, 1]; zeros where nobody was found.
        fps: Frames per second.
        name: Name of the video.
        boxes: (T, 4) float32: left, top, right, bottom in pixels; NaN where nobody was found.
        persons: (T,) int64: how many people the detector saw, the dancer among them.
        layout: Order of the keypoints, by its name in ``macedance.metrics.keypoints.LAYOUTS``.
        width: Of the video, pixels.
        height: Of the video, pixels.

    Raises:
        DataError: Shapes that do not belong together, or keypoints that are not finite.
    """

    keypoints: np.ndarray
    fps: float
    name: str
    boxes: np.ndarray
    persons: np.ndarray
    layout: str = "coco_17"
    width: int = 0
    height: int = 0

    def __post_init__(self) -> None:
        points = np.ascontiguousarray(self.keypoints, dtype=np.float32)
        boxes = np.ascontiguousarray(self.boxes, dtype=np.float32)
        persons = np.ascontiguousarray(self.persons, dtype=np.int64)
        if points.ndim != 3 or points.shape[2] != 3 or not len(points):
            raise DataError(f"keypoints have shape {points.shape}", where=self.name or None, expected="(T, K, 3)")
        if boxes.shape != (len(points), 4) or persons.shape != (len(points),):
            raise DataError(
                f"boxes {boxes.shape} and persons {persons.shape} for {len(points)} frames",
                where=self.name or None,
                expected=f"({len(points)}, 4) and ({len(points)},)",
            )
        if not np.isfinite(points).all():
            raise DataError("keypoints have NaN or infinite numbers", where=self.name or None)
        object.__setattr__(self, "keypoints", points)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "persons", persons)

    @property
    def missing(self) -> np.ndarray:
        """(T,) bool: frames in which the source found nobody."""
        return np.asarray((self.keypoints[..., 2] <= 0).all(axis=1))

    @property
    def crowded(self) -> np.ndarray:
        """(T,) bool: frames in which the detector saw more people than the dancer."""
        return np.asarray(self.persons > 1)


class KeypointSource(Protocol):
    """Finds the dancer's keypoints in a video.

    Equal ``name``, ``settings`` and ``weights`` give equal keypoints of a video, so that they can be kept.
    """

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    @property
    def layout(self) -> str:
        """A name of ``macedance.metrics.keypoints.LAYOUTS``."""
        ...

    @property
    def weights(self) -> dict[str, str]:
        """Model -> sha256."""
        ...

    @property
    def settings(self) -> dict[str, float | int | str]:
        """Whatever else its keypoints depend on: thresholds, precision, version of the code."""
        ...

    def __call__(self, video: Video, progress: Progress | None = None) -> VideoKeypoints:
        """The keypoints of one video, streamed; a DataError where it cannot be decoded."""
        ...


@dataclass
class KeypointRows:
    """Collects frames one by one, for a source that reads a video in portions; (K, 3) and (4,) of each frame."""

    num_keypoints: int
    points: list[np.ndarray] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    persons: list[int] = field(default_factory=list)

    def add(self, points_K3: np.ndarray, box_4: np.ndarray, persons: int) -> None:
        """One frame with the dancer in it."""
        self.points.append(np.asarray(points_K3, dtype=np.float32))
        self.boxes.append(np.asarray(box_4, dtype=np.float32))
        self.persons.append(persons)

    def add_nobody(self, persons: int = 0) -> None:
        """One frame without the dancer: zeros."""
        self.add(np.zeros((self.num_keypoints, 3)), np.full(4, np.nan), persons)

    def of(self, video: Video, layout: str) -> VideoKeypoints:
        """All of them, as the keypoints of this video.

        Raises:
            DataError: No frame was added.
        """
        if not self.points:
            raise DataError("the video holds no picture", where=video.path or video.name or None)
        return VideoKeypoints(
            np.stack(self.points),
            video.fps,
            video.name,
            np.stack(self.boxes),
            np.array(self.persons),
            layout,
            video.width,
            video.height,
        )
