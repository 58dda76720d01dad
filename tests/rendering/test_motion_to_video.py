from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rendering_dances import make_dance, standing

from macedance.demo.songs import GENRES
from macedance.errors import ConfigError, DataError
from macedance.motion.files import JointClip, Motion
from macedance.rendering import KeypointRenderer, MeshDancer, MotionRenderer, body_points, outfit_for
from macedance.rendering.camera import fixed_camera
from macedance.rendering.frames import dance_frames
from macedance.rendering.reference_outfit import lab_from_rgb, nearest_outfit
from macedance.rendering.scene import OUTFITS

SIDE = 96


def dancer(**options: object) -> MeshDancer:
    return MeshDancer(SIDE, SIDE, backend="software", **{"samples": 1, **options})  # type: ignore[arg-type]


def test_the_mesh_dancer_is_a_renderer_that_takes_no_keypoints() -> None:
    assert isinstance(dancer(), MotionRenderer)
    assert not isinstance(dancer(), KeypointRenderer)


def test_a_video_has_the_renderers_rate_and_size_and_does_not_depend_on_the_seed() -> None:
    motion, renderer = make_dance(31, fps=30.0), dancer(fps=15.0)
    picture = renderer.reference_image(motion)
    video, again = renderer.render(motion, picture), renderer.render(motion, picture, seed=5)
    assert (video.fps, video.width, video.height, video.num_frames) == (15.0, SIDE, SIDE, 16)
    np.testing.assert_array_equal(video.frames(), again.frames())
    assert len(renderer.driving_keypoints(motion)) == 16
    assert (video.frames()[0] != video.frames()[4]).any()


def test_joints_alone_are_drawn_where_the_motion_is() -> None:
    motion = make_dance(9)
    clip = JointClip.from_motion(motion)
    renderer = dancer()
    picture = renderer.reference_image(clip)
    np.testing.assert_allclose(renderer.driving_keypoints(clip)[:, 5:], renderer.driving_keypoints(motion)[:, 5:])
    ours, theirs = (renderer.render(item, picture).frames().astype(int) for item in (clip, motion))
    # Twist of the limbs is not known from joints: a few pixels of sleeves differ.
    assert np.abs(ours - theirs).mean() < 2.0
    half = replace(clip, fps=60.0)
    assert len(renderer.driving_keypoints(half)) == 5


@pytest.mark.parametrize("camera", ["fixed", "follow"])
def test_driving_keypoints_lie_on_the_drawn_body(camera: str) -> None:
    """Wrists, knees and ankles of keypoints are pixels of the body: found by drawing the same view without it."""
    motion = make_dance(8)
    renderer = MeshDancer(160, 160, backend="software", camera=camera)  # type: ignore[arg-type]
    frames = renderer.render(motion, renderer.reference_image(motion)).frames().astype(int)
    moved = replace(motion, trans=motion.trans + np.array([0.0, -60.0, 0.0], dtype=np.float32))
    path = renderer._path(renderer._dance(motion).joints_TJ3)
    empty = np.stack(list(dance_frames(moved, 30.0, width=160, height=160, backend="software", camera=path)))
    body = np.abs(frames - empty.astype(int)).sum(axis=-1) > 40
    for frame, points in enumerate(renderer.driving_keypoints(motion)):
        for x, y, confidence in points[[0, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16]]:
            assert confidence == 1.0
            row, column = round(float(y)), round(float(x))
            assert body[frame, row - 1 : row + 2, column - 1 : column + 2].any()


def test_keypoints_are_the_joints_and_left_is_on_the_right_of_the_picture() -> None:
    points = dancer().driving_keypoints(standing())[0]
    left, right = points[5::2], points[6::2]
    assert (left[:, 0] > right[:, 0]).all()
    assert points[1, 0] > points[0, 0] > points[2, 0]
    assert points[0, 1] < points[5, 1] < points[11, 1] < points[13, 1] < points[15, 1]


def test_the_face_is_where_pose_drawings_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One home of the face's points: moved there, they move here."""
    before = dancer().driving_keypoints(standing())[0]
    (x, y, z), normal = body_points._FACE["nose"]
    monkeypatch.setitem(body_points._FACE, "nose", ((x, y + 0.2, z), normal))
    after = dancer().driving_keypoints(standing())[0]
    assert after[0, 1] < before[0, 1] - 3
    np.testing.assert_array_equal(after[1:], before[1:])


