"""MUSIQ, the multi-scale image quality transformer: what VBench calls imaging quality.

Shapes: T pictures, L patches, D = 384 width of the transformer, A heads, E width of a head.

The names of the parameters are those of the published checkpoints that were converted for pyiqa.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from macedance.vision.aesthetic import only_file
from macedance.vision.frozen import FrozenNetwork, in_batches, judging
from macedance.vision.musiq_patches import GRID, LONGER_SIDES, PATCH, PatchSequence, multiscale_patches, same_padding
from macedance.vision.tensors_file import load_exactly, read_tensors
from macedance.vision.weights import fingerprint

if TYPE_CHECKING:
    from typing_extensions import Self

#: Added to attention in the place of what is masked.
_MASKED = -1e3
_CONV_EPS = 1e-5
_NORM_EPS = 1e-6
_GROUPS = 32
_STEM = 64
#: Pictures that go through the network at once: a 512-pixel one has about 340 patches.
BATCH = 4


class StandardizedConv(nn.Conv2d):
    """A convolution without bias whose kernels are standardised (unbiased deviation), padded as TensorFlow's SAME."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride))."""
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / (deviation + _CONV_EPS)
        (height, width), kernel, stride = x_NCHW.shape[-2:], self.kernel_size[0], self.stride[0]
        padded = F.pad(x_NCHW, (*same_padding(width, kernel, stride), *same_padding(height, kernel, stride)))
        return F.conv2d(padded, weight, None, self.stride)


