"""Loading a transformers image processor from a folder: the one without torchvision, and only if its settings are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from macedance.errors import CheckpointError

_FILE = "preprocessor_config.json"


def processor_of(name: str, folder: Path) -> Any:
    """An image processor with the settings of a local folder.

    Args:
        name: Of the class in transformers. From transformers 5 on, that is the one that needs torchvision, and the one
            that does not has ``Pil`` at its end.
        folder: Holds preprocessor_config.json.

    Raises:
        CheckpointError: No preprocessor_config.json, or one that the processor does not take.
    """
    import transformers

    processor_class = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    if not (folder / _FILE).is_file():
        raise CheckpointError(f"lacks {_FILE}", where=folder, expected="a model's folder as the hub has it")
    try:
        return processor_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever the reader below it does
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"the settings cannot be read: {told[0]}", where=folder / _FILE) from error
