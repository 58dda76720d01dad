"""The Appearance Expert's network: Wan-Animate's transformer at any size, predicting the velocity of noisy latents.

Shapes: B clips, z latent channels, t latent frames of the clip, h, w latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from macedance.diffusion.flow_matching import TIMESTEPS
from macedance.errors import CheckpointError, ConfigError
from macedance.models.appearance_expert.conditions import MASK_CHANNELS, Conditions, transformer_input
from macedance.models.appearance_expert.geometry import LatentGeometry
from macedance.models.appearance_expert.precision import compute_as_diffusers
from macedance.nn.compilation import products_for_attention
from macedance.nn.precise import cast_network
from macedance.nn.stored_weights import StoredWeights, give_weights, transformer_files

#: Precision of the weights in memory.
Precision = Literal["float32", "bfloat16"]
#: What MACE-Dance fine-tunes first and calls the Body Adapter: where the pose latents enter.
BODY_ADAPTER = ("transformer.pose_patch_embedding.*",)
#: The published alternative: everything that Wan-Animate added to Wan.
ANIMATE_ADAPTER = (
    "transformer.pose_patch_embedding.*", "transformer.motion_encoder.*", "transformer.face_encoder.*",
    "transformer.face_adapter.*",
)  # fmt: skip
#: Linear layers of the blocks that the aesthetic stage adapts: q, k, v, o and the feed-forward pair. A list of names
#: would also hit the face adapter.
LORA_TARGETS = (
    r"transformer\.blocks\.\d+\.(attn1|attn2)\.(to_q|to_k|to_v|to_out\.0)"
    r"|transformer\.blocks\.\d+\.ffn\.net\.(0\.proj|2)"
)


class AppearanceExpert(nn.Module):
    """WanAnimateTransformer3DModel of diffusers with the conditions of Wan-Animate.

    Args:
        transformer: Its constructor arguments; the released model's stand in ``configs/experiments``.
        vae: Of the autoencoder whose latents it reads: ``z_dim``, ``scale_factor_spatial``, ``scale_factor_temporal``.
        weights: A folder in diffusers' layout (the model's, or its ``transformer``) or a hub id, whose files lie in the
            cache, to take the weights from; None: by the seed. Nothing is downloaded, and on the meta device nothing is
            loaded.
        precision: Of the weights in memory. The norms and embeddings that diffusers keeps in float32 stay in it, and
            are computed in it, under autocast too.

    Raises:
        ConfigError: Arguments that do not fit one another.
        CheckpointError: Weights that are missing or of another architecture.
    """

    transformer: Any

    def __init__(
        self,
        transformer: dict[str, Any],
        vae: dict[str, Any],
        weights: str | None = None,
        precision: Precision = "float32",
    ) -> None:
        from diffusers import WanAnimateTransformer3DModel

        super().__init__()
        arguments = _checked(transformer, vae)
        self.transformer_config, self.vae_config = dict(transformer), dict(vae)
        self.geometry = LatentGeometry.of(vae, arguments["patch_size"][-1])
        #: Where the weights came from; None: from the seed.
        self.pretrained = weights
        if weights is None or torch.get_default_device().type == "meta":
            self.transformer = WanAnimateTransformer3DModel(**arguments)
            cast_network(self.transformer, getattr(torch, precision))
        else:
            self.transformer = _loaded(weights, arguments, precision)
        compute_as_diffusers(self.transformer)

    def __repr__(self) -> str:
        # DeepSpeed prints what it has sharded, and the layers of diffusers' motion encoder fail at that.
        told = self.transformer.config
        return f"AppearanceExpert({told['num_layers']} layers, {told['num_attention_heads']} heads)"

    @property
    def face_size(self) -> int:
        """Pixels of one side of the face video."""
        return int(self.transformer.config["motion_encoder_size"])

    def forward(self, noisy_BCTHW: Tensor, sigma_B: Tensor, conditions: Conditions) -> Tensor:
        """The velocity (B, z, 1 + t, h, w); the reference's frame comes first and is not part of the clip.

        Args:
            noisy_BCTHW: Noisy latents (B, z, 1 + t, h, w).
            sigma_B: Noise levels in [0, 1].
            conditions: On the same device.
        """
        dtype = self.transformer.patch_embedding.weight.dtype
        told = conditions.to(noisy_BCTHW.device, dtype)
        with products_for_attention(noisy_BCTHW.device):
            predicted: Tensor = self.transformer(
                hidden_states=transformer_input(noisy_BCTHW.to(dtype), told, self.geometry),
                timestep=sigma_B * TIMESTEPS,
                encoder_hidden_states=told.text,
                encoder_hidden_states_image=told.image,
                pose_hidden_states=told.pose,
                face_pixel_values=told.face,
                return_dict=False,
            )[0]
        return predicted


def _checked(transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> dict[str, Any]:
    """The transformer's arguments, tuples where diffusers wants them."""
    arguments: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in transformer.items()
    }
    arguments.setdefault("patch_size", (1, 2, 2))
    channels = LatentGeometry.of(vae).channels
    expected = {"latent_channels": channels, "in_channels": 2 * channels + MASK_CHANNELS, "out_channels": channels}
    for key, value in expected.items():
        if arguments.setdefault(key, value) != value:
            raise ConfigError(
                f"{key} is {arguments[key]}, the autoencoder has {channels} channels",
                where=f"transformer.{key}",
                expected=str(value),
            )
    layers, every = int(arguments.get("num_layers", 40)), int(arguments.get("inject_face_latents_blocks", 5))
    if layers % every:
        raise ConfigError(
            f"{layers} layers do not divide by inject_face_latents_blocks {every}",
            where="transformer.num_layers",
            expected=f"a multiple of {every}",
        )
    return arguments


