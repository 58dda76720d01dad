"""Frame by frame against the true videos: only for arms whose motion is the true one, others show another dance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from macedance.metrics.animation.bundle import PAIR_KEYS
from macedance.metrics.animation.pairs import LpipsMetric, PairMetric, Psnr, Ssim, together
from macedance.metrics.animation.windows import frame_count
from macedance.metrics.cascade.judges import ArmClip
from macedance.vision.perceptual import Lpips
from macedance.vision.video import Video

PIXEL_KEYS: tuple[str, ...] = PAIR_KEYS
#: Frames per second of two videos that count as the same.
_SAME_FPS = 0.01
OTHER_DANCE = "this arm shows another dance than the true video"


class PixelScorer:
    """``ssim psnr lpips`` of an arm's clips against the true videos, and why a clip may have none.

    The first frame, which may be the reference image, is left out; of videos of different lengths the common first
    frames are compared. NaN for a clip without a true video, or with one of another size or frame rate.

    Args:
        true_videos: Clip -> the true video.
        pictures: Network of LPIPS; None: there is none of it.
    """

    def __init__(self, true_videos: Mapping[str, Video], pictures: Lpips | None) -> None:
        self._true = true_videos
        self._metrics: list[PairMetric] = [Ssim(sync_on_compute=False), Psnr(sync_on_compute=False)]
        if pictures is not None:
            self._metrics.append(LpipsMetric(pictures, sync_on_compute=False))
        self._values: dict[str, dict[int, float]] = {metric.keys[0]: {} for metric in self._metrics}
        self._other: dict[str, str] = {}

    def add(self, row: int, clip: ArmClip) -> None:
        """Compare the clip of this position.

        Raises:
            DataError: A video cannot be decoded.
        """
        true = self._true.get(clip.name)
        why = "no true video" if true is None else _difference(clip.video, true)
        if true is None or why:
            self._other.setdefault(why, clip.name)
            return
        count = min(frame_count(clip.video), frame_count(true))
        scorers = [metric.pair_scorer() for metric in self._metrics]
        for x, y in together(clip.video, true, num_frames=count):
            for metric, scorer in zip(self._metrics, scorers, strict=True):
                scorer.add(x.to(metric.device), y.to(metric.device))
        for metric, scorer in zip(self._metrics, scorers, strict=True):
            key = metric.keys[0]
            self._values[key][row] = scorer.result()[key][0]

    def result(self, count: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Values (n,) of the first ``count`` clips by key, and by key why a clip may have none."""
        values = {key: np.array([of.get(row, np.nan) for row in range(count)]) for key, of in self._values.items()}
        told = "; ".join(f"{why}, as of {name}" for why, name in self._other.items())
        return values, dict.fromkeys(values, told or "fewer than two frames")


def _difference(video: Video, true: Video) -> str:
    """Why two videos cannot be compared frame by frame; empty where they can."""
    sizes = [(one.width, one.height) for one in (true, video)]
    if sizes[0] == sizes[1] and abs(video.fps - true.fps) <= _SAME_FPS:
        return ""
    formats = [f"{one.width}x{one.height} at {one.fps:g} fps" for one in (true, video)]
    return f"the true video has {formats[0]}, the arm's {formats[1]}"
