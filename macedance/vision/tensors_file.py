"""Reading files of tensors that run no code: safetensors, or tensors-only pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from macedance.errors import CheckpointError

#: Under these names published checkpoints wrap their state dicts.
_WRAPPERS = ("params", "state_dict", "model")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict of a ``.safetensors`` or torch file, on the CPU; unwrapped, a ``module.`` prefix removed.

    Raises:
        CheckpointError: It cannot be read, holds code, or no tensors.
    """
    content: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(str(path))
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise a dozen types
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"the weights cannot be read: {told[0]}", where=path) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError("no table of tensors", where=path, expected="a network's state dict")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def load_exactly(module: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Load a state dict that has every tensor of the module, of its shape, and none else.

    Raises:
        CheckpointError: It has not; all are listed.
    """
    own = module.state_dict()
    problems = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unknown": sorted(tensors.keys() - own.keys()),
        "of another shape": sorted(k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape),
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys)
        raise CheckpointError(f"the weights do not fit {type(module).__name__}; {listed}", where=where)
    module.load_state_dict(tensors)
