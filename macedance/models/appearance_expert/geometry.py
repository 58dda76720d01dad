"""How pixels become latents: the factors of a video autoencoder, taken from its configuration and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from macedance.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class LatentGeometry:
    """Sizes of a causal video autoencoder's latents: the first frame alone, then ``temporal`` frames to one.

    Args:
        channels: Of the latents (z).
        spatial: Pixels to one latent row or column.
        temporal: Frames to one latent frame.
        patch: Latent rows and columns to one token of the transformer.
    """

    channels: int
    spatial: int
    temporal: int
    patch: int = 2

    @classmethod
    def of(cls, vae_config: Mapping[str, Any], patch: int = 2) -> LatentGeometry:
        """From the configuration of an AutoencoderKLWan.

        Raises:
            CheckpointError: It does not say its factors.
        """
        try:
            return cls(
                int(vae_config["z_dim"]),
                int(vae_config["scale_factor_spatial"]),
                int(vae_config["scale_factor_temporal"]),
                patch,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the autoencoder's configuration lacks {error}",
                expected="z_dim, scale_factor_spatial and scale_factor_temporal",
            ) from error

    def latent_frames(self, frames: int) -> int:
        """Latent frames of ``frames`` frames."""
        return (frames - 1) // self.temporal + 1

    def frames(self, latent_frames: int) -> int:
        """Frames of ``latent_frames`` latent frames."""
        return (latent_frames - 1) * self.temporal + 1

    def whole_frames(self, frames: int) -> int:
        """The least number of frames, not below ``frames``, that latents hold exactly."""
        return self.frames(-(-(frames - 1) // self.temporal) + 1) if frames > 1 else 1

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(channels, latent frames, rows, columns).

        Raises:
            ConfigError: Pixels or frames that do not come out even.
        """
        self.check(frames, height, width)
        return self.channels, self.latent_frames(frames), height // self.spatial, width // self.spatial

    def check(self, frames: int, height: int, width: int) -> None:
        """Raise ConfigError unless frames and pixels come out even."""
        step = self.spatial * self.patch
        if height % step or width % step or height < step or width < step:
            near = [max(step, round(side / step) * step) for side in (width, height)]
            raise ConfigError(
                f"a picture of {width} x {height} pixels does not divide into tokens",
                expected=f"multiples of {step}",
                fix=f"{near[0]} x {near[1]}",
            )
        if frames < 1 or self.frames(self.latent_frames(frames)) != frames:
            raise ConfigError(
                f"{frames} frames do not divide into latent frames",
                expected=f"1 + a multiple of {self.temporal}",
                fix=f"{self.whole_frames(max(frames, 1))}",
            )

    def tokens(self, frames: int, height: int, width: int) -> int:
        """Tokens of the transformer for a clip, the reference frame's included."""
        _, latent_frames, rows, columns = self.latent_shape(frames, height, width)
        return (latent_frames + 1) * (rows // self.patch) * (columns // self.patch)
