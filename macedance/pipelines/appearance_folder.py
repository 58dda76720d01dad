"""The Appearance Expert's model folder: ``config.json``, ``transformer/`` and what stands beside it.

``transformer/`` is diffusers' and whole, Body Adapter included; ``lora/`` holds low-rank adapters that are not folded
into it; ``vae/``, ``text_encoder/``, ``tokenizer/``, ``image_encoder/`` and ``image_processor/`` are the frozen
encoders.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from macedance.errors import CheckpointError
from macedance.models.appearance_expert.network import AppearanceExpert, Precision
from macedance.pipelines.appearance_config import FORMAT, AppearanceModelConfig
from macedance.pipelines.appearance_lora import (
    DIFFUSERS_FILE,
    LoraWeights,
    attach_lora,
    read_lora,
    write_diffusers,
)
from macedance.pipelines.checkpoint_content import CheckpointContent
from macedance.pipelines.folder import check_weights
from macedance.pipelines.new_folder import new_folder
from macedance.pipelines.pretrained import TRANSFORMER, read_transformer

CONFIG_FILE = "config.json"
LORA_FOLDER = "lora"
#: Subfolders of the frozen encoders.
ENCODERS = ("vae", "text_encoder", "tokenizer", "image_encoder", "image_processor")


def is_model_folder(folder: str | Path) -> bool:
    """Whether a folder is an Appearance Expert's, with a ``config.json`` that may be damaged."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Wan-Animate as it was released has no such file, and a Motion Expert no transformer beside it.
        return (Path(folder) / TRANSFORMER).is_dir()
    return isinstance(content, dict) and content.get("format") == FORMAT


def read_config(folder: str | Path) -> AppearanceModelConfig:
    """The ``config.json`` of a model folder.

    Raises:
        CheckpointError: Missing, damaged, or of another kind of model.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the model's configuration: {error}", where=path) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"the JSON holds a {type(content).__name__}", where=path, expected="an object")
    return AppearanceModelConfig.from_dict(content, path)


def read_model_folder(folder: str | Path) -> CheckpointContent:
    """The weights of a model folder, by name in the network, low-rank adapters beside them where there are any.

    Raises:
        CheckpointError: Damaged.
    """
    folder = Path(folder)
    config, tensors = read_config(folder).to_dict(), read_transformer(folder)
    if (folder / LORA_FOLDER).is_dir():
        lora = read_lora(folder / LORA_FOLDER)
        for module in lora.modules:
            for ending in (".weight", ".bias"):
                own = tensors.pop(f"{TRANSFORMER}.{module}{ending}", None)
                if own is not None:
                    tensors[f"{TRANSFORMER}.{module}.base_layer{ending}"] = own
            for side in "AB":
                name = f"{module}.lora_{side}"
                tensors[f"{TRANSFORMER}.{name}.default.weight"] = lora.tensors[f"{name}.weight"]
        config["lora"] = lora.settings.to_dict()
    return CheckpointContent(folder, {"config": config, "normalizer": {}}, tensors, {}, "raw")


def load_network(folder: str | Path, precision: Precision = "float32") -> AppearanceExpert:
    """The network of a model folder, in ``eval``, its low-rank adapters attached under the name ``default``.

    Args:
        folder: The model folder.
        precision: Of the weights in memory.

    Raises:
        CheckpointError: Missing, damaged, or parts of different models.
    """
    folder = Path(folder)
    config = read_config(folder)
    if not (folder / TRANSFORMER / CONFIG_FILE).is_file():
        raise CheckpointError("the model's folder holds no transformer", where=folder / TRANSFORMER)
    network = AppearanceExpert(config.transformer, config.vae, str(folder), precision).eval()
    if (folder / LORA_FOLDER).is_dir():
        attach_lora(network, read_lora(folder / LORA_FOLDER), folder / LORA_FOLDER)
    return network


def write_model_folder(
    out: str | Path,
    config: AppearanceModelConfig,
    tensors: Mapping[str, Tensor],
    lora: LoraWeights | None = None,
    encoders: str | Path | None = None,
) -> Path:
    """Write a model folder, whole or not at all.

    Args:
        out: The folder; it must not exist.
        config: The content of ``config.json``.
        tensors: The transformer's weights by name in the network (``transformer.`` in front), without adapters.
        lora: Adapters that go beside them.
        encoders: Folder whose frozen encoders are copied; None: the folder gets none.

    Raises:
        ConfigError: `out` exists or cannot be written.
        CheckpointError: Weights of another architecture than the configuration's, or not finite.
    """
    out = Path(out)
    with new_folder(out) as stage:
        check_weights(tensors, where=out)
        _write_transformer(stage / TRANSFORMER, config, tensors, out)
        if lora is not None:
            (stage / LORA_FOLDER).mkdir()
            write_diffusers(stage / LORA_FOLDER / DIFFUSERS_FILE, lora)
        for name in ENCODERS if encoders is not None else ():
            if (Path(encoders) / name).is_dir():  # type: ignore[arg-type]
                shutil.copytree(Path(encoders) / name, stage / name)  # type: ignore[arg-type]
        text = json.dumps(config.to_dict(), indent=2, allow_nan=False) + "\n"
        (stage / CONFIG_FILE).write_text(text, encoding="utf-8")
    return out


def _write_transformer(folder: Path, config: AppearanceModelConfig, tensors: Mapping[str, Tensor], out: Path) -> None:
    """The transformer as diffusers writes it; its weights are never held twice."""
    with torch.device("meta"):
        model = AppearanceExpert(config.transformer, config.vae).transformer
    own = {name.removeprefix(f"{TRANSFORMER}."): value for name, value in tensors.items()}
    differing = sorted(own.keys() ^ model.state_dict().keys())
    if differing:
        raise CheckpointError(
            f"the weights are of another network: {len(differing)} names differ, the first is {differing[0]}", where=out
        )
    model.load_state_dict(own, assign=True)
    model.save_pretrained(str(folder), safe_serialization=True)
