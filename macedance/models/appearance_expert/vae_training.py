"""From a batch of clips to the loss of the video autoencoder's training step.

Shapes: B clips, T frames, H, W rows and columns; z latent channels; pixels in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from macedance.diffusion.draws import row_generator
from macedance.errors import ConfigError
from macedance.models.appearance_expert.geometry import LatentGeometry
from macedance.models.appearance_expert.video_vae import Reconstruction

_STREAM = 5


@dataclass(frozen=True)
class VaeLosses:
    """Weights of the terms: squared error, absolute error, and the divergence of the posterior from N(0, 1).

    Args:
        mse_weight: Of the squared error, pixels in [-1, 1].
        l1_weight: Of the absolute error.
        kl_weight: Of the divergence, mean over the latents' numbers.
        person_weight: Pixels of the person's mask count this often.

    Raises:
        ConfigError: A weight below 0.
    """

    mse_weight: float = 1.0
    l1_weight: float = 0.1
    kl_weight: float = 1e-6
    person_weight: float = 2.0

    def __post_init__(self) -> None:
        for name in ("mse_weight", "l1_weight", "kl_weight", "person_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", where="model.losses", expected="0 or more")

    def __call__(self, made: Reconstruction, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss (B,), float32.

        Args:
            made: Of the clips.
            pixels: The clips (B, 3, T, H, W).
            mask: True where the person is (B, T, H, W); None: every pixel counts alike.
        """
        difference = made.pixels.float() - pixels.float()
        error = self.mse_weight * difference.square() + self.l1_weight * difference.abs()
        if mask is not None:
            weight = 1 + (self.person_weight - 1) * mask.unsqueeze(1).float()
            error = error * (weight / weight.mean(dim=(1, 2, 3, 4), keepdim=True))
        mean, log_variance = made.mean.float(), made.log_variance.float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        return error.flatten(1).mean(dim=1) + self.kl_weight * divergence.flatten(1).mean(dim=1)


@dataclass(frozen=True)
class VaeDraws:
    """The draws of one training step.

    Attributes:
        pose_B: bool, True where the pose drawing is the clip.
        place_B2: Uniform in [0, 1): row and column of the crop.
        noise: Standard normal of the latents' shape, float32.
    """

    pose_B: Tensor
    place_B2: Tensor
    noise: Tensor


def draw_vae(
    seed: int, sample_numbers: Tensor | Sequence[int], latent_shape: Sequence[int], pose_probability: float
) -> VaeDraws:
    """The draws of each row, from its own stream; see macedance.diffusion.draws.

    Args:
        seed: The run's seed.
        sample_numbers: Global sample numbers (B,).
        latent_shape: (z, t, h, w) of what the network sees.
        pose_probability: Chance that a row's pose drawing is the clip.
    """
    numbers = [int(n) for n in (sample_numbers.tolist() if isinstance(sample_numbers, Tensor) else sample_numbers)]
    uniform = np.empty((len(numbers), 3))
    noise = np.empty((len(numbers), *latent_shape), dtype=np.float32)
    for row, number in enumerate(numbers):
        generator = row_generator(seed, number, _STREAM)
        uniform[row] = generator.random(3)
        generator.standard_normal(dtype=np.float32, out=noise[row])
    return VaeDraws(
        torch.from_numpy(uniform[:, 0] < pose_probability),
        torch.from_numpy(uniform[:, 1:]),
        torch.from_numpy(noise),
    )


