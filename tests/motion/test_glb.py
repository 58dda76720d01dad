"""GLB files, read back by an independent parser and evaluated by the test's own arithmetic."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pygltflib
import pytest
from scipy.spatial.transform import Rotation
from synthetic_bvh import dance

from macedance.errors import DataError
from macedance.motion.body_mesh import mannequin_mesh, skin_vertices
from macedance.motion.files import Motion
from macedance.motion.glb import write_glb
from macedance.motion.skeleton import JOINT_NAMES, NUM_JOINTS, TOE_HEIGHT_M

WIDTH = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}
DTYPES = {5121: "<u1", 5123: "<u2", 5126: "<f4"}


class Parsed:
    """A GLB file with what a player needs to show it."""

    def __init__(self, path: Path) -> None:
        self.gltf = pygltflib.GLTF2().load(str(path))
        self.binary = self.gltf.binary_blob()

    def array(self, accessor: int) -> np.ndarray:
        entry = self.gltf.accessors[accessor]
        view = self.gltf.bufferViews[entry.bufferView]
        count = entry.count * WIDTH[entry.type]
        flat = np.frombuffer(self.binary, DTYPES[entry.componentType], count, view.byteOffset + (entry.byteOffset or 0))
        return flat.reshape(entry.count, -1) if entry.type != "SCALAR" else flat

    def channels(self) -> dict[tuple[int, str], np.ndarray]:
        animation = self.gltf.animations[0]
        return {
            (channel.target.node, channel.target.path): self.array(animation.samplers[channel.sampler].output)
            for channel in animation.channels
        }

    def times(self) -> np.ndarray:
        animation = self.gltf.animations[0]
        inputs = {sampler.input for sampler in animation.samplers}
        assert len(inputs) == 1
        assert {sampler.interpolation for sampler in animation.samplers} == {"LINEAR"}
        return self.array(inputs.pop())

    def world(self, frame: int | None) -> np.ndarray:
        """Matrices (nodes, 4, 4) of the scene, at a key frame or as it stands without animation."""
        channels = self.channels() if frame is not None else {}
        matrices = np.full((len(self.gltf.nodes), 4, 4), np.nan)

        def visit(node: int, parent: np.ndarray) -> None:
            entry = self.gltf.nodes[node]
            local = np.eye(4)
            local[:3, 3] = entry.translation or [0, 0, 0]
            if (node, "translation") in channels:
                local[:3, 3] = channels[node, "translation"][frame]
            if (node, "rotation") in channels:
                local[:3, :3] = Rotation.from_quat(channels[node, "rotation"][frame]).as_matrix()
            matrices[node] = parent @ local
            for child in entry.children or []:
                visit(child, matrices[node])

        for root in self.gltf.scenes[self.gltf.scene].nodes:
            visit(root, np.eye(4))
        return matrices

    def skinned(self, frame: int | None) -> np.ndarray:
        """Vertices (V, 3) of the mesh as a player draws them."""
        skin = self.gltf.skins[0]
        inverse = self.array(skin.inverseBindMatrices).reshape(-1, 4, 4).transpose(0, 2, 1)
        bones = self.world(frame)[skin.joints] @ inverse
        attributes = self.gltf.meshes[0].primitives[0].attributes
        points = np.concatenate(
            [self.array(attributes.POSITION), np.ones((self.array(attributes.POSITION).shape[0], 1))], 1
        )
        joints, weights = self.array(attributes.JOINTS_0), self.array(attributes.WEIGHTS_0)
        return np.einsum("vk,vkab,vb->va", weights, bones[joints], points)[:, :3]


@pytest.fixture(scope="module")
def motion() -> Motion:
    return dance(25, fps=30.0)


@pytest.fixture(scope="module")
def parsed(motion: Motion, tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    path = tmp_path_factory.mktemp("glb") / "dance.glb"
    write_glb(path, motion)
    return Parsed(path)


def test_hierarchy_and_animation_give_our_joints(motion: Motion, parsed: Parsed) -> None:
    assert [parsed.gltf.nodes[node].name for node in parsed.gltf.skins[0].joints] == list(JOINT_NAMES)
    joints = motion.joint_positions()
    for frame in (0, 7, 24):
        positions = parsed.world(frame)[parsed.gltf.skins[0].joints, :3, 3]
        np.testing.assert_allclose(positions, joints[frame], atol=1e-4)


def test_key_frames_stand_at_the_motion_s_seconds(motion: Motion, parsed: Parsed, tmp_path: Path) -> None:
    np.testing.assert_allclose(parsed.times(), np.arange(25) / 30.0, atol=1e-6)
    sampler = parsed.gltf.animations[0].samplers[0]
    accessor = parsed.gltf.accessors[sampler.input]
    assert accessor.min == [0.0]
    assert accessor.max == [pytest.approx(24 / 30.0)]
    path = tmp_path / "slow.glb"
    write_glb(path, Motion(motion.poses, motion.trans, 12.5))
    np.testing.assert_allclose(Parsed(path).times(), np.arange(25) / 12.5, atol=1e-6)


def test_every_joint_turns_and_the_root_travels(parsed: Parsed, motion: Motion) -> None:
    channels = parsed.channels()
    assert set(channels) == {(0, "translation"), *((joint, "rotation") for joint in range(NUM_JOINTS))}
    np.testing.assert_allclose(channels[0, "translation"], motion.trans, atol=1e-6)


def test_quaternions_are_unit_and_continuous(tmp_path: Path) -> None:
    turn = np.zeros((60, 24, 3))
    # Axis-angle jumps from +pi to -pi twice in two whole turns; the quaternion must not.
    angle = np.linspace(0, 4 * np.pi, 60)
    turn[:, 5, 1] = (angle + np.pi) % (2 * np.pi) - np.pi
    path = tmp_path / "turn.glb"
    write_glb(path, Motion(turn, np.zeros((60, 3)), 30.0))
    for (_, kind), values in Parsed(path).channels().items():
        if kind == "rotation":
            np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1.0, atol=1e-6)
            assert ((values[1:] * values[:-1]).sum(1) > 0.9).all()


def test_skin_moves_as_ours_does(motion: Motion, parsed: Parsed) -> None:
    import torch

    from macedance.motion.rotations import matrix_from_axis_angle
    from macedance.motion.skeleton import global_rotations

    rotations = global_rotations(matrix_from_axis_angle(torch.from_numpy(motion.poses))).numpy()
    ours = skin_vertices(mannequin_mesh(), rotations, motion.joint_positions())[0]
    for frame in (0, 13, 24):
        np.testing.assert_allclose(parsed.skinned(frame), ours[frame], atol=1e-4)


def test_without_animation_the_dancer_stands_on_the_floor(parsed: Parsed) -> None:
    vertices = parsed.skinned(None)
    assert vertices[:, 1].min() == pytest.approx(0.0, abs=1e-5)
    np.testing.assert_allclose(
        vertices, parsed.array(parsed.gltf.meshes[0].primitives[0].attributes.POSITION), atol=1e-5
    )
    toes = parsed.world(None)[[10, 11], 1, 3]
    np.testing.assert_allclose(toes, TOE_HEIGHT_M, atol=2e-3)


def test_grounded_dance_has_its_soles_at_the_floor(motion: Motion, parsed: Parsed) -> None:
    lowest = min(parsed.skinned(frame)[:, 1].min() for frame in range(0, 25, 4))
    # The toe joints stand at their height; an ankle that bends may push a heel or a toe tip a little lower.
    assert -0.06 < lowest < 0.05


def test_mesh_is_complete_and_sound(parsed: Parsed) -> None:
    primitives = parsed.gltf.meshes[0].primitives
    mesh = mannequin_mesh()
    triangles = np.concatenate([parsed.array(p.indices).reshape(-1, 3) for p in primitives])
    assert len(triangles) == len(mesh.faces_F3)
    assert {tuple(t) for t in triangles.tolist()} == {tuple(t) for t in mesh.faces_F3.tolist()}
    attributes = primitives[0].attributes
    np.testing.assert_allclose(np.linalg.norm(parsed.array(attributes.NORMAL), axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(parsed.array(attributes.WEIGHTS_0).sum(1), 1.0, atol=1e-6)
    assert parsed.array(attributes.JOINTS_0).max() < NUM_JOINTS
    position = parsed.gltf.accessors[attributes.POSITION]
    np.testing.assert_array_equal(parsed.array(attributes.POSITION).min(0), np.float32(position.min))
    np.testing.assert_array_equal(parsed.array(attributes.POSITION).max(0), np.float32(position.max))
    materials = [parsed.gltf.materials[p.material] for p in primitives]
    assert [m.name for m in materials] == ["skin", "shirt", "trousers", "shoes", "hair", "eyes"]
    assert all(len(m.pbrMetallicRoughness.baseColorFactor) == 4 for m in materials)


def test_container_obeys_the_layout(motion: Motion, tmp_path: Path) -> None:
    path = tmp_path / "a" / "dance.glb"
    write_glb(path, motion)
    content = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    json_length, kind = struct.unpack_from("<I4s", content, 12)
    assert kind == b"JSON"
    assert json_length % 4 == 0
    document = json.loads(content[20 : 20 + json_length])
    binary_length, kind = struct.unpack_from("<I4s", content, 20 + json_length)
    assert kind == b"BIN\x00"
    assert 28 + json_length + binary_length == len(content)
    assert 0 <= binary_length - document["buffers"][0]["byteLength"] <= 3
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        assert view["byteOffset"] + view["byteLength"] <= document["buffers"][0]["byteLength"]
        size = accessor["count"] * WIDTH[accessor["type"]] * np.dtype(DTYPES[accessor["componentType"]]).itemsize
        assert size == view["byteLength"]
    assert document["asset"]["version"] == "2.0"
    write_glb(path, motion)
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["dance.glb"]


def test_single_frame(tmp_path: Path) -> None:
    path = tmp_path / "one.glb"
    motion = dance(1)
    write_glb(path, motion)
    np.testing.assert_allclose(Parsed(path).world(0)[:24, :3, 3], motion.joint_positions()[0], atol=1e-4)


def test_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write"):
        write_glb(tmp_path / "file" / "dance.glb", dance(1))
