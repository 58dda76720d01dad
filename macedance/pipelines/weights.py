"""Starting weights: from a model folder or a checkpoint into a network that is about to train."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from macedance.errors import CheckpointError
from macedance.pipelines.motion_weights import LoadedModel, Weights, load_checkpoint, load_folder


def load_network_weights(network: nn.Module, source: str | Path, *, weights: Weights = "auto") -> LoadedModel:
    """Load the weights of a model folder or checkpoint into ``network``, in place.

    Args:
        network: Of exactly the names and shapes of the weights.
        source: A model folder or a checkpoint.
        weights: Which weights of a checkpoint: ``ema``, ``raw``, or ``auto``, the average where there is one.

    Returns:
        The source with its configuration and normalisers, which the weights were trained under.

    Raises:
        CheckpointError: Missing, foreign, or of a network with other names or shapes, which are counted and named.
    """
    source = Path(source)
    loaded = load_folder(source) if source.is_dir() else load_checkpoint(source, weights)
    state = loaded.network.state_dict()
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    problems = [f"{name} is missing" for name in own if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in own]
    problems += [f"{n} is {given[n]}, not {own[n]}" for n in own if n in given and own[n] != given[n]]
    if problems:
        raise CheckpointError(
            f"the weights are of another network: {len(problems)} names or shapes differ, e.g. {problems[0]}",
            where=source,
            fix="use the config of the run that wrote them",
        )
    network.load_state_dict(state)
    return loaded
