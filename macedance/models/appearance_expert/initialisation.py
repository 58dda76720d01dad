"""Weights to start a video autoencoder from, so that a signal passes through it at its own size.

Causal convolutions of three time taps start, by PyTorch's default, with weights that shrink the signal below their
biases layer by layer; an AutoencoderKLWan of a few hundred steps never recovers from it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

#: Mean square of silu of a standard normal: what normalisation and activation leave of a signal of size 1.
_SILU_POWER = 0.3555


@torch.no_grad()
def preserve_variance(vae: Any) -> None:
    """Initialise an AutoencoderKLWan in place from torch's generator.

    Weights are normal of variance 1 / fan-in on the last time tap (the present frame) and 0 on the others, so that it
    starts as an autoencoder of single frames; biases are 0; the last layer of every residual branch is 0, so that
    branches start as nothing.

    Args:
        vae: The autoencoder.
    """
    for name, module in vae.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            _scaled(module, _gain(name))


def _gain(name: str) -> float:
    """Factor of a layer's weights by what comes before it and what it is for."""
    kind = name.rpartition(".")[2]
    if kind in ("conv2", "proj"):
        return 0.0
    return 1.0 / math.sqrt(_SILU_POWER) if kind in ("conv1", "conv_out") else 1.0


def _scaled(layer: nn.Conv2d | nn.Conv3d, gain: float) -> None:
    weight = layer.weight
    weight.zero_()
    present = weight if weight.ndim == 4 else weight[:, :, -1]
    fan_in = present[0].numel()
    if gain:
        present.normal_(0.0, gain / math.sqrt(fan_in))
    if layer.bias is not None:
        layer.bias.zero_()


def prefer_channels_last(network: nn.Module) -> None:
    """Keep the weights of convolutions with the channels innermost, in place: a CPU's bfloat16 is far faster so."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
