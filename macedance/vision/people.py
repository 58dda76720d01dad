"""Finding the people in a video, and which of them is the dancer.

Shapes: t frames of a portion, T frames in all, n people; boxes are left, top, right, bottom in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

#: Overlap (intersection over union) at which two boxes of neighbouring frames are one person.
MIN_OVERLAP = 0.3
#: Heights by which a person without overlap may have moved from one frame to the next.
SPEED = 0.35
#: Overlap above which two boxes of one frame are the same person.
SAME_PERSON = 0.75
#: Frames for which a person may be lost and still be found again.
MAX_GAP = 15
#: One person's boxes are at most this many times as tall, or as small.
SIZE_RATIO = 2.0


class PersonDetector(Protocol):
    """Finds people in pictures. Equal ``name`` and ``weights`` find equal people, so that results can be kept."""

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    @property
    def weights(self) -> dict[str, str]:
        """Model -> sha256."""
        ...

    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        """For each of the frames (t, H, W, 3) uint8 RGB the people in it (n, 5) float32: box and score, best first."""
        ...


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (n,) of a box (4,) with others (n, 4)."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:4], others[:, 2:4])
    inside = np.clip(high - low, 0, None).prod(axis=1)
    areas = np.clip(others[:, 2:4] - others[:, :2], 0, None).prod(axis=1)
    return inside / np.maximum(areas + np.clip(box[2:4] - box[:2], 0, None).prod() - inside, 1e-12)


def without_doubles(people: np.ndarray) -> np.ndarray:
    """People (n, 5), best first, without those who are nearly where a better one is: detectors see some twice."""
    kept: list[int] = []
    for row in range(len(people)):
        if not (overlap(people[row], people[kept]) > SAME_PERSON).any():
            kept.append(row)
    return people[kept]


def dancer_boxes(detections: Sequence[np.ndarray], *, max_gap: int = MAX_GAP) -> tuple[np.ndarray, np.ndarray]:
    """Which of the people is the dancer: the one who takes up most of the picture over the whole video.

    People are followed from frame to frame by overlap and nearness. The dancer is the track with the largest sum of
    area times score; where it has no box, tracks that never appear beside it and are of its size go on for it, largest
    first, so that a dancer who was lost and found again is one person and a poster on the wall never is.

    Args:
        detections: For each frame the people in it (n, 5): box and score.
        max_gap: Frames for which a person may be lost and still be found again near by.

    Returns:
        The dancer's box (T, 4) float32, NaN in frames without one, and how many people there are (T,) int64.
    """
    boxes = np.full((len(detections), 4), np.nan, dtype=np.float32)
    tracks = sorted(_tracks(detections, max_gap), key=_weight, reverse=True)
    height = 0.0
    for track in tracks:
        rows = np.fromiter(track, dtype=np.int64)
        found = np.stack([track[row] for row in track])
        own_height = float(np.median(found[:, 3] - found[:, 1]))
        height = height or own_height
        if np.isnan(boxes[rows, 0]).all() and height / SIZE_RATIO <= own_height <= height * SIZE_RATIO:
            boxes[rows] = found[:, :4]
    return boxes, np.array([len(people) for people in detections], dtype=np.int64)


def _tracks(detections: Sequence[np.ndarray], max_gap: int) -> list[dict[int, np.ndarray]]:
    """Frame -> detection (5,) of every person, greedily: whoever is most like where a track was seen last."""
    done: list[dict[int, np.ndarray]] = []
    live: list[dict[int, np.ndarray]] = []
    for frame, people in enumerate(detections):
        done += [track for track in live if frame - _last(track) > max_gap + 1]
        live = [track for track in live if frame - _last(track) <= max_gap + 1]
        likeness = np.array([_likeness(track, people, frame) for track in live]).reshape(len(live), len(people))
        free = list(range(len(people)))
        going_on: set[int] = set()
        for flat in np.argsort(-likeness, axis=None, kind="stable"):
            who, person = divmod(int(flat), len(people))
            if likeness[who, person] <= 0:
                break
            if who not in going_on and person in free:
                live[who][frame] = people[person]
                going_on.add(who)
                free.remove(person)
        live += [{frame: people[person]} for person in free]
    return done + live


def _likeness(track: dict[int, np.ndarray], people: np.ndarray, frame: int) -> np.ndarray:
    """How well each of the people (n, 5) goes on for a track: above 1 by overlap, in (0, 1] by nearness, 0 not at all.

    Nearness is for quick steps and for dancers who were lost for a while: the centre moved by less than SPEED heights
    in each frame, and the size is about the same.
    """
    box = track[_last(track)]
    overlaps = overlap(box, people)
    height = max(float(box[3] - box[1]), 1e-6)
    reach = SPEED * height * (frame - _last(track))
    moved = np.linalg.norm((people[:, :2] + people[:, 2:4] - box[:2] - box[2:4]) / 2, axis=1)
    ratio = (people[:, 3] - people[:, 1]) / height
    alike = (moved < reach) & (ratio < SIZE_RATIO) & (ratio > 1 / SIZE_RATIO)
    return np.where(overlaps >= MIN_OVERLAP, 1 + overlaps, np.where(alike, 1 - moved / reach, 0.0))


def _last(track: dict[int, np.ndarray]) -> int:
    """The frame that was put in last."""
    return next(reversed(track))


def _weight(track: dict[int, np.ndarray]) -> float:
    found = np.stack(list(track.values()))
    return float((np.clip(found[:, 2:4] - found[:, :2], 0, None).prod(axis=1) * found[:, 4]).sum())
