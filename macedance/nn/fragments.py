"""Parts of parameters: what one rank of a sharded run holds, written to and read from safetensors files.

A fragment is a run of consecutive elements of a flattened parameter. The fragments of all ranks cover it without
overlap; padding is never part of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from macedance.errors import CheckpointError

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

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    layout = {name: {"offset": f.offset, "shape": list(f.shape)} for name, f in fragments.items()}
    tensors = {name: f.tensor.detach().float().cpu().contiguous() for name, f in fragments.items()}
    # Straight into the file: made in memory first, a large network's average would be there three times.
    temporary = path.with_name(f".{path.name}.part")
    try:
        save_file(tensors, str(temporary), {**(metadata or {}), FRAGMENTS_KEY: json.dumps(layout)})
        os.replace(temporary, path)
    except SafetensorError as error:  # it reports a full disk so
        raise OSError(f"cannot write {path.name}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_fragments(files: Sequence[Path], wanted: Mapping[str, Fragment]) -> dict[str, Tensor]:
    """The values of some fragments, from files that were cut in the same way or in another.

    Args:
        files: The files of all ranks of the run that wrote them.
        wanted: Where the values belong; its tensors are not touched.

    Returns:
        For each name a new (n,) float32 tensor on the CPU.

    Raises:
        CheckpointError: A file is unreadable, a parameter has another shape, or elements are missing.
    """
    from safetensors import SafetensorError, safe_open

    values = {name: torch.empty(f.tensor.numel(), dtype=torch.float32) for name, f in wanted.items()}
    missing = {name: f.tensor.numel() for name, f in wanted.items()}
    for path in files:
        try:
            with safe_open(str(path), framework="pt") as file:
                layout = json.loads((file.metadata() or {})[FRAGMENTS_KEY])
                for name in layout.keys() & wanted.keys():
                    _check_shape(name, layout[name]["shape"], wanted[name], path)
                    missing[name] -= _copy_overlap(
                        file.get_slice(name), layout[name]["offset"], wanted[name], values[name]
                    )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"the file cannot be read: {error}", where=path) from error
    gaps = [name for name, count in missing.items() if count]
    if gaps:
        raise CheckpointError(
            f"{len(gaps)} parameters are not in the checkpoint as a whole, e.g. {gaps[0]}",
            where=files[0].parent if files else None,
            expected="the files of all ranks of the run that wrote it, and the same network",
        )
    return values


def read_metadata(path: Path) -> dict[str, str]:
    """What a file of :func:`save_fragments` says besides its tensors.

    Raises:
        CheckpointError: It cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the file cannot be read: {error}", where=path) from error


def _check_shape(name: str, shape: Sequence[int], wanted: Fragment, path: Path) -> None:
    if tuple(shape) != wanted.shape:
        raise CheckpointError(
            f"the parameter {name} is {tuple(shape)} there and {wanted.shape} here",
            where=path,
            expected="the checkpoint of the same network",
        )


def _copy_overlap(stored: Any, offset: int, wanted: Fragment, values: Tensor) -> int:
    """Copy what a stored fragment has of a wanted one; returns the number of elements."""
    start = max(offset, wanted.offset)
    stop = min(offset + stored.get_shape()[0], wanted.offset + wanted.tensor.numel())
    if stop <= start:
        return 0
    values[start - wanted.offset : stop - wanted.offset] = stored[start - offset : stop - offset]
    return stop - start


@torch.no_grad()
def whole_tensors(
    shapes: Mapping[str, tuple[int, ...]], parts: Mapping[str, Fragment], values: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Parameters put together from the fragments of all ranks, one after the other; all ranks walk it to its end.

    Args:
        shapes: Names and whole shapes, the same on every rank.
        parts: This rank's fragments.
        values: What to put together: for each of them a tensor of its length.
    """
    device = next((f.tensor.device for f in parts.values()), torch.device("cpu"))
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    if joined and torch.distributed.get_backend() == "nccl":
        device = torch.device("cuda", torch.cuda.current_device())
    for name, shape in shapes.items():
        whole = torch.zeros(shape, dtype=torch.float32, device=device)
        if name in parts:
            part = parts[name]
            whole.view(-1).narrow(0, part.offset, part.tensor.numel()).copy_(values[name])
        if joined and torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(whole)
        yield name, whole
