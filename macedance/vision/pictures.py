"""Pictures as users have them: turned by a camera, with an alpha channel, grey, of 16 bits, tiny or huge.

Shapes: H rows, W columns; RGB, uint8.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from macedance.errors import DataError

#: Below this no person can be recognised.
MIN_SIDE_PX = 64
#: Larger pictures are made smaller on reading: no network here looks at more.
MAX_SIDE_PX = 4096
#: Beyond this a file is refused before it is decoded; a little below the number from which Pillow does not open it.
MAX_PIXELS = 178_000_000
#: What stands behind transparent parts.
BACKGROUND = (255, 255, 255)


def read_picture(path: str | Path, *, min_side: int = MIN_SIDE_PX, max_side: int = MAX_SIDE_PX) -> np.ndarray:
    """A picture file (H, W, 3) as a person sees it.

    Turned as its EXIF says, transparent parts on white, grey repeated over the channels, 16 bits brought to 8, CMYK and
    palettes converted, of an animation the first frame; longer sides than ``max_side`` are made smaller.

    Args:
        path: jpeg, png, webp, bmp, tiff, gif, ...
        min_side: Least number of pixels of the shorter side.
        max_side: Most of the longer side.

    Raises:
        DataError: Missing, no picture, cut off, smaller than ``min_side`` or larger than MAX_PIXELS.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    try:
        with warnings.catch_warnings():
            # Our own limit stands in for Pillow's warning about large pictures.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                _check_size(picture.size, path, min_side)
                # A jpeg can be decoded at a half, a quarter or an eighth, which is all that a huge one needs.
                picture.draft(None, (max_side, max_side))
                turned = ImageOps.exif_transpose(picture)
                turned.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
                return _rgb(turned)
    except UnidentifiedImageError as error:
        raise DataError("the file is no picture", where=path, expected="jpeg, png, webp, bmp or tiff") from error
    except Image.DecompressionBombError as error:
        raise _too_large("it is not opened", path) from error
    except (OSError, ValueError, SyntaxError) as error:
        told = getattr(error, "strerror", None) or (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"the picture cannot be read ({told})", where=path, expected="a whole picture") from error


def fit_picture(picture_HW3: np.ndarray, width: int, height: int) -> np.ndarray:
    """The picture (height, width, 3) at another size: scaled to cover it, what sticks out cut off evenly."""
    import cv2

    rows, columns = picture_HW3.shape[:2]
    scale = max(width / columns, height / rows)
    size = max(width, round(columns * scale)), max(height, round(rows * scale))
    shrinks = scale < 1
    scaled = cv2.resize(picture_HW3, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width])


def _check_size(size: tuple[int, int], path: Path, min_side: int) -> None:
    width, height = size
    if min(width, height) < min_side:
        raise DataError(
            f"the picture has {width} x {height} pixels", where=path, expected=f"at least {min_side} on each side"
        )
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width} x {height} pixels", path)


def _too_large(size: str, path: Path) -> DataError:
    most = f"at most {MAX_PIXELS // 1_000_000} megapixels"
    return DataError(f"the picture is too large ({size})", where=path, expected=most, fix="make it smaller")


def _rgb(picture: Any) -> np.ndarray:
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":
        return _from_deep_grey(np.asarray(picture), picture.mode)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        over = picture.convert("RGBA")
        behind = Image.new("RGBA", over.size, (*BACKGROUND, 255))
        picture = Image.alpha_composite(behind, over)
    return np.ascontiguousarray(np.asarray(picture.convert("RGB")))


def _from_deep_grey(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey of 16 bits by its upper byte; of 32 bits or of floats, whose file does not say what white is, by a guess."""
    values = values.astype(np.float64)
    top = 65535.0 if mode.startswith("I;16") else _white(float(values.max(initial=0)))
    grey = np.clip(np.round(values / top * 255.0), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _white(brightest: float) -> float:
    """The usual value of white that a picture's brightest one speaks for."""
    if brightest > 255:
        return 65535.0
    return 255.0 if brightest > 1.0 else 1.0