def first_pixels(data: Any, count: int) -> Tensor:
    """Videos and pose drawings (B, 3, T, H, W) in [-1, 1] of ``count`` training clips, evenly spread over the corpus.

    Args:
        data: A data module of clips with pictures (``clip_numbers``, ``clips``).
        count: Clips; all where there are fewer.
    """
    numbers = data.clip_numbers("train")
    chosen = np.unique(np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int))
    clips = data.clips("train", [numbers[place] for place in chosen])
    shown = [picture for clip in clips for picture in (clip.window.video_THW3, clip.window.pose_THW3)]
    return torch.from_numpy(np.stack(shown)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def check_crop(geometry: LatentGeometry, crop: int | None, frames: int, height: int, width: int) -> tuple[int, int]:
    """(height, width) of what the network sees of clips of a size.

    Raises:
        ConfigError: A crop that does not come out even or is larger than the clip.
    """
    if crop is None:
        geometry.check(frames, height, width)
        return height, width
    if crop > min(height, width):
        raise ConfigError(
            f"a crop of {crop} pixels of clips of {width} x {height}", where="model.crop", expected="a smaller one"
        )
    geometry.check(frames, crop, crop)
    return crop, crop


def training_pixels(batch: Mapping[str, Any], draws: VaeDraws, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """The clips (B, 3, T, h, w) that a step trains on, and the person's mask (B, T, h, w) where there is one.

    Args:
        batch: ``video``, ``pose_video`` where poses are drawn, and optionally ``mask`` (B, T, H, W), round which
            crops are placed.
        draws: Of its rows.
        size: (h, w) of the crop; the clip's own for none.
    """
    video, mask = batch["video"], batch.get("mask")
    if bool(draws.pose_B.any()):
        pose_B = draws.pose_B.to(video.device).view(-1, 1, 1, 1, 1)
        video = torch.where(pose_B, batch["pose_video"].to(video), video)
    if tuple(video.shape[3:]) == tuple(size):
        return video, mask
    clips, masks = [], []
    for row, place in enumerate(draws.place_B2.tolist()):
        top, left = _corner(None if mask is None else mask[row], tuple(video.shape[3:]), size, place)
        window = (..., slice(top, top + size[0]), slice(left, left + size[1]))
        clips.append(video[row][window])
        if mask is not None:
            masks.append(mask[row][window])
    return torch.stack(clips), torch.stack(masks) if masks else None


def _corner(mask: Tensor | None, whole: Sequence[int], size: Sequence[int], place: Sequence[float]) -> tuple[int, int]:
    """Upper left corner of a crop: uniform, or so that its centre lies anywhere in the person's box."""
    corner = []
    for axis, (side, part, at) in enumerate(zip(whole, size, place, strict=True)):
        low, high = part / 2, side - part / 2
        if mask is not None:
            covered = mask.float().amax(dim=(0, 2 - axis)).nonzero().flatten()
            if len(covered):
                low, high = float(covered[0]), float(covered[-1] + 1)
        corner.append(min(max(round(low + at * (high - low) - part / 2), 0), side - part))
    return corner[0], corner[1]


def psnr(made: Tensor, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal to noise (B,) in dB of pixels in [-1, 1], over the mask where there is one; NaN where it is empty."""
    error = (made.float().clamp(-1, 1) - pixels.float()).square()
    if mask is None:
        mean = error.flatten(1).mean(dim=1)
    else:
        weight = mask.float().unsqueeze(1).expand_as(error)
        mean = (error * weight).flatten(1).sum(dim=1) / weight.flatten(1).sum(dim=1)
    return 10 * torch.log10(4 / mean.clamp(min=1e-12))


def dilated(mask: Tensor, side: int = 5) -> Tensor:
    """A person's mask (B, T, H, W) grown by a square of ``side`` x ``side`` pixels, float32."""
    flat = mask.float().flatten(0, 1).unsqueeze(1)
    return functional.max_pool2d(flat, side, stride=1, padding=side // 2).view(mask.shape)


def with_person(mask: Tensor, real_B: Tensor) -> Tensor:
    """Those of the real rows (B,), bool, in which there is a person (B, T, H, W)."""
    return real_B.to(mask.device) & mask.bool().flatten(1).any(dim=1)


def counted_mean(value_B: Tensor, counted_B: Tensor) -> tuple[Tensor, int]:
    """Mean over the rows that count, 0 where none does, and how many they are; NaN stays NaN.

    Args:
        value_B: One number of each row.
        counted_B: bool.
    """
    counted_B = counted_B.to(value_B.device)
    count = int(counted_B.sum())
    return value_B[counted_B].mean() if count else value_B.new_zeros(()), count
