"""A Motion Expert from disk: a pretrained folder or a training checkpoint. Nothing that is read can run code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from macedance.diffusion.guidance import Guidance, guidance_from_config
from macedance.errors import CheckpointError, ConfigError, MaceDanceError
from macedance.motion.normalizer import MinMaxNormalizer
from macedance.pipelines.checkpoint_content import Weights, is_checkpoint_folder
from macedance.pipelines.folder import CONFIG_FILE, NORMALIZER_FILE, WEIGHTS_FILE, read_folder
from macedance.pipelines.motion_config import MotionModelConfig, read_normalizers
from macedance.pipelines.whole_checkpoint import read_checkpoint

__all__ = ["LoadedModel", "Weights", "load_checkpoint", "load_folder", "load_model", "load_weights"]


@dataclass(frozen=True)
class LoadedModel:
    """What a folder or a checkpoint holds, checked and built."""

    network: nn.Module
    objective: Guidance
    config: MotionModelConfig
    motion_normalizer: MinMaxNormalizer
    music_normalizer: MinMaxNormalizer | None


def load_folder(folder: Path) -> LoadedModel:
    """The model of a pretrained folder.

    Raises:
        CheckpointError: Missing, foreign, damaged, or of another representation or normaliser.
    """
    config, normalizer, state_dict = read_folder(folder)
    return _build(
        config,
        normalizer,
        state_dict,
        config_at=folder / CONFIG_FILE,
        normalizer_at=folder / NORMALIZER_FILE,
        weights_at=folder / WEIGHTS_FILE,
    )


def load_checkpoint(path: str | Path, weights: Weights = "ema", *, base: str | Path | None = None) -> LoadedModel:
    """The model of a training checkpoint; its optimizer state is not read.

    Args:
        path: A checkpoint folder (verified first), ``last.ckpt``, or the single file of an older version.
        weights: ``ema``, ``raw``, or ``auto``: what the run's configuration samples with; raw where no average is.
        base: Where the weights are that the checkpoint leaves out, instead of the place that it names.

    Raises:
        CheckpointError: Missing, foreign, damaged, of another representation or normaliser, or without an average
            where ``ema`` is asked for.
        ConfigError: `weights` is none of the three.
    """
    path = Path(path)
    content = read_checkpoint(path, weights, base=base)
    return _build(
        content.ours["config"],
        content.ours["normalizer"],
        content.weights(weights),
        config_at=path,
        normalizer_at=path,
        weights_at=path,
    )


def load_model(path: str | Path, weights: Weights = "auto") -> LoadedModel:
    """The model of a pretrained folder or a training checkpoint, whichever `path` is.

    Raises:
        CheckpointError: As :func:`load_folder` and :func:`load_checkpoint`.
    """
    path = Path(path)
    if path.is_dir() and not is_checkpoint_folder(path):
        return load_folder(path)
    return load_checkpoint(path, weights)


def _build(
    config_values: Mapping[str, Any],
    normalizer_values: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    *,
    config_at: Path,
    normalizer_at: Path,
    weights_at: Path,
) -> LoadedModel:
    config = MotionModelConfig.from_dict(config_values, config_at)
    motion, music = read_normalizers(normalizer_values, config, normalizer_at)
    try:
        objective = guidance_from_config(config.objective)
    except ConfigError as error:
        raise CheckpointError(error.what, where=config_at, expected=error.expected) from error
    network = _build_network(config.network, config_at)
    load_weights(network, state_dict, weights_at)
    return LoadedModel(network, objective, config, motion, music)


def _build_network(arguments: Mapping[str, Any], where: Path) -> nn.Module:
    from macedance.models.motion_expert import MotionExpert

    try:
        # The initial weights are overwritten: drawing them must not move the caller's random state.
        with torch.random.fork_rng(devices=[]):
            return MotionExpert(**arguments)
    except MaceDanceError as error:
        raise CheckpointError(f"the network's arguments: {error.what}", where=where, expected=error.expected) from error
    except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        raise CheckpointError(f"the network's arguments: {error}", where=where) from error


def load_weights(
    network: nn.Module, state_dict: Mapping[str, Tensor], where: str | Path, *, fix: str | None = None
) -> None:
    """Load weights of exactly the network's names and shapes, in place.

    Raises:
        CheckpointError: They are of another network; what differs is counted and the first name given.
    """
    own = network.state_dict()
    missing, extra = sorted(own.keys() - state_dict.keys()), sorted(state_dict.keys() - own.keys())
    shapes = sorted(name for name in own.keys() & state_dict.keys() if own[name].shape != state_dict[name].shape)
    if missing or extra or shapes:
        first = (missing + extra + shapes)[0]
        raise CheckpointError(
            f"the weights are of another network: {len(missing)} missing, {len(extra)} unknown, {len(shapes)} of "
            f"another shape, the first is {first}",
            where=where,
            expected="the weights of the configuration's network",
            fix=fix,
        )
    network.load_state_dict(dict(state_dict))
