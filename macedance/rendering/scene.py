"""What the picture looks like: the stage, the light and the dancer's colours, shared by both rasterisers.

Colours are display values in [0, 1]. Lighting is computed on their squares and the square root taken at the end: a
gamma of 2, close to sRGB's and cheap.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np

Colour = tuple[float, float, float]


def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = (x * x + y * y + z * z) ** 0.5
    return (x / length, y / length, z / length)


@dataclass(frozen=True)
class Stage:
    """Floor, background and light.

    Attributes:
        floor_light, floor_dark: The two tones of the checker.
        backdrop_low, backdrop_high: Background at the horizon and above; the floor fades into the former.
        spot: How much darker the floor is away from the dancer, [0, 1].
        tile_m: Side of a checker tile.
        fog_start_m, fog_end_m: Distance from the dancer at which the floor starts to fade and has faded.
        vignette: Darkening of the corners, [0, 1].
        shadow: Strength of the cast shadow, [0, 1].
        contact: Strength of the dark contact spot under feet and hands, [0, 1].
        to_light: Unit vector to the key light, in the frame of a camera that looks along -z; turned with it.
        key, sky, ground, rim: Strengths of the key light, the ambient light from above and below, and the rim light.
        fill: Strength of a soft light from the camera, so that faces are never in the dark.
        rim_colour: Colour of the rim light.
        specular: Strength of the highlight.
    """

    floor_light: Colour = (0.90, 0.88, 0.87)
    floor_dark: Colour = (0.84, 0.82, 0.815)
    backdrop_low: Colour = (0.80, 0.83, 0.90)
    backdrop_high: Colour = (0.52, 0.61, 0.79)
    spot: float = 0.20
    tile_m: float = 0.6
    fog_start_m: float = 2.2
    fog_end_m: float = 8.5
    vignette: float = 0.22
    shadow: float = 0.58
    contact: float = 0.55
    to_light: tuple[float, float, float] = field(default_factory=lambda: _unit(-0.50, 1.0, 0.78))
    key: float = 0.78
    sky: float = 0.42
    ground: float = 0.28
    rim: float = 0.40
    fill: float = 0.24
    rim_colour: Colour = (0.80, 0.86, 1.0)
    specular: float = 0.05


@dataclass(frozen=True)
class Outfit:
    """The dancer's colours."""

    top: Colour = (0.93, 0.36, 0.30)
    trousers: Colour = (0.17, 0.20, 0.34)
    shoes: Colour = (0.95, 0.95, 0.96)
    skin: Colour = (0.86, 0.70, 0.60)
    hair: Colour = (0.22, 0.16, 0.15)
    eyes: Colour = (0.10, 0.09, 0.10)


#: Tops and trousers that go together; a genre or dancer name picks one.
OUTFITS: tuple[Outfit, ...] = (
    Outfit(),
    Outfit(top=(0.10, 0.60, 0.62), trousers=(0.22, 0.20, 0.27)),
    Outfit(top=(0.96, 0.70, 0.20), trousers=(0.20, 0.25, 0.42)),
    Outfit(top=(0.49, 0.36, 0.78), trousers=(0.16, 0.17, 0.24)),
    Outfit(top=(0.22, 0.47, 0.85), trousers=(0.27, 0.27, 0.32)),
    Outfit(top=(0.93, 0.48, 0.65), trousers=(0.24, 0.22, 0.38)),
    Outfit(top=(0.36, 0.66, 0.36), trousers=(0.24, 0.21, 0.20)),
    Outfit(top=(0.94, 0.94, 0.92), trousers=(0.20, 0.33, 0.47), shoes=(0.86, 0.28, 0.25)),
)


#: The built-in genres, told apart at a glance; any other name gets one of the outfits by its letters.
_GENRE_OUTFIT = {
    "hiphop": 0, "house": 1, "locking": 2, "krump": 3, "breaking": 4, "latin": 5, "popping": 6, "waacking": 7,
}  # fmt: skip


def outfit_for(name: str | None) -> Outfit:
    """The outfit of a genre or dancer; the same name always wears the same. ``None``: the first."""
    if name is None:
        return OUTFITS[0]
    return OUTFITS[_GENRE_OUTFIT.get(name, zlib.crc32(name.encode()) % len(OUTFITS))]


@dataclass(frozen=True)
class FrameScene:
    """All that a rasteriser needs for one frame beside the camera.

    Attributes:
        positions_V3, normals_V3: The posed body, metres and unit vectors, float32.
        shadow_SS3: Floor maps, float32: height of the occluder above the floor along the light (-1: none), soft
            shadow in [0, 1], contact darkness in [0, 1]. Row = z, column = x.
        map_origin: World x and z of the map's corner.
        texel_m: Side of a map cell.
        centre: World x and z of the pool of light.
        to_light: Unit vector to the key light, world.
    """

    positions_V3: np.ndarray
    normals_V3: np.ndarray
    shadow_SS3: np.ndarray
    map_origin: tuple[float, float]
    texel_m: float
    centre: tuple[float, float]
    to_light: np.ndarray


def light_direction(stage: Stage, right: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Unit vector (3,) to the key light, turned with the camera's heading."""
    x, y, z = stage.to_light
    back = -np.array([forward[0], 0.0, forward[2]])
    back /= max(float(np.linalg.norm(back)), 1e-9)
    return x * right + np.array([0.0, y, 0.0]) + z * back
