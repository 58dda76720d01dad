"""Resizing as the published metrics do it: without antialiasing, on values from 0 to 255, sizes rounded their way.

Shapes: T frames, C channels, H rows, W columns. float32 in and out; uint8 is converted.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from macedance.errors import DataError

Mode = Literal["bilinear", "bicubic"]


def resize(frames_TCHW: Tensor, height: int, width: int, mode: Mode) -> Tensor:
    """Frames of another size, by half-pixel interpolation without antialiasing; bicubic over- and undershoots.

    Equal to torchvision's ``Resize(antialias=False)`` on tensors, bit by bit.

    Returns:
        (T, C, height, width) float32.

    Raises:
        DataError: A side of no pixels.
    """
    if height < 1 or width < 1:
        raise DataError(f"frames of {tuple(frames_TCHW.shape)} would become {width} x {height} pixels")
    frames_TCHW = frames_TCHW.to(torch.float32)
    if frames_TCHW.shape[-2:] == (height, width):
        return frames_TCHW
    return F.interpolate(frames_TCHW, size=(height, width), mode=mode, align_corners=False)


def resize_shorter_side(frames_TCHW: Tensor, size: int, mode: Mode) -> Tensor:
    """The shorter side becomes ``size``, the longer one size * long / short rounded down, as torchvision does."""
    height, width = frames_TCHW.shape[-2:]
    if height <= width:
        return resize(frames_TCHW, size, int(size * width / height), mode)
    return resize(frames_TCHW, int(size * height / width), size, mode)


def shrink_longer_side(frames_TCHW: Tensor, size: int, mode: Mode) -> Tensor:
    """The longer side becomes ``size`` where it is above; sides are rounded down after the floating-point product."""
    height, width = frames_TCHW.shape[-2:]
    if max(height, width) <= size:
        return frames_TCHW.to(torch.float32)
    scale = size / max(height, width)
    return resize(frames_TCHW, int(scale * height), int(scale * width), mode)


def center_crop(frames_TCHW: Tensor, size: int) -> Tensor:
    """The central square of ``size`` pixels, offset by round((side - size) / 2), halves to even, as torchvision does.

    Raises:
        DataError: Frames smaller than that.
    """
    height, width = frames_TCHW.shape[-2:]
    if min(height, width) < size:
        raise DataError(f"frames of {width} x {height} pixels", expected=f"at least {size} x {size} to be cropped")
    top, left = round((height - size) / 2), round((width - size) / 2)
    return frames_TCHW[..., top : top + size, left : left + size]


def normalize(frames_TCHW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x / 255 - mean) / std by channel."""
    mean_C11 = frames_TCHW.new_tensor(mean)[:, None, None]
    std_C11 = frames_TCHW.new_tensor(std)[:, None, None]
    return (frames_TCHW / 255.0 - mean_C11) / std_C11
