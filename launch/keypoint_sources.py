"""The keypoint sources that commands offer by name, with the weights and the device that the user names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from macedance.vision import keypoint_sources
from macedance.vision.keypoint_sources import KEYPOINT_SOURCES

if TYPE_CHECKING:
    from macedance.vision.keypoints import KeypointSource


def keypoint_source(name: str, weights: str | None = None, device: str | None = None) -> KeypointSource:
    """The source of a name of KEYPOINT_SOURCES.

    Args:
        name: Its name.
        weights: Root of the weights, see macedance.vision.weights.
        device: Where its networks run, if they can choose; None: a GPU if there is one.

    Raises:
        DependencyError: Its weights, or a package that runs them, are not there.
        CheckpointError: Its weights are not the published ones.
        ConfigError: The device cannot be used.
    """
    from launch.devices import pick_device

    return KEYPOINT_SOURCES[name](weights, pick_device(device))


def best_keypoint_source(weights: str | None = None, device: str | None = None) -> tuple[KeypointSource | None, str]:
    """The source that commands take where the user names none, or None and why.

    Raises:
        CheckpointError: Weights that are there and are not the published ones.
        ConfigError: The device cannot be used.
    """
    from launch.devices import pick_device

    return keypoint_sources.best_keypoint_source(weights, pick_device(device), KEYPOINT_SOURCES)
