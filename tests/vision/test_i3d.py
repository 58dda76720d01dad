"""I3D against its definition, its weights from files, frames made square, and the TorchScript of StyleGAN-V."""

from __future__ import annotations

import copy
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from macedance.errors import CheckpointError, DataError
from macedance.vision.i3d import InceptionI3d
from macedance.vision.video_network import FrameFit, I3dNetwork, TorchScriptI3d


def spread_out(network: InceptionI3d, seed: int = 0) -> InceptionI3d:
    """Random weights and statistics that keep signals alive through all layers, where fresh ones would fade."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("conv3d.weight"):
            tensor.normal_(0, (2.0 / tensor[0].numel()) ** 0.5, generator=generator)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(1.0 if name.endswith("bn.weight") else 0.0, 0.1, generator=generator)
    return network.eval()


class Reference:
    """The published definition, written with plain functions on a state dict of the published names."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights

    @staticmethod
    def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), start=2):
            size = x.shape[axis]
            total = max(k - s, 0) if size % s == 0 else max(k - size % s, 0)
            front = list(x.shape)
            front[axis] = total // 2
            back = list(x.shape)
            back[axis] = total - total // 2
            x = torch.cat([x.new_zeros(front), x, x.new_zeros(back)], dim=axis)
        return x

    def unit(self, name: str, x: Tensor, stride: tuple[int, ...] = (1, 1, 1)) -> Tensor:
        w = self.weights
        kernel = w[f"{name}.conv3d.weight"]
        x = F.conv3d(self.padded(x, kernel.shape[2:], stride), kernel, w.get(f"{name}.conv3d.bias"), stride)
        if f"{name}.bn.weight" not in w:
            return x
        mean, var, gain, bias = (
            w[f"{name}.bn.{part}"][:, None, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-3).sqrt() * gain + bias).clamp(min=0)

    def pool(self, x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return F.max_pool3d(self.padded(x, kernel, stride), kernel, stride)

    def mixed(self, name: str, x: Tensor) -> Tensor:
        b0 = self.unit(f"{name}.b0", x)
        b1 = self.unit(f"{name}.b1b", self.unit(f"{name}.b1a", x))
        b2 = self.unit(f"{name}.b2b", self.unit(f"{name}.b2a", x))
        b3 = self.unit(f"{name}.b3b", self.pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([b0, b1, b2, b3], dim=1)

    def __call__(self, x: Tensor) -> Tensor:
        x = self.unit("Conv3d_1a_7x7", x, (2, 2, 2))
        x = self.pool(x, (1, 3, 3), (1, 2, 2))
        x = self.unit("Conv3d_2c_3x3", self.unit("Conv3d_2b_1x1", x))
        x = self.pool(x, (1, 3, 3), (1, 2, 2))
        x = self.mixed("Mixed_3c", self.mixed("Mixed_3b", x))
        x = self.pool(x, (3, 3, 3), (2, 2, 2))
        for block in "bcdef":
            x = self.mixed(f"Mixed_4{block}", x)
        x = self.pool(x, (2, 2, 2), (2, 2, 2))
        x = self.mixed("Mixed_5c", self.mixed("Mixed_5b", x))
        logits = self.unit("logits", F.avg_pool3d(x, (2, 7, 7), stride=(1, 1, 1)))
        return logits.squeeze(3).squeeze(3).mean(dim=2)


def test_the_published_network_by_names_and_size() -> None:
    with torch.device("meta"):
        network = InceptionI3d()
    weights = network.state_dict()
    assert sum(p.numel() for p in network.parameters()) == 12_697_264
    assert weights["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert weights["Mixed_4f.b1b.conv3d.weight"].shape == (320, 160, 3, 3, 3)
    assert weights["Mixed_5b.b2b.bn.running_mean"].shape == (128,)
    assert weights["logits.conv3d.bias"].shape == (400,)
    units = {name.rsplit(".", 2)[0] for name in weights}
    assert len(units) == 3 + 9 * 6 + 1


@pytest.mark.parametrize("frames", [9, 16, 17])
def test_logits_equal_the_definition(frames: int) -> None:
    network = spread_out(InceptionI3d(7, slimness=16))
    clips = torch.rand(1, 3, frames, 224, 224, generator=torch.Generator().manual_seed(frames)) * 2 - 1
    with torch.no_grad():
        ours, theirs = network(clips), Reference(network.state_dict())(clips)
    assert theirs.std() > 1e-2
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_weights_from_files(tmp_path: Path) -> None:
    network = spread_out(InceptionI3d(5, slimness=16))
    # As converted from TensorFlow: without counters of batches.
    published = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(published, tmp_path / "i3d_pretrained_400.pt")
    loaded = I3dNetwork.from_folder(tmp_path)
    assert loaded.num_features == 5
    assert loaded.fingerprint == hashlib.sha256((tmp_path / "i3d_pretrained_400.pt").read_bytes()).hexdigest()
    windows = torch.randint(0, 256, (2, 9, 3, 40, 30), dtype=torch.uint8)
    features = loaded(windows, FrameFit())
    with torch.no_grad():
        expected = network(torch.stack([FrameFit()(window) for window in windows]).transpose(1, 2))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for p in loaded.module.parameters())
    assert copy.deepcopy(loaded) is loaded


def test_files_that_are_not_the_network(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="i3d_pretrained_400"):
        I3dNetwork.from_folder(tmp_path)
    file = tmp_path / "i3d_pretrained_400.pt"
    torch.save({"features.0.weight": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match="another network"):
        I3dNetwork.from_folder(file)
    weights = InceptionI3d(5, slimness=16).state_dict()
    del weights["Mixed_4d.b2a.conv3d.weight"]
    torch.save(weights, file)
    with pytest.raises(CheckpointError, match=r"Mixed_4d\.b2a\.conv3d\.weight"):
        I3dNetwork.from_folder(file)
    file.write_bytes(pickle.dumps(print))
    with pytest.raises(CheckpointError, match="cannot be read"):
        I3dNetwork.from_folder(file)


def test_too_few_frames_are_refused() -> None:
    network = I3dNetwork(InceptionI3d(5, slimness=16), name="x", fingerprint="", num_features=5, min_frames=9)
    with pytest.raises(DataError, match="at least 9"):
        network(torch.zeros(1, 8, 3, 32, 32, dtype=torch.uint8), FrameFit())


def bilinear(row: np.ndarray, size: int) -> np.ndarray:
    """One line resized by the definition: pixel centres, no antialiasing."""
    at = np.clip((np.arange(size) + 0.5) * len(row) / size - 0.5, 0, len(row) - 1)
    return np.interp(at, np.arange(len(row)), row)


def test_squashed_frames() -> None:
    frames = torch.randint(0, 256, (2, 3, 48, 27), dtype=torch.uint8)
    found = FrameFit()(frames)
    assert found.shape == (2, 3, 224, 224)
    assert found.min() >= -1
    assert found.max() <= 1
    scaled = frames[1, 2].numpy() / 127.5 - 1
    down = np.apply_along_axis(bilinear, 0, scaled, 224)
    np.testing.assert_allclose(found[1, 2].numpy(), np.apply_along_axis(bilinear, 1, down, 224), atol=2e-5)


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(161, 100, 361, 224), (100, 161, 224, 361)])
def test_cropped_frames_round_up_and_sit_in_the_middle(height: int, width: int, rows: int, columns: int) -> None:
    frames = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    whole = F.interpolate(frames.float() / 127.5 - 1, size=(rows, columns), mode="bilinear", align_corners=False)
    top, left = (rows - 224) // 2, (columns - 224) // 2
    expected = whole[..., top : top + 224, left : left + 224]
    torch.testing.assert_close(FrameFit(crop=True)(frames), expected, rtol=0, atol=0)


class TinyProgram(nn.Module):
    """Called as StyleGAN-V's export; its features tell what it was asked to do."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = True) -> Tensor:
        if rescale:
            x = x / 127.5 - 1.0
        if resize:
            frames = x.transpose(1, 2).flatten(0, 1)
            frames = F.interpolate(frames, size=(224, 224), mode="bilinear", align_corners=False)
            x = frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
        asked = torch.tensor([float(rescale), float(resize), float(return_features)])
        return torch.cat([x.mean(dim=(2, 3, 4)), asked.expand(x.shape[0], 3)], dim=1)


def scripted(folder: Path) -> tuple[Path, str]:
    path = folder / "i3d_torchscript.pt"
    torch.jit.script(TinyProgram()).save(str(path))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_torchscript_is_asked_as_published(tmp_path: Path) -> None:
    path, digest = scripted(tmp_path)
    network = TorchScriptI3d.from_folder(path, sha256=digest.upper())
    assert (network.num_features, network.fingerprint) == (6, digest)
    windows = torch.randint(0, 256, (2, 9, 3, 40, 30), dtype=torch.uint8)
    squashed, cropped = network(windows, FrameFit()), network(windows, FrameFit(crop=True))
    assert squashed[:, 3:].tolist() == [[1.0, 1.0, 1.0]] * 2
    assert cropped[:, 3:].tolist() == [[0.0, 0.0, 1.0]] * 2
    for features, fit in ((squashed, FrameFit()), (cropped, FrameFit(crop=True))):
        expected = torch.stack([fit(window).mean(dim=(0, 2, 3)) for window in windows])
        torch.testing.assert_close(features[:, :3], expected, rtol=1e-4, atol=1e-5)


def test_torchscript_runs_only_where_its_hash_is_the_stated_one(tmp_path: Path) -> None:
    path, digest = scripted(tmp_path)
    with pytest.raises(CheckpointError, match=digest):
        TorchScriptI3d.from_folder(path, sha256="0" * 64)
    path.write_bytes(b"no program")
    with pytest.raises(CheckpointError, match="no TorchScript"):
        TorchScriptI3d.from_folder(path, sha256=hashlib.sha256(b"no program").hexdigest())


def test_torchscript_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.jit.script(nn.Linear(2, 2)).save(str(path))
    with pytest.raises(CheckpointError, match="rescale, resize, return_features"):
        TorchScriptI3d.from_folder(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
