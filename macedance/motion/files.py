"""Motion in memory and as ``.npz`` on disk.

Shapes: T frames, 24 joints. Metres, radians, seconds; y-up, the rest pose faces +z. A file is a plain numpy archive
with ``poses`` (T, 24, 3), ``trans`` (T, 3) and ``fps``, and optionally ``joints`` (T, 24, 3), ``genre``, ``source``,
``licence``, ``song`` and ``music_beats_s``. Reading never runs code: pickled objects are refused.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from macedance.errors import DataError
from macedance.motion.atomic import write_atomically
from macedance.motion.rotations import axis_angle_from_quaternion, quaternion_from_axis_angle, slerp
from macedance.motion.skeleton import NUM_JOINTS, TOE_HEIGHT_M, joints_from_poses

#: Toe joints: the lowest of them stands at TOE_HEIGHT_M in a grounded motion.
TOES: tuple[int, int] = (10, 11)
TEXT_KEYS: tuple[str, ...] = ("genre", "source", "licence", "song")


@dataclass(frozen=True)
class Motion:
    """A dance of one person.

    Args:
        poses: Local rotations (T, 24, 3), axis-angle, radians.
        trans: Position of the pelvis joint (T, 3), metres.
        fps: Frames per second, above 0.
        joints: Joint positions (T, 24, 3), metres, where a file brings its own; otherwise None.
        genre: Genre label.
        source: Where the motion comes from.
        licence: Its licence.
        music_beats_s: Beats of its music (N,), seconds from the first frame, ascending.
        song: Name of its music, so that metrics can tell which dances share a song.

    Arrays are converted to float32 (beats to float64).

    Raises:
        DataError: Wrong shape, no frame, a number that is not finite, or an fps that is not above 0.
    """

    poses: np.ndarray
    trans: np.ndarray
    fps: float
    joints: np.ndarray | None = None
    genre: str | None = None
    source: str | None = None
    licence: str | None = None
    music_beats_s: np.ndarray | None = None
    song: str | None = None

    def __post_init__(self) -> None:
        poses = checked_array(self.poses, "poses", (NUM_JOINTS, 3))
        trans = checked_array(self.trans, "trans", (3,), num_frames=len(poses))
        object.__setattr__(self, "poses", poses)
        object.__setattr__(self, "trans", trans)
        object.__setattr__(self, "fps", checked_fps(self.fps))
        if self.joints is not None:
            joints = checked_array(self.joints, "joints", (NUM_JOINTS, 3), num_frames=len(poses))
            object.__setattr__(self, "joints", joints)
        if self.music_beats_s is not None:
            object.__setattr__(self, "music_beats_s", checked_beats(self.music_beats_s))

    @property
    def num_frames(self) -> int:
        """Number of frames T."""
        return len(self.poses)

    @property
    def duration_s(self) -> float:
        """T / fps, seconds."""
        return self.num_frames / self.fps

    def joint_positions(self) -> np.ndarray:
        """Joint positions (T, 24, 3), float32, metres, by forward kinematics of poses and trans."""
        with torch.no_grad():
            return joints_from_poses(torch.from_numpy(self.poses), torch.from_numpy(self.trans)).numpy()

    def slice(self, start: int, stop: int) -> Motion:
        """Frames ``start`` to ``stop`` (exclusive); beats are shifted and those outside the slice left out.

        Raises:
            DataError: The range is empty or leaves the motion.
        """
        if not 0 <= start < stop <= self.num_frames:
            raise DataError(
                f"cannot slice frames {start} to {stop}", expected=f"0 <= start < stop <= {self.num_frames}"
            )
        beats = self.music_beats_s
        if beats is not None:
            beats = beats - start / self.fps
            beats = beats[(beats >= 0) & (beats < (stop - start) / self.fps)]
        joints = None if self.joints is None else self.joints[start:stop]
        return replace(
            self, poses=self.poses[start:stop], trans=self.trans[start:stop], joints=joints, music_beats_s=beats
        )

    def resampled(self, fps: float) -> Motion:
        """The same motion at another frame rate: rotations by slerp, positions linearly.

        New frame i stands at i / fps seconds. No frame is invented beyond the last one: there are
        floor((T - 1) * fps / self.fps) + 1 of them.
        """
        fps = checked_fps(fps)
        if fps == self.fps:
            return self
        # The small allowance keeps a last frame that rounding would lose (e.g. 29.97 -> 59.94).
        count = int(np.floor((self.num_frames - 1) * fps / self.fps + 1e-6)) + 1
        position = np.minimum(np.arange(count) * (self.fps / fps), self.num_frames - 1)
        before = np.minimum(position.astype(np.int64), max(self.num_frames - 2, 0))
        after = np.minimum(before + 1, self.num_frames - 1)
        weight = position - before
        quaternions = quaternion_from_axis_angle(torch.from_numpy(self.poses).double())
        weight_TJ = torch.from_numpy(weight)[:, None].expand(-1, NUM_JOINTS)
        mixed = slerp(quaternions[before], quaternions[after], weight_TJ)

        def linear(values: np.ndarray) -> np.ndarray:
            w = weight.reshape(-1, *[1] * (values.ndim - 1))
            return (1 - w) * values[before] + w * values[after]

        return replace(
            self,
            poses=axis_angle_from_quaternion(mixed).numpy(),
            trans=linear(self.trans),
            fps=fps,
            joints=None if self.joints is None else linear(self.joints),
        )

    def grounded(self) -> Motion:
        """The motion shifted vertically so that its lowest toe joint (1st percentile over time) is at TOE_HEIGHT_M."""
        lowest_T = self.joint_positions()[:, TOES, 1].min(axis=1)
        shift = np.array([0.0, TOE_HEIGHT_M - np.percentile(lowest_T, 1), 0.0], dtype=np.float32)
        joints = None if self.joints is None else self.joints + shift
        return replace(self, trans=self.trans + shift, joints=joints)


@dataclass(frozen=True)
class JointClip:
    """Joint positions of a clip, as the metrics read it.

    Args:
        joints: (T, 24, 3), metres, y-up.
        fps: Frames per second.
        genre: Genre label.
        music_beats_s: Beats of its music, seconds from the first frame.
        name: Name of the clip, unique within a set.
        song: Name of its music; None where it is not known.
    """

    joints: np.ndarray
    fps: float
    genre: str | None = None
    music_beats_s: np.ndarray | None = None
    name: str = ""
    song: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "joints", checked_array(self.joints, "joints", (NUM_JOINTS, 3)))
        object.__setattr__(self, "fps", checked_fps(self.fps))
        if self.music_beats_s is not None:
            object.__setattr__(self, "music_beats_s", checked_beats(self.music_beats_s))

    @classmethod
    def from_motion(cls, motion: Motion, name: str = "") -> JointClip:
        """The joints of ``motion``: its own where it has some, otherwise by forward kinematics."""
        joints = motion.joint_positions() if motion.joints is None else motion.joints
        return cls(joints, motion.fps, motion.genre, motion.music_beats_s, name, motion.song)


def save_motion(path: str | Path, motion: Motion) -> None:
    """Write ``motion`` as a compressed ``.npz``, to a temporary name first.

    Raises:
        DataError: The folder cannot be written.
    """
    arrays: dict[str, Any] = {"poses": motion.poses, "trans": motion.trans, "fps": np.float64(motion.fps)}
    if motion.joints is not None:
        arrays["joints"] = motion.joints
    if motion.music_beats_s is not None:
        arrays["music_beats_s"] = motion.music_beats_s
    for key in TEXT_KEYS:
        if getattr(motion, key) is not None:
            arrays[key] = np.str_(getattr(motion, key))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def load_motion(path: str | Path) -> Motion:
    """Read a motion file.

    Raises:
        DataError: Missing or foreign file, missing keys (those present are listed), wrong shapes, no frame, numbers
            that are not finite, no or impossible fps, pickled objects.
    """
    arrays = _read_npz(Path(path))
    _require(arrays, ("poses", "trans", "fps"), path)
    try:
        return Motion(
            poses=arrays["poses"],
            trans=arrays["trans"],
            fps=_scalar(arrays["fps"]),
            joints=arrays.get("joints"),
            music_beats_s=arrays.get("music_beats_s"),
            **{key: _text(arrays[key]) for key in TEXT_KEYS if key in arrays},
        )
    except DataError as error:
        raise _located(error, path) from error


def load_joints(path: str | Path) -> JointClip:
    """Read the joint positions of a motion file: its ``joints``, or else its ``poses`` and ``trans`` by kinematics.

    Raises:
        DataError: As load_motion; ``joints`` alone are enough.
    """
    path = Path(path)
    arrays = _read_npz(path)
    if "joints" not in arrays:
        if "poses" not in arrays and "trans" not in arrays:
            _require(arrays, ("joints",), path)
        return JointClip.from_motion(load_motion(path), name=path.stem)
    _require(arrays, ("fps",), path)
    try:
        return JointClip(
            joints=arrays["joints"],
            fps=_scalar(arrays["fps"]),
            genre=_text(arrays["genre"]) if "genre" in arrays else None,
            music_beats_s=arrays.get("music_beats_s"),
            name=path.stem,
            song=_text(arrays["song"]) if "song" in arrays else None,
        )
    except DataError as error:
        raise _located(error, path) from error


def checked_array(value: Any, name: str, frame_shape: tuple[int, ...], num_frames: int | None = None) -> np.ndarray:
    """``value`` as a contiguous float32 array (T, *frame_shape) of finite numbers, or a DataError."""
    array = np.asarray(value)
    expected = f"({'T' if num_frames is None else num_frames}, {', '.join(map(str, frame_shape))}) numbers"
    if array.dtype.kind not in "fiu":
        raise DataError(f"{name} holds {array.dtype}", expected=expected)
    if array.shape[1:] != frame_shape or array.ndim != len(frame_shape) + 1:
        raise DataError(f"{name} has shape {array.shape}", expected=expected)
    if len(array) == 0:
        raise DataError(f"{name} has no frame", expected="at least one frame")
    if num_frames is not None and len(array) != num_frames:
        raise DataError(f"{name} has {len(array)} frames", expected=f"{num_frames}, as the poses")
    array = np.ascontiguousarray(array, dtype=np.float32)
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if bad.any():
        where = f"{int(bad.sum())} of {len(array)} frames, first in frame {int(bad.argmax())}"
        raise DataError(f"{name} has NaN or infinite numbers in {where}", expected="finite numbers")
    return array


def checked_fps(value: float) -> float:
    """``value`` as a float above 0, or a DataError."""
    fps = float(value)
    if not (np.isfinite(fps) and fps > 0):
        raise DataError(f"fps is {fps:g}", expected="a finite number above 0")
    return fps


def checked_beats(value: Any) -> np.ndarray:
    """Beat times as an ascending float64 array (N,) of finite seconds, or a DataError."""
    beats = np.asarray(value)
    if beats.ndim != 1 or (beats.size and beats.dtype.kind not in "fiu"):
        raise DataError(f"music_beats_s is {beats.dtype} of shape {beats.shape}", expected="(N,) seconds")
    beats = beats.astype(np.float64)
    if not np.isfinite(beats).all():
        raise DataError("music_beats_s has NaN or infinite numbers", expected="finite seconds")
    return np.sort(beats)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError("no such motion file", where=path, expected="an .npz file")
    expected = "an .npz with poses, trans and fps, or joints and fps"
    if not zipfile.is_zipfile(path):
        raise DataError("not an .npz file", where=path, expected=expected)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except ValueError as error:
        if "pickle" in str(error).lower() or "Object arrays" in str(error):
            raise DataError(
                "holds pickled objects, which could run code", where=path, expected="plain arrays", fix="save it again"
            ) from error
        raise DataError(f"damaged .npz: {error}", where=path, expected=expected) from error
    except Exception as error:
        # A damaged archive raises whatever zipfile, zlib or numpy stumble over; none of it is our mistake.
        raise DataError(f"damaged .npz: {error}", where=path, expected=expected) from error


def _require(arrays: dict[str, np.ndarray], keys: Iterable[str], path: str | Path) -> None:
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise DataError(
            f"lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'nothing'}",
            where=path,
            expected="poses (T, 24, 3), trans (T, 3) and fps, or joints (T, 24, 3) and fps",
        )


def _scalar(array: np.ndarray) -> float:
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise DataError(f"fps is {array.dtype} of shape {array.shape}", expected="one number")
    return float(array.reshape(()))


def _text(array: np.ndarray) -> str:
    if array.size != 1 or array.dtype.kind != "U":
        raise DataError(f"a label is {array.dtype} of shape {array.shape}", expected="one text")
    return str(array.reshape(()))


def _located(error: DataError, path: str | Path) -> DataError:
    return DataError(error.what, where=path, expected=error.expected, fix=error.fix)
