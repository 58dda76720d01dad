"""Compiled inner loops of the software rasteriser and of the floor shadow (numba; compiled once, cached on disk).

Shapes: V vertices, F triangles, H rows and W columns of the picture, S side of the shadow map, K samples per pixel side
(K x K samples a pixel), C = 3 colour channels. Every loop is sequential: the same input gives the same bits.

The formulas of the floor and of the body's light are the ones of the shaders in ``opengl.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

from macedance.compiled import protect_numba_cache

protect_numba_cache()

Array = np.ndarray

_Loop = TypeVar("_Loop", bound=Callable[..., Any])


def _compiled(loop: _Loop) -> _Loop:
    """Compile without checks for division by zero (they keep loops from being vectorised), sums may be regrouped."""
    try:
        return cast(_Loop, njit(cache=True, error_model="numpy", fastmath=True)(loop))
    except RuntimeError:  # neither the package nor the home folder can be written: compile in every process
        return cast(_Loop, njit(error_model="numpy", fastmath=True)(loop))


# Indices into the parameter vector of ``stage_parameters`` (software.py); plain integers so that numba folds them.
FLOOR_LIGHT, FLOOR_DARK, BACKDROP_LOW, BACKDROP_HIGH, RIM_COLOUR = 0, 3, 6, 9, 12
SPOT, TILE, FOG_START, FOG_END, VIGNETTE, SHADOW, CONTACT = 15, 16, 17, 18, 19, 20, 21
KEY, SKY, GROUND, RIM, SPECULAR, FILL = 22, 23, 24, 25, 26, 27


@_compiled
def floor_shadow_maps(
    positions_V3: Array,
    faces_F3: Array,
    origin_x: float,
    origin_z: float,
    texel: float,
    slope_x: float,
    slope_z: float,
    maps_SS3: Array,
) -> None:
    """Fill channel 0 (occluder height along the light), 1 (its coverage) and 2 (closeness to the floor), unblurred.

    A point at height y throws its shadow at (x - y * slope_x, z - y * slope_z): the map is a picture of the body from
    the light, painted on the floor.
    """
    side = maps_SS3.shape[0]
    maps_SS3[:, :, 0] = -1.0
    maps_SS3[:, :, 1:] = 0.0
    inverse = 1.0 / texel
    count = positions_V3.shape[0]
    flat_V2 = np.empty((count, 2), np.float32)
    for v in range(count):
        x, y, z = positions_V3[v, 0], positions_V3[v, 1], positions_V3[v, 2]
        flat_V2[v, 0] = (x - y * slope_x - origin_x) * inverse - 0.5
        flat_V2[v, 1] = (z - y * slope_z - origin_z) * inverse - 0.5
        if y < 0.30:
            column = int((x - origin_x) * inverse)
            row = int((z - origin_z) * inverse)
            if 0 <= column < side and 0 <= row < side:
                near = 1.0 - max(y, 0.0) / 0.30
                near *= near
                if near > maps_SS3[row, column, 2]:
                    maps_SS3[row, column, 2] = near
    for f in range(faces_F3.shape[0]):
        a, b, c = faces_F3[f, 0], faces_F3[f, 1], faces_F3[f, 2]
        ax, ay, bx, by, cx, cy = (
            flat_V2[a, 0], flat_V2[a, 1], flat_V2[b, 0], flat_V2[b, 1], flat_V2[c, 0], flat_V2[c, 1],
        )  # fmt: skip
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        column_0 = max(math.ceil(min(ax, bx, cx)), 0)
        column_1 = min(math.floor(max(ax, bx, cx)), side - 1)
        row_0 = max(math.ceil(min(ay, by, cy)), 0)
        row_1 = min(math.floor(max(ay, by, cy)), side - 1)
        ha, hb, hc = positions_V3[a, 1], positions_V3[b, 1], positions_V3[c, 1]
        for row in range(row_0, row_1 + 1):
            for column in range(column_0, column_1 + 1):
                wa = ((bx - column) * (cy - row) - (by - row) * (cx - column)) / area
                wb = ((cx - column) * (ay - row) - (cy - row) * (ax - column)) / area
                wc = 1.0 - wa - wb
                if wa >= 0.0 and wb >= 0.0 and wc >= 0.0:
                    height = wa * ha + wb * hb + wc * hc
                    if height > maps_SS3[row, column, 0]:
                        maps_SS3[row, column, 0] = height
                        maps_SS3[row, column, 1] = 1.0


@_compiled
def box_blur(maps_SS3: Array, channel: int, radius: int) -> None:
    """Blur one channel by a box of 2 * radius + 1 in both directions, zeros outside, in place."""
    side = maps_SS3.shape[0]
    line = np.empty(side, np.float32)
    scale = 1.0 / (2 * radius + 1)
    for axis in range(2):
        for i in range(side):
            total = 0.0
            for j in range(side):
                line[j] = maps_SS3[i, j, channel] if axis == 0 else maps_SS3[j, i, channel]
            for j in range(min(radius, side)):
                total += line[j]
            for j in range(side):
                if j + radius < side:
                    total += line[j + radius]
                if j - radius - 1 >= 0:
                    total -= line[j - radius - 1]
                value = max(total, 0.0) * scale
                if axis == 0:
                    maps_SS3[i, j, channel] = value
                else:
                    maps_SS3[j, i, channel] = value


@_compiled
def _ease(value: float) -> float:
    """Smooth step from 0 at 0 to 1 at 1."""
    t = min(max(value, 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@_compiled
def _triangle_wave(value: float) -> float:
    """Integral of a square wave of period 2 and height +-1: rises over [0, 1], falls over [1, 2]."""
    phase = value - 2.0 * math.floor(value * 0.5)
    return phase if phase < 1.0 else 2.0 - phase


@_compiled
def _square_wave(value: float, width: float, inverse_width: float) -> float:
    """The square wave's mean over [value - width / 2, value + width / 2]: a checker without aliasing."""
    return (_triangle_wave(value + 0.5 * width) - _triangle_wave(value - 0.5 * width)) * inverse_width


