"""Closed surfaces that a body is built from: tubes swept along a path, and ellipsoids.

Shapes: V vertices, F triangles, R rings of a tube, J = 24 joints. Lengths are in metres. Triangles are
counter-clockwise seen from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from macedance.motion.skeleton import NUM_JOINTS

Array = NDArray[np.float64]


@dataclass
class Surface:
    """A part of a body before it is skinned.

    Attributes:
        vertices_V3: Positions, metres.
        faces_F3: Vertex numbers of each triangle.
        along_V: Where on its path each vertex of a tube lies, metres from the first station (ellipsoids: zeros).
        groups_V: Colour group of each vertex; a triangle never mixes groups.
    """

    vertices_V3: Array
    faces_F3: NDArray[np.int64]
    along_V: Array
    groups_V: NDArray[np.int64]


def path_lengths(points_R3: Array) -> Array:
    """Length along a polyline at each of its points, from 0: (R,) metres."""
    steps = np.linalg.norm(np.diff(points_R3, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def resample_stations(stations: Sequence[Sequence[float]], count: int) -> Array:
    """Rows (count, K) at even spacing of the first three columns, the others by monotone cubics between the rows."""
    from scipy.interpolate import PchipInterpolator

    rows = np.asarray(stations, dtype=np.float64)
    lengths = path_lengths(rows[:, :3])
    where = np.linspace(0.0, lengths[-1], count)
    return np.asarray(PchipInterpolator(lengths, rows)(where), dtype=np.float64)


def _ring(segments: int, roundness: float) -> Array:
    """Points (segments, 2) of the superellipse |x|^(2/roundness) + |y|^(2/roundness) = 1, counter-clockwise."""
    angle = 2 * np.pi * np.arange(segments) / segments
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.sign(cos) * np.abs(cos) ** roundness, np.sign(sin) * np.abs(sin) ** roundness], axis=1)


def sweep(
    centres_R3: Array,
    radii_R2: Array,
    side: Sequence[float] | Array,
    *,
    segments: int,
    start_cap: float = 0.0,
    end_cap: float = 0.0,
    roundness: float = 1.0,
    groups: Sequence[int] | int = 0,
) -> Surface:
    """A closed tube along a path.

    Args:
        centres_R3: Centre of each ring, metres.
        radii_R2: Half width of each ring along ``side`` and across it, metres.
        side: World direction of the first radius, made perpendicular to the path at every ring.
        segments: Vertices of a ring.
        start_cap: Length of the rounded end before the first ring, metres; 0 is a flat end. ``end_cap`` likewise.
        end_cap: Length of the rounded end after the last ring, metres.
        roundness: 1 is an ellipse, smaller is nearer to a box.
        groups: Colour group of each of the R - 1 spans between rings, or one for all. Ends take their neighbour's.
    """
    count = len(centres_R3)
    spans = [groups] * (count - 1) if isinstance(groups, int) else list(groups)
    tangents = np.gradient(centres_R3, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    centres, radii, frames, along = list(centres_R3), list(radii_R2), list(tangents), list(path_lengths(centres_R3))
    for cap, at_end in ((start_cap, False), (end_cap, True)):
        steps = 3 if cap > 0 else 0
        index = -1 if at_end else 0
        centre, radius, tangent, length = centres[index], radii[index], frames[index], along[index]
        sign = 1.0 if at_end else -1.0
        for step in range(1, steps + 1):
            angle = 0.5 * np.pi * step / (steps + 0.35)
            shift = sign * cap * np.sin(angle)
            where = len(centres) if at_end else 0
            centres.insert(where, centre + shift * tangent)
            radii.insert(where, radius * np.cos(angle))
            frames.insert(where, tangent)
            along.insert(where, length + shift)
            spans.insert(len(spans) if at_end else 0, spans[index])
    ring_S2 = _ring(segments, roundness)
    rings: list[Array] = []
    for centre, radius, tangent in zip(centres, radii, frames, strict=True):
        across = np.cross(tangent, np.asarray(side, dtype=np.float64))
        across /= np.linalg.norm(across)
        lateral = np.cross(across, tangent)
        rings.append(centre + radius[0] * ring_S2[:, :1] * lateral + radius[1] * ring_S2[:, 1:] * across)
    return _stitch(rings, centres, np.asarray(along), spans)


def _stitch(rings: list[Array], centres: list[Array], along_R: Array, spans: list[int]) -> Surface:
    """Join rings to a closed surface; a ring where the group changes is there twice, once in each group."""
    segments = len(rings[0])
    vertices: list[Array] = []
    lengths: list[Array] = []
    groups: list[NDArray[np.int64]] = []
    faces: list[tuple[int, int, int]] = []

    def put(points: Array, length: float, group: int) -> int:
        start = sum(len(block) for block in vertices)
        vertices.append(points)
        lengths.append(np.full(len(points), length))
        groups.append(np.full(len(points), group, dtype=np.int64))
        return start

    def fan(pole: int, ring: int, outward: bool) -> None:
        for i in range(segments):
            a, b = ring + i, ring + (i + 1) % segments
            faces.append((pole, b, a) if outward else (pole, a, b))

    first = put(centres[0][None], along_R[0], spans[0])
    previous = put(rings[0], along_R[0], spans[0])
    fan(first, previous, outward=True)
    for span, group in enumerate(spans):
        if span > 0 and spans[span - 1] != group:
            previous = put(rings[span], along_R[span], group)
        current = put(rings[span + 1], along_R[span + 1], group)
        for i in range(segments):
            j = (i + 1) % segments
            faces.append((previous + i, previous + j, current + j))
            faces.append((previous + i, current + j, current + i))
        previous = current
    last = put(centres[-1][None], along_R[-1], spans[-1])
    fan(last, previous, outward=False)
    return Surface(
        np.concatenate(vertices), np.array(faces, dtype=np.int64), np.concatenate(lengths), np.concatenate(groups)
    )


def ellipsoid(
    centre: Sequence[float], radii: Sequence[float], *, rings: int = 6, segments: int = 8, group: int = 0
) -> Surface:
    """An ellipsoid with axes along the world's; its poles are at the top and the bottom."""
    height = np.cos(np.linspace(np.pi, 0.0, rings + 2))[1:-1]
    size = np.asarray(radii, dtype=np.float64)
    middle = np.asarray(centre, dtype=np.float64)
    spread = np.sqrt(1.0 - height**2)
    angle = 2 * np.pi * np.arange(segments) / segments
    # Seen from above, clockwise in (x, z) is counter-clockwise about +y.
    loops = [
        middle + size * np.stack([r * np.cos(angle), np.full(segments, h), -r * np.sin(angle)], axis=1)
        for h, r in zip(height, spread, strict=True)
    ]
    poles = [middle - size * np.array([0.0, 1.0, 0.0]), middle + size * np.array([0.0, 1.0, 0.0])]
    centres = [poles[0], *([middle] * (rings - 2)), poles[1]] if rings > 1 else poles
    return _stitch(loops, centres, np.zeros(rings), [group] * (rings - 1))


