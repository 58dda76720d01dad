"""One motion sample: its members in a tar, and the checks that it passes on its way to and from the disk."""

from __future__ import annotations

import functools
import io
import json
import math
import tarfile
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.streams.tar_headers import BLOCK, padded, parse_header
from macedance.errors import DataError
from macedance.motion.files import Motion

MUSIC_DIM = 35
UNKNOWN_GENRE = "unknown"  # of clips without one in a corpus where others have one
Buffer = bytes | memoryview
_NOT_AN_ARRAY = (
    ValueError, TypeError, EOFError, OSError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError,
)  # fmt: skip


@dataclass(frozen=True)
class ClipMeta:
    """What the motion itself does not say about a clip.

    Args:
        song: Name of the music, the stem of `music/<song>.flac`; clips of one song stay in one split.
        dancer: Who danced it.
        start_s: Start of the clip in the song, seconds.
    """

    song: str
    dancer: str = ""
    start_s: float = 0.0


@dataclass(frozen=True)
class MotionSample:
    """A decoded sample: row i of every array is the same instant.

    Args:
        key: Name of the sample in its shard.
        motion: Poses, translation, fps, genre and beats (seconds from the clip's start).
        music_TC: (T,35) float32 music features.
        meta: Song, dancer, start.
    """

    key: str
    motion: Motion
    music_TC: np.ndarray
    meta: ClipMeta

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.motion.poses.nbytes + self.motion.trans.nbytes + self.music_TC.nbytes


def genre_label(genre: str | None, genres: Sequence[str], where: str) -> int:
    """Label of a genre in the manifest's list; 0 where no clip has one.

    Raises:
        DataError: A genre that the list lacks.
    """
    if not genres:
        return 0
    name = genre or UNKNOWN_GENRE
    if name not in genres:
        raise DataError(f"unknown genre {name!r}", where=where, expected=f"one of {', '.join(genres)}")
    return list(genres).index(name)


def check_music(music_TC: np.ndarray, frames: int, where: str) -> None:
    """Refuse music features that do not stand beside the motion row by row.

    Raises:
        DataError: Wrong shape, wrong length or not finite.
    """
    if music_TC.ndim != 2 or music_TC.shape[1] != MUSIC_DIM:
        raise DataError(f"music features have shape {music_TC.shape}", where=where, expected=f"(frames, {MUSIC_DIM})")
    if len(music_TC) != frames:
        raise DataError(
            f"music has {len(music_TC)} rows and the motion {frames} frames", where=where, expected="equal lengths"
        )
    if not np.isfinite(music_TC).all():
        raise DataError("music features are not finite", where=where)


def encode_members(sample: MotionSample) -> dict[str, bytes]:
    """Member suffix -> bytes of one sample, the same bytes for the same sample."""
    motion = sample.motion
    meta = {
        "fps": float(motion.fps),
        "frames": motion.num_frames,
        "genre": motion.genre,
        "dancer": sample.meta.dancer,
        "source": motion.source,
        "licence": motion.licence,
        "start_s": float(sample.meta.start_s),
        "song": sample.meta.song,
        "beats_s": [] if motion.music_beats_s is None else [float(beat) for beat in motion.music_beats_s],
    }
    return {
        "poses.npy": _npy(motion.poses),
        "trans.npy": _npy(motion.trans),
        "music.npy": _npy(sample.music_TC),
        "meta.json": json.dumps(meta, sort_keys=True, allow_nan=False).encode(),
    }


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array, dtype=np.float32), allow_pickle=False)
    return stream.getvalue()


def split_members(block: Buffer, where: str, key: str | None = None) -> dict[str, Buffer]:
    """Member suffix -> bytes of one sample's stretch of a tar file; nothing is copied.

    Args:
        block: Bytes from the sample's first tar header to the end of its last member.
        where: `shard:key` for messages.
        key: The sample's key, where members of another one are to be refused.

    Raises:
        DataError: A damaged header, a member cut short, of another sample, or one that is no regular file.
    """
    view, at = memoryview(block), 0
    members: dict[str, Buffer] = {}
    try:
        while at < len(view):
            name, size, regular, extended = parse_header(bytes(view[at : at + BLOCK]))
            if extended:
                return _split_extended(bytes(view), where, key)
            start = at + BLOCK
            if not regular or start + size > len(view):
                raise DataError(f"member {name!r} is cut short or no regular file", where=where)
            _add(members, name, view[start : start + size], where, key)
            at = start + padded(size)
    except tarfile.TarError as error:
        raise DataError(f"damaged tar header ({error})", where=where, fix="copy the shard again") from error
    return members


