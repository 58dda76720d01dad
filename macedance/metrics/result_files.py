"""Files in which published systems leave their dances, read as joints or keypoints without running anything.

Shapes: T frames, 24 joints, K keypoints. Joints come out in metres, y-up.

| file | content | from |
|---|---|---|
| .pkl | smpl_poses (T, 72), smpl_trans (T, 3), smpl_scaling | AIST++ (60 fps) |
| .pkl | full_pose (T, 24, 3), z-up | EDGE, MACE-Dance, FlowerDance (30 fps) |
| .pkl | smpl_poses (T, 72), smpl_trans (T, 3) | MEGADance (30 fps) |
| .pkl | pos (T, 3), q (T, 72) | sliced training data of EDGE and MACE-Dance (state the rate) |
| .npy | (T, 315), (T, 319) or (T, 139) | FineDance and LODGE (30 fps) |
| .json | keypoints (T, K, 3), y before x | MACE-Dance's 2-D protocol (state the rate) |
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from macedance.errors import DataError
from macedance.metrics.conventions import Clip
from macedance.metrics.keypoints import KeypointClip
from macedance.motion.files import JointClip
from macedance.motion.representation import to_y_up
from macedance.motion.rotations import matrix_from_rotation_6d
from macedance.motion.skeleton import NUM_JOINTS, PelvisConvention, forward_kinematics, joints_from_poses
from macedance.safe_pickle import load_foreign

AIST_FPS, OTHER_FPS = 60.0, 30.0
BODY_JOINTS = 22
#: FineDance's frames: root, then 52 rotations of SMPL-H; LODGE puts 4 contacts before them, and may keep 22 rotations.
_FLAT_WIDTHS = {315: 0, 319: 4, 139: 4}
SUFFIXES = (".pkl", ".npy", ".json")


def read_result_file(path: str | Path, *, fps: float | None = None) -> Clip:
    """Read one file of the table above.

    Args:
        path: The file.
        fps: Its frame rate where it differs from the system's, or where the file does not tell the system.

    Raises:
        DataError: Missing, damaged or unknown content (what it holds is said), or a frame rate that is not known.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path, float | None], Clip]] = {
        ".pkl": _read_pickle,
        ".npy": _read_flat,
        ".json": _read_keypoints,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError("not a result file", where=path, expected=" ".join(SUFFIXES))
    try:
        return reader(path, fps)
    except DataError as error:
        raise DataError(error.what, where=path, expected=error.expected, fix=error.fix) from error


def _read_pickle(path: Path, fps: float | None) -> JointClip:
    content = load_foreign(path, error=DataError).content
    if not isinstance(content, dict):
        raise DataError(f"holds a {type(content).__name__}", expected="a dictionary of arrays")
    arrays = {key: np.asarray(value) for key, value in content.items() if isinstance(value, np.ndarray | torch.Tensor)}
    scaling = content.get("smpl_scaling")
    if "full_pose" in arrays:
        joints = to_y_up(torch.from_numpy(_array(arrays, "full_pose", (NUM_JOINTS, 3))))
        return JointClip(joints.numpy(), fps or OTHER_FPS, name=path.stem)
    if "smpl_poses" in arrays and "smpl_trans" in arrays:
        trans = _array(arrays, "smpl_trans", (3,))
        if scaling is None:
            return _from_poses(_array(arrays, "smpl_poses", (72,)), trans, fps or OTHER_FPS, path, pelvis="smplx")
        scale = float(np.asarray(scaling, dtype=np.float64).reshape(-1)[0])
        if not (np.isfinite(scale) and scale > 0):
            raise DataError(f"smpl_scaling is {scale:g}", expected="a number above 0")
        return _from_poses(_array(arrays, "smpl_poses", (72,)), trans / scale, fps or AIST_FPS, path, pelvis="smplx")
    if "pos" in arrays and "q" in arrays:
        if fps is None:
            raise _unknown_rate("EDGE's slices have 60, MACE-Dance's 30")
        return _from_poses(_array(arrays, "q", (72,)), _array(arrays, "pos", (3,)), fps, path, pelvis="edge")
    raise DataError(
        f"holds {', '.join(map(str, content)) or 'nothing'}",
        expected="smpl_poses and smpl_trans, full_pose, or pos and q",
    )


def _read_flat(path: Path, fps: float | None) -> JointClip:
    try:
        motion = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"damaged .npy, or pickled objects: {error}", expected="a plain array") from error
    if not isinstance(motion, np.ndarray) or motion.ndim != 2 or motion.shape[1] not in _FLAT_WIDTHS:
        raise DataError(f"holds an array of shape {np.shape(motion)}", expected="(T, 315), (T, 319) or (T, 139)")
    motion = _finite(motion, "motion")[:, _FLAT_WIDTHS[motion.shape[1]] :]
    body = torch.from_numpy(motion[:, 3 : 3 + 6 * BODY_JOINTS]).reshape(-1, BODY_JOINTS, 6)
    # The two hands are leaves of the 24: they follow their wrists whatever their own rotation.
    rotations = torch.eye(3, dtype=torch.float64).repeat(len(motion), NUM_JOINTS, 1, 1)
    rotations[:, :BODY_JOINTS] = matrix_from_rotation_6d(body)
    joints = forward_kinematics(rotations, torch.from_numpy(motion[:, :3].copy()), pelvis="smplx")
    return JointClip(joints.numpy(), fps or OTHER_FPS, name=path.stem)


