"""Folders of pictures, one for each name, such as the reference images of videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from macedance.errors import DataError
from macedance.vision.pictures import read_picture

#: File endings that are read as pictures.
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_pictures(folder: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The pictures (H, W, 3) uint8 RGB of some names: ``<name>.png``, ``.jpg``, ...

    Raises:
        DataError: No folder, or names without a picture, with two, or with a damaged one; all are listed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no such folder", where=folder, expected="a folder of pictures")
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURE_SUFFIXES:
            files.setdefault(path.stem, []).append(path)
    pictures: dict[str, np.ndarray] = {}
    bad: list[str] = []
    for name in names:
        of_name = files.get(name, [])
        if len(of_name) != 1:
            bad.append(f"{name}: {' and '.join(path.name for path in of_name) or 'none'}")
            continue
        try:
            pictures[name] = read_picture(of_name[0])
        except DataError as error:
            bad.append(f"{name}: {error.what}")
    if bad:
        raise DataError(
            f"{len(bad)} of {len(names)} names have not one picture that can be read: {'; '.join(bad)}",
            where=folder,
            expected=f"one for each name, ending in {' '.join(PICTURE_SUFFIXES)}",
        )
    return pictures