def test_a_face_that_is_turned_away_is_not_seen() -> None:
    motion = standing(3)
    poses = motion.poses.copy()
    # The head alone turns round, so that the camera stays in front of the body.
    poses[1, 15, 1], poses[2, 15, 1] = 0.5 * np.pi, np.pi
    points = dancer().driving_keypoints(Motion(poses, motion.trans, 30.0))
    assert points[0, :5, 2].tolist() == [1.0] * 5
    # Turned to its left, which is the right of the picture: the right ear is seen, the left one is behind the head.
    assert points[1, 3:5, 2].tolist() == [0.0, 1.0]
    assert points[2, :3, 2].tolist() == [0.0] * 3
    assert (points[:, 5:, 2] == 1.0).all()


def test_the_fixed_camera_stands_still_and_shows_every_joint_of_a_long_walk() -> None:
    motion = make_dance(40)
    trans = motion.trans.copy()
    trans[:, 0] += np.linspace(-3.0, 3.0, 40, dtype=np.float32)
    trans[:, 2] += np.linspace(0.0, 2.0, 40, dtype=np.float32)
    walk = replace(motion, trans=trans)
    path = fixed_camera(walk.joint_positions(), SIDE, 64)
    assert np.ptp(path.eye_T3, axis=0).max() == np.ptp(path.target_T3, axis=0).max() == 0.0
    points = MeshDancer(SIDE, 64, backend="software").driving_keypoints(walk)
    assert (points[:, 5:, 2] == 1.0).all()
    still = dancer().render(standing(3), dancer().reference_image(standing())).frames()
    np.testing.assert_array_equal(still[0], still[2])


@pytest.mark.parametrize("genre", GENRES)
def test_a_picture_of_the_mannequin_gives_its_outfit_back(genre: str) -> None:
    motion = replace(standing(), genre=genre)
    for renderer in (dancer(), dancer(camera="follow", samples=2)):
        assert nearest_outfit(renderer.reference_image(motion)) == outfit_for(genre)


def test_another_picture_gives_the_outfit_of_its_colours() -> None:
    """A person in green trousers-and-top on a grey wall, who is cut off by the lower edge, as in a portrait."""
    rng = np.random.default_rng(0)
    picture = rng.integers(118, 124, (200, 120, 3))
    picture[60:, 35:85] = np.array([0.36, 0.66, 0.36]) * 255 * 0.85
    picture[150:, 35:85] = np.array([0.24, 0.21, 0.20]) * 255
    assert nearest_outfit(picture.astype(np.uint8)) == OUTFITS[6]
    flat = np.full((32, 32, 3), 90, np.uint8)
    assert nearest_outfit(flat) in OUTFITS
    np.testing.assert_allclose(lab_from_rgb(np.array([1.0, 0.0, 0.0])), [53.24, 80.09, 67.20], atol=0.1)
    np.testing.assert_allclose(lab_from_rgb(np.ones(3)), [100.0, 0.0, 0.0], atol=1e-6)


def test_the_reference_image_decides_the_outfit_of_the_video() -> None:
    motion = make_dance(2)
    pictures = {genre: dancer().reference_image(replace(motion, genre=genre)) for genre in ("hiphop", "house")}
    red = dancer().render(motion, pictures["hiphop"]).frames().astype(float)
    teal = dancer().render(motion, pictures["house"]).frames().astype(float)
    worn = (red[0] != teal[0]).any(axis=-1)
    assert worn.sum() > 100
    assert red[0, worn, 0].mean() > teal[0, worn, 0].mean() + 20


def test_what_cannot_be_drawn_is_refused() -> None:
    motion = standing()
    for picture in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32), np.zeros((4, 9, 3), np.uint8)):
        with pytest.raises(DataError, match="reference image"):
            dancer().render(motion, picture)
    cases: list[tuple[type[Exception], dict[str, object]]] = [
        (ConfigError, {"width": 97}),
        (ConfigError, {"camera": "crane"}),
        (ConfigError, {"backend": "crayon"}),
        (ConfigError, {"samples": 0}),
        (DataError, {"fps": 0.0}),
    ]
    for kind, change in cases:
        with pytest.raises(kind):
            MeshDancer(**change)  # type: ignore[arg-type]
    path = fixed_camera(standing(2).joint_positions(), SIDE, SIDE)
    with pytest.raises(DataError, match="2 views for 1 frames"):
        dance_frames(motion, 30.0, width=SIDE, height=SIDE, camera=path)
