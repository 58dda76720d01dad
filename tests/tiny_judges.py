"""A folder of weights as a user has it, of tiny networks with random numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

DIMS = 24
CLIP: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 32, "patch_size": 8, "projection_dim": DIMS,
}  # fmt: skip


def write_dino(folder: Path) -> Path:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                       image_size=64, patch_size=32, initializer_range=0.2)  # fmt: skip
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def write_clip(folder: Path, seed: int = 0) -> Path:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP)).save_pretrained(folder)
    return folder


def write_head(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    weight = torch.randn(1, DIMS, generator=torch.Generator().manual_seed(0))
    torch.save({"weight": weight, "bias": torch.tensor([5.0])}, folder / "sa_0_4_vit_l_14_linear.pth")
    return folder


def write_amt(checkout: Path, weights: Path) -> Path:
    """A checkout of "AMT" that takes the mean of both frames."""
    (checkout / "networks").mkdir(parents=True)
    (checkout / "networks" / "AMT-S.py").write_text(
        "import torch\n\n"
        "class Model(torch.nn.Module):\n"
        "    def __init__(self, corr_radius, corr_lvls, num_flows):\n"
        "        super().__init__()\n"
        "        self.bias = torch.nn.Parameter(torch.ones(1))\n\n"
        "    def forward(self, first, second, time, scale_factor, eval):\n"
        "        return {'imgt_pred': (first + second) / 2 + self.bias}\n"
    )
    weights.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {"bias": torch.zeros(1)}}, weights / "amt-s.pth")
    return checkout


def write_all(root: Path) -> Path:
    """Every network of VBench that has no published hash: all but MUSIQ; and AMT's weights beside a checkout."""
    write_dino(root / "dino_vitb16")
    write_clip(root / "clip_vit_b32", 1)
    write_clip(root / "clip_vit_l14", 2)
    write_head(root / "aesthetic_head")
    write_amt(root / "checkout", root / "amt_s")
    return root
