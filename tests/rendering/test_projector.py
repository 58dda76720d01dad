"""The motion projector: what it draws stands where the joints are, and lasts as long as the motion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from macedance.demo.choreography import make_dance
from macedance.demo.songs import make_song, random_spec
from macedance.errors import ConfigError, DataError
from macedance.motion.files import JointClip, Motion
from macedance.motion.skeleton import PARENTS
from macedance.rendering.body_points import body_points, hand_at_rest
from macedance.rendering.frames import as_dance
from macedance.rendering.pose_drawing import BODY_20, stick_width
from macedance.rendering.projector import DrivingRenderer, PoseProjector, as_dance_at
from macedance.rendering.proportions import proportions_of, torso_length_px

ROW = {name: row for row, name in enumerate(BODY_20)}
SIZE = 512


@pytest.fixture(scope="module")
def dance() -> Motion:
    return make_dance(make_song(random_spec("song", "waacking", 1, duration_s=4)), 3, num_frames=60)


def turned(motion: Motion, axis: int, degrees: float, up_m: float = 0.0) -> Motion:
    """The motion of a dancer whose every frame is the first one, turned about an axis."""
    import torch

    from macedance.motion.rotations import axis_angle_from_matrix, matrix_from_axis_angle

    poses = motion.poses[:1].repeat(4, axis=0)
    turn = torch.zeros(3)
    turn[axis] = np.radians(degrees)
    root = matrix_from_axis_angle(turn) @ matrix_from_axis_angle(torch.from_numpy(poses[:, 0]))
    poses[:, 0] = axis_angle_from_matrix(root).numpy()
    trans = motion.trans[:1].repeat(4, axis=0) + np.array([0, up_m, 0], dtype=np.float32)
    return Motion(poses, trans, motion.fps)


@pytest.mark.parametrize("camera", ["fixed", "follow"])
def test_the_drawn_joints_are_where_the_camera_sees_the_joints(dance: Motion, camera: str) -> None:
    projector = PoseProjector(SIZE, SIZE, 30.0, camera=camera, hands=False)  # type: ignore[arg-type]
    assert isinstance(projector, DrivingRenderer)
    points = projector.keypoints(dance)
    path = projector.path(dance.joint_positions())
    pictures = list(projector.render(dance).pictures())
    radius = stick_width(SIZE, SIZE)
    lwrist_colour = (0, 255, 85)  # the palette's eighth
    for frame in (0, 20, 59):
        view = path.view(frame)
        seen, _ = view.project(dance.joint_positions()[frame].astype(np.float64), SIZE, SIZE)
        for name, joint in (("lwrist", 20), ("rankle", 8), ("lknee", 4), ("rshoulder", 17)):
            assert np.abs(points.body[frame, ROW[name], :2] - seen[joint]).max() < 0.01
        ys, xs = np.nonzero((pictures[frame] == lwrist_colour).all(-1))
        assert len(ys) > 0
        assert np.hypot(xs.mean() - seen[20][0], ys.mean() - seen[20][1]) <= 1.0 + radius / 2


@pytest.mark.parametrize("source", [16.0, 24.0, 25.0, 30.0, 60.0])
@pytest.mark.parametrize("target", [15.0, 16.0, 24.0, 30.0])
def test_two_seconds_last_two_seconds(dance: Motion, source: float, target: float) -> None:
    count = round(2 * source)
    motion = Motion(np.resize(dance.poses, (count, 24, 3)), np.resize(dance.trans, (count, 3)), source)
    for danced in (motion, JointClip(motion.joint_positions(), source)):
        video = PoseProjector(64, 64, target).render(danced)
        assert video.num_frames == sum(1 for _ in video.pictures()) == round(2 * target)
        assert video.num_frames / video.fps == pytest.approx(2.0)


def test_resampled_frames_show_the_same_instants(dance: Motion) -> None:
    half = as_dance_at(dance, dance.fps / 2)
    assert np.allclose(half.joints_TJ3, dance.joint_positions()[::2], atol=1e-5)


def test_a_dancer_from_behind_has_no_face_and_keeps_left_and_right(dance: Motion) -> None:
    front = turned(dance, 1, 0.0)
    path = PoseProjector(SIZE, SIZE, 30.0)
    camera = path.path(front.joint_positions())
    from macedance.rendering.projector import pose_points

    seen = {
        angle: pose_points(body_points(as_dance(turned(dance, 1, angle))), camera, SIZE, SIZE).body[0]
        for angle in (0.0, 180.0)
    }
    face = [ROW[name] for name in ("nose", "leye", "reye")]
    assert (seen[0.0][face, 2] == 1).all()
    assert (seen[180.0][face, 2] == 0).all()
    # From the front the left shoulder is on the picture's right, from behind on its left.
    for angle, sign in ((0.0, 1), (180.0, -1)):
        across = seen[angle][ROW["lshoulder"], 0] - seen[angle][ROW["rshoulder"], 0]
        assert sign * across > 0


def test_a_dancer_lying_down_is_wider_than_high_and_inside(dance: Motion) -> None:
    lying = turned(dance, 2, 90.0)
    points = PoseProjector(SIZE, SIZE, 30.0).keypoints(lying.grounded()).body[0]
    extent = np.ptp(points[points[:, 2] > 0, :2], axis=0)
    assert extent[0] > 1.5 * extent[1]
    assert ((points[:, :2] >= 0) & (points[:, :2] < SIZE)).all()


def test_a_dancer_who_leaves_the_picture_is_cut_at_its_edge(dance: Motion) -> None:
    count = 30
    trans = dance.trans[:1].repeat(count, axis=0)
    trans[:, 0] += np.linspace(0, 6, count)
    motion = Motion(dance.poses[:1].repeat(count, axis=0), trans, 30.0)
    # The reference keeps its place while the dancer walks out of it.
    start = PoseProjector(SIZE, SIZE, 30.0, hands=False).keypoints(replace(motion, trans=trans[:1].repeat(count, 0)))
    projector = PoseProjector(SIZE, SIZE, 30.0, reference_K3=start.body[0], hands=False)
    points, pictures = projector.keypoints(motion), list(projector.render(motion).pictures())
    assert (points.body[-1, :, 0] > SIZE).all()
    assert pictures[0].any()
    assert not pictures[-1].any()
    partly = [i for i in range(count) if 0 < (points.body[i, :, 0] < SIZE).sum() < len(BODY_20)]
    assert partly
    assert all(pictures[i].any() for i in partly)


def test_the_dancer_starts_at_the_reference_persons_place_and_size(dance: Motion) -> None:
    plain = PoseProjector(SIZE, SIZE, 30.0).keypoints(dance).body[0].astype(np.float64)
    reference = plain.copy()
    reference[:, :2] = 0.5 * plain[:, :2] + np.array([200.0, 40.0])
    placed = PoseProjector(SIZE, SIZE, 30.0, reference_K3=reference).keypoints(dance).body[0]
    drawn = plain[:, 2] > 0
    assert np.abs(placed[drawn, :2] - reference[drawn, :2]).max() < 6.0
    assert torso_length_px(placed) == pytest.approx(torso_length_px(reference), rel=0.06)


def test_proportions_are_read_from_a_picture_and_put_onto_the_dancer(dance: Motion) -> None:
    """A picture of a dancer in rest pose whose thighs and forearms are longer."""
    rest = as_dance(Motion(np.zeros((1, 24, 3)), np.array([[0.0, 1.0, 0.0]]), 30.0))
    longer = rest.joints_TJ3.astype(np.float64).copy()
    ratio = np.ones(24)
    ratio[[4, 5]], ratio[[20, 21]] = 1.2, 0.85
    for joint in range(1, 24):
        parent = PARENTS[joint]
        longer[:, joint] = longer[:, parent] + ratio[joint] * (rest.joints_TJ3[:, joint] - rest.joints_TJ3[:, parent])
    points = body_points(replace(rest, joints_TJ3=longer.astype(np.float32))).body[0]
    picture = np.concatenate([200 + 100 * points[:, :2] * [1, -1], np.ones((20, 1))], axis=1)
    found = proportions_of(picture, rest)
    assert found.ratios["thigh"] == pytest.approx(1.2, rel=0.03)
    assert found.ratios["forearm"] == pytest.approx(0.85, rel=0.03)
    assert found.ratios["shin"] == pytest.approx(1.0, rel=0.03)
    grown = found.applied(as_dance(dance)).joints_TJ3
    lengths = [np.linalg.norm(joints[:, 4] - joints[:, 1], axis=-1) for joints in (grown, dance.joint_positions())]
    assert np.allclose(lengths[0] / lengths[1], found.ratios["thigh"], rtol=1e-3)
    assert np.allclose(grown[..., 1].min(axis=1), dance.joint_positions()[..., 1].min(axis=1), atol=1e-4)


def test_a_foreshortened_limb_is_not_believed(dance: Motion) -> None:
    points = PoseProjector(SIZE, SIZE, 30.0).keypoints(dance).body[0].astype(np.float64)
    for name in ("lelbow", "relbow"):
        points[ROW[name], :2] = points[ROW[name.replace("elbow", "shoulder")], :2] + 3.0
    found = proportions_of(points, as_dance(dance))
    assert found.ratios["upper_arm"] == 1.0
    assert "upper_arm" not in found.told
    points[:, 2] = 0
    assert proportions_of(points, as_dance(dance)).told == ()


def test_hands_hang_on_the_wrists_and_mirror_each_other(dance: Motion) -> None:
    points = body_points(as_dance(dance))
    assert np.allclose(points.left_hand[:, 0], dance.joint_positions()[:, 20], atol=1e-5)
    assert np.allclose(points.right_hand[:, 0], dance.joint_positions()[:, 21], atol=1e-5)
    reach = np.linalg.norm(points.left_hand - points.left_hand[:, :1], axis=-1).max()
    assert 0.15 < reach < 0.22
    assert hand_at_rest().shape == (21, 3)


def test_bad_requests_are_refused(dance: Motion) -> None:
    with pytest.raises(ConfigError, match="camera"):
        PoseProjector(64, 64, 30.0, camera="drone")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="width of 63"):
        PoseProjector(63, 64, 30.0)
    with pytest.raises(DataError, match="reference pose"):
        PoseProjector(64, 64, 30.0, reference_K3=np.zeros((17, 3)))
    with pytest.raises(DataError, match="finite"):
        PoseProjector(64, 64, 30.0).keypoints(JointClip(np.full((4, 24, 3), np.nan), 30.0))
