"""Colours that wander from segment to segment, brought back.

A segment goes on from the last frames of the one before, so that what the network gets wrong about colours adds up.
Two things are measured of each segment, both as one gain and one offset for each of red, green and blue:

- its seam: the known frames as it made them again, against the frames that it was given, pixel by pixel;
- its drift: its last frame against the reference picture, over those pixels that show the same in both (the background,
  mostly), relative to what the first segment's first frame had.

The segment is corrected by the seam at its beginning and by the drift at its end, in between by their mixture. The
first segment stays as it is. Where a camera moves or the background is another one, too few pixels agree: then there
is no drift to be measured, and only the seam counts.

Shapes: T frames, H, W rows and columns, N pixels; values in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Looked at, at most; of a larger picture, every k-th pixel.
_PIXELS = 20_000
#: Pixels that are believed to show the same thing in both pictures.
_AGREEING = 0.5
#: Mean difference over the believed pixels, of a range of 2, above which they do not.
_BELIEVED = 0.06
_GAIN, _OFFSET = (0.8, 1.25), 0.2
_ROUNDS = 5


@dataclass(frozen=True)
class ColourMap:
    """gain x + offset of each colour channel.

    Attributes:
        gain: (3,), float32.
        offset: (3,), float32.
    """

    gain: Tensor
    offset: Tensor

    @classmethod
    def identity(cls) -> ColourMap:
        """Changes nothing."""
        return cls(torch.ones(3), torch.zeros(3))

    def __call__(self, pixels_3N: Tensor) -> Tensor:
        """Pixels (3, ...) with other colours."""
        shape = (3, *(1,) * (pixels_3N.ndim - 1))
        return self.gain.to(pixels_3N).view(shape) * pixels_3N + self.offset.to(pixels_3N).view(shape)

    def then(self, other: ColourMap) -> ColourMap:
        """The other map after this one."""
        return ColourMap(other.gain * self.gain, other.gain * self.offset + other.offset)

    def inverse(self) -> ColourMap:
        """Undoes it."""
        return ColourMap(1 / self.gain, -self.offset / self.gain)


def fit_colours(pixels_3HW: Tensor, target_3HW: Tensor, agreeing: float = _AGREEING) -> ColourMap | None:
    """The map that brings one picture's colours to another's, by least squares over the pixels that agree best.

    Args:
        pixels_3HW: In [-1, 1].
        target_3HW: Of the same size.
        agreeing: Share of the pixels that counts (least trimmed squares, Rousseeuw 1984).

    Returns:
        The map, or None where too few pixels show the same.
    """
    x, y = (_some(picture) for picture in (pixels_3HW, target_3HW.to(pixels_3HW.device)))
    found = ColourMap.identity()
    count = max(1, int(agreeing * x.shape[1]))
    for _ in range(_ROUNDS):
        error = (found(x) - y).abs().sum(dim=0)
        best = error.topk(count, largest=False).indices
        found = _least_squares(x[:, best], y[:, best])
    error = (found(x) - y).abs().mean(dim=0)
    return found if float(error.topk(count, largest=False).values.mean()) < _BELIEVED else None


def _some(picture_3HW: Tensor) -> Tensor:
    flat = picture_3HW.float().flatten(1)
    return flat[:, :: max(1, -(-flat.shape[1] // _PIXELS))]


def _least_squares(x_3N: Tensor, y_3N: Tensor) -> ColourMap:
    x_mean, y_mean = x_3N.mean(dim=1), y_3N.mean(dim=1)
    spread = (x_3N - x_mean[:, None]).square().mean(dim=1)
    both = ((x_3N - x_mean[:, None]) * (y_3N - y_mean[:, None])).mean(dim=1)
    # A plain wall tells nothing of the gain.
    gain = torch.where(spread > 1e-3, both / spread.clamp(min=1e-6), torch.ones_like(spread)).clamp(*_GAIN)
    offset = (y_mean - gain * x_mean).clamp(-_OFFSET, _OFFSET)
    return ColourMap(gain.cpu(), offset.cpu())


class ColourKeeper:
    """Corrects the segments of one video, in their order.

    Args:
        reference_3HW: The reference picture, in [-1, 1], as the network is given it.
    """

    def __init__(self, reference_3HW: Tensor) -> None:
        self._reference = reference_3HW.float().cpu()
        self._anchor: ColourMap | None = None
        self._first = True

    def corrected(self, pixels_3THW: Tensor, given_3KHW: Tensor | None) -> Tensor:
        """A segment's new frames (3, T - K, H, W), its known ones left out.

        Args:
            pixels_3THW: The segment as the network made it.
            given_3KHW: The known frames that it was given; None for none.
        """
        pixels_3THW = pixels_3THW.float().cpu()
        if self._first:
            self._first = False
            self._anchor = fit_colours(pixels_3THW[:, 0], self._reference)
            return pixels_3THW
        known = 0 if given_3KHW is None else given_3KHW.shape[1]
        seam = drift = None
        if given_3KHW is not None and known:
            seam = fit_colours(pixels_3THW[:, :known].flatten(2), given_3KHW.cpu().flatten(2), agreeing=0.9)
        if self._anchor is not None:
            last = fit_colours(pixels_3THW[:, -1], self._reference)
            drift = None if last is None else last.then(self._anchor.inverse())
        start = seam or drift or ColourMap.identity()
        end = drift or start
        new = pixels_3THW[:, known:]
        share_T = torch.linspace(0, 1, new.shape[1]).view(1, -1, 1, 1)
        return ((1 - share_T) * start(new) + share_T * end(new)).clamp(-1, 1)
