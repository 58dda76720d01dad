"""Faces: OpenCV's detector and ONNX runner on tiny networks, alignment, the angle of a head."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import numpy as np
import pytest
from onnx_by_hand import red_block_yunet, tiny_face_network

from macedance.errors import CheckpointError, DataError
from macedance.vision import faces as library
from macedance.vision.faces import (
    ALIGNED_POINTS,
    AuraFace,
    Face,
    YuNet,
    aligned_face,
    head_yaw_deg,
    main_face,
    similarity_transform,
)


def turned(points: np.ndarray, angle_deg: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.radians(angle_deg)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ rotation.T + shift


def face(left: float, side: float, score: float = 1.0) -> Face:
    return Face(np.array([left, 10.0, left + side, 10.0 + side]), np.zeros((5, 2)), score)


def test_yunet_finds_faces_where_they_are_also_in_large_pictures(tmp_path: Path) -> None:
    net = YuNet(red_block_yunet(tmp_path / "yunet.onnx"))
    picture = np.full((160, 224, 3), 90, np.uint8)
    picture[64:72, 40:48] = (255, 0, 0)
    (found,) = net.detect(picture)
    assert np.allclose(found.box, (28, 52, 60, 84), atol=0.1)
    assert np.allclose(found.points_52[2], (44, 68), atol=0.1)
    assert found.score > 0.9
    # Twice as large as what is searched: coordinates come back in the picture's own pixels.
    large = np.full((800, 2560, 3), 90, np.uint8)
    large[320:336, 1600:1616] = (255, 0, 0)
    (found,) = net.detect(large)
    assert np.allclose(found.points_52[2], (1608, 328), atol=8.5)
    assert net.detect(np.full((50, 70, 3), (0, 0, 255), np.uint8)) == [], "blue is not red: pictures are RGB"
    assert copy.deepcopy(net) is net


def test_face_features_are_the_networks_of_rgb_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((16, 48)).astype(np.float32)
    path = tiny_face_network(tmp_path / "face.onnx", weights)
    pictures = rng.integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    means = ((pictures - 127.5) / 127.5).reshape(3, 4, 28, 4, 28, 3).mean(axis=(2, 4))
    expected = means.transpose(0, 3, 1, 2).reshape(3, 48) @ weights.T
    net = AuraFace(path)
    found = net.embed(pictures)
    assert np.allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    assert net.weights == {"auraface": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_face_without_direction_is_refused(tmp_path: Path) -> None:
    net = AuraFace(tiny_face_network(tmp_path / "face.onnx", np.zeros((16, 48))))
    with pytest.raises(CheckpointError, match="no direction"):
        net.embed(np.zeros((1, 112, 112, 3), np.uint8))


@pytest.mark.parametrize(
    ("network", "file"), [(YuNet, "face_detection_yunet_2023mar.onnx"), (AuraFace, "glintr100.onnx")]
)
def test_folders_are_read_by_the_published_names_and_rubbish_is_named(
    tmp_path: Path, network: type[YuNet] | type[AuraFace], file: str
) -> None:
    with pytest.raises(CheckpointError, match=file):
        network.from_folder(tmp_path)
    (tmp_path / file).write_bytes(b"rubbish" * 99)
    with pytest.raises(CheckpointError, match=f"OpenCV cannot run it.*{file}"):
        network.from_folder(tmp_path)


def test_alignment_undoes_rotation_scale_and_shift() -> None:
    points = turned(ALIGNED_POINTS, 33.0, 0.7, (40.0, 12.0))
    matrix = similarity_transform(points, ALIGNED_POINTS)
    assert np.allclose(points @ matrix[:, :2].T + matrix[:, 2], ALIGNED_POINTS, atol=1e-9)
    mirrored = similarity_transform(ALIGNED_POINTS * (-1, 1), ALIGNED_POINTS)
    assert np.linalg.det(mirrored[:, :2]) > 0, "a face is never mirrored"
    with pytest.raises(DataError, match="coincide"):
        similarity_transform(np.ones((5, 2)), ALIGNED_POINTS)


def test_an_aligned_face_has_its_points_in_their_places() -> None:
    points = turned(ALIGNED_POINTS, -20.0, 1.4, (60.0, 70.0))
    picture = np.zeros((300, 300, 3), np.uint8)
    for x, y in points.round().astype(int):
        picture[y - 3 : y + 4, x - 3 : x + 4] = 255
    aligned = aligned_face(picture, points)
    assert aligned.shape == (112, 112, 3)
    for x, y in ALIGNED_POINTS.round().astype(int):
        assert aligned[y - 1 : y + 2, x - 1 : x + 2].min() > 150
    assert aligned.mean() < 25


@pytest.mark.parametrize("yaw", [-80.0, -30.0, 0.0, 45.0, 75.0])
@pytest.mark.parametrize(("roll", "pitch"), [(0.0, 0.0), (35.0, -15.0)])
def test_the_angle_of_a_head_does_not_depend_on_how_it_is_tilted(yaw: float, roll: float, pitch: float) -> None:
    a, b, c = np.radians([yaw, roll, pitch])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    seen = (library._HEAD_POINTS @ (about_z @ about_x @ about_y).T)[:, :2] * 0.1 + 100
    assert head_yaw_deg(seen) == pytest.approx(yaw, abs=1e-6)


def test_arcfaces_own_points_face_the_camera() -> None:
    assert abs(head_yaw_deg(ALIGNED_POINTS)) < 3


def test_the_main_face_is_the_largest_one_on_the_dancer() -> None:
    small, large, doubtful = face(20, 10), face(100, 30), face(200, 40, score=0.1)
    assert main_face([small, large, doubtful]) is large
    assert main_face([small, large], np.array([0, 0, 60, 60])) is small
    assert main_face([large], np.array([0, 0, 60, 60])) is None
    assert main_face([]) is None
