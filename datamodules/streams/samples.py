"""One motion sample: its members in a tar, and the checks that it passes on its way to and from the disk."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from macedance.errors import DataError
from macedance.motion.files import Motion

MUSIC_DIM = 35
UNKNOWN_GENRE = "unknown"  # of clips without one in a corpus where others have one
MAX_KEY_LENGTH = 80  # key and suffix stay within the 100 bytes of a plain tar header
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLOCK = 512


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


def safe_key(text: str) -> str:
    """A key made of any text: `/` becomes `__`, other foreign characters `-`, at most 80 characters."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text.replace("\\", "/").replace("/", "__"))[:MAX_KEY_LENGTH]


def check_key(key: str) -> None:
    """Refuse a key that webdataset would split or that leaves the folder.

    Raises:
        DataError: Other characters than [A-Za-z0-9_-], empty, or longer than 80.
    """
    if not _KEY.fullmatch(key) or len(key) > MAX_KEY_LENGTH:
        raise DataError(
            f"key {key[:100]!r} cannot name a sample",
            expected=f"1 to {MAX_KEY_LENGTH} characters of A-Z a-z 0-9 _ -",
            fix=f"for instance {safe_key(key) or 'clip-0'!r}",
        )


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


def split_members(block: bytes, where: str) -> dict[str, bytes]:
    """Member suffix -> bytes of one sample's stretch of a tar file.

    Args:
        block: Bytes from the sample's first tar header to the end of its last member.
        where: `shard:key` for messages.

    Raises:
        DataError: A damaged header, a member cut short, or one that is no regular file.
    """
    members: dict[str, bytes] = {}
    at = 0
    while at < len(block):
        try:
            header = tarfile.TarInfo.frombuf(block[at : at + _BLOCK], "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise DataError(f"damaged tar header ({error})", where=where, fix="copy the shard again") from error
        if header.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            return _split_extended(block, where)
        start = at + _BLOCK
        if not header.isreg() or start + header.size > len(block):
            raise DataError(f"member {header.name!r} is cut short or no regular file", where=where)
        members[header.name.partition(".")[2]] = block[start : start + header.size]
        at = start + -(-header.size // _BLOCK) * _BLOCK
    return members


def _split_extended(block: bytes, where: str) -> dict[str, bytes]:
    """The same for tars with extended headers, which other programs write."""
    members: dict[str, bytes] = {}
    try:
        # The stretch ends with the data of its last member: tarfile wants the rest of the block too.
        padded = block + bytes(-len(block) % _BLOCK)
        with tarfile.open(fileobj=io.BytesIO(padded), mode="r:") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is None:
                    raise DataError(f"member {member.name!r} is no regular file", where=where)
                members[member.name.partition(".")[2]] = stream.read()
    except tarfile.TarError as error:
        raise DataError(f"damaged tar ({error})", where=where, fix="copy the shard again") from error
    return members


def decode_sample(members: dict[str, bytes], key: str, where: str, fps: float | None = None) -> MotionSample:
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
        meta = json.loads(members["meta.json"])
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


def _read_npy(data: bytes, name: str, where: str) -> np.ndarray:
    """A float32 array of an .npy member; pickled objects are refused."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim == 0:
            raise ValueError(f"{type(array).__name__} of {getattr(array, 'dtype', 'no dtype')}")
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise DataError(f"{name}.npy cannot be used ({error})", where=where, expected="a float32 array") from error
    return np.ascontiguousarray(array, dtype=np.float32)
