"""Weights in pieces: each rank's file holds flat fragments of the parameters; together they are the whole tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from macedance.errors import CheckpointError

Kind = Literal["weights", "ema"]
_METADATA_KEY = "fragments"


class FragmentLike(Protocol):
    """A flat piece of a parameter, as a sharding strategy gives it."""

    @property
    def tensor(self) -> Tensor:
        """Its elements, 1-d."""

    @property
    def offset(self) -> int:
        """Number of the first of them in the flattened parameter."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole parameter."""


def fragment_file(folder: Path, kind: Kind, rank: int) -> Path:
    """Where a rank's fragments lie."""
    return folder / f"{kind}-{rank:04d}.safetensors"


def write_fragments(
    path: Path, fragments: Mapping[str, FragmentLike], whole: Mapping[str, Tensor] | None = None
) -> None:
    """Write a rank's fragments.

    Args:
        path: The file.
        fragments: Parameter name to fragment; padding cut off.
        whole: Tensors that this rank holds whole, by name, in any dtype.

    Raises:
        OSError: It cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    places: dict[str, dict[str, Any]] = {}
    for name, piece in fragments.items():
        tensors[name] = piece.tensor.detach().reshape(-1).to("cpu", copy=True)
        places[name] = {"offset": int(piece.offset), "shape": list(piece.shape)}
    for name, value in (whole or {}).items():
        tensors[name] = value.detach().reshape(-1).to("cpu", copy=True)
        places[name] = {"offset": 0, "shape": list(value.shape)}
    try:
        save_file(tensors, str(path), metadata={_METADATA_KEY: json.dumps(places)})
    except SafetensorError as error:  # it reports a full disk so
        raise OSError(f"cannot write {path.name}: {error}") from error


def read_fragments(path: Path, without: frozenset[str] = frozenset()) -> dict[str, tuple[Tensor, int, tuple[int, ...]]]:
    """A rank's fragments but those left out: name -> (flat tensor, offset, shape of the whole).

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            places = json.loads((file.metadata() or {})[_METADATA_KEY])
            found = {}
            for name in sorted(set(file.keys()) - without):
                shape = tuple(int(n) for n in places[name]["shape"])
                found[name] = (file.get_tensor(name), int(places[name]["offset"]), shape)
            return found
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"cannot read the fragments: {error}", where=path) from error


def fragment_files(folder: Path, kind: Kind) -> list[Path]:
    """The files of all ranks, in order."""
    return sorted(Path(folder).glob(f"{kind}-[0-9][0-9][0-9][0-9]*.safetensors"))


def fragment_names(folder: str | Path, kind: Kind) -> frozenset[str]:
    """Names of what the files of a kind hold, without its values.

    Raises:
        CheckpointError: A file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    names: set[str] = set()
    for path in fragment_files(Path(folder), kind):
        try:
            with safe_open(str(path), framework="pt") as file:
                names.update(file.keys())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"cannot read the fragments: {error}", where=path) from error
    return frozenset(names)


def assemble_fragments(folder: str | Path, kind: Kind, without: frozenset[str] = frozenset()) -> dict[str, Tensor]:
    """The whole tensors of a sharded checkpoint.

    Args:
        folder: The checkpoint.
        kind: ``weights``, or ``ema``, which holds what was averaged only.
        without: Names that are not read.

    Returns:
        Parameter or buffer name to tensor; empty where the checkpoint has no such fragments.

    Raises:
        CheckpointError: A file is damaged, or an element is missing, doubled or outside its tensor.
    """
    whole: dict[str, Tensor] = {}
    filled: dict[str, list[tuple[int, int]]] = {}
    for path in fragment_files(Path(folder), kind):
        for name, (flat, offset, shape) in read_fragments(path, without).items():
            count = math.prod(shape)
            if name not in whole:
                whole[name], filled[name] = torch.empty(shape, dtype=flat.dtype), []
            same = tuple(whole[name].shape) == shape and whole[name].dtype == flat.dtype
            if not same or flat.ndim != 1 or not 0 <= offset <= offset + len(flat) <= count:
                raise CheckpointError(f"a fragment of {name} does not fit its tensor", where=path)
            whole[name].view(-1)[offset : offset + len(flat)] = flat
            filled[name].append((offset, offset + len(flat)))
    for name, spans in filled.items():
        end = 0
        for start, stop in sorted(spans):
            if start != end:
                raise CheckpointError(
                    f"the fragments of {name} {'overlap' if start < end else 'leave a gap'} at element {end}",
                    where=Path(folder),
                )
            end = stop
        if end != whole[name].numel():
            raise CheckpointError(f"the fragments of {name} end at element {end}", where=Path(folder))
    return whole
