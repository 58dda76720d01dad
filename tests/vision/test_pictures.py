"""Pictures as users have them are read as a person sees them, or refused by name."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from macedance.errors import DataError
from macedance.vision.pictures import fit_picture, read_picture


def gradient(height: int = 80, width: int = 120) -> np.ndarray:
    """Red grows to the right, green downwards."""
    picture = np.full((height, width, 3), 30, dtype=np.uint8)
    picture[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    picture[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return picture


def test_a_turned_photo_stands_upright(tmp_path: Path) -> None:
    picture = gradient()
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(picture)))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show it
    stored.save(tmp_path / "phone.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "phone.png"), picture)


def test_transparent_parts_stand_on_white(tmp_path: Path) -> None:
    picture = np.dstack([gradient(), np.full((80, 120), 255, dtype=np.uint8)])
    picture[:40, :, 3] = 0
    Image.fromarray(picture, "RGBA").save(tmp_path / "cut.png")
    read = read_picture(tmp_path / "cut.png")
    assert (read[:40] == 255).all()
    assert np.array_equal(read[40:], picture[40:, :, :3])


def test_grey_and_sixteen_bits_become_rgb(tmp_path: Path) -> None:
    grey = gradient()[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for name in ("grey.png", "deep.png"):
        assert np.array_equal(read_picture(tmp_path / name), np.repeat(grey[..., None], 3, axis=2)), name


@pytest.mark.parametrize("ending", ["png", "tiff"])
@pytest.mark.parametrize("darkness", [1, 200, 5000])
def test_a_dark_picture_of_sixteen_bits_stays_dark(tmp_path: Path, ending: str, darkness: int) -> None:
    Image.fromarray(np.full((80, 80), darkness, dtype=np.uint16)).save(tmp_path / f"dark.{ending}")
    assert (read_picture(tmp_path / f"dark.{ending}") == round(darkness / 257)).all()


@pytest.mark.parametrize(("dtype", "white"), [(np.float32, 1), (np.float32, 255), (np.int32, 255), (np.int32, 65535)])
def test_of_other_depths_the_brightest_value_tells_what_white_is(tmp_path: Path, dtype: type, white: int) -> None:
    Image.fromarray((np.eye(80) * white).astype(dtype)).save(tmp_path / "a.tiff")
    assert np.array_equal(read_picture(tmp_path / "a.tiff")[..., 0], (np.eye(80) * 255).astype(np.uint8))


@pytest.mark.parametrize("mode", ["P", "CMYK", "L", "1"])
def test_every_mode_gives_three_channels(tmp_path: Path, mode: str) -> None:
    Image.fromarray(gradient()).convert(mode).save(tmp_path / "a.tiff")
    read = read_picture(tmp_path / "a.tiff")
    assert read.shape == (80, 120, 3)
    assert read.dtype == np.uint8
    assert read[:, -20:, 0].mean() > read[:, :20, 0].mean() + 60


def test_a_hundred_megapixels_are_read_within_bounds(tmp_path: Path) -> None:
    Image.new("RGB", (10_000, 10_000), (200, 30, 40)).save(tmp_path / "huge.jpg")
    tracemalloc.start()
    read = read_picture(tmp_path / "huge.jpg")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(read.shape) == 4096
    assert peak < 300e6
    assert np.abs(read.reshape(-1, 3).mean(0) - (200, 30, 40)).max() < 3


def test_what_is_no_usable_picture_is_refused_by_name(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "tiny.png")
    (tmp_path / "text.png").write_text("not a picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:20_000])
    for name, told in (("tiny.png", "10 x 10"), ("text.png", "no picture"), ("cut.png", "cannot be read")):
        with pytest.raises(DataError, match=rf"{told}.*{name}"):
            read_picture(tmp_path / name)
    with pytest.raises(DataError, match=r"absent\.png"):
        read_picture(tmp_path / "absent.png")


@pytest.mark.parametrize("side", [13_360, 14_000, 40_000])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")))
    with pytest.raises(DataError, match=r"too large.*bomb\.png.*at most 178 megapixels"):
        read_picture(tmp_path / "bomb.png")


@pytest.mark.parametrize(("width", "height"), [(64, 64), (120, 80), (200, 40), (33, 77)])
def test_a_picture_is_cut_evenly_to_another_size(width: int, height: int) -> None:
    fitted = fit_picture(gradient(), width, height)
    assert fitted.shape == (height, width, 3)
    # Red still grows to the right about the same middle.
    assert fitted[:, -3:, 0].mean() > fitted[:, :3, 0].mean()
    assert abs(float(fitted[..., 0].mean()) - 127) < 8