@_compiled
def draw_stage(
    p: Array,
    eye: Array,
    right: Array,
    up: Array,
    forward: Array,
    tan_half: float,
    maps_SS3: Array,
    origin_x: float,
    origin_z: float,
    texel: float,
    centre_x: float,
    centre_z: float,
    image_HWC: Array,
) -> None:
    """Floor, shadows and background into ``image_HWC`` (uint8)."""
    height, width = image_HWC.shape[0], image_HWC.shape[1]
    side = maps_SS3.shape[0]
    step = 2.0 * tan_half / height
    inverse_texel = 1.0 / texel
    inverse_tile = 1.0 / p[TILE]
    fog_scale = 1.0 / (p[FOG_END] - p[FOG_START])
    for row in range(height):
        sy = (0.5 * height - row - 0.5) * step
        # The camera does not roll: a row of the picture meets the floor at one depth.
        dx0, dy, dz0 = forward[0] + sy * up[0], forward[1] + sy * up[1], forward[2] + sy * up[2]
        rise = dy / math.sqrt(dx0 * dx0 + dz0 * dz0)
        # At eye level and below, the backdrop is the colour that the floor fades into.
        blend = _ease((rise + 0.02) * (1.0 / 0.36))
        back_r = p[BACKDROP_LOW] + (p[BACKDROP_HIGH] - p[BACKDROP_LOW]) * blend
        back_g = p[BACKDROP_LOW + 1] + (p[BACKDROP_HIGH + 1] - p[BACKDROP_LOW + 1]) * blend
        back_b = p[BACKDROP_LOW + 2] + (p[BACKDROP_HIGH + 2] - p[BACKDROP_LOW + 2]) * blend
        on_floor = dy < -1e-4
        t = -eye[1] / dy if on_floor else 0.0
        wx = max(t * step * (abs(right[0]) + abs(up[0] - dx0 * up[1] / dy)) * inverse_tile, 1e-4) if on_floor else 1.0
        wz = max(t * step * (abs(right[2]) + abs(up[2] - dz0 * up[1] / dy)) * inverse_tile, 1e-4) if on_floor else 1.0
        inverse_wx, inverse_wz = 1.0 / wx, 1.0 / wz
        checker = wx < 4.0 and wz < 4.0
        vy = 2.0 * (row + 0.5) / height - 1.0
        for column in range(width):
            r, g, b = back_r, back_g, back_b
            vx = 2.0 * (column + 0.5) / width - 1.0
            if on_floor:
                sx = (column + 0.5 - 0.5 * width) * step
                x = eye[0] + t * (dx0 + sx * right[0])
                z = eye[2] + t * (dz0 + sx * right[2])
                away = math.sqrt((x - centre_x) * (x - centre_x) + (z - centre_z) * (z - centre_z))
                fog = _ease((away - p[FOG_START]) * fog_scale)
                if fog < 1.0:
                    mix = 0.5
                    if checker:
                        across = _square_wave(x * inverse_tile, wx, inverse_wx)
                        mix = 0.5 - 0.5 * across * _square_wave(z * inverse_tile, wz, inverse_wz)
                    light = 1.0 - p[SPOT] * _ease((away - 0.5) * 0.25)
                    u = (x - origin_x) * inverse_texel - 0.5
                    v = (z - origin_z) * inverse_texel - 0.5
                    if u >= 0.0 and v >= 0.0 and u < side - 1 and v < side - 1:
                        i, j = int(v), int(u)
                        fv, fu = v - i, u - j
                        a, bb, c, d = (1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv
                        shadow = (
                            a * maps_SS3[i, j, 1] + bb * maps_SS3[i, j + 1, 1]
                            + c * maps_SS3[i + 1, j, 1] + d * maps_SS3[i + 1, j + 1, 1]
                        )  # fmt: skip
                        contact = (
                            a * maps_SS3[i, j, 2] + bb * maps_SS3[i, j + 1, 2]
                            + c * maps_SS3[i + 1, j, 2] + d * maps_SS3[i + 1, j + 1, 2]
                        )  # fmt: skip
                        light *= (1.0 - p[SHADOW] * shadow) * (1.0 - p[CONTACT] * min(contact, 1.0))
                    keep = (1.0 - fog) * light
                    r = fog * r + keep * (p[FLOOR_DARK] + (p[FLOOR_LIGHT] - p[FLOOR_DARK]) * mix)
                    g = fog * g + keep * (p[FLOOR_DARK + 1] + (p[FLOOR_LIGHT + 1] - p[FLOOR_DARK + 1]) * mix)
                    b = fog * b + keep * (p[FLOOR_DARK + 2] + (p[FLOOR_LIGHT + 2] - p[FLOOR_DARK + 2]) * mix)
            corner = 255.0 - 255.0 * p[VIGNETTE] * _ease((vx * vx + vy * vy - 0.45) * (1.0 / 1.45))
            image_HWC[row, column, 0] = int(r * corner + 0.5)
            image_HWC[row, column, 1] = int(g * corner + 0.5)
            image_HWC[row, column, 2] = int(b * corner + 0.5)


@_compiled
def rasterise(screen_V3: Array, faces_F3: Array, row_0: int, column_0: int, depth_HW: Array, face_HW: Array) -> None:
    """Nearest triangle of each sample. ``screen_V3``: sample x, sample y (down), 1 / depth; the buffers start at
    (row_0, column_0) and must be cleared (depth 0, face -1). Triangles that turn away are left out.
    """
    rows, columns = depth_HW.shape
    for f in range(faces_F3.shape[0]):
        a, b, c = faces_F3[f, 0], faces_F3[f, 1], faces_F3[f, 2]
        ax, ay, az = screen_V3[a, 0] - column_0, screen_V3[a, 1] - row_0, screen_V3[a, 2]
        bx, by, bz = screen_V3[b, 0] - column_0, screen_V3[b, 1] - row_0, screen_V3[b, 2]
        cx, cy, cz = screen_V3[c, 0] - column_0, screen_V3[c, 1] - row_0, screen_V3[c, 2]
        # y runs down, so a counter-clockwise face has a negative area here.
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area > -1e-6 or az <= 0.0 or bz <= 0.0 or cz <= 0.0:
            continue
        x0 = max(math.ceil(min(ax, bx, cx) - 0.5), 0)
        x1 = min(math.floor(max(ax, bx, cx) - 0.5), columns - 1)
        y0 = max(math.ceil(min(ay, by, cy) - 0.5), 0)
        y1 = min(math.floor(max(ay, by, cy) - 0.5), rows - 1)
        inverse = 1.0 / area
        step_a, step_b = (by - cy) * inverse, (cy - ay) * inverse
        for y in range(y0, y1 + 1):
            py, px = y + 0.5, x0 + 0.5
            wa = ((bx - px) * (cy - py) - (by - py) * (cx - px)) * inverse
            wb = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) * inverse
            for x in range(x0, x1 + 1):
                wc = 1.0 - wa - wb
                if wa >= -1e-5 and wb >= -1e-5 and wc >= -1e-5:
                    depth = wa * az + wb * bz + wc * cz
                    if depth > depth_HW[y, x]:
                        depth_HW[y, x] = depth
                        face_HW[y, x] = f
                wa += step_a
                wb += step_b


