"""What judges the videos of generated dances during training: whatever this machine has weights for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from callbacks.agreement import gather
from macedance.errors import DependencyError
from macedance.metrics.cascade.available import available_judges
from macedance.metrics.cascade.judges import Judges
from macedance.metrics.cascade.sets import WindowLooker
from macedance.metrics.video_protocol import VideoPreset
from macedance.rendering.motion_to_video import MotionRenderer
from macedance.vision.keypoint_sources import best_keypoint_source
from macedance.vision.keypoints import KeypointSource
from macedance.vision.networks import Networks

#: Differences between ranks that a message names before it counts them.
_NAMED = 6


class JudgingNetworks:
    """The networks of one folder of weights, each loaded once for all callbacks of a process.

    They are frozen and belong to no module: no checkpoint holds them, and metrics share them.

    Args:
        weights: Root of the networks' folders; None: $MACEDANCE_WEIGHTS or the cache.
        device: Where they run.
    """

    def __init__(self, weights: str | Path | None, device: torch.device) -> None:
        self.weights, self.device = weights, device
        self.networks = Networks(weights)
        self._source: tuple[KeypointSource | None, str] | None = None

    def keypoint_source(self) -> tuple[KeypointSource | None, str]:
        """The best source of keypoints that there are weights for, or None and the reason.

        Raises:
            CheckpointError: Weights that are there and are not the published ones.
        """
        if self._source is None:
            self._source = best_keypoint_source(self.weights, str(self.device))
        return self._source


def judging_networks(trainer: pl.Trainer, weights: str | Path | None) -> JudgingNetworks:
    """The networks of this folder that another callback holds in its ``judging``, or else new ones."""
    device = judging_device(trainer)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        found = getattr(callback, "judging", None)
        if isinstance(found, JudgingNetworks) and (found.weights, found.device) == (weights, device):
            return found
    return JudgingNetworks(weights, device)


def find_judges(judging: JudgingNetworks, source: KeypointSource | None) -> Judges:
    """The metrics of single videos that can be had here, with the reasons for those that cannot.

    Args:
        judging: The networks.
        source: Finds keypoints in videos; None: the best that there are weights for.

    Raises:
        CheckpointError: Weights that are there and are not the published ones.
    """
    missing = ""
    if source is None:
        source, missing = judging.keypoint_source()
    return available_judges(judging.networks, keypoints=source, no_keypoints=missing, device=str(judging.device))


def judging_device(trainer: pl.Trainer) -> torch.device:
    """Where networks judge: on the training's GPU, where they stay, or else the CPU; metrics count in float64."""
    device = trainer.strategy.root_device
    return device if device.type == "cuda" else torch.device("cpu")


# -------------------------------------------------------------------- the same judges on every rank
def facts_of_presets(presets: Sequence[VideoPreset]) -> dict[str, Any]:
    """What presets measure and by which weights, for ``judge_alike``."""
    facts: dict[str, Any] = {}
    for preset in presets:
        facts |= {f"{preset.name}.{key}": settings for key, settings in preset.conventions.items()}
        facts |= {f"weights {name}": sha for name, sha in preset.weights.items()}
    return facts


def facts_of_judges(judges: Judges, looker: WindowLooker | None) -> dict[str, Any]:
    """What judges measure and by which weights, for ``judge_alike``."""
    facts = {key: judges.settings.get(key) for judge in judges.metrics for key in judge.keys}
    facts |= {f"weights {name}": sha for name, sha in judges.weights.items()}
    return facts if looker is None else facts | {f"weights {looker.network.name}": looker.network.fingerprint}


def facts_of_making(renderer: MotionRenderer, source: KeypointSource | None) -> dict[str, Any]:
    """What draws the videos and what finds the dancer in them, for ``judge_alike``."""
    facts: dict[str, Any] = {"renderer": type(renderer).__name__}
    facts |= {f"weights {name} of the renderer": sha for name, sha in renderer.weights.items()}
    return facts if source is None else facts | {f"keypoints {source.name}": dict(source.settings)}


def judge_alike(facts: Mapping[str, Any], where: Path) -> None:
    """Refuse to judge where ranks have other judges than the first one; a collective.

    Values of different networks must not be averaged, and a rank without a metric would leave the others waiting for it
    when the metric's states are gathered.

    Args:
        facts: What judges on this rank: name -> whatever makes two of that name different, as JSON can hold it.
        where: The file that the evaluation would have been.

    Raises:
        DependencyError: On every rank, with what differs.
    """
    everyones = gather({name: json.dumps(fact, sort_keys=True, default=str) for name, fact in facts.items()})
    for rank, own in enumerate(everyones):
        if own == everyones[0]:
            continue
        first = everyones[0]
        parts = (
            ("lacks", [name for name in first if name not in own]),
            ("alone has", [name for name in own if name not in first]),
            ("has another", [name for name in first if name in own and own[name] != first[name]]),
        )
        told = "; ".join(f"{what} {_listed(names)}" for what, names in parts if names)
        raise DependencyError(
            f"the ranks would judge differently: beside rank 0, rank {rank} of {len(everyones)} {told}",
            where=where,
            expected="the same weights on every machine",
            fix="copy the folder of weights to every machine, or name one that all of them share (weights)",
        ).everywhere()


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