def chain_weights(along_V: Array, joints: Sequence[int], bounds: Sequence[float], widths: Sequence[float]) -> Array:
    """Skin weights (V, 24) that pass from joint to joint along a tube.

    Args:
        along_V: Position of each vertex on the path, in any unit.
        joints: The K joints in the order of the path.
        bounds: The K - 1 positions at which one joint hands over to the next.
        widths: Half width of each smooth hand-over.
    """
    weights = np.zeros((len(along_V), NUM_JOINTS))
    weights[:, joints[0]] = 1.0
    for joint, bound, width in zip(joints[1:], bounds, widths, strict=True):
        share = smooth_step((along_V - bound + width) / (2 * width))[:, None]
        weights *= 1.0 - share
        weights[:, joint] += share[:, 0]
    return weights


def smooth_step(x: Array) -> Array:
    """0 below 0, 1 above 1, and a cubic with flat ends between."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def smooth_normals(vertices_V3: Array, faces_F3: NDArray[np.int64]) -> Array:
    """Unit normals (V, 3), area weighted; vertices at the same place share one, so that colour seams do not show."""
    _, owner = np.unique(np.round(vertices_V3, 6), axis=0, return_inverse=True)
    owner = owner.reshape(-1)
    corners = vertices_V3[faces_F3]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.zeros((owner.max() + 1, 3))
    for corner in range(3):
        np.add.at(total, owner[faces_F3[:, corner]], area)
    normals = total[owner]
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
