"""A video of any length as segments that a network can make at once, each going on from the one before.

Wan-Animate's scheme: a segment's first frames are told to the network as known, being the last ones of the segment
before; they are not shown twice. Here a segment is never longer than its frames need, up to a whole latent frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from macedance.errors import ConfigError, DataError
from macedance.models.appearance_expert.geometry import LatentGeometry
from macedance.vision.video import Video


@dataclass(frozen=True)
class Segment:
    """A stretch of frames that is sampled at once.

    Attributes:
        number: 0 for the first.
        start: Its first frame in the video, a known one where there are any.
        frames: Sampled, as many as whole latent frames hold.
        known: Of them, given by the segment before.
        shown: Of them, following the known ones, new in the video; what is sampled beyond is dropped.
    """

    number: int
    start: int
    frames: int
    known: int
    shown: int


def plan_segments(frames: int, segment_frames: int, known_frames: int, geometry: LatentGeometry) -> list[Segment]:
    """The segments of a video: each but the last as long as may be, the last as short as its frames allow.

    So what a segment shows does not depend on how much follows it.

    Args:
        frames: Of the video.
        segment_frames: Of the longest segment: 1 + a multiple of the autoencoder's temporal factor.
        known_frames: That each segment but the first is given; 0: segments know nothing of one another.
        geometry: Of the autoencoder.

    Raises:
        ConfigError: A segment that does not divide into latent frames, or one in which nothing is new.
        DataError: No frames.
    """
    if frames < 1:
        raise DataError("a video without frames", expected="at least one")
    if segment_frames < 1 or geometry.whole_frames(segment_frames) != segment_frames:
        raise ConfigError(
            f"segments of {segment_frames} frames",
            expected=f"1 + a multiple of {geometry.temporal}",
            fix=f"{geometry.whole_frames(max(segment_frames, 1))}",
        )
    if not 0 <= known_frames < segment_frames:
        raise ConfigError(
            f"{known_frames} known frames in segments of {segment_frames}", expected=f"0 to {segment_frames - 1}"
        )
    segments: list[Segment] = []
    done = 0
    while done < frames:
        known = known_frames if segments else 0
        shown = min(segment_frames - known, frames - done)
        segments.append(Segment(len(segments), done - known, geometry.whole_frames(known + shown), known, shown))
        done += shown
    return segments


def driving_segments(driving: Video, segments: list[Segment]) -> Iterator[tuple[Segment, np.ndarray]]:
    """Each segment with its frames (t, H, W, 3) of the driving video, which is read once and never held whole.

    Where a segment is longer than what it shows, the last frame is held.

    Raises:
        DataError: The driving video is shorter than the segments.
    """
    pictures = driving.pictures()
    held: list[np.ndarray] = []
    for segment in segments:
        held = held[len(held) - segment.known :] if segment.known else []
        for _ in range(segment.shown):
            picture = next(pictures, None)
            if picture is None:
                raise DataError(
                    f"the driving video ends after {segment.start + len(held)} frames", expected="as many as are made"
                )
            held.append(picture)
        beyond = segment.frames - len(held)
        yield segment, np.stack([*held, *[held[-1]] * beyond])
