"""A window of a clip, decoded and brought to the size that a network is trained at.

Shapes: T frames, H rows, W columns, K keypoints; RGB, uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from macedance.appearance_data.media import decode_jpeg, decode_mp4
from macedance.appearance_data.samples import BODY_POINTS, HAND_POINTS, ClipFacts, RawClip
from macedance.errors import ConfigError, DataError
from macedance.rendering.pose_drawing import PALETTE, draw_pose
from macedance.vision.pictures import fit_picture

#: A clip is cropped to another shape as long as this share of its longer overhang is lost; beyond it belongs elsewhere.
MOST_CROPPED = 0.35
#: A clip is enlarged up to so many times; beyond it a network would learn to draw blurred pictures.
MAX_UPSCALE = 1.15
#: The rule of `window_starts` where no number of windows is asked for.
ALL_COVERING = "all-covering"


@dataclass(frozen=True)
class Bucket:
    """A size that batches are made of.

    Args:
        height: Pixels; ``width`` likewise.
        width: Pixels.
        frames: Of a window; None takes the data module's.

    Raises:
        ConfigError: A number below 1.
    """

    height: int
    width: int
    frames: int | None = None

    def __post_init__(self) -> None:
        if min(self.height, self.width, 1 if self.frames is None else self.frames) < 1:
            raise ConfigError(f"a bucket of {self.frames} frames of {self.width} x {self.height}", expected="above 0")


@dataclass(frozen=True)
class Window:
    """A window of a clip.

    Attributes:
        video_THW3: uint8.
        pose_THW3: The pose drawing, uint8.
        reference_HW3: The person at another time, uint8.
        mask_THW: bool, True where the person is, or None.
        start: First frame of the window in the clip.
        face_TSS3: The person's face, uint8, S pixels a side; None where there is none or it was not asked for.
    """

    video_THW3: np.ndarray
    pose_THW3: np.ndarray
    reference_HW3: np.ndarray
    mask_THW: np.ndarray | None
    start: int
    face_TSS3: np.ndarray | None = None


def cropped_share(height: int, width: int, bucket: Bucket) -> float:
    """Share of a picture of this size that is lost when it is scaled to cover a bucket."""
    scale = upscale(height, width, bucket)
    return 1.0 - bucket.height * bucket.width / (scale * height * scale * width)


def upscale(height: int, width: int, bucket: Bucket) -> float:
    """How many times larger a picture of this size becomes when it is scaled to cover a bucket; below 1: smaller."""
    return max(bucket.height / height, bucket.width / width)


def nearest_bucket(
    height: int, width: int, buckets: Sequence[Bucket], max_upscale: float = MAX_UPSCALE
) -> Bucket | None:
    """The bucket that loses least of a picture of this size, of those the largest.

    Args:
        height: Of the picture, pixels.
        width: Likewise.
        buckets: To choose from.
        max_upscale: Buckets that the picture would have to be enlarged for by more are not chosen.

    Returns:
        None where each bucket crops the picture too much or is too large for it.
    """
    fitting = [
        bucket
        for bucket in buckets
        if upscale(height, width, bucket) <= max_upscale and cropped_share(height, width, bucket) <= MOST_CROPPED
    ]
    return min(
        fitting, key=lambda bucket: (round(cropped_share(height, width, bucket), 3), -bucket.height), default=None
    )


def why_no_bucket(max_upscale: float = MAX_UPSCALE) -> str:
    """Why `nearest_bucket` finds none."""
    return f"each would crop more than {MOST_CROPPED:.0%} of the picture or enlarge it over {max_upscale:g} times"


def window_starts(
    clip_frames: int, frames: int, references: Sequence[int] = (), windows: int | None = None
) -> list[int]:
    """First frames of the windows that precomputed latents are made of: as few as cover the clip, evenly spread.

    They overlap where the clip is no multiple of a window: of 150 frames, two windows of 81 share twelve. One that
    would hold every reference of the clip, and so be told what it looks like, is no gain: then there are as many as
    fit without overlapping, and frames between and behind them are in none.

    Args:
        clip_frames: Of the clip.
        frames: Of a window.
        references: Frames of the clip that may be its reference; none: `reference.jpg`.
        windows: At most so many instead, spread from the clip's first to its last frame, fewer or more than cover it;
            of these, windows that would hold every reference are left out unless all would.

    Returns:
        Empty for a clip that is shorter than a window.
    """
    if windows is not None:
        chosen = _spread_starts(clip_frames, frames, min(windows, max(clip_frames - frames + 1, 0)))
        return [start for start in chosen if _lies_outside(references, start, frames)] or chosen[:1]
    covering = _spread_starts(clip_frames, frames, -(-clip_frames // frames)) if clip_frames >= frames else []
    if all(_lies_outside(references, start, frames) for start in covering):
        return covering
    return _spread_starts(clip_frames, frames, clip_frames // frames)


def _spread_starts(clip_frames: int, frames: int, count: int) -> list[int]:
    if count <= 1:
        return [0] * count
    return [round(place * (clip_frames - frames) / (count - 1)) for place in range(count)]


def _lies_outside(references: Sequence[int], start: int, frames: int) -> bool:
    """Whether a window has a reference that is none of its own frames."""
    return not references or any(not start <= frame < start + frames for frame in references)


def reference_choices(facts: ClipFacts, start: int, frames: int) -> tuple[int, ...]:
    """Frames that may be the reference of a window: those that lie outside of it, else all; none: `reference.jpg`."""
    outside = tuple(frame for frame in facts.reference_frames if not start <= frame < start + frames)
    return outside or facts.reference_frames


class Decoded:
    """Frames of a clip's video, decoded once however many windows and references they are needed for.

    Args:
        clip: The clip.
        wanted: Numbers of the frames.

    Raises:
        DataError: A video that cannot be read or says something else than meta.json.
    """

    def __init__(self, clip: RawClip, wanted: Sequence[int]) -> None:
        self._places = {frame: place for place, frame in enumerate(sorted(set(wanted)))}
        self._pictures = decode_mp4(clip.video, clip.where, list(self._places), clip.facts.frames)
        _check_size(self._pictures, clip.facts, "video.mp4", clip.where)

    def __getitem__(self, wanted: Sequence[int]) -> np.ndarray:
        """The frames (N, H, W, 3) uint8 in the order in which they are wanted."""
        return self._pictures[[self._places[frame] for frame in wanted]]


def read_window(
    clip: RawClip,
    start: int,
    bucket: Bucket,
    frames: int,
    reference: int | None,
    face_size: int | None = None,
    decoded: Decoded | None = None,
) -> Window:
    """Decode a window.

    Args:
        clip: The clip.
        start: First frame.
        bucket: The size that it is brought to.
        frames: Of the window.
        reference: Frame of the clip that is the reference; None: `reference.jpg`.
        face_size: Pixels of one side that the face video is brought to; None: the faces are not read.
        decoded: The window's frames and the reference, where they were decoded before.

    Raises:
        DataError: The window leaves the clip, files that cannot be read or say something else than meta.json, or no
            reference.
    """
    facts = clip.facts
    if not 0 <= start <= facts.frames - frames:
        raise DataError(
            f"the clip has {facts.frames} frames", where=clip.where, expected=f"at least {frames} from frame {start}"
        )
    wanted = list(range(start, start + frames))
    needed = [*wanted, *(() if reference is None else (reference,))]
    pictures = (Decoded(clip, needed) if decoded is None else decoded)[needed]
    if reference is not None:
        still = pictures[-1]
    elif clip.reference is not None:
        still = decode_jpeg(clip.reference, clip.where)
    else:
        raise DataError("no reference", where=clip.where, expected="reference.jpg or reference_times_s in meta.json")
    face = None
    if clip.face is not None and face_size is not None:
        face = read_face(clip.face, clip.where, facts.frames, wanted, face_size)
    mask = None if clip.mask_THW is None else _fit_all(clip.mask_THW[start : start + frames], bucket)
    return Window(
        video_THW3=_fit_all(pictures[:frames], bucket),
        pose_THW3=_pose(clip, wanted, bucket),
        reference_HW3=fit_picture(still, bucket.width, bucket.height),
        mask_THW=None if mask is None else mask.astype(bool),
        start=start,
        face_TSS3=face,
    )


def read_face(
    data: bytes | memoryview, where: str, clip_frames: int, wanted: Sequence[int], size: int | None
) -> np.ndarray:
    """Some frames (N, S, S, 3) of a face video, uint8.

    Args:
        data: The file.
        where: `shard:key` for messages.
        clip_frames: Of the clip, which the face video must have too.
        wanted: Numbers of the frames.
        size: S, pixels of one side that they are brought to; None: as they are.

    Raises:
        DataError: No video, of another length, or not square.
    """
    pictures = decode_mp4(data, f"{where} face.mp4", wanted, clip_frames)
    height, width = pictures.shape[1:3]
    if height != width:
        raise DataError(f"face.mp4 has {width} x {height} pixels", where=where, expected="as many rows as columns")
    return pictures if size is None else _fit_all(pictures, Bucket(size, size))


def references_of(
    clip: RawClip, choices: Sequence[int], bucket: Bucket, decoded: Decoded | None = None
) -> list[np.ndarray]:
    """The reference pictures (H, W, 3) at some frames of a clip; without frames the one of `reference.jpg`.

    Raises:
        DataError: As `read_window`.
    """
    if choices:
        pictures = (Decoded(clip, choices) if decoded is None else decoded)[choices]
    elif clip.reference is not None:
        pictures = decode_jpeg(clip.reference, clip.where)[None]
    else:
        raise DataError("no reference", where=clip.where, expected="reference.jpg or reference_times_s in meta.json")
    return [fit_picture(picture, bucket.width, bucket.height) for picture in pictures]


def fitted_keypoints(points_TK3: np.ndarray, facts: ClipFacts, bucket: Bucket) -> np.ndarray:
    """Keypoints (T, K, 3) in the pixels of a bucket, moved as `fit_picture` moves the pictures."""
    scale = upscale(facts.height, facts.width, bucket)
    # As fit_picture rounds and crops.
    columns, rows = max(bucket.width, round(facts.width * scale)), max(bucket.height, round(facts.height * scale))
    fitted = points_TK3.astype(np.float64)
    fitted[..., 0] = fitted[..., 0] * (columns / facts.width) - (columns - bucket.width) // 2
    fitted[..., 1] = fitted[..., 1] * (rows / facts.height) - (rows - bucket.height) // 2
    return fitted


def _pose(clip: RawClip, wanted: Sequence[int], bucket: Bucket) -> np.ndarray:
    """The pose drawing of some frames at a bucket's size: drawn at that size where there are keypoints."""
    facts = clip.facts
    if clip.keypoints_TK3 is None:
        assert clip.pose is not None  # raw_clip has looked
        pictures = decode_mp4(clip.pose, f"{clip.where} pose.mp4", wanted, facts.frames)
        _check_size(pictures, facts, "pose.mp4", clip.where)
        return _fit_all(pictures, bucket)
    points = fitted_keypoints(clip.keypoints_TK3[list(wanted)], facts, bucket)
    hands = points.shape[1] > BODY_POINTS
    drawn = np.empty((len(points), bucket.height, bucket.width, 3), dtype=np.uint8)
    for frame, points_K3 in enumerate(points):
        left, right = points_K3[BODY_POINTS : BODY_POINTS + HAND_POINTS], points_K3[BODY_POINTS + HAND_POINTS :]
        drawn[frame] = draw_pose(
            points_K3[:BODY_POINTS],
            bucket.height,
            bucket.width,
            left_hand_K3=left if hands else None,
            right_hand_K3=right if hands else None,
            palette=facts.palette or PALETTE,
        )
    return drawn


def _fit_all(pictures: np.ndarray, bucket: Bucket) -> np.ndarray:
    if pictures.shape[1:3] == (bucket.height, bucket.width):
        return pictures
    if pictures.dtype == bool:
        grey = np.repeat(pictures[..., None].astype(np.uint8) * 255, 3, axis=-1)
        return np.stack([fit_picture(one, bucket.width, bucket.height)[..., 0] > 127 for one in grey])
    return np.stack([fit_picture(picture, bucket.width, bucket.height) for picture in pictures])


def _check_size(pictures: np.ndarray, facts: ClipFacts, name: str, where: str) -> None:
    height, width = pictures.shape[1:3]
    if (height, width) != (facts.height, facts.width):
        raise DataError(
            f"{name} has {width} x {height} pixels",
            where=where,
            expected=f"{facts.width} x {facts.height} as in meta.json",
        )
