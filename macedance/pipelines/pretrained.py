"""The weights of a pretrained transformer as diffusers keeps them: a folder, or an id whose files lie in the cache.

Nothing is downloaded here, and only safetensors are read.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from macedance.errors import CheckpointError
from macedance.nn.stored_weights import INDEX, SINGLE, StoredWeights, transformer_files

#: The transformer's name inside a model folder, and in the network's parameter names.
TRANSFORMER = "transformer"


def is_transformer_folder(folder: str | Path) -> bool:
    """Whether a folder holds a transformer of diffusers: itself, or in its subfolder ``transformer``."""
    return _inside(Path(folder)) is not None


def read_transformer(source: str | Path) -> dict[str, Tensor]:
    """The transformer's weights by their names in the network (``transformer.`` in front), as they are stored.

    Args:
        source: A folder of diffusers (the model's, or its ``transformer``), or an id ``owner/name``.

    Raises:
        CheckpointError: There is no such folder, the id's files are not on this machine, or they are damaged.
    """
    return {f"{TRANSFORMER}.{name}": value for name, value in stored_transformer(source).read()}


def stored_transformer(source: str | Path) -> StoredWeights:
    """The transformer's weights by their own names, not yet read.

    Raises:
        CheckpointError: As :func:`read_transformer`.
    """
    return StoredWeights(transformer_files(transformer_folder(source)))


def transformer_folder(source: str | Path) -> Path:
    """The folder with the transformer's weights.

    Raises:
        CheckpointError: As :func:`read_transformer`.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        inside = _inside(path)
        if inside is None:
            raise CheckpointError(
                "the folder holds no transformer", where=path, expected=f"{SINGLE} in it or in {TRANSFORMER}/"
            )
        return inside
    name = str(source)
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise CheckpointError("no such folder", where=name, expected="a model folder, or an id owner/name")
    return _cached(name)


def _inside(folder: Path) -> Path | None:
    for candidate in (folder / TRANSFORMER, folder):
        if (candidate / SINGLE).exists() or (candidate / INDEX).exists():
            return candidate
    return None


def _cached(name: str) -> Path:
    """Where the cache holds an id's transformer."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(name, allow_patterns=[f"{TRANSFORMER}/*"], local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the weights of {name} are not on this machine",
            where=name,
            fix="download the model, or name a folder that holds it",
        ) from error
    return transformer_folder(found)
