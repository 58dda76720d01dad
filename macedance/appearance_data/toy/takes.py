"""One take of the toy corpus: a person dances through a room before a camera, and what is seen of it.

Shapes: T frames, J = 24 joints, V vertices, H rows, W columns. World: metres, y-up; the room's wall lies behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from macedance.appearance_data.toy.dances import of_build
from macedance.appearance_data.toy.people import DressedBody, Person, proportions
from macedance.appearance_data.toy.rooms import Room
from macedance.motion.files import Motion
from macedance.rendering.body import Dance, transforms_from_joints
from macedance.rendering.body_points import body_points
from macedance.rendering.camera import CameraPath, View
from macedance.rendering.projector import pose_points
from macedance.rendering.scene import Stage, light_direction
from macedance.rendering.software import stage_parameters

#: A view is nearly flat, as through a long lens.
_FIELD_OF_VIEW_DEG = 28.0
_SAMPLES = 3
#: A body's width: shoulder to shoulder with the flesh of the arms.
BODY_WIDTH_M = 0.45
_NO_SHADOW = (np.full((2, 2, 3), -1.0, dtype=np.float32), 1e6, 1e6, 1.0)


@dataclass(frozen=True)
class Staging:
    """Where the dancer goes, and the camera, over a take; each path is three places: first frame, end of the clip, end.

    Attributes:
        walk_m: Sideways places of the dancer; ``depth_m`` towards the camera.
        depth_m: See there.
        turn: The way that the dance faces, radians about +y.
        truck_m: Sideways places of the camera.
        distance_m: Of the camera from the middle of the stage, at the same three moments.
        heading: Of the camera about +y, radians.
        pitch: How steeply it looks down, radians.
        light: Direction of the light, radians about +y from the camera's right.
        brightness: Of the light, about 1.
    """

    walk_m: tuple[float, float, float]
    depth_m: tuple[float, float, float]
    turn: float
    truck_m: tuple[float, float, float]
    distance_m: tuple[float, float, float]
    heading: float
    pitch: float
    light: float
    brightness: float


@dataclass(frozen=True)
class Take:
    """What was filmed.

    Attributes:
        video_THW3: uint8.
        keypoints_TK3: (T, 62, 3) pixels and confidence, float32: body, left and right hand.
        mask_THW: bool, True where more than half of a pixel is the person.
        travel: Widths of the body that the pelvis covers in the picture during the clip.
    """

    video_THW3: np.ndarray
    keypoints_TK3: np.ndarray
    mask_THW: np.ndarray
    travel: float


def draw_staging(rng: np.random.Generator, *, travels: bool, shifted: bool = False) -> Staging:
    """A staging drawn by lot.

    Args:
        rng: Where from.
        travels: Body or camera moves sideways by well over a body's width during the clip.
        shifted: Another way of filming: from higher up and further to the side.
    """
    way = float(rng.choice([-1.0, 1.0]))
    far = float(rng.uniform(0.33, 0.5)) if travels else float(rng.uniform(0.0, 0.45))
    middle = float(rng.uniform(-0.1, 0.1))
    walk = np.array([-way * far, way * far, float(rng.uniform(-0.4, 0.4))]) + middle
    truck = np.zeros(3)
    if rng.random() < 0.3:  # the camera takes over a part of the way
        share = float(rng.uniform(0.3, 1.0))
        truck, walk = -share * walk, (1 - share) * walk
    distance = float(rng.uniform(3.9, 4.7))
    zoom = float(rng.choice([0.0, 0.0, rng.uniform(-0.35, 0.35)]))
    low, high = (14.0, 26.0) if shifted else (2.0, 10.0)
    side = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(18, 38)) if shifted else float(rng.uniform(-15, 15))
    return Staging(
        walk_m=_three(walk),
        depth_m=_three(rng.uniform(-0.25, 0.25, 3)),
        turn=float(rng.normal(0.0, 0.45)),
        truck_m=_three(truck),
        distance_m=(distance, distance + zoom, distance),
        heading=math.radians(side),
        pitch=math.radians(float(rng.uniform(low, high))),
        light=float(rng.uniform(-0.9, 0.9)),
        brightness=float(rng.uniform(0.75, 0.95) if shifted else rng.uniform(0.9, 1.15)),
    )


def _three(values: np.ndarray) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


def film(
    person: Person,
    body: DressedBody,
    motion: Motion,
    room: Room,
    staging: Staging,
    *,
    width: int,
    height: int,
    clip_frames: int,
) -> Take:
    """Film a dance.

    Args:
        person: Who dances it.
        body: The person's.
        motion: As many frames as the take has.
        room: Where.
        staging: The dancer's and the camera's ways.
        width: Pixels; ``height`` likewise.
        height: Pixels.
        clip_frames: Frames of the clip; those after it show the same at other times.
    """
    frames = motion.num_frames
    joints = of_build(_turned(motion.joint_positions(), staging.turn), proportions(person))
    joints[..., 0] += _path(staging.walk_m, frames, clip_frames)[:, None]
    joints[..., 2] += _path(staging.depth_m, frames, clip_frames)[:, None]
    camera = _camera(staging, frames, clip_frames, person.height)
    dance = Dance(joints, None, person.height)
    points = pose_points(body_points(dance), camera, width, height)
    hands = [hand for hand in (points.left_hand, points.right_hand) if hand is not None]
    keypoints = np.concatenate([points.body, *hands], axis=1)
    positions, normals = body.pose(joints, transforms_from_joints(joints, person.height))
    video = np.empty((frames, height, width, 3), dtype=np.uint8)
    mask = np.empty((frames, height, width), dtype=bool)
    stage = _stage(staging)
    for frame in range(frames):
        view = camera.view(frame)
        if frame == 0 or (camera.eye_T3[frame] != camera.eye_T3[frame - 1]).any():
            behind, ground = room.picture(view, width, height)
        lit = behind * _shade_on_floor(ground, joints[frame], room.shadow)[..., None] * staging.brightness
        video[frame] = np.clip(lit * 255.0 + 0.5, 0, 255).astype(np.uint8)
        mask[frame] = _draw_person(body, positions[frame], normals[frame], view, stage, video[frame])
    return Take(video, keypoints.astype(np.float32), mask, _travel(joints[:clip_frames], camera, width, height))


def _turned(joints_TJ3: np.ndarray, angle: float) -> np.ndarray:
    sin, cos = math.sin(angle), math.cos(angle)
    return np.asarray(joints_TJ3 @ np.array([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]]))


def _path(places: tuple[float, float, float], frames: int, clip_frames: int) -> np.ndarray:
    """Places (T,) on the way: eased from the first to the second during the clip, then on to the third."""
    time = np.arange(frames) / max(clip_frames - 1, 1)
    rest = max((frames - clip_frames) / max(clip_frames - 1, 1), 1e-6)
    first, second = np.clip(time, 0, 1), np.clip((time - 1) / rest, 0, 1)
    eased = [0.6 * share + 0.4 * share * share * (3 - 2 * share) for share in (first, second)]
    return np.asarray(places[0] + eased[0] * (places[1] - places[0]) + eased[1] * (places[2] - places[1]))


def _camera(staging: Staging, frames: int, clip_frames: int, size: float) -> CameraPath:
    truck, distance = (_path(places, frames, clip_frames) for places in (staging.truck_m, staging.distance_m))
    heading, pitch = staging.heading, staging.pitch
    away = np.array([math.sin(heading) * math.cos(pitch), math.sin(pitch), math.cos(heading) * math.cos(pitch)])
    across = np.array([math.cos(heading), 0.0, -math.sin(heading)])
    target = np.array([0.0, 0.86 * size, 0.0]) + truck[:, None] * across
    return _Path(target + distance[:, None] * away, target, math.tan(math.radians(_FIELD_OF_VIEW_DEG / 2)))


def _travel(joints_TJ3: np.ndarray, camera: CameraPath, width: int, height: int) -> float:
    """How far the pelvis gets from its first place in the picture, in widths of the body there."""
    places, widths = [], []
    for frame, joints_J3 in enumerate(joints_TJ3):
        view = camera.view(frame)
        pixels, depth = view.project(joints_J3[:1], width, height)
        places.append(pixels[0])
        widths.append(BODY_WIDTH_M * 0.5 * height / (view.tan_half * float(depth[0])))
    moved = np.linalg.norm(np.array(places) - places[0], axis=1).max()
    return float(moved / np.mean(widths))


def _stage(staging: Staging) -> Stage:
    bright = staging.brightness
    return replace(Stage(), to_light=_light(staging.light), key=0.62 * bright, sky=0.5, ground=0.32, fill=0.3, rim=0.15)


def _draw_person(
    body: DressedBody,
    positions_V3: np.ndarray,
    normals_V3: np.ndarray,
    view: View,
    stage: Stage,
    image_HW3: np.ndarray,
) -> np.ndarray:
    """Draw a posed body over a picture, and say which pixels (H, W) it covers by more than half."""
    from macedance.rendering import kernels

    height, width = image_HW3.shape[:2]
    pixels, depth = view.project(positions_V3, width, height)
    screen = np.empty_like(positions_V3)
    screen[:, :2] = pixels * _SAMPLES
    screen[:, 2] = np.where(depth > 0.05, 1.0 / np.maximum(depth, 0.05), -1.0)
    depths = np.zeros((height * _SAMPLES, width * _SAMPLES), dtype=np.float32)
    faces = np.full(depths.shape, -1, dtype=np.int32)
    kernels.rasterise(screen, body.faces_F3, 0, 0, depths, faces)
    kernels.shade(
        stage_parameters(stage), positions_V3, normals_V3, body.colours_V3**2, screen, body.faces_F3, faces, 0, 0,
        _SAMPLES, view.eye, light_direction(stage, view.right, view.forward), *_NO_SHADOW, image_HW3,
    )  # fmt: skip
    covered = (faces >= 0).reshape(height, _SAMPLES, width, _SAMPLES).sum(axis=(1, 3), dtype=np.int32)
    return np.asarray(2 * covered > _SAMPLES * _SAMPLES)


def _light(angle: float) -> tuple[float, float, float]:
    direction = np.array([math.sin(angle), 1.1, math.cos(angle)])
    return _three(direction / np.linalg.norm(direction))


class _Path(CameraPath):
    """A camera path whose views are made once: a still camera has one."""

    def view(self, frame: int) -> View:
        """The camera of one frame."""
        made: dict[bytes, View] = self.__dict__.setdefault("_made", {})
        key = self.eye_T3[frame].tobytes()
        if key not in made:
            made[key] = super().view(frame)
        return made[key]


def _shade_on_floor(ground_HW2: np.ndarray, joints_J3: np.ndarray, strength: float) -> np.ndarray:
    """Light (H, W) that is left on the floor: soft spots under the feet and the pelvis."""
    left = np.ones(ground_HW2.shape[:2], dtype=np.float32)
    x, z = ground_HW2[..., 0], ground_HW2[..., 1]
    for joint, radius in ((0, 0.30), (7, 0.13), (8, 0.13)):
        at_x, _, at_z = (np.float32(place) for place in joints_J3[joint])
        squared = (x - at_x) ** 2 + (z - at_z) ** 2
        left -= left * np.float32(0.6 * strength) * np.exp(squared * np.float32(-0.5 / radius**2))
    return left
