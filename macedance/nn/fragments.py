"""Parts of parameters: what one rank of a sharded run holds, written to and read from safetensors files.

A fragment is a run of consecutive elements of a flattened parameter. The fragments of all ranks cover it without
overlap; padding is never part of one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from macedance.errors import CheckpointError
from macedance.motion.atomic import write_atomically

#: Key of the files' metadata: JSON ``{name: {"offset": first element, "shape": full shape}}``.
FRAGMENTS_KEY = "fragments"


@dataclass(frozen=True)
class Fragment:
    """A run of elements of a flattened parameter.

    Args:
        tensor: (n,) float32, a view of what is trained: writing to it changes the master weights.
        offset: Its first element in the flattened parameter.
        shape: Shape of the whole parameter.
    """

    tensor: Tensor
    offset: int
    shape: tuple[int, ...]


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no element is infinite or NaN; one wait for the accelerator where all is well."""
    tensors = [t for t in tensors if t.numel()]
    if not tensors:
        return True
    norms = torch._foreach_norm(tensors)
    device = norms[0].device
    if bool(torch.stack([norm.to(device, torch.float32) for norm in norms]).isfinite().all()):
        return True
    # A norm may overflow where no element does.
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def save_fragments(path: Path, fragments: Mapping[str, Fragment], metadata: Mapping[str, str] | None = None) -> None:
    """Write fragments to a safetensors file, whole or not at all.

    Args:
        path: The file.
        fragments: By parameter name.
        metadata: More of it, strings.
    """
    from safetensors.torch import save

    layout = {name: {"offset": f.offset, "shape": list(f.shape)} for name, f in fragments.items()}
    tensors = {name: f.tensor.detach().float().cpu().contiguous() for name, f in fragments.items()}
    content = save(tensors, {**(metadata or {}), FRAGMENTS_KEY: json.dumps(layout)})
    write_atomically(path, content)
