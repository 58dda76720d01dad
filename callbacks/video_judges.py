"""What judges the videos of generated dances during training: whatever this machine has weights for."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch

from macedance.errors import DependencyError
from macedance.metrics.cascade.available import available_judges
from macedance.metrics.cascade.judges import Judges
from macedance.vision.keypoints import KeypointSource
from macedance.vision.weights import locate


def find_judges(weights: str | Path | None, source: KeypointSource | None, device: str) -> Judges:
    """The metrics of single videos that can be had here, with the reasons for those that cannot.

    Networks are frozen and belong to no module: no checkpoint holds them, and metrics share them.

    Args:
        weights: Root of the networks' folders; None: $MACEDANCE_WEIGHTS or the cache.
        source: Finds keypoints in videos; None: ViTPose after RT-DETR, or else BlazePose, as far as there are weights.
        device: Where the networks run.

    Raises:
        CheckpointError: Weights that are there and are not the published ones.
    """
    missing = ""
    if source is None:
        source, missing = find_keypoint_source(weights, device)
    return available_judges(weights, keypoints=source, no_keypoints=missing, device=device)


def judging_device(trainer: pl.Trainer) -> torch.device:
    """Where networks judge: on the training's GPU, where they stay, or else the CPU; metrics count in float64."""
    device = trainer.strategy.root_device
    return device if device.type == "cuda" else torch.device("cpu")


def find_keypoint_source(weights: str | Path | None, device: str) -> tuple[KeypointSource | None, str]:
    """The best source of keypoints that there are weights for, or None and the reason.

    Raises:
        CheckpointError: As ``find_judges``.
    """
    reasons = []
    for make in (_vitpose, _blazepose):
        try:
            return make(weights, device), ""
        except DependencyError as error:
            reasons.append(str(error))
    return None, "; or ".join(reasons)


def _vitpose(weights: str | Path | None, device: str) -> KeypointSource:
    from macedance.vision.rtdetr import RTDetrPeople
    from macedance.vision.vitpose import ViTPoseKeypoints

    folders = [locate(name, weights) for name in ("rtdetr_r50", "vitpose_base")]
    people = RTDetrPeople.from_folder(folders[0], device=device)
    return ViTPoseKeypoints.from_folder(folders[1], people, device=device)


def _blazepose(weights: str | Path | None, device: str) -> KeypointSource:
    from macedance.vision.blazepose import BlazePoseKeypoints

    return BlazePoseKeypoints.from_folder(locate("blazepose", weights))
