"""From motion to pictures: the frames of a dance, one after the other, and a sheet of key frames.

Shapes: T frames, J = 24 joints, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from macedance.errors import ConfigError, DataError
from macedance.motion.atomic import write_atomically
from macedance.motion.skeleton import NUM_JOINTS
from macedance.rendering.body import Body, Dance, MannequinBody, body_scale, posed_meshes
from macedance.rendering.camera import CameraPath, follow_camera
from macedance.rendering.rasteriser import Backend, Rasteriser, check_backend, make_rasteriser
from macedance.rendering.scene import Stage, outfit_for
from macedance.rendering.shadow import ShadowMapper

if TYPE_CHECKING:
    from macedance.motion.files import Motion

_MIN_SIDE_PX, _MAX_SIDE_PX = 32, 4096


def as_dance(motion: Motion | np.ndarray) -> Dance:
    """A Motion (its true rotations) or joints (T, 24, 3) in metres (the body's bones are aligned to them) to draw.

    Raises:
        DataError: no frames, another shape, or numbers that are not finite.
    """
    if isinstance(motion, np.ndarray):
        joints_TJ3 = _checked(motion)
        return Dance(joints_TJ3, scale=body_scale(joints_TJ3))
    return Dance(_checked(motion.joint_positions()), motion.poses)


def _body_of(dance: Motion | np.ndarray) -> Body:
    return MannequinBody(outfit_for(None if isinstance(dance, np.ndarray) else dance.genre))


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
    camera: CameraPath | None = None,
) -> Generator[np.ndarray, None, None]:
    """The frames (H, W, 3) uint8 of a dance, one for each motion frame. Each is an array of its own.

    Args:
        dance: A Motion, or joints (T, 24, 3), metres, y-up, floor at 0.
        fps: Frames per second; only the camera's smoothing depends on it.
        width: Picture width in pixels, even. ``height`` likewise.
        height: Picture height in pixels.
        backend: ``egl``, ``software``, or ``auto``: the first that works.
        body: What is drawn; by default the mannequin in the outfit of the motion's genre.
        stage: Floor, background and light.
        samples: Samples along each side of a pixel; 1 is quicker and jagged.
        camera: One view for each frame; by default a camera that follows the dancer.

    Raises:
        DataError: nothing to draw, as many views as frames are not given, or joints that are not finite.
        ConfigError: a picture size that cannot be encoded.
        DependencyError: ``egl`` was asked for and there is none (with the first frame).
    """
    check_picture_size(width, height)
    drawn = as_dance(dance)
    path = camera or follow_camera(drawn.joints_TJ3, fps, width, height)
    if len(path) != len(drawn.joints_TJ3):
        raise DataError(f"{len(path)} views for {len(drawn.joints_TJ3)} frames", expected="one view for each frame")
    body, stage = body or _body_of(dance), stage or Stage()
    check_backend(backend)
    return _draw(
        drawn, path, body, stage, lambda: make_rasteriser(backend, body, stage, width, height, samples=samples)
    )


def _draw(
    dance: Dance, path: CameraPath, body: Body, stage: Stage, make: Callable[[], Rasteriser]
) -> Generator[np.ndarray, None, None]:
    # Made with the first frame, so that what is made is also freed when the frames are abandoned.
    rasteriser = make()
    try:
        shadows = ShadowMapper(body.faces_F3, stage)
        for frame, (positions_V3, normals_V3) in enumerate(posed_meshes(body, dance)):
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
    drawn = as_dance(dance)
    count = len(drawn.joints_TJ3)
    chosen = np.linspace(0, count - 1, min(num, count)).round().astype(int)
    path = follow_camera(drawn.joints_TJ3, fps, size, size)
    keys = CameraPath(path.eye_T3[chosen], path.target_T3[chosen], path.tan_half)
    body, stage = body or _body_of(dance), stage or Stage()
    frames = _draw(drawn.take(chosen), keys, body, stage, lambda: make_rasteriser(backend, body, stage, size, size))
    row = np.concatenate(list(frames), axis=1)
    return save_png(row, out_png)


def save_png(image_HWC: np.ndarray, path: Path | str) -> Path:
    """Write an (H, W, 3) uint8 picture as PNG: to a temporary name, then renamed.

    Raises:
        DataError: the folder cannot be written.
    """
    import av

    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt = image_HWC.shape[1], image_HWC.shape[0], "rgb24"
    codec.time_base = Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image_HWC), format="rgb24")
    packets = [*codec.encode(frame), *codec.encode(None)]
    write_atomically(path, b"".join(bytes(packet) for packet in packets))
    return Path(path)
