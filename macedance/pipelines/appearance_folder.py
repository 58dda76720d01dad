"""The Appearance Expert's model folder: ``config.json``, ``transformer/`` and what stands beside it.

``transformer/`` is diffusers' and whole, Body Adapter included; ``lora/`` holds low-rank adapters that are not folded
into it; ``vae/``, ``text_encoder/``, ``tokenizer/``, ``image_encoder/`` and ``image_processor/`` are the frozen
encoders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from macedance.errors import CheckpointError
from macedance.pipelines.appearance_config import FORMAT, AppearanceModelConfig
from macedance.pipelines.checkpoint_content import CheckpointContent
from macedance.pipelines.pretrained import read_transformer

CONFIG_FILE = "config.json"
LORA_FOLDER = "lora"
#: Subfolders of the frozen encoders.
ENCODERS = ("vae", "text_encoder", "tokenizer", "image_encoder", "image_processor")


def is_model_folder(folder: str | Path) -> bool:
    """Whether a folder is an Appearance Expert's."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
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
    config = read_config(folder).to_dict()
    return CheckpointContent(folder, {"config": config, "normalizer": {}}, read_transformer(folder), {}, "raw")
