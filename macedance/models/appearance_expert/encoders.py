"""The frozen networks around the Appearance Expert's transformer: pixels, prompts and pictures to its conditions.

Shapes: B clips, T frames, H, W rows and columns of pixels in [-1, 1]; z latent channels, t latent frames, h, w latent
rows and columns; N text tokens, M image tokens, D channels; S pixels of a face's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from macedance.errors import CheckpointError, DataError
from macedance.models.appearance_expert.codec import LatentCodec
from macedance.models.appearance_expert.conditions import Conditions, face_frames, no_face
from macedance.models.appearance_expert.encoder_files import (
    IMAGE,
    TEXT,
    VAE,
    ClipImage,
    load_image,
    load_text,
    load_vae,
    model_folder,
    transformer_config,
)
from macedance.models.appearance_expert.network import Precision
from macedance.models.appearance_expert.text_encoders import HashedText, TextEncoder, UMT5Text

__all__ = ["AppearanceEncoders", "ClipImage", "HashedText", "TextEncoder", "UMT5Text", "load_vae", "model_folder"]


class AppearanceEncoders(nn.Module):
    """What the transformer never sees itself: autoencoder, text encoder and image encoder, frozen and in ``eval``.

    Each runs where its own weights are; results are float32 on the autoencoder's device.

    Args:
        codec: Pixels to standardised latents and back.
        text: Prompts to embeddings.
        image: Pictures to features; None for a transformer without them.
        face_size: Pixels of one side of the face video.
    """

    def __init__(
        self, codec: LatentCodec, text: TextEncoder, image: ClipImage | None = None, face_size: int = 512
    ) -> None:
        super().__init__()
        self.codec, self.text_encoder, self.image_encoder = codec, text, image
        self.face_size = face_size
        self._no_text: Tensor | None = None
        self.eval().requires_grad_(False)

    @classmethod
    def from_folder(
        cls,
        source: str | Path,
        *,
        text_dim: int | None = None,
        text_tokens: int = HashedText.TOKENS,
        face_size: int | None = None,
        patch: int | None = None,
        with_image: bool | None = None,
        precision: Precision = "float32",
        vae_precision: Precision = "float32",
    ) -> AppearanceEncoders:
        """From a model folder in diffusers' layout: ``vae``, and where it has them ``text_encoder`` with ``tokenizer``
        and ``image_encoder`` with ``image_processor``.

        A folder without a text encoder gets the weightless HashedText. What is not given is read from the folder's
        ``transformer/config.json``.

        Args:
            source: The folder, or a hub id whose files lie in the cache; nothing is downloaded.
            text_dim: Channels of the weightless text encoder, the transformer's ``text_dim``.
            text_tokens: Its tokens.
            face_size: Pixels of one side of the face video, the transformer's ``motion_encoder_size``.
            patch: Latent rows and columns to a token, of the transformer.
            with_image: Load the image encoder, if there is one; None: if the transformer takes its features.
            precision: Of text and image encoder.
            vae_precision: Of the autoencoder: in float32 as Wan keeps it, or bfloat16 where time or memory is short.

        Raises:
            CheckpointError: No such folder, no autoencoder, weights that are missing or damaged, or encoders that do
                not fit the folder's transformer.
            ConfigError: No text encoder, and nothing says how wide its embeddings are to be.
        """
        folder = model_folder(source)
        config = transformer_config(folder)
        patch_size = patch or int((config.get("patch_size") or (1, 2, 2))[-1])
        codec = LatentCodec(load_vae(folder, vae_precision), patch_size)
        text = load_text(folder, text_dim or config.get("text_dim"), text_tokens, precision)
        takes_image = (not config or config.get("image_dim") is not None) if with_image is None else with_image
        image = load_image(folder, precision) if takes_image else None
        size = face_size or int(config.get("motion_encoder_size") or 512)
        encoders = cls(codec, text, image, size)
        if config:
            encoders.check_transformer(config, folder)
        return encoders

    def train(self, mode: bool = True) -> AppearanceEncoders:
        """Stays in ``eval``: what is frozen has no training mode."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the autoencoder is, and the results."""
        return next(self.codec.vae.parameters()).device

    @property
    def fingerprint(self) -> dict[str, str]:
        """Encoder -> identity of its weights; equal ones give equal conditions, up to rounding."""
        found = {VAE: self.codec.identity(), TEXT: self.text_encoder.identity()}
        return found if self.image_encoder is None else {**found, IMAGE: self.image_encoder.identity()}

    @property
    def compute_dtype(self) -> dict[str, str]:
        """Encoder -> precision of its weights, in which it computes; one without weights is not named."""
        found = {VAE: self.codec.dtype}
        for name, module in ((TEXT, self.text_encoder), (IMAGE, self.image_encoder)):
            weight = None if module is None else next(module.parameters(), None)
            if weight is not None:
                found[name] = weight.dtype
        return {name: str(dtype).removeprefix("torch.") for name, dtype in found.items()}

    def encode_video(self, pixels_BCTHW: Tensor) -> Tensor:
        """Standardised latents (B, z, t, h, w) of clips (B, 3, T, H, W).

        Raises:
            ConfigError: Pixels or frames that do not come out even.
        """
        return self.codec.encode(pixels_BCTHW)

    def reference(self, image_B3HW: Tensor) -> Tensor:
        """Latents (B, z, 1, h, w) of reference pictures (B, 3, H, W)."""
        return self.codec.encode(image_B3HW.unsqueeze(2))

    def image_features(self, image_B3HW: Tensor) -> Tensor | None:
        """Features (B, M, D) of reference pictures; None without an image encoder."""
        return None if self.image_encoder is None else self.image_encoder(image_B3HW).to(self.device)

    def text(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (B, N, D) of prompts."""
        embedded: Tensor = self.text_encoder(list(prompts))
        return embedded.to(self.device)

    def no_text(self, batch: int) -> Tensor:
        """Embeddings (B, N, D) of the empty prompt, which stand for dropped prompts; computed once."""
        if self._no_text is None:
            self._no_text = self.text([""])
        self._no_text = self._no_text.to(self.device)
        return self._no_text.expand(batch, -1, -1)

    def known(self, known_pixels: Tensor | None, batch: int, frames: int, height: int, width: int) -> Tensor:
        """Latents (B, z, t, h, w) of clips of which only the first frames are known, the rest 0 as Wan-Animate has it.

        Args:
            known_pixels: (B, 3, known frames, H, W), or None where nothing is known.
            batch: Clips; ``frames``, ``height`` and ``width`` are the clips'.
            frames: Of a clip.
            height: Pixels.
            width: Pixels.
        """
        if known_pixels is None or not known_pixels.shape[2]:
            return self.codec.blank(batch, frames, height, width)
        clip = torch.zeros(batch, 3, frames, height, width, device=known_pixels.device)
        clip[:, :, : known_pixels.shape[2]] = known_pixels
        return self.encode_video(clip)

    def face(self, face_video: Tensor | None, batch: int, latent_frames: int) -> Tensor:
        """The face video as the transformer takes it, (B, 3, (t - 1) * 4 + 1, S, S); blank where there is none.

        Frames are taken evenly where the autoencoder's temporal factor is not 4.

        Raises:
            DataError: Faces of another size.
        """
        if face_video is None:
            return no_face(batch, latent_frames, self.face_size).to(self.device)
        expected = (batch, 3, self.face_size, self.face_size)
        if face_video.ndim != 5 or (*face_video.shape[:2], *face_video.shape[3:]) != expected:
            raise DataError(
                f"a face video of shape {tuple(face_video.shape)}",
                expected=f"({batch}, 3, frames, {self.face_size}, {self.face_size})",
                fix=f"--data.face_size={self.face_size}",
            )
        chosen = face_frames(face_video.shape[2], latent_frames)
        return face_video[:, :, chosen.to(face_video.device)].to(self.device)

    def conditions(
        self,
        pose_video: Tensor,
        reference_image: Tensor,
        face_video: Tensor | None = None,
        prompts: Sequence[str] | None = None,
        known_pixels: Tensor | None = None,
        known_frames: int | Tensor | None = None,
    ) -> Conditions:
        """The conditions of a batch.

        Args:
            pose_video: Driving clips (B, 3, T, H, W).
            reference_image: (B, 3, H, W).
            face_video: (B, 3, T, S, S), or None.
            prompts: B of them; None: empty ones.
            known_pixels: The clip's first frames (B, 3, k, H, W), or None.
            known_frames: How many of them the transformer is told about, of every clip or of each; None: all.

        Raises:
            ConfigError: Pixels or frames that do not come out even.
            DataError: Sizes that do not belong together.
        """
        batch, _, frames, height, width = pose_video.shape
        if tuple(reference_image.shape) != (batch, 3, height, width):
            raise DataError(
                f"a reference image of shape {tuple(reference_image.shape)}", expected=str((batch, 3, height, width))
            )
        told = [""] * batch if prompts is None else list(prompts)
        if len(told) != batch:
            raise DataError(f"{len(told)} prompts for {batch} clips", expected="one for each")
        pose = self.encode_video(pose_video)
        given = 0 if known_pixels is None else known_pixels.shape[2]
        return Conditions(
            reference=self.reference(reference_image),
            pose=pose,
            face=self.face(face_video, batch, pose.shape[2]),
            text=self.text(told),
            known=self.known(known_pixels, batch, frames, height, width),
            image=self.image_features(reference_image),
            known_frames=given if known_frames is None else known_frames,
        )

    def check_transformer(self, config: Any, where: str | Path) -> None:
        """Raise CheckpointError unless these encoders are as wide as a transformer's configuration expects."""
        channels = self.codec.geometry.channels
        found = {
            "out_channels": channels,
            "latent_channels": channels,
            "text_dim": self.text_encoder.dim,
            "image_dim": None if self.image_encoder is None else self.image_encoder.dim,
            "motion_encoder_size": self.face_size,
        }
        other = [f"{key} {value}, not {config[key]}" for key, value in found.items() if config.get(key, value) != value]
        if other:
            raise CheckpointError(
                f"the encoders are not those of the transformer: {', '.join(other)}",
                where=where,
                expected="the autoencoder and encoders that the transformer was trained with",
            )
