"""LPIPS: how differently two pictures excite a network trained on ImageNet.

Shapes: N pictures, H rows, W columns, C channels.

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018), version 0.1;
trunks as Krizhevsky 2014 and Simonyan and Zisserman 2015, with torchvision's names of the weights. The learned weights
of the channels come with torchmetrics.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from macedance.errors import CheckpointError, DataError, DependencyError
from macedance.vision.frozen import FrozenNetwork, judging
from macedance.vision.tensors_file import load_exactly, read_tensors
from macedance.vision.weights import file_sha256

if TYPE_CHECKING:
    from typing_extensions import Self

#: Mean and spread of ImageNet's colours, of pixels in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPS = 1e-8
#: Pictures that go through the trunk at once: of 720p, this many take 0.5 GB in AlexNet's first layer.
_BATCH = 8


@dataclass(frozen=True)
class Trunk:
    """The convolutions of a classifier, and after which of its layers LPIPS listens.

    Args:
        name: LPIPS's name of it.
        weights: Its id in macedance.vision.weights.
        file: Published name of its weights.
        layers: Channels, kernel, stride and padding of a convolution, which a ReLU follows; kernel and stride of a
            pooling layer.
        taps: Number of the layers (a ReLU counts) whose output is compared.
        min_side: The smallest picture, in pixels, that all layers can see.
    """

    name: str
    weights: str
    file: str
    layers: tuple[tuple[int, int, int, int] | tuple[int, int], ...]
    taps: tuple[int, ...]
    min_side: int

    def build(self) -> nn.Sequential:
        """The layers, numbered as in torchvision's ``features``."""
        modules: list[nn.Module] = []
        channels = 3
        for layer in self.layers:
            if len(layer) == 4:
                outputs, kernel, stride, padding = layer
                modules += [nn.Conv2d(channels, outputs, kernel, stride, padding), nn.ReLU()]
                channels = outputs
            else:
                modules.append(nn.MaxPool2d(*layer))
        return nn.Sequential(*modules[: self.taps[-1] + 1])

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each tap."""
        widths: list[int] = []
        for layer in self.layers:
            widths += [layer[0]] * 2 if len(layer) == 4 else [widths[-1]]
        return tuple(widths[tap] for tap in self.taps)


_POOL = (2, 2)


def _stage(channels: int, convolutions: int) -> tuple[tuple[int, int, int, int], ...]:
    return ((channels, 3, 1, 1),) * convolutions


ALEX = Trunk(
    "alex",
    "alexnet",
    "alexnet-owt-7be5be79.pth",
    ((64, 11, 4, 2), (3, 2), (192, 5, 1, 2), (3, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)),
    taps=(1, 4, 7, 9, 11),
    min_side=31,
)
VGG = Trunk(
    "vgg",
    "vgg16",
    "vgg16-397923af.pth",
    (
        *_stage(64, 2), _POOL, *_stage(128, 2), _POOL, *_stage(256, 3), _POOL, *_stage(512, 3), _POOL, *_stage(512, 3),
    ),
    taps=(3, 8, 15, 22, 29),
    min_side=16,
)  # fmt: skip


class Lpips(FrozenNetwork):
    """Perceptual distance of pictures: 0 for equal ones.

    Args:
        module: The trunk's layers.
        heads: For each tap the weights (C,) of its channels.
        trunk: What the module is.
        fingerprint: Sha256 of the trunk's weights and the heads.
    """

    def __init__(self, module: nn.Sequential, heads: list[Tensor], *, trunk: Trunk, fingerprint: str) -> None:
        super().__init__(module, name=f"lpips_{trunk.name}", fingerprint=fingerprint)
        self.trunk = trunk
        self._heads = [head.detach().float() for head in heads]

    @classmethod
    def from_folder(cls, path: str | Path, trunk: Trunk = ALEX, *, heads: str | Path | None = None) -> Self:
        """The network from local files.

        Args:
            path: File of a trunk's ImageNet weights, or the folder that holds it; its classifier is not read.
            trunk: ALEX, which papers use to judge, or VGG.
            heads: File of LPIPS's own weights; None: the published ones (version 0.1) inside torchmetrics.

        Raises:
            CheckpointError: No such file, or weights of another network.
            DependencyError: torchmetrics has no such weights.
        """
        file = Path(path)
        file = file / trunk.file if file.is_dir() else file
        if not file.is_file():
            raise CheckpointError("there are no weights", where=file, expected=trunk.file)
        tensors = {
            name.removeprefix("features."): tensor
            for name, tensor in read_tensors(file).items()
            if not name.startswith("classifier.")
        }
        module = trunk.build()
        load_exactly(module, tensors, file)
        heads = bundled_heads(trunk) if heads is None else Path(heads)
        digest = hashlib.sha256(f"{file_sha256(file)} {file_sha256(heads)}".encode()).hexdigest()
        return cls(module, read_heads(heads, trunk), trunk=trunk, fingerprint=digest)

    def to(self, device: torch.device | str) -> Self:
        """Move trunk and heads."""
        self._heads = [head.to(device) for head in self._heads]
        return super().to(device)

    def __call__(self, x_NCHW: Tensor, y_NCHW: Tensor) -> Tensor:
        """Distances (N,) float32 of pictures (N, 3, H, W) uint8 RGB, each to the other of its number.

        Raises:
            DataError: Different shapes, or pictures smaller than the trunk can see.
        """
        if x_NCHW.shape != y_NCHW.shape or x_NCHW.ndim != 4 or min(x_NCHW.shape[-2:]) < self.trunk.min_side:
            raise DataError(
                f"pictures of shapes {tuple(x_NCHW.shape)} and {tuple(y_NCHW.shape)}",
                expected=f"the same (N, 3, height, width), sides of at least {self.trunk.min_side} pixels",
            )
        found = []
        with judging(self.device):
            for x, y in zip(x_NCHW.split(_BATCH), y_NCHW.split(_BATCH), strict=True):
                found.append(self.distance(signed(x.to(self.device)), signed(y.to(self.device))))
        return torch.cat(found) if found else torch.zeros(0, device=self.device)

    def distance(self, x_NCHW: Tensor, y_NCHW: Tensor) -> Tensor:
        """Distances (N,) of pictures in [-1, 1]."""
        total = torch.zeros(len(x_NCHW), device=x_NCHW.device)
        for a, b, head in zip(self._taps(x_NCHW), self._taps(y_NCHW), self._heads, strict=True):
            difference = (unit_length(a) - unit_length(b)) ** 2
            total = total + F.conv2d(difference, head[None, :, None, None]).mean(dim=(2, 3))[:, 0]
        return total

    def _taps(self, x: Tensor) -> list[Tensor]:
        layers: Any = self.module
        found = []
        x = (x - x.new_tensor(_SHIFT)[:, None, None]) / x.new_tensor(_SCALE)[:, None, None]
        for number, layer in enumerate(layers):
            x = layer(x)
            if number in self.trunk.taps:
                found.append(x)
        return found


def signed(pictures: Tensor) -> Tensor:
    """uint8 as float32 in [-1, 1]."""
    return 2.0 * (pictures.float() / 255.0) - 1.0


def unit_length(features_NCHW: Tensor) -> Tensor:
    """Features divided by their length over the channels."""
    return features_NCHW / torch.sqrt(_EPS + torch.sum(features_NCHW**2, dim=1, keepdim=True))


def bundled_heads(trunk: Trunk) -> Path:
    """The file of LPIPS's own weights for a trunk that comes with torchmetrics.

    Raises:
        DependencyError: This torchmetrics has none.
    """
    found = importlib.util.find_spec("torchmetrics")
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        path = Path(folder) / "functional" / "image" / "lpips_models" / f"{trunk.name}.pth"
        if path.is_file():
            return path
    raise DependencyError(
        f"torchmetrics has no weights of LPIPS for {trunk.name}", fix="pip install --upgrade torchmetrics"
    )


def read_heads(path: Path, trunk: Trunk) -> list[Tensor]:
    """Weights (C,) of each tap's channels.

    Raises:
        CheckpointError: Damaged, or of another trunk.
    """
    tensors = read_tensors(path)
    heads = [tensors.get(f"lin{tap}.model.1.weight") for tap in range(len(trunk.taps))]
    found = [None if head is None else tuple(head.shape) for head in heads]
    expected = [(1, width, 1, 1) for width in trunk.widths]
    if found != expected or len(tensors) != len(heads):
        raise CheckpointError(
            f"weights of LPIPS of shapes {found}", where=path, expected=f"lin0.model.1.weight to lin4: {expected}"
        )
    return [head.flatten() for head in heads if head is not None]
