"""One clip of a dancer as it stands in a shard: video, pose, reference picture and what is known of them.

Members of a sample: `video.mp4`; `pose.mp4` or `keypoints.npy` (the points of the pose drawing, which is then drawn
when it is needed); optionally `reference.jpg`, `mask.npy` (where the person is) and `face.mp4` (the person's face, cut
out square frame by frame, black where there is none; `src_face.mp4` of Wan-Animate's preprocessing); `meta.json`.
Shapes: T frames, K = 20 body points and, where there are hands, 21 of the left and 21 of the right one, H rows, W
columns.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from macedance.errors import DataError
from macedance.rendering.pose_parts import parts_drawn, parts_read

BODY_POINTS, HAND_POINTS = 20, 21
#: Where a clip comes from: drawn by a renderer, or filmed.
SOURCES = ("rendered", "wild")
Members = Mapping[str, bytes | memoryview]


@dataclass(frozen=True)
class ClipFacts:
    """`meta.json` of a clip.

    Args:
        fps: Frames per second of the video and of the pose.
        frames: Their number.
        height: Pixels; ``width`` likewise.
        width: Pixels.
        prompt: What the text encoder is told.
        song: Name of its music; clips of one song stay in one split.
        start_s: Its start in the song, seconds.
        source: One of SOURCES.
        licence: Of the video.
        person: Who dances; people stay in one split.
        reference_times_s: When, in seconds from the clip's start, a picture may be taken as the reference; none: the
            reference is `reference.jpg`.
        person_box: Left, top, right, bottom of the person over the clip, pixels, or None.
        palette: Colours of the pose drawing, 20 of them, where they are not the usual ones.
        pose_parts: Of POSE_PARTS, what `pose.mp4` shows, where that is known; of keypoints it is seen.
    """

    fps: float
    frames: int
    height: int
    width: int
    prompt: str = ""
    song: str = ""
    start_s: float = 0.0
    source: str = "wild"
    licence: str = ""
    person: str = ""
    reference_times_s: tuple[float, ...] = ()
    person_box: tuple[float, float, float, float] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    pose_parts: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {key: value for key, value in vars(self).items() if value is not None}

    @property
    def reference_frames(self) -> tuple[int, ...]:
        """Frames that may be the reference, ascending."""
        return tuple(sorted({round(time_s * self.fps) for time_s in self.reference_times_s}))


@dataclass(frozen=True)
class RawClip:
    """A clip in its files' bytes; they are decoded window by window.

    Args:
        key: Its name.
        where: `shard:key` for messages.
        facts: Its meta.json.
        video: The mp4's bytes.
        pose: The pose video's bytes, or None.
        keypoints_TK3: (T, 20 | 62, 3) pixels of the video and confidence, float32, or None.
        reference: The jpeg's bytes, or None.
        mask_THW: bool, True where the person is, or None.
        face: The face video's bytes, or None.
    """

    key: str
    where: str
    facts: ClipFacts
    video: bytes | memoryview = field(repr=False)
    pose: bytes | memoryview | None = field(default=None, repr=False)
    keypoints_TK3: np.ndarray | None = field(default=None, repr=False)
    reference: bytes | memoryview | None = field(default=None, repr=False)
    mask_THW: np.ndarray | None = field(default=None, repr=False)
    face: bytes | memoryview | None = field(default=None, repr=False)

    @property
    def pose_parts(self) -> tuple[str, ...] | None:
        """Which of POSE_PARTS the pose drawing shows; None: it is a video and meta.json does not say."""
        return self.facts.pose_parts if self.keypoints_TK3 is None else parts_drawn(self.keypoints_TK3)


def raw_members(
    facts: ClipFacts,
    video: bytes,
    *,
    pose: bytes | None = None,
    keypoints_TK3: np.ndarray | None = None,
    reference: bytes | None = None,
    mask_THW: np.ndarray | None = None,
    face: bytes | None = None,
) -> dict[str, bytes]:
    """Member suffix -> bytes of a clip, the same bytes for the same clip.

    Raises:
        DataError: Facts that cannot be, neither pose nor keypoints, or arrays of another length than the clip.
    """
    check_facts(facts, facts.song or "clip")
    members = {"video.mp4": video}
    if pose is not None:
        members["pose.mp4"] = pose
    if keypoints_TK3 is not None:
        _check_keypoints(keypoints_TK3, facts.frames, "keypoints")
        members["keypoints.npy"] = _npy(np.asarray(keypoints_TK3, dtype=np.float32))
    if pose is None and keypoints_TK3 is None:
        raise DataError("a clip without a pose", expected="pose.mp4 or keypoints.npy")
    if reference is not None:
        members["reference.jpg"] = reference
    if mask_THW is not None:
        _check_mask(mask_THW.shape, facts, "mask")
        members["mask.npy"] = _npy(np.packbits(mask_THW, axis=-1))
    if face is not None:
        members["face.mp4"] = face
    members["meta.json"] = json.dumps(facts.to_dict(), sort_keys=True, allow_nan=False).encode()
    return members


def raw_clip(members: Members, key: str, where: str) -> RawClip:
    """A clip from its members; video and pictures stay bytes until a window of them is asked for.

    Raises:
        DataError: A member is missing, not what its name says, or of another length than the others.
    """
    missing = [name for name in ("video.mp4", "meta.json") if name not in members]
    if not missing and "pose.mp4" not in members and "keypoints.npy" not in members:
        missing = ["pose.mp4 or keypoints.npy"]
    if missing:
        holds = " (it holds precomputed latents)" if "latents.safetensors" in members else ""
        raise DataError(f"sample lacks {', '.join(missing)}{holds}", where=where, expected="a clip of a dancer")
    facts = read_facts(members["meta.json"], where)
    keypoints = mask = None
    if "keypoints.npy" in members:
        keypoints = _read_npy(members["keypoints.npy"], "keypoints.npy", np.float32, where)
        _check_keypoints(keypoints, facts.frames, where)
    if "mask.npy" in members:
        packed = _read_npy(members["mask.npy"], "mask.npy", np.uint8, where)
        if packed.ndim != 3 or packed.shape[2] != -(-facts.width // 8):
            raise DataError(f"mask.npy has shape {packed.shape}", where=where, expected="eight columns to a byte")
        mask = np.unpackbits(packed, axis=-1, count=facts.width).astype(bool)
        _check_mask(mask.shape, facts, where)
    return RawClip(
        key,
        where,
        facts,
        members["video.mp4"],
        members.get("pose.mp4"),
        keypoints,
        members.get("reference.jpg"),
        mask,
        members.get("face.mp4"),
    )


def read_facts(data: bytes | memoryview, where: str) -> ClipFacts:
    """The facts of a `meta.json`; keys that are not known here are left to others.

    Raises:
        DataError: Not JSON, a field missing or of the wrong kind.
    """
    try:
        meta = json.loads(bytes(data))
        box, palette = meta.get("person_box"), meta.get("palette")
        facts = ClipFacts(
            fps=float(meta["fps"]),
            frames=int(meta["frames"]),
            height=int(meta["height"]),
            width=int(meta["width"]),
            start_s=float(meta.get("start_s", 0.0)),
            reference_times_s=tuple(float(time) for time in meta.get("reference_times_s", ())),
            person_box=None if box is None else _four([float(side) for side in box]),
            palette=None if palette is None else tuple(_three([int(part) for part in colour]) for colour in palette),
            pose_parts=parts_read(meta.get("pose_parts")),
            **{name: _text(meta, name) for name in ("prompt", "song", "source", "licence", "person") if name in meta},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"meta.json cannot be used ({type(error).__name__} {error})",
            where=where,
            expected="fps, frames, height, width...",
        ) from error
    check_facts(facts, where)
    return facts


def check_facts(facts: ClipFacts, where: str) -> None:
    """Refuse facts that cannot be.

    Raises:
        DataError: Sizes, times or a source out of range.
    """
    if not (0 < facts.fps < 1000) or min(facts.frames, facts.height, facts.width) < 1:
        raise DataError(
            f"a clip of {facts.frames} frames of {facts.width} x {facts.height} pixels at {facts.fps:g} per second",
            where=where,
            expected="numbers above 0",
        )
    if facts.source not in SOURCES:
        raise DataError(f"source is {facts.source!r}", where=where, expected=" or ".join(SOURCES))
    if not math.isfinite(facts.start_s):
        raise DataError("start_s is not finite", where=where)
    outside = [frame for frame in facts.reference_frames if not 0 <= frame < facts.frames]
    if outside:
        raise DataError(
            f"reference_times_s name frames {outside[:8]} of a clip of {facts.frames}",
            where=where,
            expected="times within the clip",
        )
    try:
        parts_read(facts.pose_parts)
    except ValueError as error:
        raise DataError(str(error), where=where) from error
    if facts.palette is not None and len(facts.palette) != BODY_POINTS:
        raise DataError(f"palette has {len(facts.palette)} colours", where=where, expected=str(BODY_POINTS))


def _text(meta: Mapping[str, Any], name: str) -> str:
    if not isinstance(meta[name], str):
        raise TypeError(f"{name} is no text")
    return str(meta[name])


def _three(parts: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = parts
    if not all(0 <= part <= 255 for part in parts):
        raise ValueError(f"colour {parts}")
    return red, green, blue


def _four(sides: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = sides
    return left, top, right, bottom


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def _read_npy(data: bytes | memoryview, name: str, dtype: Any, where: str) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(array, np.ndarray) or not np.can_cast(array.dtype, dtype, "same_kind"):
            raise ValueError(f"not an array of {np.dtype(dtype)}")
    except (ValueError, OSError, EOFError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise DataError(f"{name} cannot be used ({error})", where=where, expected=f"{np.dtype(dtype)}") from error
    return np.ascontiguousarray(array, dtype=dtype)


def _check_keypoints(points: np.ndarray, frames: int, where: str) -> None:
    counts = (BODY_POINTS, BODY_POINTS + 2 * HAND_POINTS)
    if points.ndim != 3 or points.shape[1] not in counts or points.shape[2] != 3:
        raise DataError(f"keypoints have shape {points.shape}", where=where, expected=f"(T, {counts}, 3)")
    if len(points) != frames:
        raise DataError(f"keypoints of {len(points)} frames, the video has {frames}", where=where, expected="as many")
    if not np.isfinite(points).all():
        raise DataError("keypoints are not finite", where=where)


def _check_mask(shape: tuple[int, ...], facts: ClipFacts, where: str) -> None:
    expected = (facts.frames, facts.height, facts.width)
    if shape != expected:
        raise DataError(f"the mask has shape {shape}", where=where, expected=str(expected))
