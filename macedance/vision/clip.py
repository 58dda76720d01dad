"""CLIP features of whole frames: what VBench's background consistency compares and its aesthetic head reads.

Shapes: T frames, H rows, W columns, D features.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from macedance.errors import CheckpointError
from macedance.vision.frozen import FrozenNetwork, in_batches, judging
from macedance.vision.resize import center_crop, normalize, resize_shorter_side
from macedance.vision.transformers_folder import load_whole, read_config
from macedance.vision.weights import fingerprint

if TYPE_CHECKING:
    from typing_extensions import Self

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
#: OpenAI's networks use x * sigmoid(1.702 x); the same weights under another GELU are another network.
ACTIVATION = "quick_gelu"
#: Frames that go through the network at once.
BATCH = 16


class ClipFeatures(FrozenNetwork):
    """The picture tower of an OpenAI CLIP, always in float32.

    Published scripts load it in half precision on GPUs, which moves single videos by up to 5e-4.

    Source: openai/CLIP (hub ids openai/clip-vit-base-patch32, openai/clip-vit-large-patch14).

    Args:
        module: ``transformers.CLIPVisionModelWithProjection``.
        name: Its id.
        fingerprint: Sha256 of its weights.
    """

    def __init__(self, module: Any, *, name: str, fingerprint: str) -> None:
        super().__init__(module, name=name, fingerprint=fingerprint)
        self.size = int(module.config.image_size)
        self.dims = int(module.config.projection_dim)

    @classmethod
    def from_folder(cls, path: str | Path, name: str = "clip_vit_b32") -> Self:
        """The network of a local folder, of the whole CLIP or of its picture tower; nothing is downloaded.

        Raises:
            CheckpointError: No such model there, weights are missing, or its activation is not OpenAI's.
        """
        from transformers import CLIPVisionModelWithProjection

        folder = Path(path)
        read_config(folder, ("clip", "clip_vision_model"))
        module = load_whole(CLIPVisionModelWithProjection, folder)
        if module.config.hidden_act != ACTIVATION:
            raise CheckpointError(
                f"a CLIP with the activation {module.config.hidden_act!r}",
                where=folder,
                expected=f"OpenAI's, with {ACTIVATION!r}",
            )
        return cls(module, name=name, fingerprint=fingerprint(folder))

    def __call__(self, frames: Tensor) -> Tensor:
        """Features, of unit length, of the central square of frames of one size.

        Shorter side to 224, bicubic without antialiasing. The over- and undershoots are kept, as the published
        transform on tensors keeps them.

        Args:
            frames: (T, 3, H, W) uint8, or float from 0 to 255, RGB, on any device.

        Returns:
            (T, D) float32, on the network's device.
        """
        out = []
        with judging(self.device):
            for batch in in_batches(frames, BATCH):
                pixels = center_crop(resize_shorter_side(batch.to(self.device), self.size, "bicubic"), self.size)
                out.append(F.normalize(self.encode(normalize(pixels, CLIP_MEAN, CLIP_STD)), dim=-1))
            return torch.cat(out) if out else torch.zeros(0, self.dims, device=self.device)

    def encode(self, pixels_T3SS: Tensor) -> Tensor:
        """Projected features (T, D) of normalised squares of the network's size."""
        return self.module(pixel_values=pixels_T3SS).image_embeds
