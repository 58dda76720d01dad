"""Appearance Experts of toy size with random weights, in the folders that users have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

#: An autoencoder without temporal compression, 4 pixels to a latent.
TOY_VAE: dict[str, Any] = {
    "base_dim": 8, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [False],
    "patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 4, "scale_factor_temporal": 1,
    "latents_mean": [0.1, -0.2, 0.0, 0.3], "latents_std": [1.5, 0.8, 1.0, 2.0],
}  # fmt: skip
#: One with Wan's factors.
WAN_VAE: dict[str, Any] = {
    "base_dim": 3, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}  # fmt: skip
TRANSFORMER: dict[str, Any] = {
    "patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 32, "freq_dim": 16,
    "ffn_dim": 32, "num_layers": 2, "image_dim": None, "added_kv_proj_dim": None, "rope_max_seq_len": 96,
    "inject_face_latents_blocks": 2, "motion_encoder_size": 16, "motion_style_dim": 8, "motion_dim": 4,
    "motion_encoder_dim": 8, "face_encoder_hidden_dim": 16, "face_encoder_num_heads": 2,
    "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
}  # fmt: skip
#: With the features of an image encoder, as the released model has them.
WITH_IMAGE: dict[str, Any] = {"image_dim": 32, "added_kv_proj_dim": 24}


def make_vae(config: dict[str, Any] | None = None, seed: int = 0) -> Any:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(seed)
    return AutoencoderKLWan(**(config or TOY_VAE)).eval()


def factors(vae: Any) -> dict[str, Any]:
    return {name: vae.config[name] for name in ("z_dim", "scale_factor_spatial", "scale_factor_temporal")}


def write_text_encoder(folder: Path, dim: int = 32, seed: int = 0) -> None:
    """`text_encoder` and `tokenizer` of a vocabulary of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=16, d_model=dim, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0, eos_token_id=1
    )
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    words = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", "a", "person", "dancing", "in", "rain"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "tokenizer")


def write_image_encoder(folder: Path, dim: int = 32, seed: int = 0) -> None:
    """`image_encoder` and `image_processor`."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(seed)
    config = CLIPVisionConfig(hidden_size=dim, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                              image_size=32, patch_size=16)  # fmt: skip
    CLIPVisionModel(config).save_pretrained(folder / "image_encoder")
    (folder / "image_processor").mkdir(parents=True, exist_ok=True)
    settings = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32},
                "crop_size": {"height": 32, "width": 32}}  # fmt: skip
    (folder / "image_processor" / "preprocessor_config.json").write_text(json.dumps(settings))


def make_expert(
    vae: Any = None, *, frames: int = 9, size: tuple[int, int] = (32, 48), image: bool = False, **config: Any
) -> tuple[Any, Any, Any]:
    """(network, encoders, config) of a toy with random weights and text without weights."""
    from macedance.models.appearance_expert.codec import LatentCodec
    from macedance.models.appearance_expert.encoders import AppearanceEncoders, HashedText
    from macedance.models.appearance_expert.network import AppearanceExpert
    from macedance.pipelines.appearance_config import AppearanceModelConfig

    vae = make_vae() if vae is None else vae
    transformer = {**TRANSFORMER, **(WITH_IMAGE if image else {})}
    torch.manual_seed(1)
    network = AppearanceExpert(transformer, factors(vae)).eval()
    # Freshly made, the output layer gives next to nothing.
    torch.nn.init.normal_(network.transformer.proj_out.weight, std=0.2)
    encoders = AppearanceEncoders(LatentCodec(vae), HashedText(32, 5), face_size=16)
    told: dict[str, Any] = {"fps": 15.0, "num_steps": 2, "known_frames": 1, **config}
    return network, encoders, AppearanceModelConfig(transformer, factors(vae), frames=frames, size=size, **told)


def make_dancer() -> Any:
    """A Motion Expert with random weights."""
    from macedance.diffusion.guidance import GuidanceFreeTraining
    from macedance.models.motion_expert import MotionExpert
    from macedance.motion.normalizer import MinMaxNormalizer
    from macedance.motion.representation import encode_motion
    from macedance.pipelines.motion_config import MotionModelConfig
    from macedance.pipelines.music_to_motion import MusicToMotion, model_config

    torch.manual_seed(0)
    network = MotionExpert(
        latent_dim=32, num_dance_layers=1, num_music_layers=1, num_heads=2, feedforward_dim=32, state_dim=4,
        num_genres=2, frame_music=True,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    motion, music = MinMaxNormalizer(151), MinMaxNormalizer(35)
    poses = 0.2 * torch.randn(200, 24, 3, generator=generator)
    trans = 0.2 * torch.rand(200, 3, generator=generator) + torch.tensor([0.0, 0.9, 0.0])
    motion.update(encode_motion(poses, trans, 30.0))
    music.update(10 * torch.randn(200, 35, generator=generator))
    objective = GuidanceFreeTraining()
    config = model_config(network, objective, 30.0, 40, ("house", "waltz"))
    return MusicToMotion(network.eval(), objective, MotionModelConfig.from_dict(config, "here"), motion, music)


def write_song(path: Path, seconds: float = 1.5, rate: int = 22050) -> Path:
    """Clicks on a tone."""
    import numpy as np

    from macedance.music.audio import write_audio

    time_s = np.arange(round(seconds * rate)) / rate
    write_audio(path, (0.4 * np.sin(2 * np.pi * 220 * time_s) * (time_s % 0.5 < 0.1)).astype(np.float32), rate)
    return path
