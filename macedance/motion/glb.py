"""Writing of animated dancers as glTF 2.0 binary files (.glb).

Shapes: T frames, J = 24 joints, V vertices, F triangles. One scene holds the mesh of ``body_mesh`` skinned to SMPL-24,
and one animation that moves the root and turns every joint. glTF is y-up, right-handed and in metres, as our
world is, so nothing is converted. Source of the layout: the glTF 2.0 specification (Khronos, ISO/IEC 12113).
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from macedance.motion.atomic import write_atomically
from macedance.motion.body_mesh import GROUP_COLOURS, GROUP_NAMES, Mesh, mannequin_mesh, rest_joints
from macedance.motion.files import Motion
from macedance.motion.rotations import quaternion_from_axis_angle
from macedance.motion.skeleton import JOINT_NAMES, NUM_JOINTS, OFFSETS_M, PARENTS

_FLOAT, _UINT8, _UINT16 = 5126, 5121, 5123
_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963
_TYPES = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
_COMPONENTS = {"float32": _FLOAT, "uint8": _UINT8, "uint16": _UINT16}


def write_glb(path: str | Path, motion: Motion, mesh: Mesh | None = None) -> None:
    """Write a dance as a skinned, animated .glb; the file appears whole or not at all.

    Args:
        path: The file to write.
        motion: The dance, metres, y-up; key frame i stands at i / fps seconds.
        mesh: A body in the rest pose with the pelvis at the origin; the built-in dancer if None.

    Without the animation the dancer stands in the rest pose with its soles on y = 0. Node names are JOINT_NAMES.

    Raises:
        DataError: The folder cannot be written.
    """
    mesh = mannequin_mesh() if mesh is None else mesh
    buffer = _Buffer()
    # In the bind pose the soles, not the pelvis, are at height zero.
    lift = np.array([0.0, -float(mesh.vertices_V3[:, 1].min()), 0.0])
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "macedance"},
        "scene": 0,
        "scenes": [{"name": "dance", "nodes": [0, NUM_JOINTS]}],
        "nodes": [*_joint_nodes(lift), {"name": "dancer", "mesh": 0, "skin": 0}],
        "materials": [_material(group) for group in range(len(GROUP_NAMES))],
        "meshes": [{"name": "dancer", "primitives": _primitives(buffer, mesh, lift)}],
        "skins": [_skin(buffer, lift)],
        "animations": [_animation(buffer, motion)],
    }
    document["accessors"], document["bufferViews"] = buffer.accessors, buffer.views
    document["buffers"] = [{"byteLength": len(buffer.content)}]
    write_atomically(path, _container(document, bytes(buffer.content)))


class _Buffer:
    """The one binary buffer of the file, with the views and accessors into it."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, array: NDArray[Any], *, bounds: bool = False, target: int | None = None) -> int:
        """Append an array and return its accessor; every view starts at a multiple of four bytes."""
        array = np.ascontiguousarray(array)
        self.content += bytes(-len(self.content) % 4)
        view = {"buffer": 0, "byteOffset": len(self.content), "byteLength": array.nbytes}
        if target is not None:
            view["target"] = target
        # glTF is little-endian on every machine.
        self.content += array.astype(array.dtype.newbyteorder("<")).tobytes()
        accessor: dict[str, Any] = {
            "bufferView": len(self.views),
            "componentType": _COMPONENTS[array.dtype.name],
            "count": len(array),
            "type": _TYPES[array.shape[1:]],
        }
        if bounds:
            accessor["min"] = np.atleast_1d(array.min(axis=0)).tolist()
            accessor["max"] = np.atleast_1d(array.max(axis=0)).tolist()
        self.views.append(view)
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def _joint_nodes(lift: NDArray[np.float64]) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = []
    for joint, name in enumerate(JOINT_NAMES):
        offset = np.array(OFFSETS_M[joint]) + (lift if joint == 0 else 0.0)
        node: dict[str, Any] = {"name": name, "translation": [float(value) for value in offset]}
        children = [child for child in range(NUM_JOINTS) if PARENTS[child] == joint]
        if children:
            node["children"] = children
        nodes.append(node)
    return nodes


