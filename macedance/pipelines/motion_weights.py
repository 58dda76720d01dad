"""A Motion Expert from disk: a pretrained folder or a training checkpoint. Nothing that is read can run code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from macedance.diffusion.guidance import Guidance, guidance_from_config
from macedance.errors import CheckpointError, ConfigError, MaceDanceError
from macedance.motion.normalizer import MinMaxNormalizer
from macedance.pipelines.folder import CONFIG_FILE, NORMALIZER_FILE, WEIGHTS_FILE, check_weights, read_folder
from macedance.pipelines.motion_config import MotionModelConfig, read_normalizers

Weights = Literal["auto", "ema", "raw"]

#: Prefix of the network in a training checkpoint's state dict.
NETWORK_PREFIX = "network."
CHECKPOINT_KEY = "macedance"
_EXPECTED = "a checkpoint of `macedance fit`, or a folder of save_pretrained"


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


def load_checkpoint(path: Path, weights: Weights = "ema") -> LoadedModel:
    """The model of a training checkpoint; its optimizer state is not read.

    Args:
        path: The file.
        weights: ``ema``, ``raw``, or ``auto``: what the run's configuration samples with; raw where no average is.

    Raises:
        CheckpointError: Missing, foreign, damaged, of another representation or normaliser, or without an average
            where ``ema`` is asked for.
        ConfigError: `weights` is none of the three.
    """
    if weights not in ("auto", "ema", "raw"):
        raise ConfigError(f"weights {weights!r}", expected="ema, raw or auto")
    content = _read(path)
    ours = content.get(CHECKPOINT_KEY)
    state = content.get("state_dict")
    if not isinstance(ours, Mapping) or not isinstance(state, Mapping):
        raise CheckpointError("not a checkpoint of this program", where=path, expected=_EXPECTED)
    config, normalizer = ours.get("config"), ours.get("normalizer")
    if not isinstance(config, Mapping) or not isinstance(normalizer, Mapping):
        raise CheckpointError("the checkpoint lacks its configuration or its normaliser", where=path)
    tensors = {
        name.removeprefix(NETWORK_PREFIX): value
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(NETWORK_PREFIX) and isinstance(value, Tensor)
    }
    average = _average(content.get("ema"))
    if weights == "auto":
        weights = "raw" if config.get("sample_weights") == "raw" or not average else "ema"
    if not average and weights == "ema":
        raise CheckpointError("the checkpoint holds no average of the weights", where=path, fix="take the raw weights")
    if weights == "ema":
        foreign = sorted(average.keys() - tensors.keys())
        if foreign:
            raise CheckpointError(
                f"the average holds {len(foreign)} weights that the network has not, the first is {foreign[0]}",
                where=path,
            )
        tensors.update(average)
    lora = config.get("lora")
    if isinstance(lora, Mapping):
        from macedance.nn.trainable import LoraSettings, merged_state_dict

        tensors = merged_state_dict(tensors, LoraSettings(**lora))
    check_weights(tensors, where=path)
    return _build(config, normalizer, tensors, config_at=path, normalizer_at=path, weights_at=path)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise CheckpointError("no such model", where=path, expected=_EXPECTED)
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise CheckpointError("damaged, or not a checkpoint", where=path, expected=_EXPECTED)
    try:
        # mmap: the optimizer's moments, twice the weights, are never read.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "the checkpoint holds objects that could run code, or is damaged", where=path, expected=_EXPECTED
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"cannot read the checkpoint: {error}", where=path, expected=_EXPECTED) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"the checkpoint holds a {type(content).__name__}", where=path, expected=_EXPECTED)
    return content


def _average(section: Any) -> dict[str, Tensor]:
    """Parameter name to average, from either form that `ema` is stored in; empty where there is none."""
    if not isinstance(section, Mapping):
        return {}
    return {
        str(name).removeprefix("shadow."): value
        for name, value in section.items()
        if isinstance(value, Tensor) and name != "num_updates"
    }


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