@_compiled
def shade(
    p: Array,
    positions_V3: Array,
    normals_V3: Array,
    colours_V3: Array,
    screen_V3: Array,
    faces_F3: Array,
    face_HW: Array,
    row_0: int,
    column_0: int,
    samples: int,
    eye: Array,
    to_light: Array,
    maps_SS3: Array,
    origin_x: float,
    origin_z: float,
    texel: float,
    image_HWC: Array,
) -> None:
    """Light the visible samples and blend their mean over the picture.

    ``row_0`` and ``column_0`` are multiples of ``samples``; colours are squared display values ("linear").
    """
    rows, columns = face_HW.shape
    side = maps_SS3.shape[0]
    inverse_texel = 1.0 / texel
    lx, ly, lz = to_light[0], to_light[1], to_light[2]
    slope_x, slope_z = lx / ly, lz / ly
    total = samples * samples
    for y in range(0, rows, samples):
        for x in range(0, columns, samples):
            any_face = -1
            for dy in range(samples):
                for dx in range(samples):
                    any_face = max(any_face, face_HW[y + dy, x + dx])
            if any_face < 0:
                continue
            covered, red, green, blue = 0, 0.0, 0.0, 0.0
            for sample in range(total):
                f = face_HW[y + sample // samples, x + sample % samples]
                if f < 0:
                    continue
                # A triangle is lit once for all its samples in this pixel, at their middle, as graphics cards do.
                seen, sx, sy, repeated = 0, 0.0, 0.0, False
                for other in range(total):
                    if face_HW[y + other // samples, x + other % samples] == f:
                        if other < sample:
                            repeated = True
                            break
                        seen += 1
                        sx += other % samples
                        sy += other // samples
                if repeated:
                    continue
                covered += seen
                a, b, c = faces_F3[f, 0], faces_F3[f, 1], faces_F3[f, 2]
                sx, sy = x + column_0 + sx / seen + 0.5, y + row_0 + sy / seen + 0.5
                ax, ay, bx, by, cx, cy = (
                    screen_V3[a, 0] - sx, screen_V3[a, 1] - sy, screen_V3[b, 0] - sx,
                    screen_V3[b, 1] - sy, screen_V3[c, 0] - sx, screen_V3[c, 1] - sy,
                )  # fmt: skip
                wa, wb, wc = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
                inverse = 1.0 / (wa + wb + wc)
                wa, wb, wc = wa * inverse, wb * inverse, wc * inverse
                px = wa * positions_V3[a, 0] + wb * positions_V3[b, 0] + wc * positions_V3[c, 0]
                py = wa * positions_V3[a, 1] + wb * positions_V3[b, 1] + wc * positions_V3[c, 1]
                pz = wa * positions_V3[a, 2] + wb * positions_V3[b, 2] + wc * positions_V3[c, 2]
                nx = wa * normals_V3[a, 0] + wb * normals_V3[b, 0] + wc * normals_V3[c, 0]
                ny = wa * normals_V3[a, 1] + wb * normals_V3[b, 1] + wc * normals_V3[c, 1]
                nz = wa * normals_V3[a, 2] + wb * normals_V3[b, 2] + wc * normals_V3[c, 2]
                inverse = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
                nx, ny, nz = nx * inverse, ny * inverse, nz * inverse
                vx, vy, vz = eye[0] - px, eye[1] - py, eye[2] - pz
                inverse = 1.0 / math.sqrt(vx * vx + vy * vy + vz * vz)
                vx, vy, vz = vx * inverse, vy * inverse, vz * inverse
                facing = nx * lx + ny * ly + nz * lz
                key = 0.0
                shine = 0.0
                if facing > 0.0:
                    lit = 1.0
                    # Looked up a little off the surface, so that it does not shade itself where light grazes it.
                    ox, oy, oz = px + 0.02 * nx, py + 0.02 * ny, pz + 0.02 * nz
                    u = (ox - oy * slope_x - origin_x) * inverse_texel - 0.5
                    v = (oz - oy * slope_z - origin_z) * inverse_texel - 0.5
                    if u >= 0.0 and v >= 0.0 and u < side - 1 and v < side - 1:
                        i, j = int(v), int(u)
                        fv, fu = v - i, u - j
                        limit = oy + 0.045
                        lit -= (1 - fu) * (1 - fv) if maps_SS3[i, j, 0] > limit else 0.0
                        lit -= fu * (1 - fv) if maps_SS3[i, j + 1, 0] > limit else 0.0
                        lit -= (1 - fu) * fv if maps_SS3[i + 1, j, 0] > limit else 0.0
                        lit -= fu * fv if maps_SS3[i + 1, j + 1, 0] > limit else 0.0
                    key = p[KEY] * facing * lit
                    hx, hy, hz = lx + vx, ly + vy, lz + vz
                    half = (nx * hx + ny * hy + nz * hz) / math.sqrt(hx * hx + hy * hy + hz * hz)
                    if half > 0.0:
                        shine = half * half
                        shine *= shine
                        shine *= shine
                        shine *= shine * shine
                        shine *= p[SPECULAR] * lit
                above = 0.5 + 0.5 * ny
                ambient = p[GROUND] + (p[SKY] - p[GROUND]) * above
                # The floor is close and dark under the body: less light from below near it.
                ambient *= 0.55 + 0.45 * _ease((py + 0.05) * 2.5)
                towards = max(nx * vx + ny * vy + nz * vz, 0.0)
                edge = 1.0 - towards
                rim = p[RIM] * edge * edge * edge * above
                light = ambient + key + p[FILL] * towards
                tint_r = wa * colours_V3[a, 0] + wb * colours_V3[b, 0] + wc * colours_V3[c, 0]
                tint_g = wa * colours_V3[a, 1] + wb * colours_V3[b, 1] + wc * colours_V3[c, 1]
                tint_b = wa * colours_V3[a, 2] + wb * colours_V3[b, 2] + wc * colours_V3[c, 2]
                red += seen * math.sqrt(min(tint_r * light + shine + rim * p[RIM_COLOUR], 1.0))
                green += seen * math.sqrt(min(tint_g * light + shine + rim * p[RIM_COLOUR + 1], 1.0))
                blue += seen * math.sqrt(min(tint_b * light + shine + rim * p[RIM_COLOUR + 2], 1.0))
            row, column = (y + row_0) // samples, (x + column_0) // samples
            keep = float(total - covered)
            image_HWC[row, column, 0] = int((image_HWC[row, column, 0] * keep + 255.0 * red) / total + 0.5)
            image_HWC[row, column, 1] = int((image_HWC[row, column, 1] * keep + 255.0 * green) / total + 0.5)
            image_HWC[row, column, 2] = int((image_HWC[row, column, 2] * keep + 255.0 * blue) / total + 0.5)
