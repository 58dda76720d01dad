"""The 3-D to 2-D motion projector: a dance as the pose video that drives an image animation network.

Source: MACE-Dance (the kinematic stage's condition), drawn as Wan-Animate was trained (pose_drawing.py). The released
tool writes 30-fps motion frame by frame at 16 fps, which slows it down 1.9 times; here a second stays a second.

Shapes: T frames of the driving video, J = 24 joints, K = 20 points of BODY_20, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np

from macedance.errors import ConfigError, DataError
from macedance.motion.files import JointClip, Motion, checked_fps
from macedance.rendering.body import Dance
from macedance.rendering.body_points import HIDDEN_BELOW, BodyPoints, body_points
from macedance.rendering.camera import CameraPath, View, fixed_camera, follow_camera
from macedance.rendering.frames import as_dance, check_picture_size
from macedance.rendering.pose_drawing import BODY_20, PoseKeypoints, draw_pose
from macedance.rendering.pose_parts import TOES
from macedance.rendering.proportions import proportions_of, torso_length_px
from macedance.vision.video import Video

#: Nearer to the eye than this, or behind it, a point has no place in the picture.
_NEAR_M = 0.1
_NECK, _HIPS = BODY_20.index("neck"), (BODY_20.index("lhip"), BODY_20.index("rhip"))

CameraKind = Literal["fixed", "follow"]


@runtime_checkable
class DrivingRenderer(Protocol):
    """What draws a motion as the video that drives an image animation network.

    Attributes:
        fps: Frames per second of the driving video.
        width, height: Pixels.
    """

    fps: float
    width: int
    height: int

    def render(self, motion: Motion | JointClip) -> Video:
        """The driving video: as many seconds as the motion has."""


@dataclass(frozen=True)
class Placement:
    """Where a projected dancer is put in the picture: pixels times ``scale``, plus ``shift``.

    Attributes:
        scale: Above 0.
        shift: (2,), pixels.
    """

    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) in their place."""
        return pixels * self.scale + np.array(self.shift)


class PoseProjector:
    """Projects a dance and draws its pose video. A DrivingRenderer.

    Args:
        width: Of the picture, pixels, even; ``height`` likewise.
        height: Of the picture.
        fps: Of the driving video, the network's; the motion is resampled to it.
        camera: ``fixed`` stands still and shows the whole dance; ``follow`` stays with the dancer.
        reference_K3: Points (20, 3) of the person in the reference image, in pixels of a picture of this size: the
            dancer takes that person's proportions and starts at that person's place and size. None: a dancer of our
            own proportions in the middle.
        hands: Draw them (half-open: our motions have no fingers).
        feet: Draw the toes.

    Raises:
        ConfigError: A size that cannot be encoded, or an unknown camera.
        DataError: fps not above 0, or a reference of another shape.
    """

    def __init__(
        self,
        width: int,
        height: int,
        fps: float,
        *,
        camera: CameraKind = "fixed",
        reference_K3: np.ndarray | None = None,
        hands: bool = True,
        feet: bool = True,
    ) -> None:
        check_picture_size(width, height)
        if camera not in get_args(CameraKind):
            raise ConfigError(f"unknown camera {camera!r}", expected=" or ".join(get_args(CameraKind)))
        if reference_K3 is not None and np.shape(reference_K3) != (len(BODY_20), 3):
            raise DataError(f"the reference pose has shape {np.shape(reference_K3)}", expected=f"({len(BODY_20)}, 3)")
        self.width, self.height, self.fps = width, height, checked_fps(fps)
        self.camera: CameraKind = camera
        self.hands, self.feet = hands, feet
        self._reference_K3 = None if reference_K3 is None else np.asarray(reference_K3, dtype=np.float64)

    def keypoints(self, motion: Motion | JointClip) -> PoseKeypoints:
        """The points of the pose video, pixels and confidence; see ``pose_points``.

        Raises:
            DataError: Joints that are not finite, or no frame.
        """
        dance, path, placement = self.placed(motion)
        return pose_points(body_points(dance), path, self.width, self.height, placement, self.hands, self.feet)

    def placed(self, motion: Motion | JointClip) -> tuple[Dance, CameraPath, Placement]:
        """The dancer of the reference's proportions at the driving video's rate, the camera, and where it is put.

        Raises:
            DataError: As ``keypoints``.
        """
        dance = as_dance_at(motion, self.fps)
        if self._reference_K3 is not None:
            dance = proportions_of(self._reference_K3, dance).applied(dance)
        path = self.path(dance.joints_TJ3)
        return dance, path, self._placement(dance, path)

    def render(self, motion: Motion | JointClip) -> Video:
        """The pose video, drawn as it is looked at.

        Raises:
            DataError: As ``keypoints``.
        """
        points = self.keypoints(motion)

        def draw() -> Iterator[np.ndarray]:
            for frame in range(len(points)):
                body, left, right = points.frame(frame)
                yield draw_pose(body, self.height, self.width, left_hand_K3=left, right_hand_K3=right)

        return Video("", self.fps, self.width, self.height, len(points), drawn=draw)

    def path(self, joints_TJ3: np.ndarray) -> CameraPath:
        """The camera for joints (T, 24, 3), metres."""
        if self.camera == "fixed":
            return fixed_camera(joints_TJ3, self.width, self.height)
        return follow_camera(joints_TJ3, self.fps, self.width, self.height)

    def _placement(self, dance: Dance, path: CameraPath) -> Placement:
        """Puts the first frame's dancer where the reference person stands, as large as they are."""
        reference = self._reference_K3
        if reference is None or (torso_px := torso_length_px(reference)) is None:
            return Placement()
        points = body_points(dance.take(np.array([0]))).body[0]
        view = path.view(0)
        hips = points[list(_HIPS)].mean(axis=0)
        pixels, depth = view.project(hips, self.width, self.height)
        # The torso at its full length: a dancer who starts bent over is not a larger person.
        ours_px = float(np.linalg.norm(points[_NECK] - hips)) * 0.5 * self.height / (view.tan_half * float(depth))
        scale = torso_px / ours_px
        shift = reference[list(_HIPS), :2].mean(axis=0) - scale * pixels
        return Placement(scale, (float(shift[0]), float(shift[1])))


