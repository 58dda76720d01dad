"""The person in a reference picture, and the bodies that drive a network."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macedance.errors import ConfigError, DataError
from macedance.motion.files import Motion
from macedance.rendering.body_points import COCO_17
from macedance.rendering.mesh_driver import MeshDriver
from macedance.rendering.pose_drawing import BODY_20
from macedance.rendering.projector import DrivingRenderer, PoseProjector
from macedance.rendering.reference_pose import (
    body_from_coco,
    coco_from_body,
    find_person,
    frames_outside,
    place_reference,
)
from macedance.vision.keypoints import VideoKeypoints
from macedance.vision.video import Video

ROW = {name: row for row, name in enumerate(BODY_20)}


def person(x: float, y: float, height: float) -> np.ndarray:
    """BODY_20 of somebody who stands at x with the nose at y."""
    points = np.zeros((20, 3))
    points[:, 2] = 1
    points[:, 0] = x + height * np.linspace(-0.15, 0.15, 20)
    points[:, 1] = y + height * np.linspace(0, 1, 20)
    return points


def test_the_layouts_name_the_same_points() -> None:
    coco = np.random.default_rng(0).random((4, 17, 3))
    body = body_from_coco(coco)
    for row, name in enumerate(COCO_17):
        assert np.array_equal(body[:, ROW[name]], coco[:, row])
    shoulders = coco[:, [5, 6]]
    assert np.allclose(body[:, ROW["neck"], :2], shoulders[..., :2].mean(axis=1))
    assert np.allclose(body[:, ROW["neck"], 2], shoulders[..., 2].min(axis=1))
    assert not body[:, [ROW["ltoe"], ROW["rtoe"]]].any()
    assert np.allclose(coco_from_body(body, 2, 2), coco)


def test_points_outside_the_picture_are_not_seen() -> None:
    body = np.ones((1, 20, 3))
    body[0, ROW["nose"], :2] = (10, 5)
    body[0, ROW["leye"], :2] = (9.9, -0.1)
    seen = coco_from_body(body, 10, 10)[0, :, 2]
    assert seen[:3].tolist() == [0, 0, 1]
    hips = np.zeros((3, 20, 3))
    hips[1, :, 0], hips[2, :, 1] = 12, -1
    assert frames_outside(hips, 10, 10) == 2


def marked(width: int, height: int, points: np.ndarray) -> np.ndarray:
    """A grey picture with a white blob at two of the points."""
    picture = np.full((height, width, 3), 90, dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for x, y, _ in points[[0, 19]]:
        picture[np.hypot(columns - x, rows - y) < 4] = 255
    return picture


@settings(deadline=None, max_examples=40)
@given(
    st.integers(80, 300), st.integers(80, 300), st.sampled_from([(64, 64), (96, 48), (48, 96), (160, 96)]),
    st.floats(0.2, 0.8), st.floats(0.1, 0.5), st.floats(0.2, 0.85),
)  # fmt: skip
def test_the_person_is_where_the_points_say(
    width: int, height: int, size: tuple[int, int], x: float, y: float, tall: float
) -> None:
    tall = min(tall, 0.95 - y)
    points = person(x * width, y * height, tall * height)
    placed = place_reference(marked(width, height, points), *size, points)
    assert placed.image_HW3.shape == (size[1], size[0], 3)
    assert placed.points_K3 is not None
    ends = placed.points_K3[[0, 19], :2]
    # Whole, whatever the shape of the video.
    assert (ends[:, 1] > -1.5).all()
    assert (ends[:, 1] < size[1] + 1.5).all()
    bright = placed.image_HW3[..., 0] > 150
    rows, columns = np.nonzero(bright)
    for end in ends:
        near = np.hypot(columns - end[0], rows - end[1]) if len(rows) else np.array([99.0])
        assert near.min() < 3.0


def test_a_picture_without_points_is_cut_evenly() -> None:
    picture = np.zeros((100, 300, 3), dtype=np.uint8)
    picture[:, 100:200] = 255
    placed = place_reference(picture, 64, 64)
    assert placed.points_K3 is None
    assert (placed.image_HW3 > 250).all()
    nobody = np.zeros((20, 3))
    assert place_reference(picture, 64, 64, nobody).points_K3 is None


class Sees:
    def __init__(self, points: np.ndarray) -> None:
        self.points = points

    def __call__(self, video: Video) -> VideoKeypoints:
        return VideoKeypoints(self.points[None], 1.0, video.name, np.zeros((1, 4)), np.ones(1))


def test_nobody_and_next_to_nobody_are_refused() -> None:
    picture = np.zeros((80, 80, 3), dtype=np.uint8)
    someone = np.ones((17, 3)) * 20
    someone[:, 2] = 0.9
    assert find_person(picture, Sees(someone)).shape == (20, 3)
    faint = someone.copy()
    faint[3:, 2] = 0.2
    for points in (np.zeros((17, 3)), faint):
        with pytest.raises(DataError, match=r"no person is seen .*me\.jpg"):
            find_person(picture, Sees(points), "me.jpg")


def dance() -> Motion:
    poses = np.zeros((6, 24, 3), dtype=np.float32)
    poses[:, 16, 2] = np.linspace(-1, 0.5, 6)
    return Motion(poses, np.tile([0.0, 0.95, 0.0], (6, 1)), 30.0)


@pytest.mark.parametrize("reference", [None, person(100, 30, 90)])
def test_a_body_stands_where_the_skeleton_stands(reference: np.ndarray | None) -> None:
    body = MeshDriver(160, 128, 15.0, reference_K3=reference, backend="software")
    skeleton = PoseProjector(160, 128, 15.0, reference_K3=reference)
    assert isinstance(body, DrivingRenderer)
    shown, drawn = body.render(dance()), skeleton.render(dance())
    assert shown.num_frames == drawn.num_frames == 3
    for picture, bones in zip(shown.pictures(), drawn.pictures(), strict=True):
        different = np.abs(picture.astype(int) - picture[0, 0]).max(axis=-1) > 12
        assert different[bones.max(axis=-1) > 0].mean() > 0.6
        assert different.mean() < 0.3


def test_bodies_that_cannot_be_drawn() -> None:
    with pytest.raises(ConfigError):
        MeshDriver(161, 128, 15.0)
    with pytest.raises(ConfigError, match="backend"):
        MeshDriver(160, 128, 15.0, backend="crayons")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="reference pose"):
        MeshDriver(160, 128, 15.0, reference_K3=np.zeros((17, 3)))
