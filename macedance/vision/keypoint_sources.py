"""The sources of keypoints by name, made of the weights that a user has, and the best of those that can be made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from macedance.errors import DependencyError
from macedance.vision.weights import locate

if TYPE_CHECKING:
    from macedance.vision.keypoints import KeypointSource

#: Makes a source, given the root of the weights (None: $MACEDANCE_WEIGHTS or the cache) and the device of its networks.
Maker = Callable[[str | Path | None, str], "KeypointSource"]


def _vitpose(weights: str | Path | None, device: str) -> KeypointSource:
    from macedance.vision.rtdetr import RTDetrPeople
    from macedance.vision.vitpose import ViTPoseKeypoints

    folders = [locate(name, weights) for name in ("rtdetr_r50", "vitpose_base")]
    people = RTDetrPeople.from_folder(folders[0], device=device)
    return ViTPoseKeypoints.from_folder(folders[1], people, device=device)


def _blazepose(weights: str | Path | None, device: str) -> KeypointSource:
    from macedance.vision.blazepose import BlazePoseKeypoints

    return BlazePoseKeypoints.from_folder(locate("blazepose", weights))


#: Name -> makes the source.
KEYPOINT_SOURCES: Mapping[str, Maker] = MappingProxyType({"blazepose": _blazepose, "vitpose": _vitpose})
#: Where nobody names a source, the first of these that can be made.
AUTOMATIC: tuple[str, ...] = ("vitpose", "blazepose")


def best_keypoint_source(
    weights: str | Path | None, device: str, sources: Mapping[str, Maker] = KEYPOINT_SOURCES
) -> tuple[KeypointSource | None, str]:
    """ViTPose after RT-DETR, or else BlazePose; None with the reasons where there are weights of neither.

    Args:
        weights: Root of the networks' folders; None: $MACEDANCE_WEIGHTS or the cache.
        device: Where the networks run.
        sources: What is meant by the names.

    Raises:
        CheckpointError: Weights that are there and are not the published ones.
    """
    reasons = []
    for name in AUTOMATIC:
        try:
            return sources[name](weights, device), ""
        except DependencyError as error:
            reasons.append(str(error))
    return None, f"nothing finds the dancer: {'; or '.join(reasons)}"
