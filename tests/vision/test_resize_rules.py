"""Resizing by the published rules, against the formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from macedance.errors import DataError
from macedance.vision.resize import center_crop, normalize, resize, resize_shorter_side, shrink_longer_side


def keys_cubic(x: np.ndarray, a: float = -0.75) -> np.ndarray:
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def weights(source: int, target: int, mode: str) -> np.ndarray:
    """(target, source) matrix of half-pixel interpolation without antialiasing, edges repeated."""
    matrix = np.zeros((target, source))
    for row in range(target):
        place = (row + 0.5) * source / target - 0.5
        if mode == "bilinear":
            place = max(place, 0.0)
        base = int(np.floor(place))
        taps = range(base - 1, base + 3) if mode == "bicubic" else range(base, base + 2)
        for tap in taps:
            far = place - tap
            value = keys_cubic(np.array(far)) if mode == "bicubic" else max(0.0, 1 - abs(far))
            matrix[row, min(max(tap, 0), source - 1)] += float(value)
    return matrix


def pictures(height: int, width: int, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width", "to"), [(36, 64, (14, 24)), (64, 36, (24, 14)), (20, 20, (33, 41))])
def test_values_are_those_of_the_formula(mode: str, height: int, width: int, to: tuple[int, int]) -> None:
    frames = pictures(height, width)
    rows, columns = weights(height, to[0], mode), weights(width, to[1], mode)
    expected = np.einsum("yh,tchw,xw->tcyx", rows, frames.double().numpy(), columns)
    found = resize(frames, *to, mode)  # type: ignore[arg-type]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


def test_bicubic_overshoots_and_is_not_clamped() -> None:
    frames = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    frames[..., 20:40, 20:40] = 255
    found = resize(frames, 96, 96, "bicubic")
    assert found.min() < -5
    assert found.max() > 260


def test_no_antialiasing() -> None:
    frames = pictures(128, 128)
    smooth = torch.nn.functional.interpolate(frames.float(), size=(32, 32), mode="bilinear", antialias=True)
    found = resize(frames, 32, 32, "bilinear")
    assert (found - smooth).abs().mean() > 10
    # A quarter of the size samples between the second and third pixel of each four.
    expected = frames.float()[..., 1::4, 1::4] + frames.float()[..., 1::4, 2::4]
    expected = (expected + frames.float()[..., 2::4, 1::4] + frames.float()[..., 2::4, 2::4]) / 4
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (720, 1280, (224, 398)),
        (1280, 720, (398, 224)),
        (480, 854, (224, 398)),
        (100, 100, (224, 224)),
        (300, 401, (224, 299)),
    ],
)
def test_the_longer_side_is_rounded_down(height: int, width: int, expected: tuple[int, int]) -> None:
    frames = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    assert resize_shorter_side(frames, 224, "bilinear").shape[-2:] == expected


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(720, 1280, (288, 512)), (512, 300, (512, 300)), (300, 200, (300, 200)), (1080, 607, (512, 287))],
)
def test_frames_are_only_ever_shrunk_to_the_longer_side(height: int, width: int, expected: tuple[int, int]) -> None:
    frames = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    assert shrink_longer_side(frames, 512, "bilinear").shape[-2:] == expected


def test_shrinking_rounds_the_product_of_floats_down() -> None:
    # 512 / side * side is below 512 for some sides: the published line then makes 511 of it.
    side = next(n for n in range(513, 4000) if int(512 / n * n) == 511)
    frames = torch.zeros(1, 1, 4, side)
    assert shrink_longer_side(frames, 512, "bilinear").shape[-1] == 511


@pytest.mark.parametrize(("side", "offset"), [(224, 0), (398, 87), (397, 86), (399, 88), (225, 0), (227, 2)])
def test_crops_start_at_the_half_rounded_to_even(side: int, offset: int) -> None:
    frames = torch.arange(side, dtype=torch.float32).expand(1, 1, 224, side)
    assert center_crop(frames, 224)[0, 0, 0, 0] == offset
    tall = torch.arange(side, dtype=torch.float32)[:, None].expand(1, 1, side, 224)
    assert center_crop(tall, 224)[0, 0, 0, 0] == offset


def test_normalize_is_by_channel() -> None:
    frames = torch.full((1, 3, 2, 2), 255.0)
    found = normalize(frames, (0.0, 0.5, 1.0), (1.0, 0.5, 0.25))
    assert found[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]


def test_impossible_sizes_are_one_error() -> None:
    with pytest.raises(DataError, match="0 pixels"):
        resize(pictures(8, 8), 0, 4, "bilinear")
    with pytest.raises(DataError, match="at least 224"):
        center_crop(pictures(8, 8), 224)
