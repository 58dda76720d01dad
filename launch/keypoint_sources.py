"""The keypoint sources that commands offer by name, with the weights and the device that the user names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from macedance.vision.keypoints import KeypointSource


def _blazepose(weights: str | None, device: str | None) -> KeypointSource:
    from macedance.vision.blazepose import BlazePoseKeypoints
    from macedance.vision.weights import locate

    return BlazePoseKeypoints.from_folder(locate("blazepose", weights))


def _vitpose(weights: str | None, device: str | None) -> KeypointSource:
    from launch.generate import pick_device
    from macedance.vision.rtdetr import RTDetrPeople
    from macedance.vision.vitpose import ViTPoseKeypoints
    from macedance.vision.weights import locate

    where = pick_device(device)
    folders = [locate(name, weights) for name in ("rtdetr_r50", "vitpose_base")]
    people = RTDetrPeople.from_folder(folders[0], device=where)
    return ViTPoseKeypoints.from_folder(folders[1], people, device=where)


#: Name -> makes the source, given the root of the weights (None: the usual one) and the device (None: a GPU if any).
KEYPOINT_SOURCES: Mapping[str, Callable[[str | None, str | None], KeypointSource]] = MappingProxyType(
    {"blazepose": _blazepose, "vitpose": _vitpose}
)


def keypoint_source(name: str, weights: str | None = None, device: str | None = None) -> KeypointSource:
    """The source of a name of KEYPOINT_SOURCES.

    Args:
        name: Its name.
        weights: Root of the weights, see macedance.vision.weights.
        device: Where its networks run, if they can choose.

    Raises:
        DependencyError: Its weights, or a package that runs them, are not there.
        CheckpointError: Its weights are not the published ones.
        ConfigError: The device cannot be used.
    """
    return KEYPOINT_SOURCES[name](weights, device)
