"""Min-max normalisation to [-1, 1], fitted in a stream and kept as JSON.

Shapes: ... any leading dimensions, C channels (151 of the motion, 35 of the music).

Source: EDGE's scaler (Tseng et al., CVPR 2023): per channel over all training frames, un-normalising clips to [-1, 1]
first, a constant channel is divided by 1. Unlike the released one, nothing is changed in place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from macedance.errors import DataError
from macedance.motion.atomic import write_atomically

#: A channel whose range is below ten machine epsilons of float32 is constant.
CONSTANT_RANGE = 10 * torch.finfo(torch.float32).eps
FORMAT = "macedance-min-max"


class MinMaxNormalizer(nn.Module):
    """Scales each channel to [-1, 1] by the smallest and largest value seen.

    Args:
        num_channels: Number of channels C; None takes it from the first update.
        clip: Clip to [-1, 1] before un-normalising, as EDGE does.

    The statistics are buffers that move with the module and are not part of a state dict: they are data, kept in
    ``normalizer.json``.
    """

    minimum: Tensor
    maximum: Tensor

    def __init__(self, num_channels: int | None = None, *, clip: bool = True) -> None:
        super().__init__()
        self.clip = clip
        self.count = 0
        channels = num_channels or 0
        self.register_buffer("minimum", torch.full((channels,), torch.inf), persistent=False)
        self.register_buffer("maximum", torch.full((channels,), -torch.inf), persistent=False)

    @property
    def num_channels(self) -> int:
        """C, or 0 before the first update of a normaliser made without a number."""
        return self.minimum.numel()

    @property
    def fitted(self) -> bool:
        """True once at least one frame was seen."""
        return self.count > 0

    def update(self, x: Tensor) -> None:
        """Take the frames of ``x`` (..., C) into account.

        Raises:
            DataError: Another number of channels, or numbers that are not finite.
        """
        frames = x.detach().reshape(-1, x.shape[-1]).to(self.minimum.device, torch.float32)
        if self.num_channels == 0:
            empty = frames.new_full((frames.shape[-1],), torch.inf)
            self.minimum, self.maximum = empty, -empty
        self._check_channels(x)
        if frames.shape[0] == 0:
            return
        if not torch.isfinite(frames).all():
            channels = (~torch.isfinite(frames)).any(0).nonzero().flatten().tolist()
            raise DataError(f"NaN or infinite numbers in channels {channels[:8]}", expected="finite numbers to fit on")
        self.minimum = torch.minimum(self.minimum, frames.amin(0))
        self.maximum = torch.maximum(self.maximum, frames.amax(0))
        self.count += frames.shape[0]

    def normalize(self, x: Tensor) -> Tensor:
        """``x`` (..., C) scaled so that the seen range is [-1, 1]; values outside it are not clipped.

        Raises:
            DataError: Not fitted, or another number of channels.
        """
        scale, shift = self._scale_and_shift(x)
        return x * scale + shift

    def unnormalize(self, x: Tensor) -> Tensor:
        """The inverse of normalize; with ``clip``, ``x`` is first clipped to [-1, 1] (out of place).

        Raises:
            DataError: Not fitted, or another number of channels.
        """
        scale, shift = self._scale_and_shift(x)
        if self.clip:
            x = x.clamp(-1.0, 1.0)
        return (x - shift) / scale

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MinMaxNormalizer:
        # half() and bfloat16() of a whole model must not round the statistics: only the device follows.
        minimum, maximum = self.minimum, self.maximum
        super()._apply(fn, recurse)
        self.minimum, self.maximum = minimum.to(self.minimum.device), maximum.to(self.maximum.device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """The same as normalize."""
        return self.normalize(x)

    def to_dict(self) -> dict[str, Any]:
        """The statistics as plain JSON values; exact for float32."""
        return {
            "format": FORMAT,
            "version": 1,
            "channels": self.num_channels,
            "count": self.count,
            "clip": self.clip,
            "min": self.minimum.double().tolist() if self.fitted else [],
            "max": self.maximum.double().tolist() if self.fitted else [],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MinMaxNormalizer:
        """A normaliser from what to_dict gave.

        Raises:
            DataError: Foreign or damaged values.
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise DataError("not a normaliser", expected=f'an object with "format": "{FORMAT}"')
        try:
            minimum = torch.tensor(values["min"], dtype=torch.float32)
            maximum = torch.tensor(values["max"], dtype=torch.float32)
            channels, count, clip = int(values["channels"]), int(values["count"]), bool(values["clip"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"damaged normaliser: {error}", expected="channels, count, clip, min and max") from error
        normalizer = cls(channels, clip=clip)
        if count == 0:
            return normalizer
        if minimum.shape != (channels,) or maximum.shape != (channels,):
            raise DataError(
                f"damaged normaliser: {minimum.numel()} minima and {maximum.numel()} maxima",
                expected=f"{channels} of each",
            )
        if not (torch.isfinite(minimum).all() and torch.isfinite(maximum).all() and bool((minimum <= maximum).all())):
            raise DataError("damaged normaliser: a range that is not finite or is reversed", expected="min <= max")
        normalizer.minimum, normalizer.maximum, normalizer.count = minimum, maximum, count
        return normalizer

    def save(self, path: str | Path) -> None:
        """Write to_dict as JSON, to a temporary name first.

        Raises:
            DataError: The folder cannot be written.
        """
        write_atomically(path, json.dumps(self.to_dict(), indent=1).encode())

    @classmethod
    def load(cls, path: str | Path) -> MinMaxNormalizer:
        """Read what save wrote.

        Raises:
            DataError: No such file, no JSON, or not a normaliser.
        """
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"cannot read the normaliser: {error.strerror}", where=path) from error
        except ValueError as error:
            raise DataError("the normaliser is no JSON", where=path) from error
        try:
            return cls.from_dict(values)
        except DataError as error:
            raise DataError(error.what, where=path, expected=error.expected) from error

    def _scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.fitted:
            raise DataError("the normaliser is not fitted", expected="update() with training frames, or a loaded one")
        self._check_channels(x)
        span = self.maximum - self.minimum
        span = torch.where(span < CONSTANT_RANGE, torch.ones_like(span), span)
        scale = 2.0 / span
        shift = -1.0 - self.minimum * scale
        return scale.to(x), shift.to(x)

    def _check_channels(self, x: Tensor) -> None:
        if x.shape[-1] != self.num_channels:
            raise DataError(f"{x.shape[-1]} channels", expected=f"{self.num_channels}, as the normaliser was fitted on")