class Bottleneck(nn.Module):
    """The one residual block: 1x1, 3x3 and 1x1 convolutions with group norms, and a projection beside them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = StandardizedConv(inputs, inputs, 1)
        self.gn1 = nn.GroupNorm(_GROUPS, inputs, eps=1e-4)
        self.conv2 = StandardizedConv(inputs, inputs, 3)
        self.gn2 = nn.GroupNorm(_GROUPS, inputs, eps=1e-4)
        self.conv3 = StandardizedConv(inputs, outputs, 1)
        self.gn3 = nn.GroupNorm(_GROUPS, outputs, eps=1e-4)
        self.conv_proj = StandardizedConv(inputs, outputs, 1)
        self.gn_proj = nn.GroupNorm(_GROUPS, outputs, eps=1e-4)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        y = F.relu(self.gn1(self.conv1(x_NCHW)))
        y = F.relu(self.gn2(self.conv2(y)))
        return F.relu(self.gn3(self.conv3(y)) + self.gn_proj(self.conv_proj(x_NCHW)))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_TLD: Tensor, bias_LL: Tensor | None) -> Tensor:
        split = (*x_TLD.shape[:2], self.heads, x_TLD.shape[2] // self.heads)
        q, k, v = (part(x_TLD).reshape(split).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores_TALL = (q @ k.transpose(-2, -1)) * split[-1] ** -0.5
        if bias_LL is not None:
            scores_TALL = scores_TALL.masked_fill(~bias_LL, _MASKED)
        mixed_TALE = scores_TALL.softmax(dim=-1) @ v
        return self.out(mixed_TALE.transpose(1, 2).reshape(x_TLD.shape))


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.attention = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.mlp = _FeedForward(width, hidden)

    def forward(self, x_TLD: Tensor, bias_LL: Tensor | None) -> Tensor:
        x_TLD = x_TLD + self.attention(self.norm1(x_TLD), bias_LL)
        return x_TLD + self.mlp(self.norm2(x_TLD))


class _Table(nn.Module):
    """Holds one embedding under its published name."""

    def __init__(self, name: str, *shape: int) -> None:
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.randn(*shape) * 0.02))


class _Encoder(nn.Module):
    def __init__(self, width: int, hidden: int, heads: int, layers: int) -> None:
        super().__init__()
        self.posembed_input = _Table("position_emb", 1, GRID * GRID, width)
        self.scaleembed_input = _Table("scale_emb", len(LONGER_SIDES) + 1, width)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.encoder_norm = nn.LayerNorm(width, eps=_NORM_EPS)
        self.transformer = nn.ModuleDict({f"encoderblock_{i}": _Block(width, hidden, heads) for i in range(layers)})

    def forward(self, x_TLD: Tensor, sequence: PatchSequence) -> Tensor:
        positions = self.posembed_input.get_parameter("position_emb")[0, sequence.positions]
        scales = self.scaleembed_input.get_parameter("scale_emb")[sequence.scales]
        x_TLD = torch.cat([self.cls.expand(len(x_TLD), -1, -1), x_TLD + positions + scales], dim=1)
        mask_L = F.pad(sequence.mask, (1, 0), value=True)
        bias_LL = None if bool(mask_L.all()) else mask_L[:, None] & mask_L[None, :]
        for block in self.transformer.values():
            x_TLD = block(x_TLD, bias_LL)
        return self.encoder_norm(x_TLD)


class MusiqNetwork(nn.Module):
    """The network; the defaults are the published definition, with 27.1 million parameters.

    Source: Ke et al., MUSIQ, arXiv:2108.05997.

    Args:
        width: Of the transformer.
        hidden: Of its feed-forward layers.
        heads: Of its attention.
        layers: Its blocks.
    """

    def __init__(self, width: int = 384, hidden: int = 1152, heads: int = 6, layers: int = 14) -> None:
        super().__init__()
        self.conv_root = StandardizedConv(3, _STEM, 7, 2)
        self.gn_root = nn.GroupNorm(_GROUPS, _STEM, eps=_NORM_EPS)
        self.block1 = Bottleneck(_STEM, 4 * _STEM)
        self.embedding = nn.Linear(4 * _STEM * (PATCH // 4) ** 2, width)
        self.transformer_encoder = _Encoder(width, hidden, heads, layers)
        self.head = nn.Linear(width, 1)

    def forward(self, sequence: PatchSequence) -> Tensor:
        """Quality (T,), about 0 to 100, of the pictures of a sequence."""
        count, length = sequence.patches.shape[:2]
        x = F.relu(self.gn_root(self.conv_root(sequence.patches.flatten(0, 1))))
        # The zeros beside rectified values are never the largest.
        x = F.max_pool2d(F.pad(x, (*same_padding(PATCH // 2, 3, 2), *same_padding(PATCH // 2, 3, 2))), 3, 2)
        # TensorFlow's order of channels: rows, columns, channels.
        x = self.block1(x).permute(0, 2, 3, 1).reshape(count, length, -1)
        return self.head(self.transformer_encoder(self.embedding(x), sequence)[:, 0]).squeeze(-1)


class Musiq(FrozenNetwork):
    """A trained MUSIQ.

    Args:
        module: The network.
        fingerprint: Sha256 of its weights.
        name: Its id.
    """

    def __init__(self, module: MusiqNetwork, *, fingerprint: str, name: str = "musiq_spaq") -> None:
        super().__init__(module, name=name, fingerprint=fingerprint)

    @classmethod
    def from_folder(cls, path: str | Path, network: MusiqNetwork | None = None) -> Self:
        """The weights of a folder or of a file (``.pth``, ``.safetensors``); nothing is downloaded.

        Args:
            path: The folder or the file.
            network: Their definition; None: the published one.

        Raises:
            CheckpointError: No such file, or it is of another network, such as the one trained on AVA.
        """
        file = only_file(Path(path), ("*.pth", "*.safetensors"))
        network = MusiqNetwork() if network is None else network
        load_exactly(network, read_tensors(file), file)
        return cls(network, fingerprint=fingerprint(file))

    def __call__(self, pictures: Tensor) -> Tensor:
        """Quality (T,) float32, about 0 to 100, of pictures (T, 3, H, W) of one size.

        Args:
            pictures: uint8, or float from 0 to 255, RGB, at the size at which they are to be judged.
        """
        out = []
        with judging(self.device):
            for batch in in_batches(pictures, BATCH):
                values = (batch.to(self.device, torch.float32) / 255.0 - 0.5) * 2.0
                out.append(self.module(multiscale_patches(values)))
            return torch.cat(out) if out else torch.zeros(0, device=self.device)
