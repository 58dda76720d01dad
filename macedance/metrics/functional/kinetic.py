"""Kinetic features: the energy of each joint, horizontal and vertical, and its acceleration.

Shapes: ... any leading dimensions, T frames, J joints. Metres and seconds; features are in float64.

Source: Onuma et al., "FMDistance: a fast and effective distance function for motion capture data" (Eurographics 2008),
in the form that AIST++ (Li et al., ICCV 2021) released and later work copied; every constant of it is an argument here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

from macedance.errors import DataError

Acceleration = Literal["correct", "published"]


def kinetic_features(
    joints: Tensor,
    frame_time_s: float,
    *,
    acceleration: Acceleration = "correct",
    half_window: int = 2,
    up_axis: int = 1,
) -> Tensor:
    """Features (..., 3 J) of joints (..., T, J, 3): for each joint in turn E_horizontal, E_vertical, mean acceleration.

    The velocity of frame i = 1..T-1 is the mean of the frame velocities i - half_window to i + half_window that exist;
    E is the mean over i of its squared length in the plane and along the up axis (m^2/s^2). The acceleration is
    smoothed in the same way; its feature is the mean over i of the length (m/s^2).

    Args:
        joints: Positions, metres.
        frame_time_s: Seconds between frames. Published code fixes it at 1/60 whatever the data.
        acceleration: ``correct``: the difference of two velocities. ``published``: with the released code's misplaced
            parenthesis; the earlier of the two is p[j] - p[j-1] / frame_time, not (p[j] - p[j-1]) / frame_time.
        half_window: Frames on either side that the smoothing takes in; at least 1.
        up_axis: 1 for y-up, 2 for z-up.

    Raises:
        DataError: Fewer than three frames.
    """
    x = _frames_last(joints)
    num_frames = x.shape[-1]
    velocity = x.diff(dim=-1) / frame_time_s
    smooth_velocity = _clipped_mean(velocity, half_window)
    after = velocity[..., 1:]
    if acceleration == "correct":
        before = velocity[..., :-1]
    else:
        before = x[..., 1:-1] - x[..., :-2] / frame_time_s
    # Frame j's acceleration exists for j = 1..T-2; the mean is asked for at i = 1..T-1, one frame further.
    rate = (after - before) / frame_time_s
    smooth_rate = _clipped_mean(rate, half_window, extra=1)
    length = smooth_rate.square().sum(-2).sqrt()
    return _assemble(smooth_velocity, length, num_frames - 1, up_axis)


def kinetic_features_convolved(
    joints: Tensor, frame_time_s: float, *, half_window: int = 2, up_axis: int = 1
) -> Tensor:
    """The vectorised variant of MEGADance and MACE-Dance: features (..., 3 J) of joints (..., T, J, 3).

    The first velocity is repeated so that there are T of them; smoothing divides by the full window at the ends too, so
    that they are attenuated; the acceleration is taken from the smoothed velocity, its first value repeated, and
    smoothed again; means are over T frames.

    Raises:
        DataError: Fewer than three frames.
    """
    x = _frames_last(joints)
    velocity = x.diff(dim=-1) / frame_time_s
    velocity = _zero_padded_mean(torch.cat([velocity[..., :1], velocity], dim=-1), half_window)
    rate = velocity.diff(dim=-1) / frame_time_s
    rate = _zero_padded_mean(torch.cat([rate[..., :1], rate], dim=-1), half_window)
    return _assemble(velocity, rate.square().sum(-2).sqrt(), x.shape[-1], up_axis)


def _frames_last(joints: Tensor) -> Tensor:
    """(..., J, 3, T) in float64."""
    if joints.ndim < 3 or joints.shape[-1] != 3 or joints.shape[-3] < 3:
        raise DataError(f"joints have shape {tuple(joints.shape)}", expected="(..., T, J, 3) with at least 3 frames")
    return joints.double().movedim(-3, -1).contiguous()


def _assemble(velocity: Tensor, acceleration: Tensor, count: int, up_axis: int) -> Tensor:
    """(..., J, 3, N) velocities and (..., J, N) accelerations to (..., 3 J)."""
    energy = velocity.square().sum(-1) / count
    vertical = energy[..., up_axis]
    horizontal = energy.sum(-1) - vertical
    return torch.stack([horizontal, vertical, acceleration.sum(-1) / count], dim=-1).flatten(-2)


def _clipped_mean(x: Tensor, half_window: int, extra: int = 0) -> Tensor:
    """Means over the part of each window that exists, along the last dimension, for ``extra`` positions more."""
    total = x.shape[-1]
    summed = pad(x.cumsum(-1), (1, 0))
    index = torch.arange(total + extra, device=x.device)
    low = (index - half_window).clamp(0, total)
    high = (index + half_window + 1).clamp(0, total)
    return (summed[..., high] - summed[..., low]) / (high - low).clamp_min(1)


def _zero_padded_mean(x: Tensor, half_window: int) -> Tensor:
    width = 2 * half_window + 1
    flat = x.reshape(-1, 1, x.shape[-1])
    return avg_pool1d(flat, width, stride=1, padding=half_window, count_include_pad=True).reshape(x.shape)
