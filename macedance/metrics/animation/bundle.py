"""All metrics of videos against the true ones, which decode each pair of videos once.

Shapes: t frames of one portion, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from macedance.errors import DependencyError
from macedance.metrics.animation.fvd import FrechetVideoDistance
from macedance.metrics.animation.pairs import LpipsMetric, PairMetric, Psnr, Ssim, as_tensor, together
from macedance.metrics.animation.presets import PRESETS, AnimationPreset
from macedance.metrics.animation.video_sets import KEYS as SET_KEYS
from macedance.metrics.animation.video_sets import Reporting
from macedance.metrics.animation.windows import WindowSampling
from macedance.metrics.statistics import Entry
from macedance.vision.perceptual import ALEX, Lpips, Trunk
from macedance.vision.video import Video
from macedance.vision.video_network import I3dNetwork, TorchScriptI3d, VideoNetwork
from macedance.vision.weights import locate

if TYPE_CHECKING:
    from typing_extensions import Self

PAIR_KEYS = ("ssim", "psnr", "lpips")
UNPAIRED = "the videos are not compared in pairs"


@dataclass(frozen=True)
class Judges:
    """The networks that are here.

    Args:
        videos: Of FVD and KVD.
        pictures: Of LPIPS.
        absent: Key of a metric -> why its network is not here.
    """

    videos: VideoNetwork | None = None
    pictures: Lpips | None = None
    absent: dict[str, str] = field(default_factory=dict)


def find_judges(
    root: str | Path | None = None,
    *,
    i3d: str | Path | None = None,
    torchscript: str | Path | None = None,
    sha256: str = "",
    trunk: Trunk = ALEX,
    lpips: str | Path | None = None,
) -> Judges:
    """The networks on this machine; those that are in their usual place and absent are named, not an error.

    Args:
        root: Folder of all weights, see macedance.vision.weights.
        i3d: File of I3D's weights; None: in ``root``.
        torchscript: File of StyleGAN-V's TorchScript, which then stands in for I3D.
        sha256: Of the TorchScript.
        trunk: What LPIPS listens to.
        lpips: File of the trunk's weights; None: in ``root``.

    Raises:
        CheckpointError: A file that was named is missing, or weights are damaged or of another network.
    """
    absent: dict[str, str] = {}
    videos: VideoNetwork | None = None
    pictures: Lpips | None = None
    try:
        if torchscript is not None:
            videos = TorchScriptI3d.from_folder(torchscript, sha256=sha256)
        else:
            videos = I3dNetwork.from_folder(locate("i3d_kinetics400", root) if i3d is None else i3d)
    except DependencyError as error:
        absent |= dict.fromkeys(SET_KEYS, str(error))
    try:
        pictures = Lpips.from_folder(locate(trunk.weights, root) if lpips is None else lpips, trunk)
    except DependencyError as error:
        absent["lpips"] = str(error)
    return Judges(videos, pictures, absent)


class AnimationMetrics:
    """FVD and KVD under some presets, SSIM, PSNR and LPIPS.

    Args:
        judges: The networks; metrics without theirs are entries without a value, with the reason.
        presets: Conventions of FVD; the metrics of pairs are the same in all.
        sampling: Windows of FVD.
        reporting: Intervals, floor, small numbers.
        skip_frames: First frames of each clip that the metrics of pairs leave out.
        padded: See Ssim.
        size: (W, H) to which the metrics of pairs bring both videos, with antialiasing; None: as they are, which must
            be one size. FVD always sees the original frames.

    Raises:
        ConfigError: Windows shorter than the network can see, or a negative number.
    """

    def __init__(
        self,
        judges: Judges,
        *,
        presets: Sequence[AnimationPreset] = tuple(PRESETS.values()),
        sampling: WindowSampling | None = None,
        reporting: Reporting | None = None,
        skip_frames: int = 1,
        padded: bool = False,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.judges, self.presets, self.size = judges, tuple(presets), size
        self.sampling, self.reporting = sampling or WindowSampling(), reporting or Reporting()
        shared: dict[str, Any] = {
            "skip_frames": skip_frames,
            "resamples": self.reporting.resamples,
            "seed": self.reporting.seed,
        }
        self.pairs: list[PairMetric] = [Ssim(padded=padded, **shared), Psnr(**shared)]
        if judges.pictures is not None:
            self.pairs.append(LpipsMetric(judges.pictures, **shared))
        network = judges.videos
        self.sets: dict[str, FrechetVideoDistance] = {
            preset.name: FrechetVideoDistance(network, preset, sampling=self.sampling, reporting=self.reporting)
            for preset in (self.presets if network is not None else ())
            if network is not None
        }

    @property
    def weights(self) -> dict[str, str]:
        """Network -> sha256 of its weights."""
        found: dict[str, str] = {}
        for pair in self.pairs:
            found |= pair.weights
        for distance in self.sets.values():
            found |= distance.weights
        return found

    def to(self, device: torch.device | str) -> Self:
        """Compute there."""
        for metric in (*self.pairs, *self.sets.values()):
            metric.to(device)
        return self

    def reset(self) -> None:
        """Forget every video."""
        for metric in (*self.pairs, *self.sets.values()):
            metric.reset()

    def update_pair(self, generated: Video, reference: Video, clip: int, *, num_frames: int | None = None) -> None:
        """Take a generated and the true video of a clip into account; each is decoded once.

        Args:
            generated: The video.
            reference: The true one, of the same size (unless all are resized), length and frame rate.
            clip: Integer of the clip, from 0, unique over all ranks; one that comes twice counts once.
            num_frames: Only so many frames of both; None: all.

        Raises:
            DataError: They differ in size or length, or cannot be decoded.
        """
        collectors = [
            next(iter(self.sets.values())).looking.windows(video, clip, num_frames) if self.sets else None
            for video in (generated, reference)
        ]
        scorers = [metric.pair_scorer() for metric in self.pairs]
        for chunks in together(generated, reference, num_frames=num_frames):
            for collector, chunk in zip(collectors, chunks, strict=True):
                if collector is not None:
                    collector.add(chunk)
            x, y = (self._sized(chunk.to(self.pairs[0].device)) for chunk in chunks)
            for scorer in scorers:
                scorer.add(x, y)
        # A pair counts whole or not at all: what can still fail comes first.
        for collector in collectors:
            if collector is not None:
                collector.windows()
        for metric, scorer in zip(self.pairs, scorers, strict=True):
            metric.take(scorer, clip)
        for real, collector in enumerate(collectors):
            if collector is not None:
                for distance in self.sets.values():
                    distance.update(collector.windows(), clip, real=bool(real))

    def update_video(self, video: Video, clip: int, *, real: bool) -> None:
        """Take one video into account, for FVD and KVD alone.

        Raises:
            DataError: It cannot be decoded.
        """
        if not self.sets:
            return
        collector = next(iter(self.sets.values())).looking.windows(video, clip)
        for chunk in video.chunks():
            collector.add(as_tensor(chunk))
        for distance in self.sets.values():
            distance.update(collector.windows(), clip, real=real)

    def compute(self, *, paired: bool = True) -> dict[str, dict[str, Entry]]:
        """Preset -> key -> entry; ``fvd`` and ``kvd`` with their ``floor``. To be called on every rank.

        Args:
            paired: Videos came in pairs; False: the metrics of pairs are entries without a value that say so.
        """
        of_pairs: dict[str, Entry] = {}
        if not paired:
            of_pairs = {key: {"value": None, "n": 0, "reason": UNPAIRED} for key in PAIR_KEYS}
        for metric in self.pairs if paired else ():
            of_pairs |= metric.compute()
        found: dict[str, dict[str, Entry]] = {}
        for preset in self.presets:
            of_sets = self.sets[preset.name].compute() if preset.name in self.sets else {}
            entries = {**of_sets, **of_pairs}
            found[preset.name] = {key: entries.get(key) or self._missing(key) for key in (*SET_KEYS, *PAIR_KEYS)}
        return found

    def per_clip(self) -> dict[str, dict[int, float]]:
        """Key -> clip -> value, of the metrics of pairs; to be called on every rank."""
        return {key: values for metric in self.pairs for key, values in metric.per_video().items() if values}

    def too_short(self, *, real: bool) -> list[int]:
        """Clips of all ranks too short for a window; to be called on every rank."""
        return next(iter(self.sets.values())).too_short(real=real) if self.sets else []

    def _missing(self, key: str) -> Entry:
        return {"value": None, "n": 0, "reason": self.judges.absent.get(key, "its network is not here")}

    def _sized(self, frames_TCHW: Tensor) -> Tensor:
        if self.size is None or tuple(frames_TCHW.shape[-2:]) == self.size[::-1]:
            return frames_TCHW
        resized = F.interpolate(
            frames_TCHW.float(), size=self.size[::-1], mode="bilinear", align_corners=False, antialias=True
        )
        return resized.round().clamp(0, 255).to(torch.uint8)
