"""Compiled inner loops of the software rasteriser and of the floor shadow (numba; compiled once, cached on disk).

Shapes: V vertices, F triangles, H rows and W columns of the picture, S side of the shadow map, K samples per pixel side
(K x K samples a pixel), C = 3 colour channels. Every loop is sequential: the same input gives the same bits.

The formulas of the floor and of the body's light are the ones of the shaders in ``opengl.py``.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Indices into the parameter vector of ``stage_parameters`` (software.py); plain integers so that numba folds them.
FLOOR_LIGHT, FLOOR_DARK, BACKDROP_LOW, BACKDROP_HIGH, RIM_COLOUR = 0, 3, 6, 9, 12
SPOT, TILE, FOG_START, FOG_END, VIGNETTE, SHADOW, CONTACT = 15, 16, 17, 18, 19, 20, 21
KEY, SKY, GROUND, RIM, SPECULAR = 22, 23, 24, 25, 26
NUM_PARAMETERS = 27


@njit(cache=True)
def floor_shadow_maps(positions_V3, faces_F3, origin_x, origin_z, texel, slope_x, slope_z, maps_SS3):  # type: ignore[no-untyped-def]
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
        column_0 = max(int(math.ceil(min(ax, bx, cx))), 0)
        column_1 = min(int(math.floor(max(ax, bx, cx))), side - 1)
        row_0 = max(int(math.ceil(min(ay, by, cy))), 0)
        row_1 = min(int(math.floor(max(ay, by, cy))), side - 1)
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


@njit(cache=True)
def box_blur(maps_SS3, channel, radius):  # type: ignore[no-untyped-def]
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


@njit(cache=True, inline="always")
def _smoothstep(low, high, value):  # type: ignore[no-untyped-def]
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@njit(cache=True, inline="always")
def _triangle_wave(value):  # type: ignore[no-untyped-def]
    """Integral of a square wave of period 2 and height +-1: rises over [0, 1], falls over [1, 2]."""
    phase = value - 2.0 * math.floor(value * 0.5)
    return phase if phase < 1.0 else 2.0 - phase


@njit(cache=True, inline="always")
def _square_wave(value, width):  # type: ignore[no-untyped-def]
    """The square wave's mean over [value - width / 2, value + width / 2]: a checker without aliasing."""
    return (_triangle_wave(value + 0.5 * width) - _triangle_wave(value - 0.5 * width)) / width


@njit(cache=True)
def draw_stage(p, eye, right, up, forward, tan_half, maps_SS3, origin_x, origin_z, texel, centre_x, centre_z, image_HWC):  # type: ignore[no-untyped-def]
    """Floor, shadows and background into ``image_HWC`` (float32, display values in [0, 1])."""
    height, width = image_HWC.shape[0], image_HWC.shape[1]
    side = maps_SS3.shape[0]
    step = 2.0 * tan_half / height
    inverse_texel = 1.0 / texel
    inverse_tile = 1.0 / p[TILE]
    for row in range(height):
        sy = (0.5 * height - row - 0.5) * step
        # The camera does not roll: a row of the picture meets the floor at one depth.
        dx0, dy, dz0 = forward[0] + sy * up[0], forward[1] + sy * up[1], forward[2] + sy * up[2]
        rise = dy / math.sqrt(dx0 * dx0 + dz0 * dz0)
        # At eye level and below, the backdrop is the colour that the floor fades into.
        blend = _smoothstep(-0.02, 0.34, rise)
        back_r = p[BACKDROP_LOW] + (p[BACKDROP_HIGH] - p[BACKDROP_LOW]) * blend
        back_g = p[BACKDROP_LOW + 1] + (p[BACKDROP_HIGH + 1] - p[BACKDROP_LOW + 1]) * blend
        back_b = p[BACKDROP_LOW + 2] + (p[BACKDROP_HIGH + 2] - p[BACKDROP_LOW + 2]) * blend
        on_floor = dy < -1e-4
        t = -eye[1] / dy if on_floor else 0.0
        wx = max(t * step * (abs(right[0]) + abs(up[0] - dx0 * up[1] / dy)) * inverse_tile, 1e-4) if on_floor else 1.0
        wz = max(t * step * (abs(right[2]) + abs(up[2] - dz0 * up[1] / dy)) * inverse_tile, 1e-4) if on_floor else 1.0
        vy = 2.0 * (row + 0.5) / height - 1.0
        for column in range(width):
            r, g, b = back_r, back_g, back_b
            vx = 2.0 * (column + 0.5) / width - 1.0
            if on_floor:
                sx = (column + 0.5 - 0.5 * width) * step
                x = eye[0] + t * (dx0 + sx * right[0])
                z = eye[2] + t * (dz0 + sx * right[2])
                away = math.sqrt((x - centre_x) * (x - centre_x) + (z - centre_z) * (z - centre_z))
                fog = _smoothstep(p[FOG_START], p[FOG_END], away)
                if fog < 1.0:
                    mix = 0.5
                    if wx < 4.0 and wz < 4.0:
                        mix = 0.5 - 0.5 * _square_wave(x * inverse_tile, wx) * _square_wave(z * inverse_tile, wz)
                    light = 1.0 - p[SPOT] * _smoothstep(0.5, 4.5, away)
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
            corner = 1.0 - p[VIGNETTE] * _smoothstep(0.45, 1.9, vx * vx + vy * vy)
            image_HWC[row, column, 0] = r * corner
            image_HWC[row, column, 1] = g * corner
            image_HWC[row, column, 2] = b * corner


