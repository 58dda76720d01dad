"""Weights of a video autoencoder: from a folder of diffusers or a training checkpoint, and to such a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from macedance.errors import CheckpointError
from macedance.models.appearance_expert.video_vae import VideoVae
from macedance.pipelines.checkpoint_content import CheckpointContent, Weights, holds_model, is_checkpoint_folder
from macedance.pipelines.checkpoint_folder import find_checkpoint
from macedance.pipelines.motion_weights import load_weights
from macedance.pipelines.new_folder import new_folder
from macedance.pipelines.whole_checkpoint import read_checkpoint

FORMAT, SCHEMA = "macedance-video-vae", 1
_WEIGHTS = "diffusion_pytorch_model.safetensors"


def vae_config(network: VideoVae, sample_weights: str) -> dict[str, Any]:
    """What a checkpoint says of the autoencoder being trained.

    Args:
        network: The autoencoder.
        sample_weights: Which weights of a checkpoint are exported by default, ``ema`` or ``raw``.
    """
    arguments = {key: list(v) if isinstance(v, tuple) else v for key, v in network.vae_config.items()}
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "network": {
            "class_path": f"{VideoVae.__module__}.{VideoVae.__qualname__}",
            "init_args": {"vae": arguments, "latent_weights": network.latent_weights},
        },
        "sample_weights": sample_weights,
    }


def load_vae_source(network: VideoVae, source: str | Path, which: Weights = "auto") -> None:
    """Load an autoencoder's weights in place.

    Args:
        network: The autoencoder.
        source: A folder of diffusers (the autoencoder's, or a model's with a ``vae`` inside), a checkpoint or a run.
        which: Which weights of a checkpoint.

    Raises:
        CheckpointError: Missing, damaged, or of another autoencoder, which is said.
    """
    source = Path(source).expanduser()
    for folder in (source / "vae", source):
        if (folder / _WEIGHTS).is_file():
            tensors = {f"vae.{name}": value for name, value in _read(folder / _WEIGHTS).items()}
            own = network.state_dict()
            # The statistics are measured anew: a folder of diffusers keeps them in its configuration.
            kept = {name: value for name, value in own.items() if not name.startswith("vae.")}
            _load(network, {**kept, **tensors}, folder)
            return
    content = read_vae_checkpoint(source, which)
    _load(network, content.weights(which), content.path)


def read_vae_checkpoint(source: Path, which: Weights | None = None) -> CheckpointContent:
    """A checkpoint of an autoencoder's training.

    Raises:
        CheckpointError: Missing, damaged, or of another model.
    """
    if not is_checkpoint_folder(source):
        source = find_checkpoint(source, holds_model)
    content = read_checkpoint(source, which)
    if content.ours["config"].get("format") != FORMAT:
        raise CheckpointError(
            f"the model's format is {content.ours['config'].get('format')!r}", where=source, expected=f"{FORMAT!r}"
        )
    return content


def export_vae(checkpoint: Path, out: str | Path, which: Weights = "auto") -> Path:
    """Write the autoencoder as diffusers keeps it, with the statistics of its latents.

    Args:
        checkpoint: Of its training.
        out: The folder to write, whole or not at all; it must not exist.
        which: Which weights of the checkpoint.

    Raises:
        ConfigError: `out` exists or cannot be written.
        CheckpointError: The checkpoint is missing, damaged or of another model.
    """
    out = Path(out)
    with new_folder(out) as stage:
        content = read_vae_checkpoint(checkpoint, which)
        network = VideoVae(**content.ours["config"]["network"]["init_args"])
        _load(network, content.weights(which), content.path)
        network.vae.register_to_config(**network.final_config())
        network.vae.save_pretrained(str(stage), safe_serialization=True)
    return out


def _load(network: VideoVae, tensors: Mapping[str, Tensor], where: Path) -> None:
    load_weights(network, tensors, where, fix="use the config of the run that wrote the weights")


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the weights: {error}", where=path, expected="a safetensors file") from error
