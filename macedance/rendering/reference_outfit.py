"""The mannequin's outfit that looks most like a person's picture.

Colours are compared as histograms in CIE Lab: every outfit's is known from the areas of the mesh and the light of the
stage, the picture's is taken from what does not look like its own border.

Shapes: H rows, W columns, N pixels or triangles, C = 3 colours.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from macedance.errors import DataError
from macedance.motion.body_mesh import GROUP_NAMES, mannequin_mesh
from macedance.rendering.scene import OUTFITS, Outfit

#: Bins of lightness, and of a and b, over the whole range of each.
_BINS = (8, 24, 24)
_LOW, _HIGH = np.array([0.0, -110.0, -110.0]), np.array([100.0, 110.0, 110.0])
#: Brightness of lit surfaces against their colour: from the shade to the highlight.
_LIGHTS = np.linspace(0.55, 1.08, 12)
#: A picture is looked at in about this many pixels a side.
_LOOKED_AT_PX = 128
#: Pixels that differ by less than this (CIE 1976, 2.3 is just noticeable) from a colour of the border are background.
_BACKGROUND_DISTANCE = 9.0
_MIN_SHARE = 0.005
#: Skin, hair and eyes are the same on every outfit.
_WORN = ("shirt", "trousers", "shoes")


def nearest_outfit(image_HWC: np.ndarray) -> Outfit:
    """The outfit of OUTFITS whose colours are nearest to those of a picture's foreground.

    Args:
        image_HWC: (H, W, 3) uint8, RGB, at least 8 x 8; the person stands off its left, right and upper border.

    Raises:
        DataError: Another shape or type.
    """
    pixels_NC = _foreground(check_reference_image(image_HWC))
    seen = _histogram(pixels_NC, np.ones(len(pixels_NC)))
    # Bhattacharyya's coefficient: how much of the two distributions is common to both.
    scores = [float(np.sqrt(seen * worn).sum()) for worn in _outfit_histograms()]
    return OUTFITS[int(np.argmax(scores))]


def check_reference_image(image_HWC: np.ndarray) -> np.ndarray:
    """The picture, or a DataError that says what it is instead."""
    image_HWC = np.asarray(image_HWC)
    if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.dtype != np.uint8 or min(image_HWC.shape[:2]) < 8:
        raise DataError(
            f"a reference image of shape {image_HWC.shape} and type {image_HWC.dtype} cannot be used",
            expected="(height, width, 3) uint8, RGB, at least 8 x 8 pixels",
        )
    return image_HWC


def lab_from_rgb(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* (..., 3) of sRGB colours (..., 3) in [0, 1], white D65 (IEC 61966-2-1, CIE 15)."""
    rgb = np.asarray(rgb, dtype=np.float64)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = (linear @ to_xyz.T) / to_xyz.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def _foreground(image_HWC: np.ndarray) -> np.ndarray:
    """Lab colours (N, 3) of what differs from the border; of the whole picture where next to nothing does."""
    step = max(1, min(image_HWC.shape[:2]) // _LOOKED_AT_PX)
    lab = lab_from_rgb(image_HWC[::step, ::step] / 255.0)
    edge = max(1, min(lab.shape[:2]) // 32)
    # The lower border is left out: there a person who is not shown down to the feet would count as background.
    border = [lab[:edge].reshape(-1, 3), lab[:, :edge].reshape(-1, 3), lab[:, -edge:].reshape(-1, 3)]
    colours = np.unique(np.round(np.concatenate(border) / 4.0) * 4.0, axis=0)
    flat = lab.reshape(-1, 3)
    distance = np.full(len(flat), np.inf)
    for colour in colours:
        np.minimum(distance, np.square(flat - colour).sum(axis=1), out=distance)
    chosen = distance > _BACKGROUND_DISTANCE**2
    return flat[chosen] if chosen.mean() > _MIN_SHARE else flat


def _histogram(lab_NC: np.ndarray, weights_N: np.ndarray) -> np.ndarray:
    """A smoothed three-dimensional histogram of colours that sums to 1."""
    from scipy.ndimage import gaussian_filter

    bounds = list(zip(_LOW, _HIGH, strict=True))
    counts = np.histogramdd(np.clip(lab_NC, _LOW, _HIGH), bins=_BINS, range=bounds, weights=weights_N)[0]
    smooth = gaussian_filter(counts, (0.8, 0.9, 0.9), mode="nearest")
    return np.asarray(smooth / smooth.sum())


@lru_cache(maxsize=1)
def _outfit_histograms() -> tuple[np.ndarray, ...]:
    """What each outfit would look like: its colours by the areas that they cover, from shade to highlight."""
    mesh = mannequin_mesh()
    a, b, c = mesh.vertices_V3[mesh.faces_F3].transpose(1, 0, 2)
    areas_F = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    area_of = np.bincount(mesh.groups_V[mesh.faces_F3[:, 0]], weights=areas_F, minlength=len(GROUP_NAMES))
    histograms = []
    for outfit in OUTFITS:
        worn = (outfit.top, outfit.trousers, outfit.shoes)
        colours = np.array([np.outer(_LIGHTS, colour) for colour in worn]).clip(0.0, 1.0)
        weights = np.repeat([area_of[GROUP_NAMES.index(name)] for name in _WORN], len(_LIGHTS))
        histograms.append(_histogram(lab_from_rgb(colours.reshape(-1, 3)), weights))
    return tuple(histograms)
