"""The frozen encoders of a model folder in diffusers' layout, read without running anything that a file says.

``vae``, ``text_encoder`` with ``tokenizer``, ``image_encoder`` with ``image_processor``; nothing is downloaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from macedance.errors import CheckpointError, ConfigError
from macedance.models.appearance_expert.network import Precision
from macedance.models.appearance_expert.text_encoders import HashedText, TextEncoder, UMT5Text, weights_identity

VAE, TEXT, TOKENIZER, IMAGE, PROCESSOR = "vae", "text_encoder", "tokenizer", "image_encoder", "image_processor"


class ClipImage(nn.Module):
    """Wan's image encoder: the last hidden state but one of CLIP's vision tower.

    Args:
        encoder: CLIPVisionModel; frozen here.
        processor: Its image processor.
    """

    def __init__(self, encoder: Any, processor: Any) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.processor = processor
        self.dim = int(encoder.config.hidden_size)

    @torch.no_grad()
    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Features (B, M, D) of pictures in [-1, 1], float32, on the encoder's device."""
        pictures = ((image_B3HW.float() + 1) * 127.5).round().clamp(0, 255).to("cpu", torch.uint8)
        pixels = self.processor(
            images=list(pictures.permute(0, 2, 3, 1).numpy()), return_tensors="pt", input_data_format="channels_last"
        )["pixel_values"]
        parameter = next(self.encoder.parameters())
        states = self.encoder(pixels.to(parameter.device, parameter.dtype), output_hidden_states=True).hidden_states
        features: Tensor = states[-2]
        return features.float()

    def identity(self) -> str:
        """Of its weights."""
        return weights_identity(self.encoder)


def model_folder(source: str | Path) -> Path:
    """The folder itself, or the cache's folder of a hub id. Nothing is downloaded.

    Raises:
        CheckpointError: There is no such folder, or the id's files are not on this machine.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    name = str(source)
    if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise CheckpointError("no such folder", where=name, expected="a model folder, or a hub id owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the files of {name} are not on this machine",
            where=name,
            fix=f"`hf download {name}`, or name a folder that holds them",
        ) from error


def load_vae(source: str | Path, precision: Precision = "float32") -> Any:
    """The AutoencoderKLWan of a model folder, or of its ``vae`` folder.

    Raises:
        CheckpointError: There is none, or its weights are missing, damaged or of another architecture.
    """
    from diffusers import AutoencoderKLWan

    folder = Path(source) / VAE if (Path(source) / VAE).is_dir() else Path(source)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "the folder holds no autoencoder", where=folder, expected=f"{VAE}/ with config.json and safetensors"
        )
    try:
        vae, report = AutoencoderKLWan.from_pretrained(
            str(folder),
            torch_dtype=getattr(torch, precision),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers raises whatever the reader below it does
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"the autoencoder cannot be loaded: {told}", where=folder) from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"the autoencoder lacks {', '.join(missing[:4])}", where=folder)
    return vae


def transformer_config(folder: Path) -> dict[str, Any]:
    """What a model folder's transformer is; empty where it holds none.

    Raises:
        CheckpointError: Damaged.
    """
    path = folder / "transformer" / "config.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the transformer's configuration: {error}", where=path) from error
    return content if isinstance(content, dict) else {}


def load_text(folder: Path, dim: int | None, tokens: int, precision: Precision) -> TextEncoder:
    """The text encoder of a model folder, or the weightless one.

    Raises:
        ConfigError: There is none, and no ``dim`` for the weightless one.
        CheckpointError: Missing or damaged weights.
    """
    if not (folder / TEXT).is_dir():
        if dim is None:
            raise ConfigError(
                "no text encoder, and nothing says how wide its embeddings are",
                where=folder,
                expected=f"{TEXT}/ and {TOKENIZER}/, or text_dim",
            )
        return HashedText(int(dim), tokens)
    from transformers import AutoTokenizer, UMT5EncoderModel

    from macedance.vision.transformers_folder import load_whole, read_config

    read_config(folder / TEXT, ("umt5", "t5"))
    encoder = load_whole(UMT5EncoderModel, folder / TEXT, dtype=getattr(torch, precision))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder / TOKENIZER), local_files_only=True)
    except Exception as error:  # transformers raises whatever the reader below it does
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"the tokenizer cannot be loaded: {told}", where=folder / TOKENIZER) from error
    return UMT5Text(encoder, tokenizer)


def load_image(folder: Path, precision: Precision) -> ClipImage | None:
    """The image encoder of a model folder; None where it holds none.

    Raises:
        CheckpointError: Missing or damaged weights.
    """
    if not (folder / IMAGE).is_dir():
        return None
    from transformers import CLIPVisionModel

    from macedance.vision.image_processors import processor_of
    from macedance.vision.transformers_folder import load_whole, read_config

    read_config(folder / IMAGE, ("clip_vision_model", "clip"))
    encoder = load_whole(CLIPVisionModel, folder / IMAGE, dtype=getattr(torch, precision))
    return ClipImage(encoder, processor_of("CLIPImageProcessor", folder / PROCESSOR))
