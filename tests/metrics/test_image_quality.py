"""SSIM and PSNR against scikit-image and torchmetrics, in the conventions as documented."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from macedance.errors import DataError
from macedance.metrics.functional import image_quality
from macedance.metrics.functional.image_quality import psnr, ssim


@pytest.fixture(scope="module")
def pictures() -> tuple[Tensor, Tensor]:
    """Smooth pictures and noisy copies of them, in 256 steps."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(3, 3, 6, 5, generator=generator)
    x = torch.nn.functional.interpolate(coarse, size=(45, 38), mode="bicubic").clamp(0, 1)
    y = (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    y[2] = x[2]
    return (x * 255).to(torch.uint8).double() / 255, (y * 255).to(torch.uint8).double() / 255


def test_ssim_equals_scikit_image(pictures: tuple[Tensor, Tensor]) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    expected = [
        metrics.structural_similarity(
            a.numpy(), b.numpy(), channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=1.0,
        )
        for a, b in zip(*pictures, strict=True)
    ]  # fmt: skip
    found = ssim(*pictures)
    assert found[0] < 0.95
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
    assert found[2] == pytest.approx(1.0, abs=1e-12)


def test_padded_ssim_equals_torchmetrics(pictures: tuple[Tensor, Tensor]) -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    expected = structural_similarity_index_measure(*pictures, data_range=1.0, reduction="none")
    found = ssim(*pictures, padded=True)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-10)
    assert (found - ssim(*pictures))[:2].abs().min() > 1e-5


def test_other_devices_blur_alike(pictures: tuple[Tensor, Tensor]) -> None:
    maps = torch.cat(pictures).flatten(0, 1)
    window = image_quality.gaussian_window()
    down, across = (image_quality._band(window, size) for size in maps.shape[-2:])
    torch.testing.assert_close(down @ maps @ across.T, image_quality._blurred(maps), rtol=1e-12, atol=1e-14)


def test_psnr_is_of_each_picture_by_itself(pictures: tuple[Tensor, Tensor]) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    x, y = (some.numpy() for some in pictures)
    expected = [metrics.peak_signal_noise_ratio(x[k], y[k], data_range=1.0) for k in (0, 1)]
    found = psnr(*pictures)
    np.testing.assert_allclose(found[:2].numpy(), expected, rtol=1e-12)
    assert found[2] == 100.0


def test_one_wrong_pixel_of_a_large_picture_is_capped() -> None:
    x = torch.zeros(1, 3, 1000, 1000, dtype=torch.float64)
    y = x.clone()
    y[0, 0, 0, 0] = 1 / 255
    assert psnr(x, y) == 100.0
    assert psnr(x, y, cap_db=200.0) == pytest.approx(10 * np.log10(3e6 * 255**2))


def test_shapes_that_do_not_fit() -> None:
    small = torch.zeros(1, 3, 11, 10)
    for metric in (ssim, psnr):
        with pytest.raises(DataError, match="the same"):
            metric(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))
    with pytest.raises(DataError, match="at least 11"):
        ssim(small, small)
    assert ssim(torch.zeros(0, 3, 16, 16), torch.zeros(0, 3, 16, 16)).shape == (0,)
