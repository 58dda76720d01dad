"""The pretrained folder: ``model.safetensors`` + ``config.json`` + ``normalizer.json``, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from macedance.errors import CheckpointError, ConfigError, DataError

FORMAT = "macedance-motion-expert"
VERSION = 1
REPRESENTATION = "edge-151-zup"

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
NORMALIZER_FILE = "normalizer.json"
# config.json last: a folder without it is no pretrained folder, so an interrupted first write is never half-read.
FILES = (WEIGHTS_FILE, NORMALIZER_FILE, CONFIG_FILE)


def write_folder(
    out_dir: str | Path, config: Mapping[str, Any], normalizer: Mapping[str, Any], state_dict: Mapping[str, Tensor]
) -> Path:
    """Write a pretrained folder; the files appear together, after all of them are complete on disk.

    Args:
        out_dir: The folder. Made when missing; in one that exists, only our three files are replaced.
        config: The content of ``config.json``; ``format``, ``version`` and ``representation`` are filled in when
            absent and must be ours when present.
        normalizer: The content of ``normalizer.json``: ``{"motion": {...}, "music": {...} or None}``.
        state_dict: Parameter and buffer name to tensor, any device.

    Returns:
        The folder's path.

    Raises:
        ConfigError: The folder cannot be made or written to, or it is a file.
        CheckpointError: The configuration or the normaliser is not of this format, or a weight is not finite.
    """
    out_dir = Path(out_dir)
    full_config = {"format": FORMAT, "version": VERSION, "representation": REPRESENTATION, **config}
    check_config(full_config, where=out_dir / CONFIG_FILE)
    check_normalizer(normalizer, where=out_dir / NORMALIZER_FILE)
    check_weights(state_dict, where=out_dir / WEIGHTS_FILE)
    if out_dir.exists() and not out_dir.is_dir():
        raise ConfigError("the output folder is a file", where=out_dir, fix="name another folder")

    fresh = not out_dir.exists()
    try:
        stage_parent = out_dir.parent if fresh else out_dir
        stage_parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".writing-", dir=stage_parent))
    except OSError as error:
        raise ConfigError(
            f"cannot write the model folder: {error.strerror}", where=out_dir, fix="name a folder that you may write to"
        ) from error
    try:
        _write_files(stage, full_config, normalizer, state_dict)
        if fresh:
            stage.chmod(0o755)  # mkdtemp makes private folders; ours is an ordinary one
            stage.rename(out_dir)
        else:
            for name in FILES:
                os.replace(stage / name, out_dir / name)
    except OSError as error:
        raise ConfigError(
            f"cannot write the model folder: {error.strerror}", where=out_dir, fix="free some space or name another"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return out_dir


def read_folder(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """Read a pretrained folder; nothing in it can run code.

    Args:
        folder: A folder that `write_folder` made.

    Returns:
        ``(config, normalizer, state_dict)``; the tensors lie on the CPU.

    Raises:
        CheckpointError: The folder or one of its files is missing, damaged, of another format, of a newer version or
            for another motion representation.
    """
    folder = Path(folder)
    expected = f"a folder with {', '.join(FILES)}"
    if not folder.exists():
        raise CheckpointError("no such model folder", where=folder, expected=expected)
    if not folder.is_dir():
        raise CheckpointError("the model is not a folder", where=folder, expected=expected)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"the model folder lacks {', '.join(missing)}", where=folder, expected=expected)

    config = _read_json(folder / CONFIG_FILE)
    check_config(config, where=folder / CONFIG_FILE)
    normalizer = _read_json(folder / NORMALIZER_FILE)
    check_normalizer(normalizer, where=folder / NORMALIZER_FILE)
    state_dict = _read_weights(folder / WEIGHTS_FILE)
    check_weights(state_dict, where=folder / WEIGHTS_FILE)
    return config, normalizer, state_dict


def check_config(config: Mapping[str, Any], *, where: str | Path) -> None:
    """Raise CheckpointError unless `config` is a ``config.json`` that this version reads."""
    found = config.get("format")
    if found != FORMAT:
        raise CheckpointError(f"the model's format is {found!r}", where=where, expected=repr(FORMAT))
    version = config.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= VERSION:
        raise CheckpointError(
            f"the model's format version is {version!r}",
            where=where,
            expected=f"1 to {VERSION}",
            fix="update macedance to read it",
        )
    representation = config.get("representation")
    if representation != REPRESENTATION:
        raise CheckpointError(
            f"the model's motion representation is {representation!r}", where=where, expected=repr(REPRESENTATION)
        )
    if not isinstance(config.get("network"), Mapping):
        raise CheckpointError("the model's configuration has no 'network' section", where=where)


def check_normalizer(normalizer: Mapping[str, Any], *, where: str | Path) -> None:
    """Raise CheckpointError unless `normalizer` has a motion section and a music section (which may be null)."""
    if not isinstance(normalizer.get("motion"), Mapping):
        raise CheckpointError("the normaliser has no 'motion' section", where=where, expected='{"motion": {..}, ..}')
    if not isinstance(normalizer.get("music"), Mapping | None):
        raise CheckpointError("the normaliser's 'music' section is not a mapping", where=where, expected="{..} or null")


def check_weights(state_dict: Mapping[str, Tensor], *, where: str | Path) -> None:
    """Raise CheckpointError when a weight holds NaN or infinity, or when there are none."""
    if not state_dict:
        raise CheckpointError("the model has no weights", where=where)
    bad = [name for name, value in state_dict.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise CheckpointError(
            f"{len(bad)} weights are not finite, the first is {bad[0]}",
            where=where,
            fix="take an earlier checkpoint of the run",
        )


def _write_files(
    folder: Path, config: Mapping[str, Any], normalizer: Mapping[str, Any], state_dict: Mapping[str, Tensor]
) -> None:
    from safetensors.torch import save_file

    # clone(): safetensors refuses tensors that share memory, and tied or sliced weights are legal in a state dict.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state_dict.items()}
    save_file(tensors, str(folder / WEIGHTS_FILE), metadata={"format": "pt"})
    try:
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (folder / NORMALIZER_FILE).write_text(
            json.dumps(normalizer, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"the model's configuration is not plain JSON: {error}", where=folder) from error
    for name in FILES:
        (folder / name).chmod(0o644)  # safetensors writes private files
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"cannot read JSON: {error}", where=path) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"the JSON holds a {type(content).__name__}", where=path, expected="an object")
    return content


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the weights: {error}", where=path, expected="a safetensors file") from error