def pose_points(
    points: BodyPoints,
    path: CameraPath,
    width: int,
    height: int,
    placement: Placement | None = None,
    hands: bool = True,
    feet: bool = True,
) -> PoseKeypoints:
    """Points in space as a camera sees them, pixels and confidence 1 or 0.

    0 marks what is behind the camera, and points of the face that look away from it: a dancer from behind has no face.
    Points outside the picture keep their place, so that limbs are cut at its edge. Without ``feet`` so do toes, at
    confidence 0.
    """
    place = placement or Placement()
    count = len(points.body)
    body = np.zeros((count, len(BODY_20), 3), dtype=np.float32)
    left, right = (np.zeros((*hand.shape[:2], 3), dtype=np.float32) for hand in (points.left_hand, points.right_hand))
    for frame in range(count):
        view = path.view(frame)
        body[frame] = _seen(points.body[frame], view, width, height, place)
        body[frame, :, 2] *= _faces_camera(points.body[frame], points.normals[frame], view)
        left[frame] = _seen(points.left_hand[frame], view, width, height, place)
        right[frame] = _seen(points.right_hand[frame], view, width, height, place)
    if not feet:
        body[:, TOES, 2] = 0.0
    return PoseKeypoints(body, left if hands else None, right if hands else None)


def _seen(points_K3: np.ndarray, view: View, width: int, height: int, place: Placement) -> np.ndarray:
    pixels, depth = view.project(points_K3, width, height)
    in_front = depth > _NEAR_M
    return np.concatenate([np.where(in_front[:, None], place(pixels), 0.0), in_front[:, None]], axis=1)


def _faces_camera(points_K3: np.ndarray, normals_K3: np.ndarray, view: View) -> np.ndarray:
    """Whether (K,) a point's skin can be seen from the camera; points without a normal can."""
    to_eye = view.eye - points_K3
    to_eye /= np.maximum(np.linalg.norm(to_eye, axis=1, keepdims=True), 1e-9)
    return ((to_eye * normals_K3).sum(axis=1) > HIDDEN_BELOW) | ~normals_K3.any(axis=1)


def as_dance_at(motion: Motion | JointClip, fps: float) -> Dance:
    """The dance at a frame rate, as long as it was: round(seconds x fps) frames, the last pose held where needed.

    Raises:
        DataError: Joints that are not finite, or no frame.
    """
    frames = motion.num_frames if isinstance(motion, Motion) else len(motion.joints)
    count = max(1, round(frames / motion.fps * fps))
    if isinstance(motion, Motion):
        dance = as_dance(motion if motion.fps == fps else motion.resampled(fps))
    else:
        dance = as_dance(_joints_at(motion, count, fps))
    held = np.minimum(np.arange(count), len(dance.joints_TJ3) - 1)
    return replace(dance.take(held), scale=dance.scale)


def _joints_at(clip: JointClip, count: int, fps: float) -> np.ndarray:
    """Joints (count, 24, 3), linear between the clip's frames; frame i stands at i / fps seconds."""
    last = len(clip.joints) - 1
    position = np.minimum(np.arange(count) * (clip.fps / fps), last)
    before = np.floor(position).astype(int)
    after = np.minimum(before + 1, last)
    share = (position - before)[:, None, None]
    return ((1 - share) * clip.joints[before] + share * clip.joints[after]).astype(np.float32)
