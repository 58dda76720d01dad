"""Inflated Inception: the network whose logits the Fréchet video distance compares.

Shapes: N clips, T frames, H rows, W columns, C channels.

Source: Carreira and Zisserman, "Quo Vadis, Action Recognition?" (CVPR 2017); names of the weights as in
piergiaj/pytorch-i3d, which the published ``i3d_pretrained_400.pt`` (Kinetics-400, converted from TensorFlow hub) has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Triple = tuple[int, int, int]

_BATCH_NORM_EPS = 1e-3
#: Block -> channels in, and of: 1x1 branch, 3x3 branch reduced and full, second 3x3 branch likewise, pooled branch.
_MIXED: dict[str, tuple[int, tuple[int, int, int, int, int, int]]] = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
#: Layers in order; a pooling layer is its kernel and stride.
_ORDER: tuple[str | tuple[Triple, Triple], ...] = (
    "Conv3d_1a_7x7",
    ((1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1",
    "Conv3d_2c_3x3",
    ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b",
    "Mixed_3c",
    ((3, 3, 3), (2, 2, 2)),
    "Mixed_4b",
    "Mixed_4c",
    "Mixed_4d",
    "Mixed_4e",
    "Mixed_4f",
    ((2, 2, 2), (2, 2, 2)),
    "Mixed_5b",
    "Mixed_5c",
)
#: Channels are divided by the slimness of a network; all of the published ones by 1, and 16 divides most of them.
STEM_CHANNELS = 64
#: Rows and columns of what the network sees, and the fewest frames: eight become one, and two are pooled.
SIDE = 224
MIN_FRAMES = 9


class InceptionI3d(nn.Module):
    """The network up to its logits, averaged over time.

    Args:
        num_classes: Number of logits; 400 of Kinetics-400.
        slimness: Divides the number of channels of every layer, at least one is left; 1 is the published network.
    """

    def __init__(self, num_classes: int = 400, *, slimness: int = 1) -> None:
        super().__init__()

        def slim(channels: int) -> int:
            return max(1, channels // slimness)

        self.Conv3d_1a_7x7 = Unit3d(3, slim(STEM_CHANNELS), (7, 7, 7), stride=(2, 2, 2))
        self.Conv3d_2b_1x1 = Unit3d(slim(64), slim(64), (1, 1, 1))
        self.Conv3d_2c_3x3 = Unit3d(slim(64), slim(192), (3, 3, 3))
        channels = slim(192)
        for name, (_, branches) in _MIXED.items():
            block = Mixed(channels, [slim(width) for width in branches])
            self.add_module(name, block)
            channels = block.out_channels
        self.logits = Unit3d(channels, num_classes, (1, 1, 1), normalized=False)
        self.num_classes = num_classes

    def forward(self, clips_NCTHW: Tensor) -> Tensor:
        """Logits (N, num_classes) of clips (N, 3, T, 224, 224) in [-1, 1], RGB, T at least MIN_FRAMES."""
        x = clips_NCTHW
        for layer in _ORDER:
            x = self.get_submodule(layer)(x) if isinstance(layer, str) else same_max_pool(x, *layer)
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)
        return self.logits(x).mean(dim=(2, 3, 4))


class Unit3d(nn.Module):
    """Convolution with TensorFlow's "same" padding, batch normalisation and ReLU; or convolution with a bias alone."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Triple, *, stride: Triple = (1, 1, 1), normalized: bool = True
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride=stride, bias=not normalized)
        self.bn = nn.BatchNorm3d(outputs, eps=_BATCH_NORM_EPS) if normalized else None
        self._kernel, self._stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W), each size divided by the stride and rounded up."""
        x = self.conv3d(same_pad(x, self._kernel, self._stride))
        return x if self.bn is None else F.relu(self.bn(x))


class Mixed(nn.Module):
    """Inception block: four branches side by side."""

    def __init__(self, inputs: int, branches: Sequence[int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = branches
        self.b0 = Unit3d(inputs, b0, (1, 1, 1))
        self.b1a = Unit3d(inputs, b1a, (1, 1, 1))
        self.b1b = Unit3d(b1a, b1b, (3, 3, 3))
        self.b2a = Unit3d(inputs, b2a, (1, 1, 1))
        self.b2b = Unit3d(b2a, b2b, (3, 3, 3))
        self.b3b = Unit3d(inputs, b3b, (1, 1, 1))
        self.out_channels = b0 + b1b + b2b + b3b

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, out_channels, T, H, W)."""
        pooled = same_max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


def same_pad(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Zeros around (N, C, T, H, W), so that each size becomes size / stride rounded up; the odd one goes behind."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(0, (-(-size // s) - 1) * s + k - size)
        pads = [total // 2, total - total // 2, *pads]
    return F.pad(x, pads) if any(pads) else x


def same_max_pool(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Largest value in windows with "same" padding; the zeros around change nothing of what a ReLU gave."""
    return F.max_pool3d(same_pad(x, kernel, stride), kernel, stride)
