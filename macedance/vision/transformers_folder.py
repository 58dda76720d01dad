"""Loading a transformers model from a folder: nothing else, nothing missing, nothing that runs code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from macedance.errors import CheckpointError


def read_config(folder: Path, model_types: tuple[str, ...]) -> dict[str, Any]:
    """The folder's config.json.

    Args:
        folder: As save_pretrained writes it, or a snapshot of the hub.
        model_types: What its ``model_type`` may be.

    Raises:
        CheckpointError: There is none, or it describes another kind of model.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"no readable config.json ({error})", where=folder, expected="a model's folder as the hub has it"
        ) from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found not in model_types:
        raise CheckpointError(f"a model of type {found!r}", where=path, expected=" or ".join(map(repr, model_types)))
    return config


def load_whole(model_class: Any, folder: Path, **options: Any) -> Any:
    """``model_class.from_pretrained`` of a local folder that refuses a network it would half invent.

    Safetensors or tensors-only pickles; a folder that lacks a weight would otherwise get random numbers in its place.

    Raises:
        CheckpointError: Weights that are absent, damaged, missing or of another size; all are listed.
    """
    load: Callable[..., Any] = model_class.from_pretrained
    try:
        model, report = _quietly(load, folder, local_files_only=True, output_loading_info=True, **options)
    except Exception as error:  # transformers raises whatever the reader below it does
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"the weights cannot be loaded: {told[0]}", where=folder) from error
    missing, other = sorted(report["missing_keys"]), sorted(str(k) for k in report.get("mismatched_keys") or ())
    if missing or other:
        listed = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"of another size: {', '.join(other)}"] * bool(
            other
        )
        raise CheckpointError(f"the weights do not fit {model_class.__name__}; {'; '.join(listed)}", where=folder)
    return model


def _quietly(load: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Without the bar and the remarks on unused weights that transformers prints."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    shown = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load(*args, **options)
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
