"""Rooms drawn by lot: a textured wall and floor that hold still in the world while the camera moves.

Shapes: H rows, W columns, S side of a texture. Metres, y-up, the wall in the plane z = ``wall_z``; colours are display
values in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from macedance.rendering.camera import View

_SIDE = 128
#: Metres of wall or floor that one texture covers.
_SPAN_M = 6.0
_SUPERSAMPLED = 2
_FAR_M = np.float32(50.0)


@dataclass(frozen=True)
class Room:
    """A wall and a floor.

    Attributes:
        wall_SS3, floor_SS3: Textures, float32, which repeat.
        wall_z: Depth of the wall, metres.
        shadow: Darkening of the floor under the dancer, [0, 1].
    """

    wall_SS3: np.ndarray
    floor_SS3: np.ndarray
    wall_z: float
    shadow: float = 0.5

    def picture(self, view: View, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """The empty room (H, W, 3) in [0, 1], and where on the floor each pixel lies: x and z (H, W, 2), far away on
        the wall."""
        import cv2

        size = width * _SUPERSAMPLED, height * _SUPERSAMPLED
        step = 2 * view.tan_half / size[1]
        columns = ((np.arange(size[0]) + 0.5 - 0.5 * size[0]) * step).astype(np.float32)[None]
        rows = ((0.5 * size[1] - np.arange(size[1]) - 0.5) * step).astype(np.float32)[:, None]
        eye = view.eye.astype(np.float32)
        ray_x, ray_y, ray_z = (
            np.float32(f) + columns * np.float32(r) + rows * np.float32(u)
            for f, r, u in zip(view.forward, view.right, view.up, strict=True)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            to_wall = (np.float32(self.wall_z) - eye[2]) / ray_z
            to_floor = -eye[1] / ray_y
        # What looks neither at the wall nor at the floor sees something far away.
        to_wall = np.where(to_wall > 0, to_wall, _FAR_M)
        on_floor = (to_floor > 0) & (to_floor < to_wall)
        reach = np.where(on_floor, to_floor, to_wall)
        x, z = eye[0] + reach * ray_x, eye[2] + reach * ray_z
        scale = np.float32(_SIDE / _SPAN_M)
        u, v = (x * scale) % _SIDE, (np.where(on_floor, z, eye[1] + reach * ray_y) * scale) % _SIDE
        wall, floor = (
            cv2.remap(texture, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
            for texture in (self.wall_SS3, self.floor_SS3)
        )
        picture = cv2.resize(np.where(on_floor[..., None], floor, wall), (width, height), interpolation=cv2.INTER_AREA)
        some = (slice(None, None, _SUPERSAMPLED), slice(None, None, _SUPERSAMPLED))
        ground = np.where(on_floor[some][..., None], np.stack([x[some], z[some]], axis=-1), _FAR_M)
        return picture, ground


def draw_room(rng: np.random.Generator, *, shifted: bool = False) -> Room:
    """A room drawn by lot: plain, gradients, stripes, tiles or blobs; ``shifted`` ones are darker and busier."""
    makers = (_tiles, _waves, _bricks) if shifted else (_gradient, _stripes, _checker, _blobs)
    wall, floor = (makers[int(rng.integers(len(makers)))](rng, *_colours(rng, shifted)) for _ in range(2))
    return Room(_blurred(wall), _blurred(floor) * 0.85, -float(rng.uniform(1.2, 2.2)), float(rng.uniform(0.35, 0.6)))


def _colours(rng: np.random.Generator, shifted: bool) -> tuple[np.ndarray, np.ndarray]:
    low, high = (0.08, 0.6) if shifted else (0.3, 0.95)
    first = rng.uniform(low, high, 3)
    second = np.clip(first + rng.uniform(-0.3, 0.3, 3), 0.03, 0.97)
    return first, second


def _grid() -> tuple[np.ndarray, np.ndarray]:
    v, u = np.meshgrid(np.arange(_SIDE) / _SIDE, np.arange(_SIDE) / _SIDE, indexing="ij")
    return u, v


def _mixed(share: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray((first + share[..., None] * (second - first)).astype(np.float32))


def _gradient(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    u, v = _grid()
    turn = rng.uniform(0, 2 * np.pi)
    return _mixed(0.5 + 0.25 * (np.sin(2 * np.pi * u + turn) + np.sin(2 * np.pi * v + turn)), first, second)


def _stripes(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    count = int(rng.integers(4, 9))
    return _mixed((np.floor(_grid()[int(rng.integers(2))] * 2 * count) % 2).astype(float), first, second)


def _checker(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    u, v = _grid()
    count = 2 * int(rng.integers(3, 6))
    return _mixed((np.floor(u * count) + np.floor(v * count)) % 2, first, second)


def _blobs(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    import cv2

    noise = rng.standard_normal((_SIDE, _SIDE)).astype(np.float32)
    sigma = float(rng.uniform(5, 10))
    tiled = cv2.GaussianBlur(np.tile(noise, (3, 3)), (0, 0), sigma)[_SIDE : 2 * _SIDE, _SIDE : 2 * _SIDE]
    return _mixed(np.clip(0.5 + 0.6 * tiled / tiled.std(), 0, 1), first, second)


def _tiles(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    u, v = _grid()
    count = int(rng.integers(4, 7))
    ring = np.hypot(u * count % 1 - 0.5, v * count % 1 - 0.5)
    return _mixed((ring < float(rng.uniform(0.25, 0.4))).astype(float), first, second)


def _waves(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    u, v = _grid()
    count = int(rng.integers(3, 7))
    return _mixed((np.sin(2 * np.pi * (count * v + 0.35 * np.sin(2 * np.pi * 2 * u))) > 0).astype(float), first, second)


def _bricks(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    u, v = _grid()
    rows = 2 * int(rng.integers(3, 6))
    row = np.floor(v * rows)
    gap = (v * rows % 1 < 0.14) | ((u * rows / 2 + 0.5 * (row % 2)) % 1 < 0.08)
    return _mixed(gap.astype(float), first, second)


def _blurred(texture: np.ndarray) -> np.ndarray:
    """Softened edges: what lies finer than a pixel would flicker."""
    import cv2

    return np.asarray(cv2.GaussianBlur(np.tile(texture, (3, 3, 1)), (0, 0), 0.8)[_SIDE : 2 * _SIDE, _SIDE : 2 * _SIDE])
