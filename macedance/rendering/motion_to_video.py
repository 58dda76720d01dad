"""From a dance to the video of a person: what the cascade's second half does, whoever does it.

``MotionRenderer`` is what an appearance model implements; ``MeshDancer`` implements it without any network.

Shapes: T frames of the video, H rows, W columns, J = 24 joints, K = 17 keypoints of COCO.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from macedance.errors import ConfigError
from macedance.motion.files import JointClip, Motion, checked_fps
from macedance.rendering.body import Dance, MannequinBody
from macedance.rendering.body_points import HIDDEN_BELOW, body_points
from macedance.rendering.camera import CameraPath, View, fixed_camera, follow_camera
from macedance.rendering.frames import as_dance, check_picture_size, dance_frames
from macedance.rendering.rasteriser import Backend, check_backend
from macedance.rendering.reference_outfit import check_reference_image, nearest_outfit
from macedance.rendering.scene import Stage, outfit_for
from macedance.vision.video import Video

#: A dance that can be shown: with rotations, or of joint positions alone.
Danced = Motion | JointClip
Camera = Literal["fixed", "follow"]


@runtime_checkable
class MotionRenderer(Protocol):
    """Turns a motion and a picture of a person into a video of that person dancing.

    Attributes:
        fps: Frames per second of the videos; a motion of another rate is resampled.
        weights: Model -> sha256 of its weights; empty where no network draws.
        settings: What else its videos depend on, as JSON would hold it.
    """

    fps: float
    weights: dict[str, str]
    settings: dict[str, Any]

    def reference_image(self, motion: Danced) -> np.ndarray:
        """A picture (H, W, 3) uint8 of the person who dances a motion, used where the user gives none."""

    def render(self, motion: Danced, reference_image: np.ndarray, *, seed: int = 0) -> Video:
        """The dance of the person in the reference image; the same for the same seed."""

    def driving_keypoints(self, motion: Danced) -> np.ndarray:
        """Where the video must show the joints: COCO's (T, 17, 3), x and y in its pixels and a confidence in [0, 1].

        Confidence 0 marks a point that cannot be seen: outside the picture, or a part of a face that is turned away.
        """


@runtime_checkable
class KeypointRenderer(Protocol):
    """A renderer that can also be driven by the keypoints of a video, which have no depth."""

    def render_keypoints(
        self,
        keypoints_TK3: np.ndarray,
        fps: float,
        reference_image: np.ndarray,
        *,
        keypoint_size: tuple[int, int],
        seed: int = 0,
    ) -> Video:
        """As ``MotionRenderer.render``, driven by COCO's keypoints (T, 17, 3): pixels and confidence at ``fps``.

        ``keypoint_size`` is (width, height) of the picture that the pixels are of, whatever the reference image's is.
        """


def renderer_facts(renderer: MotionRenderer) -> dict[str, Any]:
    """What a reader wants to know of a renderer beside ``weights`` and ``settings``: what it is, and read from where.

    A renderer says the latter in ``sources`` (model -> path), if it has any. Paths do not change what was measured, so
    this is kept apart from what is hashed.
    """
    return {"class": type(renderer).__name__, "sources": dict(getattr(renderer, "sources", {}))}


class MeshDancer:
    """A mannequin in the outfit that is nearest to the reference image's colours. Needs no weights and no GPU.

    Args:
        width: Picture width in pixels, even. ``height`` likewise.
        height: Picture height in pixels.
        fps: Frames per second of the videos.
        camera: ``fixed`` stands still and shows the whole dance; ``follow`` stays with the dancer. Temporal metrics and
            optical flow are cleaner under a fixed one.
        backend: ``egl``, ``software``, or ``auto``: the first that works.
        samples: Samples along each side of a pixel; 1 is quicker and jagged.
        stage: Floor, background and light.

    Its videos do not depend on ``seed``. It draws 3-D bodies and cannot be driven by keypoints, which have no depth.

    Raises:
        ConfigError: A picture that cannot be encoded, an unknown camera or backend.
        DataError: fps that is not above 0.
    """

    def __init__(
        self,
        width: int = 320,
        height: int = 320,
        *,
        fps: float = 30.0,
        camera: Camera = "fixed",
        backend: Backend = "auto",
        samples: int = 2,
        stage: Stage | None = None,
    ) -> None:
        check_picture_size(width, height)
        check_backend(backend)
        if camera not in get_args(Camera):
            raise ConfigError(f"unknown camera {camera!r}", expected=" or ".join(get_args(Camera)))
        if samples < 1:
            raise ConfigError(f"{samples} samples along a pixel", expected="1 or more")
        self.width, self.height, self.fps = width, height, checked_fps(fps)
        self.camera: Camera = camera
        self.weights: dict[str, str] = {}
        self.settings: dict[str, Any] = {"size": [width, height], "camera": camera, "samples": samples}
        self._backend, self._samples, self._stage = backend, samples, stage or Stage()

    def reference_image(self, motion: Danced) -> np.ndarray:
        """The first frame of the dance, in the outfit of its genre.

        Raises:
            DataError: As ``render``.
        """
        first = JointClip(joints_of(motion)[:1], self.fps, motion.genre) if isinstance(motion, JointClip) else motion
        first = first.slice(0, 1) if isinstance(first, Motion) else first
        with closing(self._frames(first, MannequinBody(outfit_for(motion.genre)))) as frames:
            return next(frames)

    def render(self, motion: Danced, reference_image: np.ndarray, *, seed: int = 0) -> Video:
        """The dance, drawn frame by frame whenever it is looked at. ``seed`` changes nothing.

        Raises:
            DataError: A reference image that is no picture, or joints that cannot be drawn.
        """
        body = MannequinBody(nearest_outfit(check_reference_image(reference_image)))
        motion = at_rate(motion, self.fps)
        self._dance(motion)  # refuses what cannot be drawn now, not with the first frame
        count = motion.num_frames if isinstance(motion, Motion) else len(motion.joints)
        return Video("", self.fps, self.width, self.height, count, drawn=lambda: self._frames(motion, body))

    def driving_keypoints(self, motion: Danced) -> np.ndarray:
        """The mannequin's joints and face as the camera sees them, (T, 17, 3) float32; see MotionRenderer.

        Body points count as seen even where the body itself hides them, as in COCO's labels; face points do not.

        Raises:
            DataError: As ``render``.
        """
        dance = self._dance(at_rate(motion, self.fps))
        path = self._path(dance.joints_TJ3)
        points_TK3, normals_TF3 = body_points(dance).coco()
        keypoints = np.empty((len(points_TK3), points_TK3.shape[1], 3), dtype=np.float32)
        for frame in range(len(points_TK3)):
            keypoints[frame] = self._seen(points_TK3[frame], normals_TF3[frame], path.view(frame))
        return keypoints

    def _seen(self, points_K3: np.ndarray, normals_F3: np.ndarray, view: View) -> np.ndarray:
        """Pixels and confidence (17, 3) of one frame's points."""
        pixels_K2, depth_K = view.project(points_K3, self.width, self.height)
        inside = (pixels_K2 >= 0).all(axis=1) & (pixels_K2 < (self.width, self.height)).all(axis=1) & (depth_K > 0)
        faces = len(normals_F3)
        to_eye = view.eye - points_K3[:faces]
        to_eye /= np.linalg.norm(to_eye, axis=1, keepdims=True)
        inside[:faces] &= (to_eye * normals_F3).sum(axis=1) > HIDDEN_BELOW
        return np.concatenate([pixels_K2, inside[:, None]], axis=1)

    def _dance(self, motion: Danced) -> Dance:
        return as_dance(motion if isinstance(motion, Motion) else motion.joints)

    def _path(self, joints_TJ3: np.ndarray) -> CameraPath:
        if self.camera == "fixed":
            return fixed_camera(joints_TJ3, self.width, self.height)
        return follow_camera(joints_TJ3, self.fps, self.width, self.height)

    def _frames(self, motion: Danced, body: MannequinBody) -> Generator[np.ndarray, None, None]:
        drawn = motion if isinstance(motion, Motion) else motion.joints
        return dance_frames(
            drawn,
            self.fps,
            width=self.width,
            height=self.height,
            backend=self._backend,
            body=body,
            stage=self._stage,
            samples=self._samples,
            camera=self._path(self._dance(motion).joints_TJ3),
        )


def at_rate(motion: Danced, fps: float) -> Danced:
    """The dance at a frame rate: a Motion by slerp, joints linearly; frame i stands at i / fps seconds."""
    if motion.fps == fps:
        return motion
    if isinstance(motion, Motion):
        return motion.resampled(fps)
    last = len(motion.joints) - 1
    count = int(np.floor(last * fps / motion.fps + 1e-6)) + 1
    position = np.minimum(np.arange(count) * (motion.fps / fps), last)
    before = np.minimum(position.astype(np.int64), max(last - 1, 0))
    weight = (position - before)[:, None, None]
    joints = (1 - weight) * motion.joints[before] + weight * motion.joints[np.minimum(before + 1, last)]
    return JointClip(joints, fps, motion.genre, motion.music_beats_s, motion.name, motion.song)


def joints_of(motion: Danced) -> np.ndarray:
    """Joint positions (T, 24, 3), metres: the rotations' own, as they are drawn, or those that are given."""
    return motion.joint_positions() if isinstance(motion, Motion) else motion.joints
