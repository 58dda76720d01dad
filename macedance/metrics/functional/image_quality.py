"""Structural similarity and signal-to-noise ratio of pictures, in the conventions that papers on animation print.

Shapes: N pictures, C channels, H rows, W columns, P maps. Everything is in float64.

Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (2004), eq. 13.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from macedance.errors import DataError

#: Gaussian window of 11 x 11 pixels.
WINDOW = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03
#: Ratio given to equal pictures, dB.
PSNR_CAP_DB = 100.0


def ssim(x_NCHW: Tensor, y_NCHW: Tensor, *, padded: bool = False) -> Tensor:
    """Structural similarity of pictures with values in [0, 1]: mean over channels and pixels; 1 for equal ones.

    Args:
        x_NCHW: (N, C, H, W), sides of at least 11 pixels.
        y_NCHW: The pictures to compare with, one for each.
        padded: False: over pixels whose whole window lies inside the picture, as scikit-image (``gaussian_weights``,
            sigma 1.5, population statistics) and the scripts of animation papers do. True: over all pixels, the picture
            continued by reflection, as torchmetrics does; a few 1e-4 apart.

    Returns:
        (N,) float64.

    Raises:
        DataError: Different shapes, or pictures smaller than the window.
    """
    _check(x_NCHW, y_NCHW, WINDOW)
    x, y = x_NCHW.double(), y_NCHW.double()
    if padded:
        x, y = (F.pad(picture, [WINDOW // 2] * 4, mode="reflect") for picture in (x, y))
    values = [_ssim_of_one(*pair) for pair in zip(x, y, strict=True)]
    return torch.stack(values) if values else x.new_zeros(0)


def psnr(x_NCHW: Tensor, y_NCHW: Tensor, *, cap_db: float = PSNR_CAP_DB) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures with values in [0, 1], of each picture by itself.

    Args:
        x_NCHW: (N, C, H, W).
        y_NCHW: The pictures to compare with, one for each.
        cap_db: What equal pictures, and all above it, get.

    Returns:
        (N,) float64.

    Raises:
        DataError: Different shapes.
    """
    _check(x_NCHW, y_NCHW, 1)
    error = (x_NCHW.double() - y_NCHW.double()).square().mean(dim=(1, 2, 3))
    return (-10.0 * error.log10()).clamp(max=cap_db)


def gaussian_window(size: int = WINDOW, sigma: float = _SIGMA) -> Tensor:
    """Weights (size,) of sum 1."""
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-offsets.square() / (2 * sigma**2))
    return weights / weights.sum()


def _ssim_of_one(x_CHW: Tensor, y_CHW: Tensor) -> Tensor:
    maps_PHW = torch.cat([x_CHW, y_CHW, x_CHW * x_CHW, y_CHW * y_CHW, x_CHW * y_CHW])
    mean_x, mean_y, xx, yy, xy = _blurred(maps_PHW).split(len(x_CHW))
    c1, c2 = _K1**2, _K2**2
    # Rounding may leave a flat region with a variance just below zero.
    variances = (xx - mean_x.square()).clamp(min=0) + (yy - mean_y.square()).clamp(min=0)
    similar = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
    return (similar / ((mean_x.square() + mean_y.square() + c1) * (variances + c2))).mean()


def _blurred(maps_PHW: Tensor) -> Tensor:
    """Gaussian means (P, H - 10, W - 10) over whole windows; OpenCV is 50 times faster than convolution on a CPU."""
    weights = gaussian_window()
    if maps_PHW.device.type != "cpu":
        height, width = maps_PHW.shape[-2:]
        down, across = (_band(weights, size).to(maps_PHW.device) for size in (height, width))
        return down @ maps_PHW @ across.T
    import cv2

    kernel, edge = weights.numpy(), WINDOW // 2
    blurred = [cv2.sepFilter2D(plane, -1, kernel, kernel)[edge:-edge, edge:-edge] for plane in maps_PHW.numpy()]
    return torch.from_numpy(np.stack(blurred))


def _band(weights: Tensor, size: int) -> Tensor:
    """The window at every place, as a matrix (size - 10, size)."""
    band = torch.zeros(size - len(weights) + 1, size, dtype=torch.float64)
    for offset, weight in enumerate(weights):
        band.diagonal(offset).fill_(float(weight))
    return band


def _check(x: Tensor, y: Tensor, side: int) -> None:
    if x.shape != y.shape or x.ndim != 4 or min(x.shape[-2:]) < side:
        raise DataError(
            f"pictures of shapes {tuple(x.shape)} and {tuple(y.shape)}",
            expected=f"the same (N, C, height, width), sides of at least {side} pixels",
        )
