"""What the Appearance Expert's transformer is told beside the noisy latents, in the layout of Wan-Animate.

Along channels: noisy latents, a mask of what is known, the known latents. Along time: the reference picture first, then
the clip, of which the first frames may be known from the segment before. Shapes: B clips, z channels, t latent frames
of the clip, h, w latent rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from macedance.models.appearance_expert.geometry import LatentGeometry

#: Mask channels of the transformer: one for each frame that Wan's autoencoder puts into a latent frame.
MASK_CHANNELS = 4
#: Frames of the face video to one latent frame: the face encoder's own stride, whatever the autoencoder's.
FACE_FRAMES_PER_LATENT = 4


@dataclass(frozen=True)
class Conditions:
    """The conditions of a batch.

    Attributes:
        reference: Latents (B, z, 1, h, w) of the reference picture.
        pose: Latents (B, z, t, h, w) of the pose video.
        face: Pixels (B, 3, (t - 1) * 4 + 1, S, S) of the face video in [-1, 1]; -1 everywhere is "no face".
        text: Embeddings (B, N, D) of the prompt.
        known: Latents (B, z, t, h, w) of the clip as far as it is known: encoded from pixels whose unknown frames are
            0, which are not latents of 0 (``LatentCodec.blank``).
        image: Features (B, M, D) of the reference picture, or None for a network without them.
        known_frames: Frames known at the clip's beginning: of every clip, or of each (B,), int64.
    """

    reference: Tensor
    pose: Tensor
    face: Tensor
    text: Tensor
    known: Tensor
    image: Tensor | None = None
    known_frames: int | Tensor = 0

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditions:
        """The same conditions on another device, in another precision."""
        moved: dict[str, Any] = {
            item.name: value.to(device=device, dtype=dtype)
            for item in fields(self)
            if item.name != "known_frames" and isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **moved)

    def dropped(self, drop_B: Tensor, text_instead: Tensor | None = None) -> Conditions:
        """Rows without text and face where ``drop_B``: what guidance is later measured against (Wan-Animate).

        Args:
            drop_B: bool.
            text_instead: Embedding (B, N, D) or (1, N, D) that stands for no text, as of the empty prompt; None: 0.
        """
        keep = ~drop_B.to(self.text.device)
        instead = torch.zeros_like(self.text) if text_instead is None else text_instead.to(self.text)
        text = torch.where(keep.view(-1, 1, 1), self.text, instead)
        face = torch.where(keep.view(-1, 1, 1, 1, 1), self.face, torch.full_like(self.face, -1.0))
        return replace(self, text=text, face=face)


def known_mask(
    geometry: LatentGeometry, batch: int, latent_frames: int, rows: int, columns: int, known_frames: int | Tensor
) -> Tensor:
    """Mask (B, 4, t, h, w): 1 where the frame behind it is known, float32.

    The first latent frame holds one frame, each later one ``temporal`` of them; where that is not 4, a latent frame's
    mask channels are spread over its frames.
    """
    channel = torch.arange(MASK_CHANNELS).view(-1, 1)
    latent = torch.arange(latent_frames)
    later = 1 + (latent - 1) * geometry.temporal + channel * geometry.temporal // MASK_CHANNELS
    frame_CT = torch.where(latent == 0, 0, later)
    known_B = torch.as_tensor(known_frames).reshape(-1).cpu().expand(batch)
    mask = (frame_CT < known_B.view(-1, 1, 1)).float()
    return mask.view(batch, MASK_CHANNELS, latent_frames, 1, 1).expand(-1, -1, -1, rows, columns)


def transformer_input(noisy_BCTHW: Tensor, conditions: Conditions, geometry: LatentGeometry) -> Tensor:
    """The transformer's input (B, 2 z + 4, 1 + t, h, w).

    Args:
        noisy_BCTHW: Noisy latents (B, z, 1 + t, h, w); the frame of the reference first.
        conditions: See Conditions.
        geometry: Of the autoencoder.
    """
    batch, _, frames, rows, columns = noisy_BCTHW.shape
    latent_frames = frames - 1
    given = torch.cat([conditions.reference, conditions.known], dim=2).to(noisy_BCTHW)
    mask = known_mask(geometry, batch, latent_frames, rows, columns, conditions.known_frames)
    told = torch.cat([torch.ones(batch, MASK_CHANNELS, 1, rows, columns), mask], dim=2).to(noisy_BCTHW)
    return torch.cat([noisy_BCTHW, told, given], dim=1)


def face_frames(frames: int, latent_frames: int) -> Tensor:
    """Which of a clip's frames the face encoder is shown, (N,) int64: (t - 1) * 4 + 1 of them, spread evenly.

    All of them where the autoencoder's temporal factor is 4.
    """
    return torch.linspace(0, frames - 1, (latent_frames - 1) * FACE_FRAMES_PER_LATENT + 1).round().long()


def no_face(batch: int, latent_frames: int, size: int) -> Tensor:
    """The face video (B, 3, (t - 1) * 4 + 1, S, S) of a motion without a face, as Wan-Animate blanks it: all -1."""
    return torch.full((batch, 3, (latent_frames - 1) * FACE_FRAMES_PER_LATENT + 1, size, size), -1.0)
