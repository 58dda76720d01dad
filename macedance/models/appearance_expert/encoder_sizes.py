"""Sizes of the frozen networks around the transformer, counted without their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

#: Wan's text encoder, UMT5-XXL (google/umt5-xxl), and its image encoder, CLIP ViT-H/14, as their configurations say.
_UMT5 = {
    "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "relative_attention_num_buckets": 32, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip
_CLIP = {
    "hidden_size": 1280, "intermediate_size": 5120, "projection_dim": 1024, "num_hidden_layers": 32,
    "num_attention_heads": 16, "image_size": 224, "patch_size": 14,
}  # fmt: skip


@dataclass(frozen=True)
class EncoderSizes:
    """Parameters; None where the configuration does not say which network it is.

    Attributes:
        vae: Of the autoencoder.
        text_encoder: 0 for the weightless encoder of words.
        image_encoder: 0 for a transformer without a picture's features.
    """

    vae: int | None
    text_encoder: int | None
    image_encoder: int | None


def encoder_sizes(transformer: Mapping[str, Any], vae: Mapping[str, Any], has_image: bool) -> EncoderSizes:
    """Sizes of the encoders that a transformer was made for.

    Which text and image encoder that is follows from the width of what the transformer reads: Wan's own at Wan's
    widths. Nothing is loaded, and no memory taken: the networks are built on the meta device.

    Args:
        transformer: The transformer's arguments; ``text_dim`` and ``image_dim``.
        vae: The autoencoder's, whole, or only what differs from Wan's own.
        has_image: Whether the transformer takes a picture's features.
    """
    text = _umt5_parameters() if transformer.get("text_dim") == _UMT5["d_model"] else 0
    image: int | None = 0
    if has_image:
        image = _clip_parameters() if transformer.get("image_dim") == _CLIP["hidden_size"] else None
    return EncoderSizes(_vae_parameters(vae), text, image)


def _vae_parameters(config: Mapping[str, Any]) -> int | None:
    """None where the factors are not those of the described network: then the rest of its configuration is unknown."""
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        network: Any = AutoencoderKLWan(**{k: list(v) if isinstance(v, tuple) else v for k, v in config.items()})
    built = network.config
    spatial = 2 ** (len(built["dim_mult"]) - 1) * (built["patch_size"] or 1)
    temporal = prod(2 if halves else 1 for halves in built["temperal_downsample"])
    if (spatial, temporal) != (built["scale_factor_spatial"], built["scale_factor_temporal"]):
        return None
    return _count(network)


def _umt5_parameters() -> int:
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        return _count(UMT5EncoderModel(UMT5Config(**_UMT5)))  # type: ignore[arg-type]


def _clip_parameters() -> int:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    with torch.device("meta"):
        return _count(CLIPVisionModel(CLIPVisionConfig(**_CLIP)))  # type: ignore[arg-type]


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