def _add(members: dict[str, Buffer], name: str, data: Buffer, where: str, key: str | None) -> None:
    owner, _, suffix = name.partition(".")
    if key is not None and owner != key:
        raise DataError(f"member {name!r} is of another sample", where=where, fix="copy the shard again")
    members[suffix] = data


def _split_extended(block: bytes, where: str, key: str | None) -> dict[str, Buffer]:
    """The same for tars with extended headers, which other programs write."""
    members: dict[str, Buffer] = {}
    with tarfile.open(fileobj=io.BytesIO(block), mode="r:") as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            if stream is None:
                raise DataError(f"member {member.name!r} is no regular file", where=where)
            _add(members, member.name, stream.read(), where, key)
    return members


def decode_sample(members: Mapping[str, Buffer], key: str, where: str, fps: float | None = None) -> MotionSample:
    """Check and decode one sample.

    Args:
        members: Suffix -> bytes, of `split_members`.
        key: Its key.
        where: `shard:key` for messages.
        fps: Frames per second that the manifest promises; None takes the sample's own.

    Raises:
        DataError: A member is missing, not what its name says, of the wrong shape or length, or not finite.
    """
    missing = [name for name in ("poses.npy", "trans.npy", "music.npy", "meta.json") if name not in members]
    if missing:
        raise DataError(f"sample lacks {', '.join(missing)}", where=where, expected="a motion sample")
    poses, trans, music = (_read_npy(members[f"{name}.npy"], name, where) for name in ("poses", "trans", "music"))
    try:
        meta = json.loads(bytes(members["meta.json"]))
        clip = ClipMeta(str(meta["song"]), str(meta.get("dancer") or ""), float(meta["start_s"]))
        motion_fps, frames = float(meta["fps"]), int(meta["frames"])
        beats = np.asarray(meta.get("beats_s") or [], dtype=np.float64)
        texts: dict[str, Any] = {name: meta.get(name) for name in ("genre", "source", "licence")}
        if any(value is not None and not isinstance(value, str) for value in texts.values()) or beats.ndim != 1:
            raise TypeError("genre, source, licence are texts and beats_s is a list")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"meta.json cannot be used ({type(error).__name__} {error})", where=where, expected="fps, frames, song..."
        ) from error
    if fps is not None and abs(motion_fps - fps) > 1e-6:
        raise DataError(f"clip has {motion_fps} frames per second", where=where, expected=f"{fps} as in the manifest")
    if frames != len(poses) or len(trans) != len(poses):
        raise DataError(
            f"poses have {len(poses)} frames, trans {len(trans)}, meta.json says {frames}",
            where=where,
            expected="equal lengths",
        )
    try:
        motion = Motion(
            poses=poses,
            trans=trans,
            fps=motion_fps,
            music_beats_s=beats if len(beats) else None,
            song=clip.song,
            **texts,
        )
    except DataError as error:
        raise DataError(error.what, where=where, expected=error.expected, fix=error.fix) from error
    check_music(music, len(poses), where)
    return MotionSample(key, motion, music, clip)


def _read_npy(data: Buffer, name: str, where: str) -> np.ndarray:
    """A float32 array of an .npy member, which shares its memory; pickled objects are refused."""
    try:
        view = memoryview(data)
        head = bytes(view[:10])
        if len(head) < 10 or head[:6] != b"\x93NUMPY" or head[6] not in (1, 2):
            raise ValueError("not an .npy file")
        start = 10 + int.from_bytes(head[8:10], "little")
        if head[6] > 1:
            start = 12 + int.from_bytes(bytes(view[8:12]), "little")
        dtype, shape, fortran = _npy_header(bytes(view[:start]))
        if dtype.kind != "f" or not shape:
            raise ValueError(f"an array of {dtype} with {len(shape)} dimensions")
        # The length is compared before anything of the claimed size is made.
        if math.prod(shape) * dtype.itemsize != len(view) - start:
            raise ValueError(f"{len(view) - start} bytes of data for shape {shape}")
        array = np.frombuffer(view, dtype, offset=start).reshape(shape, order="F" if fortran else "C")
    except (
        ValueError,
        TypeError,
        EOFError,
        OSError,
        SyntaxError,
        tokenize.TokenError,
        RecursionError,
        MemoryError,
    ) as error:
        raise DataError(f"{name}.npy cannot be used ({error})", where=where, expected="a float32 array") from error
    return np.ascontiguousarray(array, dtype=np.float32)


@functools.lru_cache(maxsize=4096)
def _npy_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """(dtype, shape, column order) of an .npy file's first bytes; most clips share theirs."""
    stream = io.BytesIO(header)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or any(size < 0 for size in shape):
        raise ValueError(f"an array of {dtype} and shape {shape}")
    return dtype, shape, fortran
