"""The preset ``vbench``: the six dimensions with the weights that are on this machine, the others with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from macedance.errors import ConfigError, DependencyError
from macedance.metrics.appearance.consistency import BackgroundConsistency, SubjectConsistency
from macedance.metrics.appearance.quality import AestheticQuality, ImagingQuality
from macedance.metrics.appearance.temporal import MotionSmoothness, TemporalFlickering
from macedance.metrics.video_protocol import VideoPreset
from macedance.metrics.videos import Aggregate, PerVideoMetric
from macedance.vision.interpolation import AmtInterpolator, FrameInterpolator
from macedance.vision.networks import Networks
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

Averaging = Literal["video", "published"]


def vbench_preset(
    weights: Networks | str | Path | None = None,
    *,
    interpolator: FrameInterpolator | None = None,
    amt_checkout: str | Path | None = None,
    amt_scale: float = 1.0,
    averaging: Averaging = "video",
    **options: Any,
) -> VideoPreset:
    """VBench's dimensions of custom videos (Huang et al., CVPR 2024), x100 as papers print them.

    Args:
        weights: Networks that may be shared, or the folder of their folders; None: $MACEDANCE_WEIGHTS or the cache.
        interpolator: For motion smoothness; one of another name than AMT-S gives a key of another name.
        amt_checkout: A checkout of AMT, whose code is run, in the place of an interpolator.
        amt_scale: Of the pictures on which AMT estimates flow.
        averaging: ``video``: the mean over videos. ``published``: subject and background consistency as the mean over
            all frames of all videos, as the published script on one process; the same where lengths are equal.
        options: As PerVideoMetric, for all metrics: ``resamples``, ``seed``, ...

    Returns:
        The preset. What it lacks weights for is in ``unavailable``.

    Raises:
        ConfigError: Another averaging.
        CheckpointError: Weights that are there and are not what they should be.
        DependencyError: A checkout that is no AMT.
    """
    if averaging not in ("video", "published"):
        raise ConfigError(f"an averaging {averaging!r}", expected="'video' or 'published'")
    shared = weights if isinstance(weights, Networks) else Networks(weights)
    by_frames: Aggregate = "frame" if averaging == "published" else "video"
    makers: dict[str, Callable[[], PerVideoMetric]] = {
        "imaging_quality": lambda: ImagingQuality(shared.musiq, **options),
        "aesthetic_quality": lambda: AestheticQuality(shared.aesthetic, **options),
        "subject_consistency": lambda: SubjectConsistency(shared.dino, aggregate=by_frames, **options),
        "background_consistency": lambda: BackgroundConsistency(shared.clip, aggregate=by_frames, **options),
        "temporal_flickering": lambda: TemporalFlickering(**options),
    }
    metrics, unavailable = gathered(makers)
    if interpolator is None and amt_checkout is not None:
        try:
            interpolator = AmtInterpolator.from_checkout(amt_checkout, locate("amt_s", shared.root), scale=amt_scale)
        except DependencyError as error:
            unavailable["motion_smoothness"] = str(error)
    if interpolator is not None:
        metrics.append(MotionSmoothness(interpolator, **options))
    if not any("motion_smoothness" in metric.keys for metric in metrics):
        unavailable.setdefault("motion_smoothness", NO_AMT)
    return VideoPreset(PRESET, metrics, unavailable, VBENCH_KEYS)


def gathered(makers: dict[str, Callable[[], PerVideoMetric]]) -> tuple[list[PerVideoMetric], dict[str, str]]:
    """The metrics that can be made here, and key -> reason for those whose weights or packages are not there."""
    metrics: list[PerVideoMetric] = []
    unavailable: dict[str, str] = {}
    for key, make in makers.items():
        try:
            metrics.append(make())
        except DependencyError as error:
            unavailable[key] = str(error)
    return metrics, unavailable
