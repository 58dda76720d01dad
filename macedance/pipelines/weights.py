"""Starting weights: from a model folder or a checkpoint into a network that is about to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from macedance.errors import CheckpointError, ConfigError
from macedance.nn.trainable import LoraSettings, merged_state_dict
from macedance.pipelines.folder import read_folder

_NETWORK = "network."


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A training checkpoint of this project, read without running anything in it.

    Raises:
        CheckpointError: Missing, damaged, or not written by ``macedance fit``.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("there is no such checkpoint", where=path, expected="a model folder or a .ckpt file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError on a foreign file
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"cannot read the checkpoint: {first[:160]}",
            where=path,
            expected="a checkpoint written by `macedance fit`",
            fix="a released MACE-Dance checkpoint is imported by `macedance convert mace-motion`",
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "macedance"} <= checkpoint.keys():
        raise CheckpointError(
            "this is not a checkpoint of this project",
            where=path,
            expected="one written by `macedance fit`",
            fix="a released MACE-Dance checkpoint is imported by `macedance convert mace-motion`",
        )
    return checkpoint


def network_state(checkpoint: dict[str, Any], *, weights: str, where: str | Path) -> dict[str, Tensor]:
    """The plain network's state dict of a checkpoint: averages laid over raw weights, adapters folded in.

    Args:
        checkpoint: From :func:`read_checkpoint`.
        weights: ``ema`` (raw where a run kept no average) or ``raw``.
        where: The file, for the errors.
    """
    if weights not in ("ema", "raw"):
        raise ConfigError(f"there are no {weights!r} weights", expected="ema or raw")
    state = {k.removeprefix(_NETWORK): v for k, v in checkpoint["state_dict"].items() if k.startswith(_NETWORK)}
    if not state:
        raise CheckpointError("the checkpoint holds no network", where=where)
    if weights == "ema":
        average = checkpoint.get("ema") or {}
        unknown = [name for name in average if name not in state]
        if unknown:
            raise CheckpointError(f"the average holds a parameter the network lacks: {unknown[0]}", where=where)
        state.update(average)
    lora = checkpoint["macedance"].get("lora")
    return merged_state_dict(state, LoraSettings(**lora)) if lora else state


def load_network_weights(network: nn.Module, source: str | Path, *, weights: str = "ema") -> None:
    """Load the weights of a model folder or checkpoint into ``network``, in place.

    Raises:
        CheckpointError: Missing, foreign, or of a network with other names or shapes, which are counted and named.
    """
    source = Path(source)
    if source.is_dir():
        state = read_folder(source)[2]
    else:
        state = network_state(read_checkpoint(source), weights=weights, where=source)
    check_same_network(network, state, where=source)
    network.load_state_dict(state)


def check_same_network(network: nn.Module, state: dict[str, Tensor], *, where: str | Path) -> None:
    """Raise CheckpointError unless ``state`` has exactly the network's names and shapes."""
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    problems = [f"{name} is missing" for name in own if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in own]
    problems += [f"{n} is {given[n]}, not {own[n]}" for n in own if n in given and own[n] != given[n]]
    if problems:
        raise CheckpointError(
            f"the weights are of another network: {len(problems)} names or shapes differ, e.g. {problems[0]}",
            where=where,
            fix="use the config of the run that wrote them",
        )
