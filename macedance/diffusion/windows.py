"""Dances of any length: the denoiser sees overlapping windows, the sampler one long motion.

At each step every window's x0 is predicted and the predictions are cross-faded into one long x0, which the sampler
takes its step with. So neighbours agree on the noise and on the motion in their overlap from the first step on, and
there is no join to repair at the end (compare MultiDiffusion, Bar-Tal et al. 2023).

Shapes: B dances, T frames of a dance, N windows of a dance, W frames of a window, M music channels, C motion channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from macedance.diffusion.guidance import Denoiser
from macedance.errors import ConfigError

#: Makes the denoiser of a batch of windows from (music_BWM, genre_B).
DenoiserFactory = Callable[[Tensor, Tensor | None], Denoiser]


@dataclass(frozen=True)
class WindowPlan:
    """Where the windows of a dance lie and how they are weighted.

    Attributes:
        starts_N: First frame of each window, ascending; the first is 0 and the last ends with the dance.
        window: W, frames of every window.
        weights_NW: Weights, float32, all positive; over each frame they sum to 1.
    """

    starts_N: tuple[int, ...]
    window: int
    weights_NW: Tensor

    @property
    def joins(self) -> list[int]:
        """Frames where one window hands over to the next: the middle of each overlap."""
        return [(later + earlier + self.window) // 2 for earlier, later in pairwise(self.starts_N)]


def plan_windows(num_frames: int, window: int, overlap: int) -> WindowPlan:
    """As few windows as cover the dance with at least `overlap` shared frames, spread evenly.

    A dance no longer than `window` is one window of its own length.

    Args:
        num_frames: T, 1 or more.
        window: W, 1 or more; the length that the network was trained on.
        overlap: Frames that neighbours share at least, 0 .. window - 1. Half a window or less costs least.

    Raises:
        ConfigError: A value out of range.
    """
    if num_frames < 1:
        raise ConfigError(f"a dance of {num_frames} frames", expected="1 or more")
    if window < 1 or not 0 <= overlap < window:
        raise ConfigError(
            f"windows of {window} frames that share {overlap}", expected="1 frame or more, sharing fewer than they have"
        )
    if num_frames <= window:
        return WindowPlan((0,), num_frames, torch.ones(1, num_frames))
    count = -(-(num_frames - overlap) // (window - overlap))
    last = num_frames - window
    starts_N = tuple(round(index * last / (count - 1)) for index in range(count))
    shape_NW = torch.ones(count, window, dtype=torch.float64)
    for index in range(count - 1):
        shared = starts_N[index] + window - starts_N[index + 1]
        # Raised cosine: positive at both ends and without a corner, so that neither speed nor acceleration jumps.
        ramp = torch.sin((torch.arange(shared, dtype=torch.float64) + 0.5) / shared * torch.pi / 2) ** 2
        shape_NW[index + 1, :shared] *= ramp
        shape_NW[index, window - shared :] *= ramp.flip(0)
    total_T = torch.zeros(num_frames, dtype=torch.float64)
    for index, start in enumerate(starts_N):
        total_T[start : start + window] += shape_NW[index]
    weights_NW = torch.stack(
        [shape_NW[index] / total_T[start : start + window] for index, start in enumerate(starts_N)]
    )
    return WindowPlan(starts_N, window, weights_NW.float())


class WindowedDenoiser:
    """A `Denoiser` of dances of any length.

    Windows of all dances run in batches of `max_batch`, so the network's memory does not grow with the length; what
    does is the motion itself and the encoded music, once per window. Each window's music is encoded once, here, on its
    own: the network never saw longer music.

    Args:
        factory: Makes the denoiser of a batch of windows from their music and genres.
        music_BTM: Music features as the network takes them.
        genre_B: Genre numbers, or None.
        window: W, the length that the network was trained on.
        overlap: Frames that neighbouring windows share at least; None is a third of the window.
        max_batch: Windows that run at once.

    Raises:
        ConfigError: A value out of range.
    """

    def __init__(
        self,
        factory: DenoiserFactory,
        music_BTM: Tensor,
        genre_B: Tensor | None,
        *,
        window: int,
        overlap: int | None = None,
        max_batch: int = 16,
    ) -> None:
        if max_batch < 1:
            raise ConfigError(f"batches of {max_batch} windows", expected="1 or more")
        dances, num_frames = music_BTM.shape[:2]
        self.plan = plan_windows(num_frames, window, window // 3 if overlap is None else overlap)
        places = [(dance, index) for dance in range(dances) for index in range(len(self.plan.starts_N))]
        self._batches: list[tuple[list[tuple[int, int]], Denoiser]] = []
        for first in range(0, len(places), max_batch):
            batch = places[first : first + max_batch]
            music_BWM = self._cut(music_BTM, batch)
            rows_B = torch.tensor([dance for dance, _ in batch], device=music_BTM.device)
            self._batches.append((batch, factory(music_BWM, None if genre_B is None else genre_B[rows_B])))

    @property
    def joins(self) -> list[int]:
        """Frames where one window hands over to the next."""
        return self.plan.joins

    def __call__(self, xt_BTC: Tensor, t_B: Tensor) -> Tensor:
        """The cross-faded prediction x0_BTC of (xt_BTC, t_B)."""
        x0_BTC = torch.zeros_like(xt_BTC)
        weights_NW1 = self.plan.weights_NW.to(xt_BTC).unsqueeze(-1)
        for batch, denoise in self._batches:
            rows_B = torch.tensor([dance for dance, _ in batch], device=xt_BTC.device)
            window_BWC = denoise(self._cut(xt_BTC, batch), t_B[rows_B]).to(xt_BTC.dtype)
            for (dance, index), window_WC in zip(batch, window_BWC, strict=True):
                start = self.plan.starts_N[index]
                x0_BTC[dance, start : start + self.plan.window] += weights_NW1[index] * window_WC
        return x0_BTC

    def _cut(self, values_BTX: Tensor, places: list[tuple[int, int]]) -> Tensor:
        starts_N, window = self.plan.starts_N, self.plan.window
        return torch.stack([values_BTX[dance, starts_N[i] : starts_N[i] + window] for dance, i in places])
