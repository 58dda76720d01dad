"""LPIPS against torchmetrics' definition with the same random trunk, and its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from macedance.errors import CheckpointError, DataError
from macedance.vision.perceptual import ALEX, VGG, Lpips, Trunk, bundled_heads, read_heads, signed


def published_layers(trunk: Trunk) -> nn.Sequential:
    """torchvision's ``features``, written down from the papers, to the end."""
    if trunk is ALEX:
        return nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
        )  # fmt: skip
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2, 2)]
        channels = width or channels
    return nn.Sequential(*layers)


def saved_trunk(trunk: Trunk, folder: Path) -> nn.Sequential:
    """Random ImageNet weights as torchvision saves them, classifier included."""
    torch.manual_seed(3)
    layers = published_layers(trunk)
    weights = {f"features.{name}": tensor for name, tensor in layers.state_dict().items()}
    torch.save({**weights, "classifier.6.bias": torch.zeros(10)}, folder / trunk.file)
    return layers


@pytest.mark.parametrize("trunk", [ALEX, VGG], ids=["alex", "vgg"])
def test_no_difference_from_torchmetrics(trunk: Trunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.functional.image import lpips as theirs

    layers = saved_trunk(trunk, tmp_path)
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda net, pretrained: layers)
    reference = theirs._NoTrainLpips(net=trunk.name)
    monkeypatch.setattr("macedance.vision.perceptual._BATCH", 2)
    ours = Lpips.from_folder(tmp_path, trunk)
    x, y = torch.randint(0, 256, (2, 3, 3, 64, 48), dtype=torch.uint8)
    with torch.no_grad():
        expected = torch.cat([reference(signed(x[k]), signed(y[k])).flatten() for k in (slice(2), slice(2, 3))])
    found = ours(x, y)
    assert found.min() > 1e-4
    assert (found - expected).abs().max() == 0
    assert ours(x, x).abs().max() == 0


def test_signed_covers_the_whole_range() -> None:
    assert signed(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_heads_are_version_0_1() -> None:
    heads = read_heads(bundled_heads(ALEX), ALEX)
    assert [len(head) for head in heads] == [64, 192, 384, 256, 256]
    assert all((head >= 0).all() for head in heads)


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="alexnet-owt"):
        Lpips.from_folder(tmp_path)
    saved_trunk(ALEX, tmp_path)
    with pytest.raises(CheckpointError, match="do not fit"):
        Lpips.from_folder(tmp_path / ALEX.file, VGG)
    with pytest.raises(CheckpointError, match="weights of LPIPS"):
        Lpips.from_folder(tmp_path, heads=bundled_heads(VGG))


def test_the_fingerprint_is_of_trunk_and_heads(tmp_path: Path) -> None:
    saved_trunk(ALEX, tmp_path)
    first = Lpips.from_folder(tmp_path)
    heads = {f"lin{k}.model.1.weight": torch.zeros(1, width, 1, 1) for k, width in enumerate(ALEX.widths)}
    torch.save(heads, tmp_path / "heads.pth")
    second = Lpips.from_folder(tmp_path, heads=tmp_path / "heads.pth")
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(("trunk", "side"), [(ALEX, 31), (VGG, 16)], ids=["alex", "vgg"])
def test_pictures_that_the_trunk_cannot_see_are_refused(trunk: Trunk, side: int, tmp_path: Path) -> None:
    saved_trunk(trunk, tmp_path)
    network = Lpips.from_folder(tmp_path, trunk)
    smallest = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    assert network(smallest, smallest).tolist() == [0.0]
    with pytest.raises(DataError, match="sides of at least"):
        network(smallest[..., 1:], smallest[..., 1:])
    with pytest.raises(DataError, match="the same"):
        network(smallest, smallest.repeat(2, 1, 1, 1))