def whole_arguments(transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> dict[str, Any]:
    """The transformer's constructor arguments with every default written out, so that two can be compared.

    Args:
        transformer: Some or all of them.
        vae: Of its autoencoder.

    Raises:
        CheckpointError: The autoencoder's factors are missing.
        ConfigError: Arguments that do not fit one another.
    """
    from diffusers import WanAnimateTransformer3DModel

    known = signature(WanAnimateTransformer3DModel.__init__).parameters.values()
    return {**{p.name: p.default for p in known if p.name != "self"}, **_checked(transformer, vae)}


def _loaded(weights: str, arguments: Mapping[str, Any], precision: Precision) -> Any:
    """The pretrained transformer, if it is the one that the arguments describe."""
    from accelerate import init_empty_weights
    from diffusers import WanAnimateTransformer3DModel

    folder = _on_this_machine(weights)
    # A folder is a whole model with a `transformer` inside, or that folder itself.
    folder = folder / "transformer" if (folder / "transformer").is_dir() else folder
    try:
        told = WanAnimateTransformer3DModel.load_config(str(folder), local_files_only=True)
        with init_empty_weights():
            model = WanAnimateTransformer3DModel.from_config(told)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"the transformer cannot be loaded ({said})", where=weights) from error
    config = dict(model.config)
    other = {
        key: config.get(key)
        for key, value in arguments.items()
        if key in config and _plain(config[key]) != _plain(value)
    }
    if other:
        listed = ", ".join(f"{key} {value}, not {arguments[key]}" for key, value in other.items())
        raise CheckpointError(f"the weights are of another architecture: {listed}", where=weights)
    give_weights(model, StoredWeights(transformer_files(folder)), getattr(torch, precision), weights)
    return model


def _on_this_machine(weights: str) -> Path:
    """The folder itself, or the cache's folder of a hub id: every rank of a training would download tens of GB."""
    folder = Path(weights).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or weights.startswith(".") or weights.count("/") != 1:
        raise CheckpointError("no such folder", where=weights, expected="a model folder, or a hub id owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(weights, allow_patterns=["transformer/*"], local_files_only=True))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the files of {weights} are not on this machine",
            where=weights,
            fix=f"`hf download {weights}`, or name a folder that holds them",
        ) from error


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
