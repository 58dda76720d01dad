"""LAION's linear aesthetic predictor on CLIP ViT-L/14: what VBench calls aesthetic quality.

Shapes: T frames, D features.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from macedance.errors import CheckpointError
from macedance.vision.clip import ClipFeatures
from macedance.vision.frozen import FrozenNetwork, judging
from macedance.vision.tensors_file import read_tensors
from macedance.vision.weights import fingerprint

if TYPE_CHECKING:
    from typing_extensions import Self


class AestheticPredictor(FrozenNetwork):
    """A linear layer on unit-length CLIP features, about 1 to 10; not clamped.

    It is LAION's ``sa_0_4`` head, not the multi-layer "improved" one that other benchmarks use.

    Source: LAION-AI/aesthetic-predictor.

    Args:
        clip: CLIP ViT-L/14; may be shared.
        head: D -> 1.
        fingerprint: Sha256 of the head's weights.
    """

    def __init__(self, clip: ClipFeatures, head: nn.Linear, *, fingerprint: str) -> None:
        super().__init__(head, name="aesthetic_head", fingerprint=fingerprint)
        self.clip = clip

    @classmethod
    def from_folder(cls, path: str | Path, clip: ClipFeatures) -> Self:
        """The head in a folder, or a file of it (``.pth``, ``.safetensors``), for this CLIP.

        Raises:
            CheckpointError: No such file, or it is no linear layer of CLIP's width.
        """
        file = only_file(Path(path), ("*linear*.pth", "*linear*.safetensors"))
        tensors = read_tensors(file)
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != {"weight": (1, clip.dims), "bias": (1,)}:
            raise CheckpointError(
                f"no linear aesthetic head: it holds {found}",
                where=file,
                expected=f"weight (1, {clip.dims}) and bias (1,), as sa_0_4_vit_l_14_linear.pth has for CLIP ViT-L/14",
            )
        head = nn.Linear(clip.dims, 1)
        head.load_state_dict(tensors)
        return cls(clip, head, fingerprint=fingerprint(file))

    def to(self, device: torch.device | str) -> Self:
        """Move the head and its CLIP."""
        self.clip.to(device)
        return super().to(device)

    def __call__(self, frames: Tensor) -> Tensor:
        """Scores (T,) float32, about 1 to 10, of frames (T, 3, H, W) uint8 RGB."""
        features_TD = self.clip(frames)
        with judging(self.device):
            return self.module(features_TD).squeeze(-1)

    @property
    def weights(self) -> dict[str, str]:
        """Sha256 of the head and of its CLIP."""
        return {self.clip.name: self.clip.fingerprint, self.name: self.fingerprint}


def only_file(path: Path, patterns: tuple[str, ...]) -> Path:
    """The file itself, or the one of a folder that a pattern matches.

    Raises:
        CheckpointError: There is none, or more than one.
    """
    if path.is_file():
        return path
    found = sorted({file for pattern in patterns for file in path.glob(pattern)})
    if len(found) != 1:
        named = ", ".join(file.name for file in found) or "none"
        raise CheckpointError(f"{named} of {' or '.join(patterns)}", where=path, expected="one file of weights")
    return found[0]
