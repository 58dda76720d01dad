"""From a training checkpoint of the Appearance Expert to files that others read."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor

from macedance.errors import CheckpointError, ConfigError
from macedance.models.appearance_expert.network import ANIMATE_ADAPTER, BODY_ADAPTER
from macedance.pipelines.appearance_config import AppearanceModelConfig
from macedance.pipelines.appearance_folder import ENCODERS, write_model_folder
from macedance.pipelines.appearance_lora import (
    BASE_KEY,
    CONFIG_KEY,
    DIFFUSERS_FILE,
    base_of,
    lora_of,
    save_tensors,
    write_comfyui,
    write_diffusers,
)
from macedance.pipelines.appearance_weights import read_source
from macedance.pipelines.checkpoint_content import CheckpointContent, Weights, is_checkpoint_folder, read_content
from macedance.pipelines.folder import check_weights
from macedance.pipelines.pretrained import transformer_folder
from macedance.pipelines.whole_checkpoint import read_checkpoint

BODY_ADAPTER_FILE = "body_adapter.safetensors"
COMFYUI_FILE = "comfyui_lora.safetensors"
_PREFIX = "transformer."


def export_model(
    checkpoint: Path,
    out: str | Path,
    weights: Weights = "auto",
    base: str | Path | None = None,
    encoders: str | Path | None = None,
) -> Path:
    """Write the whole model folder: ``transformer/`` with the Body Adapter, low-rank adapters beside it.

    Args:
        checkpoint: The checkpoint.
        out: The folder to write; it must not exist.
        weights: ``ema``, ``raw``, or ``auto``: what the run samples with.
        base: Where the weights are that the checkpoint leaves out, instead of the place that it names.
        encoders: Folder with ``vae`` and the other frozen encoders; None: that of the base weights, if it has them.

    Raises:
        ConfigError: `out` exists or cannot be written, or `encoders` holds no autoencoder.
        CheckpointError: The checkpoint is missing, damaged or foreign, or its base weights are not to be found.
    """
    if Path(out).exists():
        raise ConfigError("the output folder exists", where=out, fix="name another one, or remove it")
    if encoders is not None and not (Path(encoders).expanduser() / "vae").is_dir():
        raise ConfigError("the folder holds no autoencoder", where=encoders, expected="a folder with vae/ in it")
    content = read_checkpoint(checkpoint, weights, base=base)
    config = AppearanceModelConfig.from_dict(content.ours["config"], checkpoint)
    lora = None if content.lora is None else lora_of(content, weights)
    plain = {
        name.replace(".base_layer.", "."): value
        for name, value in content.trained(weights).items()
        if ".lora_A." not in name and ".lora_B." not in name
    }
    found = encoders_folder(content, base) if encoders is None else Path(encoders).expanduser()
    return write_model_folder(out, config, plain, lora, found)


def encoders_folder(content: CheckpointContent, base: str | Path | None = None) -> Path | None:
    """The folder of the base weights, if the autoencoder lies beside them; of a chain of trainings the first one's."""
    left_out = base_of(content)
    source = base if base is not None else None if left_out is None else left_out.source
    if source is None:
        return None
    path = Path(source).expanduser()
    if not path.exists():
        try:
            path = transformer_folder(source)  # an id: where the cache holds it
        except CheckpointError:
            return None
    if path.is_file() or is_checkpoint_folder(path):
        return encoders_folder(read_source(path))
    return next((folder for folder in (path, path.parent) if (folder / ENCODERS[0]).is_dir()), None)


def export_body_adapter(checkpoint: Path, out: str | Path, weights: Weights = "auto") -> Path:
    """Write the Body Adapter, or as much of the animate adapter as was trained, by diffusers' parameter names.

    Args:
        checkpoint: Of the kinematic stage, or of a training of everything.
        out: The file, if it ends in ``.safetensors``; else its folder.
        weights: ``ema``, ``raw``, or ``auto``.

    Returns:
        The file. Its metadata holds the model's configuration and the identity of the base weights.

    Raises:
        CheckpointError: The checkpoint holds no trained adapter, or more than one.
        ConfigError: The file exists.
    """
    content = read_content(checkpoint, weights)
    config = AppearanceModelConfig.from_dict(content.ours["config"], checkpoint)
    adapter = _adapter_of(content, weights)
    check_weights(adapter, where=checkpoint)
    base = base_of(content)
    path = _target(out, BODY_ADAPTER_FILE)
    save_tensors(
        {name.removeprefix(_PREFIX): value for name, value in adapter.items()},
        path,
        {
            "format": "pt",
            CONFIG_KEY: json.dumps(config.to_dict()),
            BASE_KEY: json.dumps(None if base is None else base.to_dict()),
        },
    )
    return path


def _adapter_of(content: CheckpointContent, weights: Weights) -> dict[str, Tensor]:
    """The trained tensors of the adapter; of a training of everything the Body Adapter."""
    frozen = set() if (base := base_of(content)) is None else set(base.names)
    trained = {
        name: value for name, value in content.trained(weights).items() if name not in frozen and ".lora_" not in name
    }
    patterns = BODY_ADAPTER if base is None else ANIMATE_ADAPTER
    adapter = {name: v for name, v in trained.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}
    others = sorted(trained.keys() - adapter.keys())
    if not adapter or (base is not None and others):
        raise CheckpointError(
            f"the checkpoint trained {others[0]} too" if others else "the checkpoint holds no Body Adapter",
            where=content.path,
            expected="a checkpoint of the kinematic stage",
            fix="--format pretrained" if others else "--format lora, and the adapter from the stage before",
        )
    return adapter


def export_lora(checkpoint: Path, out: str | Path, weights: Weights = "auto", *, comfyui: bool = False) -> Path:
    """Write the low-rank adapters.

    Args:
        checkpoint: Of the aesthetic stage.
        out: The file, if it ends in ``.safetensors``; else its folder.
        weights: ``ema``, ``raw``, or ``auto``.
        comfyui: In ComfyUI's layout instead of diffusers'.

    Returns:
        The file.

    Raises:
        CheckpointError: The checkpoint has no adapters, or one on a layer without a name in that layout.
        ConfigError: The file exists.
    """
    lora = lora_of(read_content(checkpoint, weights), weights)
    path = _target(out, COMFYUI_FILE if comfyui else DIFFUSERS_FILE)
    (write_comfyui if comfyui else write_diffusers)(path, lora)
    return path


def _target(out: str | Path, name: str) -> Path:
    path = Path(out)
    path = path if path.suffix == ".safetensors" else path / name
    if path.exists():
        raise ConfigError("the output file exists", where=path, fix="name another one, or remove it")
    return path