def _read_keypoints(path: Path, fps: float | None) -> KeypointClip:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"damaged JSON: {error}") from error
    if not isinstance(content, dict) or "keypoints" not in content:
        raise DataError("lacks keypoints", expected='{"keypoints": [[[y, x, confidence], ...], ...]}')
    if fps is None:
        raise _unknown_rate("MACE-Dance's videos have 16")
    try:
        keypoints = np.asarray(content["keypoints"], dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise DataError("keypoints are no array of numbers", expected="(T, K, 3)") from error
    return KeypointClip(keypoints, fps, name=path.stem, axes="yx")


def _from_poses(poses: np.ndarray, trans: np.ndarray, fps: float, path: Path, *, pelvis: PelvisConvention) -> JointClip:
    if len(poses) != len(trans):
        raise DataError(f"{len(poses)} poses and {len(trans)} positions", expected="as many")
    joints = joints_from_poses(
        torch.from_numpy(poses).reshape(-1, NUM_JOINTS, 3), torch.from_numpy(trans), pelvis=pelvis
    )
    return JointClip(joints.numpy(), fps, name=path.stem)


def _array(arrays: dict[Any, np.ndarray], key: str, frame_shape: tuple[int, ...]) -> np.ndarray:
    array = arrays[key]
    if array.shape[1:] != frame_shape and key in ("smpl_poses", "q") and array.shape[1:] == (NUM_JOINTS, 3):
        array = array.reshape(len(array), -1)
    if array.shape[1:] != frame_shape or array.ndim != len(frame_shape) + 1 or array.dtype.kind not in "fiu":
        raise DataError(
            f"{key} is {array.dtype} of shape {array.shape}", expected=f"(T, {', '.join(map(str, frame_shape))})"
        )
    return _finite(array, key)


def _finite(array: np.ndarray, name: str) -> np.ndarray:
    array = np.array(array, dtype=np.float64)
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if bad.any():
        raise DataError(
            f"{name} has NaN or infinite numbers in {int(bad.sum())} of {len(array)} frames, first in frame "
            f"{int(bad.argmax())}",
            expected="finite numbers",
        )
    return array


def _unknown_rate(known: str) -> DataError:
    return DataError("the file does not say its frame rate", expected=f"fps ({known})", fix="state the frame rate")
