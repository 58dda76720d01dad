"""The preset ``vbench``: the six dimensions with the weights that are on this machine, the others with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from macedance.errors import ConfigError, DependencyError
from macedance.metrics.appearance.consistency import BackgroundConsistency, SubjectConsistency
from macedance.metrics.appearance.quality import AestheticQuality, ImagingQuality
from macedance.metrics.appearance.temporal import MotionSmoothness, TemporalFlickering
from macedance.metrics.video_protocol import VideoPreset
from macedance.metrics.videos import PerVideoMetric
from macedance.vision.aesthetic import AestheticPredictor
from macedance.vision.clip import ClipFeatures
from macedance.vision.dino import DinoFeatures
from macedance.vision.interpolation import AmtInterpolator, FrameInterpolator
from macedance.vision.musiq import Musiq
from macedance.vision.weights import locate

PRESET = "vbench"
VBENCH_KEYS: tuple[str, ...] = (
    "imaging_quality",
    "aesthetic_quality",
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "temporal_flickering",
)
NO_AMT = (
    "not available: the published network, AMT-S, is CC BY-NC 4.0, code and weights, and no part of this package; name "
    "a checkout of MCG-NKU/AMT (--amt DIR) and `macedance evaluate weights --download amt_s`"
)
#: Those of whose videos the published script, on one process, takes the mean over frames.
_BY_FRAMES = ("subject_consistency", "background_consistency")

Averaging = Literal["video", "published"]


class _Gathering:
    """Builds metrics one by one and keeps the reasons of those that cannot be."""

    def __init__(self, root: str | Path | None, averaging: Averaging, options: dict[str, Any]) -> None:
        self.root, self.averaging, self.options = root, averaging, options
        self.metrics: list[PerVideoMetric] = []
        self.unavailable: dict[str, str] = {}

    def add(self, key: str, metric: type[PerVideoMetric], *parts: Any) -> None:
        """A metric of these parts, unless its key has a reason."""
        if key not in self.unavailable:
            by_frames = self.averaging == "published" and key in _BY_FRAMES
            self.metrics.append(metric(*parts, aggregate="frame" if by_frames else "video", **self.options))

    def folder(self, key: str, name: str) -> Path | None:
        """Where weights are; where they are not, the key has the reason."""
        try:
            return locate(name, self.root)
        except DependencyError as error:
            before = self.unavailable.get(key)
            self.unavailable[key] = str(error) if before is None else f"{before}. Also: {error}"
            return None


def vbench_preset(
    weights: str | Path | None = None,
    *,
    interpolator: FrameInterpolator | None = None,
    amt_checkout: str | Path | None = None,
    amt_scale: float = 1.0,
    averaging: Averaging = "video",
    resamples: int = 0,
    seed: int = 0,
    **options: Any,
) -> VideoPreset:
    """VBench's dimensions of custom videos (Huang et al., CVPR 2024), x100 as papers print them.

    Args:
        weights: Folder of the networks' folders; None: $MACEDANCE_WEIGHTS or the cache.
        interpolator: For motion smoothness; one of another name than AMT-S gives a key of another name.
        amt_checkout: A checkout of AMT, whose code is run, in the place of an interpolator.
        amt_scale: Of the flow that AMT estimates.
        averaging: ``video``: the mean over videos. ``published``: subject and background consistency as the mean over
            all frames of all videos, as the published script on one process; the same where lengths are equal.
        resamples: Of the 95% intervals.
        seed: Of those.
        options: As torchmetrics.Metric, for all metrics.

    Returns:
        The preset. What it lacks weights for is in ``unavailable``.

    Raises:
        ConfigError: Another averaging.
        CheckpointError: Weights that are there and are not what they should be.
        DependencyError: A checkout that is no AMT.
    """
    if averaging not in ("video", "published"):
        raise ConfigError(f"an averaging {averaging!r}", expected="'video' or 'published'")
    found = _Gathering(weights, averaging, {"resamples": resamples, "seed": seed, **options})
    if (folder := found.folder("imaging_quality", "musiq_spaq")) is not None:
        found.add("imaging_quality", ImagingQuality, Musiq.from_folder(folder))
    clip, head = (found.folder("aesthetic_quality", name) for name in ("clip_vit_l14", "aesthetic_head"))
    if clip is not None and head is not None:
        large = ClipFeatures.from_folder(clip, "clip_vit_l14")
        found.add("aesthetic_quality", AestheticQuality, AestheticPredictor.from_folder(head, large))
    if (folder := found.folder("subject_consistency", "dino_vitb16")) is not None:
        found.add("subject_consistency", SubjectConsistency, DinoFeatures.from_folder(folder))
    if (folder := found.folder("background_consistency", "clip_vit_b32")) is not None:
        found.add("background_consistency", BackgroundConsistency, ClipFeatures.from_folder(folder))
    _add_smoothness(found, interpolator, amt_checkout, amt_scale)
    found.add("temporal_flickering", TemporalFlickering)
    return VideoPreset(PRESET, found.metrics, found.unavailable, VBENCH_KEYS)


def _add_smoothness(
    found: _Gathering, interpolator: FrameInterpolator | None, checkout: str | Path | None, scale: float
) -> None:
    key = "motion_smoothness"
    if checkout is not None and interpolator is None and (file := found.folder(key, "amt_s")) is not None:
        interpolator = AmtInterpolator.from_checkout(checkout, file, scale=scale)
    if interpolator is not None:
        found.add(key, MotionSmoothness, interpolator)
    if key not in found.unavailable and key not in {key for metric in found.metrics for key in metric.keys}:
        found.unavailable[key] = NO_AMT