@njit(cache=True)
def rasterise(screen_V3, faces_F3, row_0, column_0, depth_HW, face_HW):  # type: ignore[no-untyped-def]
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
        x0 = max(int(math.ceil(min(ax, bx, cx) - 0.5)), 0)
        x1 = min(int(math.floor(max(ax, bx, cx) - 0.5)), columns - 1)
        y0 = max(int(math.ceil(min(ay, by, cy) - 0.5)), 0)
        y1 = min(int(math.floor(max(ay, by, cy) - 0.5)), rows - 1)
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


@njit(cache=True)
def shade(p, positions_V3, normals_V3, colours_V3, screen_V3, faces_F3, face_HW, row_0, column_0, samples, eye, to_light,
          maps_SS3, origin_x, origin_z, texel, image_HWC):  # type: ignore[no-untyped-def]  # fmt: skip
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
            covered, red, green, blue = 0, 0.0, 0.0, 0.0
            for dy in range(samples):
                for dx in range(samples):
                    f = face_HW[y + dy, x + dx]
                    if f < 0:
                        continue
                    covered += 1
                    a, b, c = faces_F3[f, 0], faces_F3[f, 1], faces_F3[f, 2]
                    sx, sy = x + dx + column_0 + 0.5, y + dy + row_0 + 0.5
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
                        u = (px - py * slope_x - origin_x) * inverse_texel - 0.5
                        v = (pz - py * slope_z - origin_z) * inverse_texel - 0.5
                        if u >= 0.0 and v >= 0.0 and u < side - 1 and v < side - 1:
                            i, j = int(v), int(u)
                            fv, fu = v - i, u - j
                            limit = py + 0.045
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
                    ambient *= 0.55 + 0.45 * _smoothstep(-0.05, 0.35, py)
                    edge = 1.0 - max(nx * vx + ny * vy + nz * vz, 0.0)
                    rim = p[RIM] * edge * edge * edge * above
                    light = ambient + key
                    red += math.sqrt(min(colours_V3[a, 0] * light + shine + rim * p[RIM_COLOUR], 1.0))
                    green += math.sqrt(min(colours_V3[a, 1] * light + shine + rim * p[RIM_COLOUR + 1], 1.0))
                    blue += math.sqrt(min(colours_V3[a, 2] * light + shine + rim * p[RIM_COLOUR + 2], 1.0))
            if covered > 0:
                row, column = (y + row_0) // samples, (x + column_0) // samples
                keep = float(total - covered)
                image_HWC[row, column, 0] = (image_HWC[row, column, 0] * keep + red) / total
                image_HWC[row, column, 1] = (image_HWC[row, column, 1] * keep + green) / total
                image_HWC[row, column, 2] = (image_HWC[row, column, 2] * keep + blue) / total
