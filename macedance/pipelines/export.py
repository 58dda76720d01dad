"""From a training checkpoint of any strategy to one model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from macedance.errors import ConfigError
from macedance.pipelines import appearance_export
from macedance.pipelines.checkpoint_content import Weights, holds_model, read_content
from macedance.pipelines.checkpoint_folder import find_checkpoint
from macedance.pipelines.folder import write_folder
from macedance.pipelines.motion_weights import load_checkpoint
from macedance.pipelines.vae_weights import export_vae

#: Formats of other models than the Motion Expert's.
APPEARANCE, VIDEO_VAE = "macedance-appearance", "macedance-video-vae"
#: What a checkpoint may be exported to; all but the first are of the Appearance Expert.
Format = Literal["pretrained", "body_adapter", "lora", "comfyui"]


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    format: Format = "pretrained",
    weights: Weights = "auto",
    base: str | Path | None = None,
    encoders: str | Path | None = None,
) -> Path:
    """Write what others read from a checkpoint of any model.

    Args:
        checkpoint: Of any form and strategy, or a run directory.
        out: The folder to write, or the file, for a format of one file.
        format: ``pretrained``: the whole model's folder; of the Appearance Expert also ``body_adapter``, ``lora`` (as
            diffusers has it) and ``comfyui``.
        weights: ``ema``, ``raw``, or ``auto``: what the run samples with.
        base: Where the weights are that the checkpoint leaves out, instead of the place that it names.
        encoders: Folder with the Appearance Expert's ``vae`` and other frozen encoders.

    Returns:
        What was written.

    Raises:
        ConfigError: `out` exists or cannot be written, or the format or an option is not of this model.
        CheckpointError: The checkpoint is missing, damaged or foreign, or does not hold what is asked for.
    """
    path = find_checkpoint(checkpoint, holds_model)
    config = read_content(path, weights).ours["config"]
    kind = config.get("format")
    if kind == APPEARANCE:
        if format == "pretrained":
            return appearance_export.export_model(path, out, weights, base, encoders)
        if format == "body_adapter":
            return appearance_export.export_body_adapter(path, out, weights)
        return appearance_export.export_lora(path, out, weights, comfyui=format == "comfyui")
    if format != "pretrained" or encoders is not None:
        asked = f"--format {format}" if format != "pretrained" else "--encoders"
        raise ConfigError(f"{asked} is of the Appearance Expert", where=path, expected=f"not a model of format {kind}")
    if kind == VIDEO_VAE:
        return export_vae(path, out, weights)
    return export_pretrained(path, out, weights, base)


def export_pretrained(
    checkpoint: str | Path, out: str | Path, weights: Weights = "auto", base: str | Path | None = None
) -> Path:
    """Write the Motion Expert's folder that `generate`, ``--init_from`` and `from_pretrained` read.

    Args:
        checkpoint: Of any form and strategy, or a run directory; adapters are folded into the weights.
        out: The folder to write, whole or not at all; it must not exist.
        weights: ``ema``, ``raw``, or ``auto``: what the run samples with.
        base: Where the weights are that the checkpoint leaves out, instead of the place that it names.

    Raises:
        ConfigError: `out` exists or cannot be written.
        CheckpointError: The checkpoint is missing, damaged or foreign, or has no average where one is asked for.
    """
    out = Path(out)
    if out.exists():
        raise ConfigError("the output folder exists", where=out, fix="name another one, or remove it")
    model = load_checkpoint(find_checkpoint(checkpoint, holds_model), weights, base=base)
    music = model.music_normalizer
    normalizers = {"motion": model.motion_normalizer.to_dict(), "music": None if music is None else music.to_dict()}
    return write_folder(out, model.config.to_dict(), normalizers, model.network.state_dict())
