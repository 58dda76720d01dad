"""Floating-point operations of a forward pass, counted on the meta device."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

#: Operations of one step of a Mamba-1 scan per channel and state: exp, two products of the update, its sum, y's
#: product and sum, and the two products of delta with A and B u.
_SCAN_OPERATIONS = 9


def forward_flops(network: nn.Module, num_frames: int) -> int:
    """FLOPs of one forward pass of one sample.

    Counted: matrix products, convolutions and attention (two operations per multiply-add), and the selective scans.
    Not counted: norms, activations and other elementwise work.

    Args:
        network: A motion network on the meta device, ``forward(xt, t, beta, music, genre)``.
        num_frames: Length of the sample.
    """
    from macedance.nn.mamba import Mamba1Mixer

    mixers = [m for m in network.modules() if isinstance(m, Mamba1Mixer)]
    with torch.device("meta"), torch.no_grad():
        xt = torch.empty(1, num_frames, int(network.motion_dim))  # type: ignore[arg-type]
        music = torch.empty(1, num_frames, int(network.music_dim))  # type: ignore[arg-type]
        one = torch.ones(1)
        genre = torch.zeros(1, dtype=torch.long) if int(network.num_genres) else None  # type: ignore[arg-type]
        with FlopCounterMode(display=False) as counter:
            network(xt, one.long(), one, music, genre)
    scans = sum(_SCAN_OPERATIONS * num_frames * m.A_log.numel() for m in mixers)
    return int(counter.get_total_flops()) + scans
