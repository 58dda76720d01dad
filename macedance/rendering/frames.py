"""From motion to pictures: the frames of a dance, one after the other, and a sheet of key frames.

Shapes: T frames, J = 24 joints, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from macedance.errors import ConfigError, DataError
from macedance.motion.skeleton import NUM_JOINTS
from macedance.rendering.body import Body, MannequinBody, PosedFrames, posed_chunks, transforms_from_joints
from macedance.rendering.camera import CameraPath, follow_camera
from macedance.rendering.files import replacing
from macedance.rendering.rasteriser import Backend, Rasteriser, make_rasteriser
from macedance.rendering.scene import Stage
from macedance.rendering.shadow import ShadowMapper

if TYPE_CHECKING:
    from macedance.motion.files import Motion

_MIN_SIDE_PX, _MAX_SIDE_PX = 32, 4096


def posed_frames(dance: Motion | np.ndarray) -> PosedFrames:
    """Joints and body transforms of a Motion (its true rotations) or of joints (T, 24, 3) in metres (bones aligned).

    Raises:
        DataError: no frames, another shape, or numbers that are not finite.
    """
    if isinstance(dance, np.ndarray):
        joints_TJ3 = _checked(dance)
        return PosedFrames(joints_TJ3, transforms_from_joints(joints_TJ3))
    import torch

    from macedance.motion.rotations import matrix_from_axis_angle
    from macedance.motion.skeleton import global_rotations

    joints_TJ3 = _checked(dance.joint_positions())
    rotations = global_rotations(matrix_from_axis_angle(torch.from_numpy(np.asarray(dance.poses, dtype=np.float32))))
    return PosedFrames(joints_TJ3, rotations.numpy())


def _checked(joints: np.ndarray) -> np.ndarray:
    joints = np.asarray(joints, dtype=np.float32)
    if joints.ndim != 3 or joints.shape[1:] != (NUM_JOINTS, 3):
        raise DataError(f"joints of shape {joints.shape} cannot be drawn", expected=f"(frames, {NUM_JOINTS}, 3)")
    if len(joints) == 0:
        raise DataError("a dance without frames cannot be drawn", expected="at least one frame")
    bad = ~np.isfinite(joints).all(axis=(1, 2))
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} frames hold joints that are not finite",
            where=f"frame {int(np.flatnonzero(bad)[0])}",
            expected="finite positions in metres",
        )
    return joints


def check_picture_size(width: int, height: int) -> None:
    """Raise ConfigError unless both sides are even numbers (yuv420p halves them) of a sensible size."""
    for name, value in (("width", width), ("height", height)):
        if value % 2 or not _MIN_SIDE_PX <= value <= _MAX_SIDE_PX:
            raise ConfigError(
                f"a picture {name} of {value} pixels cannot be encoded",
                expected=f"an even number from {_MIN_SIDE_PX} to {_MAX_SIDE_PX}",
            )


def dance_frames(
    dance: Motion | np.ndarray,
    fps: float,
    *,
    width: int = 640,
    height: int = 640,
    backend: Backend = "auto",
    body: Body | None = None,
    stage: Stage | None = None,
    samples: int = 2,
) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 of a dance, one for each motion frame. A frame is overwritten by nobody: keep it.

    Args:
        dance: A Motion, or joints (T, 24, 3), metres, y-up, floor at 0.
        fps: Frames per second; only the camera's smoothing depends on it.
        width: Picture width in pixels, even. ``height`` likewise.
        height: Picture height in pixels.
        backend: ``egl``, ``software``, or ``auto``: the first that works.
        body: What is drawn; the mannequin by default.
        stage: Floor, background and light.
        samples: Samples along each side of a pixel; 1 is quicker and jagged.

    Raises:
        DataError: nothing to draw, or joints that are not finite.
        ConfigError: a picture size that cannot be encoded.
        DependencyError: ``egl`` was asked for and there is none.
    """
    check_picture_size(width, height)
    frames = posed_frames(dance)
    path = follow_camera(frames.joints_TJ3, fps, width, height)
    body, stage = body or MannequinBody(), stage or Stage()
    rasteriser = make_rasteriser(backend, body, stage, width, height, samples=samples)
    return _draw(frames, path, body, stage, rasteriser)


def _draw(
    frames: PosedFrames, path: CameraPath, body: Body, stage: Stage, rasteriser: Rasteriser
) -> Iterator[np.ndarray]:
    shadows = ShadowMapper(body.faces_F3, stage)
    try:
        for frame, (positions_V3, normals_V3) in enumerate(posed_chunks(body, frames)):
            view = path.view(frame)
            yield rasteriser.draw(shadows.scene(positions_V3, normals_V3, view), view)
    finally:
        rasteriser.close()


def contact_sheet(
    dance: Motion | np.ndarray,
    out_png: Path | str,
    *,
    num: int = 8,
    size: int = 320,
    fps: float = 30.0,
    backend: Backend = "auto",
    body: Body | None = None,
    stage: Stage | None = None,
) -> Path:
    """Write a row of ``num`` key frames, evenly spread over the dance, as one PNG. Returns its path.

    Raises:
        DataError: as dance_frames, or a folder that cannot be written.
        ConfigError: ``num`` below 1 or a size that is odd or too small.
    """
    if num < 1:
        raise ConfigError(f"a contact sheet of {num} frames cannot be drawn", expected="at least 1")
    check_picture_size(size, size)
    frames = posed_frames(dance)
    count = len(frames.joints_TJ3)
    chosen = np.linspace(0, count - 1, min(num, count)).round().astype(int)
    path = follow_camera(frames.joints_TJ3, fps, size, size)
    keys = CameraPath(path.eye_T3[chosen], path.target_T3[chosen], path.tan_half)
    posed = PosedFrames(frames.joints_TJ3[chosen], frames.transforms_TJ33[chosen])
    body, stage = body or MannequinBody(), stage or Stage()
    rasteriser = make_rasteriser(backend, body, stage, size, size)
    row = np.concatenate(list(_draw(posed, keys, body, stage, rasteriser)), axis=1)
    return save_png(row, out_png)


def save_png(image_HWC: np.ndarray, path: Path | str) -> Path:
    """Write an (H, W, 3) uint8 picture as PNG: to a temporary name, then renamed.

    Raises:
        DataError: the folder cannot be written.
    """
    import io

    import av

    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt = image_HWC.shape[1], image_HWC.shape[0], "rgb24"
    from fractions import Fraction

    codec.time_base = Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image_HWC), format="rgb24")
    data = io.BytesIO()
    for packet in [*codec.encode(frame), *codec.encode(None)]:
        data.write(bytes(packet))
    with replacing(path) as temporary:
        temporary.write_bytes(data.getvalue())
    return Path(path)
