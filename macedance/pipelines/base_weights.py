"""Weights that a run took from elsewhere and does not train: its checkpoints name them instead of holding them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from macedance.errors import CheckpointError

_PREFIX = "network."
#: In place of ``auto``, ``ema`` or ``raw``: the source is a pretrained network, a folder or an id on a hub.
PRETRAINED = "pretrained"


def plain_name(name: str) -> str:
    """A parameter's name in the network without adapters."""
    return name.replace(".base_layer.", ".")


@dataclass(frozen=True)
class BaseWeights:
    """The frozen part of a network that was started from a model folder or checkpoint, or from a pretrained network.

    Attributes:
        source: The folder, checkpoint or id.
        weights: Which of its weights: ``auto``, ``ema``, ``raw`` or ``pretrained``.
        sha256: Of names, types, shapes and bytes of the frozen parameters.
        names: Of the frozen parameters, as the network with its adapters calls them.
        types: Precision of those that are not float32: the source may keep them in another one.
    """

    source: str
    weights: str
    sha256: str
    names: tuple[str, ...]
    types: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, network: nn.Module, source: str | None, weights: str, adapted: bool) -> BaseWeights | None:
        """The frozen part of `network`; None where it came from nowhere, or everything trains.

        Args:
            network: Not yet sharded or cast.
            source: What it was started from.
            weights: Which weights of it, or PRETRAINED.
            adapted: It carries adapters.
        """
        frozen = {name: p for name, p in network.named_parameters() if not p.requires_grad}
        if source is None or not frozen:
            return None
        is_id = weights == PRETRAINED and not Path(source).expanduser().is_dir()
        types = {name: str(p.dtype).removeprefix("torch.") for name, p in frozen.items() if p.dtype != torch.float32}
        path = source if is_id else str(Path(source).expanduser().resolve())
        return cls(path, weights, identity(frozen), tuple(sorted(frozen)), types)

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        kept = {"source": self.source, "weights": self.weights, "sha256": self.sha256, "names": list(self.names)}
        return {**kept, **({"types": dict(self.types)} if self.types else {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str | Path) -> BaseWeights:
        """Undo :meth:`to_dict`.

        Raises:
            CheckpointError: Damaged.
        """
        try:
            source, weights, digest = (str(values[key]) for key in ("source", "weights", "sha256"))
            types = {str(name): str(kind) for name, kind in dict(values.get("types") or {}).items()}
            if any(not isinstance(getattr(torch, kind, None), torch.dtype) for kind in types.values()):
                raise TypeError("an unknown precision")
            return cls(source, weights, digest, tuple(map(str, values["names"])), types)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's base section is damaged: {error!r}", where=where) from error

    def names_in(self, module: nn.Module) -> frozenset[str]:
        """Names of the frozen parameters in the module that holds the network."""
        return frozenset(f"{_PREFIX}{name}" for name in self.names)

    def complete(
        self, tensors: Mapping[str, Tensor], source: Mapping[str, Tensor], where: str | Path
    ) -> dict[str, Tensor]:
        """The network's weights: those of the checkpoint, and the frozen ones from the source.

        Args:
            tensors: Of the checkpoint, by name in the network.
            source: Weights of the source, by name without adapters.
            where: The checkpoint, for the message.

        Raises:
            CheckpointError: The source is not the one that was trained on.
        """
        found = self.found_in(source)
        if found is None:
            raise CheckpointError(
                f"the checkpoint holds what was trained only, and {self.source} is not what it was trained on",
                where=where,
                fix="name the model folder or checkpoint that the run was given as --init_from",
            )
        return {**tensors, **found}

    def found_in(self, source: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The frozen weights by their names here, if these are they.

        Args:
            source: Weights by name without adapters, in any precision that holds them.
        """
        if any(plain_name(name) not in source for name in self.names):
            return None
        types = {name: getattr(torch, self.types.get(name, "float32")) for name in self.names}
        named = {name: source[plain_name(name)] for name in self.names}
        # Converted one by one to compare them, and together only where they are what is looked for.
        if identity(named, types) != self.sha256:
            return None
        return {name: value.to(types[name]) for name, value in named.items()}


def identity(tensors: Mapping[str, Tensor], types: Mapping[str, torch.dtype] | None = None) -> str:
    """Sha256 over names (without adapters), types, shapes and bytes.

    Args:
        tensors: By name.
        types: Precision to bring each to first; None: as they are.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors, key=plain_name):
        value = tensors[name].detach().cpu().contiguous()
        value = value if types is None else value.to(types[name])
        digest.update(f"{plain_name(name)} {value.dtype} {tuple(value.shape)}\n".encode())
        if value.numel():
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
