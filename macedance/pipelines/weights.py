"""Starting weights: from a model folder or a checkpoint into a network that is about to train."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from macedance.pipelines.motion_weights import LoadedModel, Weights, load_model, load_weights


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
    loaded = load_model(source, weights)
    load_weights(network, loaded.network.state_dict(), source, fix="use the config of the run that wrote the weights")
    return loaded
