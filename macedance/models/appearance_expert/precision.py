"""What the transformer computes in float32, as diffusers does, under autocast too.

Diffusers loads the model in bfloat16 but for the time embedder, the modulation tables, the norms' weights and the face
encoder's motion basis, and runs it without autocast. Autocast, which training runs under, would round the products
among these.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from macedance.nn.precise import compute_without_autocast


def compute_as_diffusers(transformer: Any) -> None:
    """Let a transformer compute in float32 what diffusers does, under autocast too; names do not change."""
    compute_without_autocast(transformer.condition_embedder.time_embedder)
    encoder = transformer.motion_encoder
    encoder.forward = partial(_motion, encoder)


def _motion(encoder: Any, face_image: Tensor, channel_dim: int = 1) -> Tensor:
    """The motion of face pictures (N, 3, S, S) -> (N, motion_encoder_dim) (LIA, Wang et al., ICLR 2022, eq. 4-5).

    As WanAnimateMotionEncoder of diffusers, whose last product with the orthonormal basis is of float32 and which
    autocast would round.

    Raises:
        ValueError: The pictures are of another size.
    """
    if tuple(face_image.shape[-2:]) != (encoder.size, encoder.size):
        raise ValueError(f"face pictures of {tuple(face_image.shape[-2:])}, expected {encoder.size} pixels a side")
    features = encoder.conv_in(face_image, channel_dim)
    for block in encoder.res_blocks:
        features = block(features, channel_dim)
    code = encoder.conv_out(features, channel_dim).squeeze(-1).squeeze(-1)
    for layer in encoder.motion_network:
        code = layer(code, channel_dim=channel_dim)
    basis = torch.linalg.qr((encoder.motion_synthesis_weight + 1e-8).float())[0]
    # A product of numbers and a sum, which autocast leaves in float32, instead of one of matrices.
    return (code.float().unsqueeze(-1) * basis.to(code.device).mT).sum(dim=1).to(code.dtype)
