"""Tiny ONNX networks for the tests, written field by field: no package for it is needed."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_FLOAT, _INT64 = 1, 7


def node(op: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]) -> bytes:
    parts = [_text(1, name) for name in inputs] + [_text(2, output), _text(3, output), _text(4, op)]
    return b"".join(parts + [_bytes(5, _attribute(name, value)) for name, value in attributes.items()])


def write_onnx(
    path: Path,
    nodes: Sequence[bytes],
    constants: Mapping[str, np.ndarray],
    input_shape: Sequence[int],
    output_shapes: Mapping[str, Sequence[int]],
) -> Path:
    graph = b"".join(_bytes(1, item) for item in nodes) + _text(2, "graph")
    graph += b"".join(_bytes(5, _tensor(name, value)) for name, value in constants.items())
    graph += _bytes(11, _value("input", input_shape))
    graph += b"".join(_bytes(12, _value(name, shape)) for name, shape in output_shapes.items())
    opset = _text(1, "") + _number(2, 13)
    path.write_bytes(_number(1, 8) + _bytes(7, graph) + _bytes(8, opset))
    return path


def tiny_face_network(path: Path, weights: np.ndarray) -> Path:
    """Means of 4 x 4 blocks of an aligned face (1, 3, 112, 112), times weights (D, 48)."""
    nodes = [
        node("AveragePool", ["input"], "pooled", kernel_shape=[28, 28], strides=[28, 28]),
        node("Flatten", ["pooled"], "flat", axis=1),
        node("Gemm", ["flat", "weights", "bias"], "features", transB=1),
    ]
    dims = len(weights)
    constants = {"weights": weights.astype(np.float32), "bias": np.zeros(dims, np.float32)}
    return write_onnx(path, nodes, constants, (1, 3, 112, 112), {"features": (1, dims)})


def red_block_yunet(path: Path, side: int = 320) -> Path:
    """A network with YuNet's outputs that takes any red block for a face of 32 x 32 pixels around a cell of 8."""
    nodes: list[bytes] = []
    constants: dict[str, np.ndarray] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    points = np.array([[-8, -8], [8, -8], [0, 0], [-6, 8], [6, 8]], dtype=np.float32) / 8 + 0.5
    for stride in (8, 16, 32):
        pool = f"pool_{stride}"
        nodes.append(node("AveragePool", ["input"], pool, kernel_shape=[stride, stride], strides=[stride, stride]))
        redness = np.array([[0.0, -0.1, 0.1]], np.float32) if stride == 8 else np.zeros((1, 3), np.float32)
        heads = {
            "cls": (redness, np.array([-15.0], np.float32)),
            "obj": (np.zeros((1, 3), np.float32), np.array([9.0], np.float32)),
            "bbox": (np.zeros((4, 3), np.float32), np.array([0.5, 0.5, np.log(4), np.log(4)], np.float32)),
            "kps": (np.zeros((10, 3), np.float32), points.ravel()),
        }
        for head, (weight, bias) in heads.items():
            name, channels = f"{head}_{stride}", len(weight)
            scores = head in ("cls", "obj")
            constants |= {f"{name}_w": weight[..., None, None], f"{name}_b": bias}
            constants[f"{name}_shape"] = np.array([1, -1, channels], dtype=np.int64)
            nodes += [
                node("Conv", [pool, f"{name}_w", f"{name}_b"], f"{name}_map", kernel_shape=[1, 1]),
                node("Transpose", [f"{name}_map"], f"{name}_last", perm=[0, 2, 3, 1]),
                node("Reshape", [f"{name}_last", f"{name}_shape"], f"{name}_flat" if scores else name),
            ]
            if scores:
                nodes.append(node("Sigmoid", [f"{name}_flat"], name))
            shapes[name] = (1, (side // stride) ** 2, channels)
    return write_onnx(path, nodes, constants, (1, 3, side, side), shapes)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, 2)
    return _text(1, name) + b"".join(_number(8, item) for item in value) + _number(20, 7)


def _tensor(name: str, value: np.ndarray) -> bytes:
    kind = _INT64 if value.dtype == np.int64 else _FLOAT
    dims = b"".join(_number(1, size) for size in value.shape)
    raw = struct.pack(f"<{value.size}{'q' if kind == _INT64 else 'f'}", *value.ravel().tolist())
    return dims + _number(2, kind) + _text(8, name) + _bytes(9, raw)


def _value(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_bytes(1, _number(1, size)) for size in shape)
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, dims)))
