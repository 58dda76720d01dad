"""Weights in safetensors files: used where they lie, or brought to another precision a few at a time.

A tensor of the precision that is asked for is the file's own pages: processes of one machine share them, and what one
writes to it is in its own copy. For one of another precision only a portion of the file is in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from macedance.errors import CheckpointError
from macedance.nn.precise import precise_names

SINGLE = "diffusion_pytorch_model.safetensors"
INDEX = f"{SINGLE}.index.json"
#: Bytes of a file that are in memory at a time while they are converted, one tensor at least.
PORTION = 2**22


class StoredWeights:
    """Tensors of some safetensors files, by name; nothing but the headers is read until they are asked for.

    Args:
        files: Together one set of weights.

    Raises:
        CheckpointError: A file is missing or damaged.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        #: Shape of each tensor.
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._names: dict[Path, list[str]] = {}
        for path in files:
            with _opened(path) as file:
                self._names[path] = list(file.keys())
                for name in self._names[path]:
                    self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def read(self, types: Mapping[str, torch.dtype] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its name, file by file.

        Args:
            types: Precision of each; None: as they are stored.

        Raises:
            CheckpointError: A file is damaged.
        """
        for path, names in self._names.items():
            converted: list[tuple[str, int]] = []
            with _opened(path) as file:
                for name in names:
                    tensor = _tensor(file, name, path)
                    if types is None or tensor.dtype == types[name]:
                        yield name, tensor
                    else:
                        converted.append((name, tensor.numel() * tensor.element_size()))
            for portion in _portions(converted):
                # Opened anew: what was read of a file stays in memory as long as it is open.
                with _opened(path) as file:
                    for name in portion:
                        assert types is not None
                        yield name, _tensor(file, name, path).to(types[name])


def _portions(sizes: Sequence[tuple[str, int]]) -> Iterator[list[str]]:
    portion: list[str] = []
    filled = 0
    for name, size in sizes:
        if portion and filled + size > PORTION:
            yield portion
            portion, filled = [], 0
        portion.append(name)
        filled += size
    if portion:
        yield portion


def transformer_files(folder: Path) -> list[Path]:
    """The safetensors of a folder of diffusers: one, or those that its index names.

    Raises:
        CheckpointError: There are none, or the index is damaged or names files elsewhere.
    """
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    try:
        index: Any = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        names = sorted({str(name) for name in index["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"cannot read {INDEX}: {error!r}", where=folder) from error
    wrong = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    if wrong:
        raise CheckpointError(f"{INDEX} names {wrong[0]}", where=folder, expected="safetensors beside it")
    return [folder / name for name in names]


def give_weights(module: nn.Module, stored: StoredWeights, dtype: torch.dtype, where: str | Path) -> None:
    """Give a module whose parameters may lie on the meta device exactly the stored weights, in place.

    Args:
        module: Those of its parameters that are to stay float32 do.
        stored: By the module's names.
        dtype: Precision of the others.
        where: Of the weights, for the message.

    Raises:
        CheckpointError: They are of another module, or damaged.
    """
    own = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    ignored = tuple(getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ())
    extra = {name for name in stored.shapes.keys() - own.keys() if not any(part in name for part in ignored)}
    differing = sorted(name for name in own if stored.shapes.get(name) != own[name])
    if differing or extra:
        first = (differing + sorted(extra))[0]
        raise CheckpointError(
            f"the weights are of another architecture: {len(differing)} missing or of another shape, {len(extra)} "
            f"unknown, the first is {first}",
            where=where,
        )
    kept = precise_names(module)
    types = {name: torch.float32 if name in kept else dtype for name in stored.shapes}
    for name, value in stored.read(types):
        if name in own:
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, nn.Parameter(value))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    with file as entered:
        yield entered


def _tensor(file: Any, name: str, path: Path) -> Tensor:
    from safetensors import SafetensorError

    try:
        tensor: Tensor = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    return tensor


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"cannot read the weights: {error}", where=path, expected="a safetensors file")
