"""DINO (v1) features of whole frames: what VBench's subject consistency compares.

Shapes: T frames, H rows, W columns, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from macedance.errors import CheckpointError
from macedance.vision.frozen import FrozenNetwork, in_batches, judging
from macedance.vision.resize import normalize, resize_shorter_side
from macedance.vision.transformers_folder import load_whole, read_config
from macedance.vision.weights import fingerprint

if TYPE_CHECKING:
    from typing_extensions import Self

SHORTER_SIDE = 224
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: Of every layer norm in DINO's definition; the hub's config states transformers' default of 1e-12.
LAYER_NORM_EPS = 1e-6
#: Frames that go through the network at once.
BATCH = 16


class DinoFeatures(FrozenNetwork):
    """A DINO vision transformer of transformers, with DINO's own interpolation of positions.

    Source: facebookresearch/dino (ViT-B/16; hub id facebook/dino-vitb16).

    Args:
        module: ``transformers.ViTModel`` without a pooling layer, layer norms of eps 1e-6.
        fingerprint: Sha256 of its weights.
        name: Its id.
    """

    def __init__(self, module: Any, *, fingerprint: str, name: str = "dino_vitb16") -> None:
        super().__init__(module, name=name, fingerprint=fingerprint)
        self.patch_size = patch = int(module.config.patch_size)
        # The embedding layer asks this method of its own for pictures of other sizes.
        module.embeddings.interpolate_pos_encoding = lambda tokens, height, width: interpolated_positions(
            module.embeddings.position_embeddings, height, width, patch
        )
        self.dims = int(module.config.hidden_size)

    @classmethod
    def from_folder(cls, path: str | Path) -> Self:
        """The network of a local folder (``config.json`` and its weights); nothing is downloaded.

        Raises:
            CheckpointError: No such model there, or weights are missing.
        """
        from transformers import ViTConfig, ViTModel

        folder = Path(path)
        raw = read_config(folder, ("vit",))
        config = ViTConfig(**{k: v for k, v in raw.items() if k not in ("model_type", "architectures")})
        config.layer_norm_eps = LAYER_NORM_EPS
        module = load_whole(ViTModel, folder, config=config, add_pooling_layer=False)
        if module.embeddings.position_embeddings.shape[1] - 1 != _grid(module) ** 2:
            raise CheckpointError("its positions are of no square picture", where=folder, expected="a ViT of DINO")
        return cls(module, fingerprint=fingerprint(folder))

    def __call__(self, frames: Tensor) -> Tensor:
        """Features of frames of one size: shorter side to 224 (bilinear, no antialias), uncropped; unit length.

        Args:
            frames: (T, 3, H, W) uint8, or float from 0 to 255, RGB, on any device.

        Returns:
            (T, D) float32, on the network's device.
        """
        out = []
        with judging(self.device):
            for batch in in_batches(frames, BATCH):
                pixels = resize_shorter_side(batch.to(self.device), SHORTER_SIDE, "bilinear")
                out.append(F.normalize(self.encode(normalize(pixels, IMAGENET_MEAN, IMAGENET_STD)), dim=-1))
            return torch.cat(out) if out else torch.zeros(0, self.dims, device=self.device)

    def of_pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """Features (n, D) of pictures (3, H, W) of any sizes, such as crops."""
        if not pictures:
            return torch.zeros(0, self.dims, device=self.device)
        return torch.cat([self(picture[None]) for picture in pictures])

    def encode(self, pixels_T3HW: Tensor) -> Tensor:
        """The class token after the last norm (T, D), of normalised pixels of any size above a patch."""
        found = self.module(pixel_values=pixels_T3HW, interpolate_pos_encoding=True)
        return found.last_hidden_state[:, 0]


def interpolated_positions(positions_1ND: Tensor, height: int, width: int, patch: int) -> Tensor:
    """Position embeddings (1, 1 + n, D) of a picture of height x width pixels, from those of a square one.

    DINO passes scale factors of (patches + 0.1) / side to the bicubic interpolation, which moves its sampling points
    from those of the plain size: features differ by up to 6e-3.
    """
    rows, columns = height // patch, width // patch
    num, dims = positions_1ND.shape[1] - 1, positions_1ND.shape[2]
    side = round(num**0.5)
    if rows * columns == num and height == width:
        return positions_1ND
    grid = positions_1ND[:, 1:].reshape(1, side, side, dims).permute(0, 3, 1, 2)
    scale = ((rows + 0.1) / side, (columns + 0.1) / side)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
    assert grid.shape[-2:] == (rows, columns)
    return torch.cat([positions_1ND[:, :1], grid.permute(0, 2, 3, 1).reshape(1, rows * columns, dims)], dim=1)


def _grid(module: Any) -> int:
    return round((module.embeddings.position_embeddings.shape[1] - 1) ** 0.5)
