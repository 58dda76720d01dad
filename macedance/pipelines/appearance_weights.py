"""Starting weights of an Appearance Expert: a model folder, a checkpoint, or an adapter that was exported.

A checkpoint or an adapter may hold only what was trained; the rest is then the network's own, if it is what was
trained on, or comes from where the checkpoint says. Nothing that is read can run code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from macedance.errors import CheckpointError
from macedance.models.appearance_expert.network import AppearanceExpert
from macedance.pipelines.appearance_config import AppearanceModelConfig, differing_arguments
from macedance.pipelines.appearance_folder import is_model_folder, read_model_folder
from macedance.pipelines.appearance_lora import base_of, read_adapter
from macedance.pipelines.base_weights import PRETRAINED, BaseWeights
from macedance.pipelines.checkpoint_content import (
    CheckpointContent,
    Weights,
    holds_model,
    is_checkpoint_folder,
    read_content,
)
from macedance.pipelines.checkpoint_folder import find_checkpoint
from macedance.pipelines.folder import check_weights
from macedance.pipelines.pretrained import stored_transformer
from macedance.pipelines.whole_checkpoint import base_tensors


@dataclass(frozen=True)
class StartedFrom:
    """What a network was started from.

    Attributes:
        content: The source itself, without its weights; its path is, of a run directory, the checkpoint that was taken.
        replaced: Names of the weights that are not the network's own base any more.
    """

    content: CheckpointContent
    replaced: frozenset[str]


def load_source(network: AppearanceExpert, source: str | Path, which: Weights = "auto") -> StartedFrom:
    """Load what a source holds into a network that is about to train, in place.

    Args:
        network: With the weights of its own base, if it has any; without adapters.
        source: A model folder, a training checkpoint or run directory, or an adapter's safetensors file.
        which: Which weights of a checkpoint: ``ema``, ``raw``, or ``auto``, the average where there is one.

    What the source was trained in float32 for stays in it, whatever the precision of the network.

    Raises:
        CheckpointError: Missing or foreign; of another architecture, which is named; or trained on another base than
            the network has.
    """
    source = Path(source).expanduser()
    own = network.state_dict()
    content = read_source(source, which)
    _check_architecture(network, content, source)
    # What was taken stands in the network: of a large base nothing is to be held twice.
    noted = replace(content, tensors={}, average={})
    if is_model_folder(source) and content.lora is None:
        _check_names(own, content.tensors, source)
        names = frozenset(own)
        del own, content  # what is replaced is to be free at once
        _take_folder(network, source)
        return StartedFrom(noted, names)
    completed, trained = _completed(network, own, content)
    tensors = replace(content, tensors=completed).weights(which)
    _check_names(own, tensors, source)
    for name, parameter in network.named_parameters():
        if name in trained and tensors[name].dtype == torch.float32:
            # Rounded to the base's bfloat16, it would lose most of what the stage before had learnt.
            parameter.data = parameter.data.float()
    # What is the network's own anyway is not copied onto itself: of a large base that is most.
    other = {name: value for name, value in tensors.items() if value.data_ptr() != own[name].data_ptr()}
    network.load_state_dict(other, strict=False)
    return StartedFrom(noted, frozenset(other))


def _take_folder(network: AppearanceExpert, folder: Path) -> None:
    """Take the weights of a whole model folder one by one, in the network's own precision.

    Raises:
        CheckpointError: They are damaged, or not finite.
    """
    own = dict(network.transformer.named_parameters())
    for name, value in stored_transformer(folder).read({name: p.dtype for name, p in own.items()}):
        check_weights({name: value}, where=folder)
        own[name].data = value


def read_source(source: Path, which: Weights | None = None) -> CheckpointContent:
    """What a source holds itself, without the base that it was trained on.

    Raises:
        CheckpointError: It is missing, damaged, or nothing of an Appearance Expert.
    """
    if source.suffix == ".safetensors" and source.is_file():
        return read_adapter(source)
    if is_model_folder(source):
        return read_model_folder(source)
    if not is_checkpoint_folder(source):
        source = find_checkpoint(source, holds_model)
    return read_content(source, which)


def config_of(content: CheckpointContent) -> AppearanceModelConfig:
    """The model of a source.

    Raises:
        CheckpointError: It is not an Appearance Expert's.
    """
    return AppearanceModelConfig.from_dict(content.ours["config"], content.path)


def check_encoders(trained: Mapping[str, str], own: Mapping[str, str], source: Path) -> None:
    """Raise CheckpointError where weights were trained on what other encoders made than the data's.

    Args:
        trained: Encoder -> identity, of the source.
        own: The same of the data; what one of the two does not say is not compared.
        source: For the message.
    """
    other = sorted(name for name in trained.keys() & own.keys() if trained[name] != own[name])
    if other:
        raise CheckpointError(
            f"it was trained with another {' and '.join(other)} than the data was encoded with",
            where=source,
            expected=", ".join(f"{name} {trained[name][:12]}" for name in other),
            fix="encode the data with the encoders that the weights were trained with: macedance data encode",
        )


def _completed(
    network: AppearanceExpert, own: Mapping[str, Tensor], content: CheckpointContent
) -> tuple[dict[str, Tensor], frozenset[str]]:
    """The weights of a source, with those that it leaves out: the network's own, if it was trained on them.

    A source that was trained on another training's result takes that one's weights, which may leave out some in turn.

    Returns:
        The weights, and the names of those that it or a source before it trained while the rest was frozen.
    """
    base = base_of(content)
    if base is None:
        return content.tensors, frozenset()
    trained = frozenset(name for name in content.tensors if ".lora_" not in name)
    found = base.found_in(own) if network.pretrained is not None else None
    if found is not None:
        return {**content.tensors, **found}, trained
    if base.weights != PRETRAINED and Path(base.source).exists():
        before = read_source(Path(base.source), _which(base))
        tensors, earlier = _completed(network, own, before)
        whole = replace(before, tensors=tensors).weights(_which(base))
        return base.complete(content.tensors, whole, content.path), trained | earlier
    if network.pretrained is None:
        whole = base_tensors(base.source, base.weights, content.path)
        return base.complete(content.tensors, whole, content.path), trained
    raise CheckpointError(
        f"it was trained on {base.source}, and the network's weights are those of {network.pretrained}, which are "
        "other ones",
        where=content.path,
        fix="--model.network.init_args.weights with what it was trained on",
    )


def _which(base: BaseWeights) -> Weights:
    return base.weights if base.weights in ("ema", "raw") else "auto"  # type: ignore[return-value]


def _check_architecture(network: AppearanceExpert, content: CheckpointContent, source: Path) -> None:
    """Raise CheckpointError where a source is of another architecture, naming what differs."""
    differing = differing_arguments(network, config_of(content))
    if differing:
        raise CheckpointError(
            f"the weights are of another network: {', '.join(differing[:4])}",
            where=source,
            expected="those of the config's network",
            fix="use the config of the run that wrote the weights",
        )


def _check_names(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: Path) -> None:
    """Raise CheckpointError unless weights are of exactly the network's names and shapes."""
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = sorted(name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape)
    if missing or extra or shapes:
        raise CheckpointError(
            f"the weights are of another network: {len(missing)} missing, {len(extra)} unknown, {len(shapes)} of "
            f"another shape, the first is {(missing + extra + shapes)[0]}",
            where=source,
            fix="use the config of the run that wrote the weights",
        )
