"""A model from a training checkpoint that may hold only what was trained, with the rest from where it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from macedance.errors import CheckpointError
from macedance.pipelines.appearance_folder import is_model_folder, read_model_folder
from macedance.pipelines.appearance_lora import base_of, read_adapter
from macedance.pipelines.base_weights import PRETRAINED
from macedance.pipelines.checkpoint_content import (
    CheckpointContent,
    Weights,
    holds_model,
    is_checkpoint_folder,
    read_content,
)
from macedance.pipelines.checkpoint_folder import find_checkpoint
from macedance.pipelines.folder import read_folder
from macedance.pipelines.pretrained import is_transformer_folder, read_transformer


def read_checkpoint(
    path: str | Path, which: Weights | None = None, *, base: str | Path | None = None
) -> CheckpointContent:
    """Read a checkpoint of any form, and the weights that it leaves out; its optimizer state is not read.

    Args:
        path: The checkpoint.
        which: The weights that are wanted, so that no others are read from a sharded one; None: both.
        base: Where the weights are that it leaves out, instead of the place that it names; where it was trained on
            another checkpoint, also those that this one leaves out.

    Raises:
        CheckpointError: Missing, foreign or damaged, or the weights that it leaves out are not where it says.
    """
    return _completed(read_content(path, which), base)


def base_tensors(source: str, weights: str, needed_by: Path, base: str | Path | None = None) -> dict[str, Tensor]:
    """All weights of what a checkpoint was trained on, by name without adapters.

    Args:
        source: A model folder, a checkpoint, an adapter's file, or what holds a pretrained transformer, which may be an
            id on a hub.
        weights: ``auto``, ``ema``, ``raw`` or ``pretrained``.
        needed_by: The checkpoint, for the message.
        base: Where the weights are that a checkpoint or adapter leaves out in turn, instead of the place it names.

    Raises:
        CheckpointError: It is gone or damaged.
    """
    path = Path(source).expanduser()
    if not path.exists() and (weights == PRETRAINED or _is_id(source)):
        return read_transformer(source)
    if not path.exists():
        raise CheckpointError(
            f"the checkpoint holds what was trained only, and the weights that it was trained on are gone: {source}",
            where=needed_by,
            fix="name the model folder or checkpoint that the run was given as --init_from: "
            "`macedance checkpoint export --base`",
        )
    if (path / "checkpoints").is_dir():
        path = find_checkpoint(path, holds_model)
    if path.is_dir() and not is_checkpoint_folder(path):
        if is_model_folder(path):
            return read_model_folder(path).weights("raw")
        return read_transformer(path) if is_transformer_folder(path) else read_folder(path)[2]
    if path.suffix == ".safetensors":
        return _completed(read_adapter(path), base).tensors
    which: Any = "auto" if weights == PRETRAINED else weights
    return read_checkpoint(path, which, base=base).weights(which)


def _completed(content: CheckpointContent, base: str | Path | None) -> CheckpointContent:
    """A content with the weights that it leaves out."""
    left_out = base_of(content)
    if left_out is None:
        return content
    place = left_out.source if base is None else str(base)
    whole = base_tensors(place, left_out.weights, content.path)
    found = left_out.found_in(whole)
    if found is None and base is not None and left_out.weights != PRETRAINED and Path(left_out.source).exists():
        # It was trained on another training's result, and what is named may be the base of that one.
        whole = base_tensors(left_out.source, left_out.weights, content.path, base)
        found = left_out.found_in(whole)
    tensors = left_out.complete(content.tensors, whole, content.path) if found is None else content.tensors | found
    return replace(content, tensors=tensors)


def _is_id(source: str) -> bool:
    return not Path(source).expanduser().is_absolute() and not source.startswith(".") and source.count("/") == 1