def _material(group: int) -> dict[str, Any]:
    # Colours are sRGB; glTF's factors are linear.
    srgb = np.array(GROUP_COLOURS[group])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    factor = [*(round(float(value), 6) for value in linear), 1.0]
    return {
        "name": GROUP_NAMES[group],
        "pbrMetallicRoughness": {"baseColorFactor": factor, "metallicFactor": 0.0, "roughnessFactor": 0.8},
    }


def _primitives(buffer: _Buffer, mesh: Mesh, lift: NDArray[np.float64]) -> list[dict[str, Any]]:
    """One primitive for each colour group; all share the vertex arrays."""
    attributes = {
        "POSITION": buffer.add((mesh.vertices_V3 + lift).astype(np.float32), bounds=True, target=_ARRAY_BUFFER),
        "NORMAL": buffer.add(mesh.normals_V3, target=_ARRAY_BUFFER),
        "JOINTS_0": buffer.add(mesh.joints_V4.astype(np.uint8), target=_ARRAY_BUFFER),
        "WEIGHTS_0": buffer.add(mesh.weights_V4, target=_ARRAY_BUFFER),
    }
    face_groups = mesh.groups_V[mesh.faces_F3[:, 0]]
    primitives = []
    for group in np.unique(face_groups):
        indices = mesh.faces_F3[face_groups == group].reshape(-1).astype(np.uint16)
        accessor = buffer.add(indices, bounds=True, target=_ELEMENT_BUFFER)
        primitives.append({"attributes": dict(attributes), "indices": accessor, "material": int(group), "mode": 4})
    return primitives


def _skin(buffer: _Buffer, lift: NDArray[np.float64]) -> dict[str, Any]:
    inverse = np.tile(np.eye(4), (NUM_JOINTS, 1, 1))
    inverse[:, :3, 3] = -(rest_joints() + lift)
    # Column by column, as glTF stores matrices.
    accessor = buffer.add(np.swapaxes(inverse, 1, 2).astype(np.float32))
    return {"name": "smpl24", "joints": list(range(NUM_JOINTS)), "skeleton": 0, "inverseBindMatrices": accessor}


def _animation(buffer: _Buffer, motion: Motion) -> dict[str, Any]:
    times = buffer.add((np.arange(motion.num_frames) / motion.fps).astype(np.float32), bounds=True)
    outputs = [(0, "translation", buffer.add(motion.trans.astype(np.float32)))]
    for joint, quaternions_T4 in enumerate(_continuous_quaternions(motion)):
        outputs.append((joint, "rotation", buffer.add(quaternions_T4)))
    return {
        "name": motion.genre or "dance",
        "samplers": [{"input": times, "output": output, "interpolation": "LINEAR"} for _, _, output in outputs],
        "channels": [
            {"sampler": number, "target": {"node": joint, "path": what}}
            for number, (joint, what, _) in enumerate(outputs)
        ],
    }


def _continuous_quaternions(motion: Motion) -> NDArray[np.float32]:
    """Rotations (J, T, 4) as x, y, z, w; neighbours in time never differ in sign, so that players do not spin."""
    wxyz_TJ4 = quaternion_from_axis_angle(torch.from_numpy(motion.poses).double()).numpy()
    turned = (wxyz_TJ4[1:] * wxyz_TJ4[:-1]).sum(-1) < 0
    flips = np.concatenate([np.zeros((1, NUM_JOINTS), dtype=bool), np.logical_xor.accumulate(turned, axis=0)])
    wxyz_TJ4 = np.where(flips[..., None], -wxyz_TJ4, wxyz_TJ4)
    wxyz_TJ4 /= np.linalg.norm(wxyz_TJ4, axis=-1, keepdims=True)
    return np.roll(wxyz_TJ4, -1, axis=-1).transpose(1, 0, 2).astype(np.float32)


def _container(document: dict[str, Any], binary: bytes) -> bytes:
    text = json.dumps(document, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 4)
    binary += bytes(-len(binary) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\x00") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
