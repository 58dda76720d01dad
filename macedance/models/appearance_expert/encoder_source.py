"""Where the frozen encoders of a config come from: loaded when they are first needed, and not at all for latents."""

from __future__ import annotations

from macedance.models.appearance_expert.encoders import AppearanceEncoders
from macedance.models.appearance_expert.network import Precision


class EncodersFrom:
    """Makes the frozen encoders of a model folder; see ``AppearanceEncoders.from_folder``.

    Args:
        source: The folder in diffusers' layout, or a hub id whose files lie in the cache.
        text_dim: Channels of the weightless text encoder of a folder without one, the transformer's ``text_dim``.
        text_tokens: Its tokens.
        face_size: Pixels of one side of the face video, the transformer's ``motion_encoder_size``.
        precision: Of text and image encoder, in which they compute.
        vae_precision: Of the autoencoder. Both as `macedance data encode --compute-dtype` gives latents that are those
            of a corpus encoded so.
    """

    def __init__(
        self,
        source: str,
        text_dim: int | None = None,
        text_tokens: int = 16,
        face_size: int | None = None,
        precision: Precision = "float32",
        vae_precision: Precision = "float32",
    ) -> None:
        self.source, self.text_dim, self.text_tokens, self.face_size = source, text_dim, text_tokens, face_size
        self.precision: Precision = precision
        self.vae_precision: Precision = vae_precision

    def __call__(self) -> AppearanceEncoders:
        """Load them.

        Raises:
            CheckpointError: As ``AppearanceEncoders.from_folder``.
            ConfigError: Likewise.
        """
        return AppearanceEncoders.from_folder(
            self.source,
            text_dim=self.text_dim,
            text_tokens=self.text_tokens,
            face_size=self.face_size,
            precision=self.precision,
            vae_precision=self.vae_precision,
        )
