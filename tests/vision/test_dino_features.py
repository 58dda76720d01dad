"""DINO features: exact against the published definition, at its full size, and loaded from folders only when whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_vit import dino_forward, dino_state, randomized
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel

from macedance.errors import CheckpointError
from macedance.vision.dino import IMAGENET_MEAN, IMAGENET_STD, DinoFeatures, interpolated_positions
from macedance.vision.weights import fingerprint


def tiny(**changes: Any) -> ViTModel:
    options: dict[str, Any] = {
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
        "image_size": 64, "patch_size": 16, "layer_norm_eps": 1e-6,
    }  # fmt: skip
    return randomized(ViTModel(ViTConfig(**options | changes), add_pooling_layer=False))  # type: ignore[return-value]


def frames(height: int, width: int, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def test_the_full_network_equals_the_published_definition_at_every_shape() -> None:
    config = ViTConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
                       image_size=224, patch_size=16, layer_norm_eps=1e-6)  # fmt: skip
    with torch.device("meta"):
        module = ViTModel(config, add_pooling_layer=False)
    module = randomized(module.to_empty(device="cpu"))
    network = DinoFeatures(module, fingerprint="")
    state = dino_state(module.state_dict())
    for height, width in ((224, 224), (224, 398), (398, 224), (224, 299)):
        pixels = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height + width))
        with torch.no_grad():
            expected, found = dino_forward(state, pixels, 12), network.encode(pixels)
        difference = (F.normalize(expected, dim=-1) - F.normalize(found, dim=-1)).abs().max()
        assert difference < 1e-5, (height, width, float(difference))


def test_whole_frames_are_resized_normalised_and_never_cropped() -> None:
    module = tiny()
    network = DinoFeatures(module, fingerprint="")
    seen = frames(90, 160)
    pixels = F.interpolate(seen.float(), size=(224, 398), mode="bilinear", align_corners=False) / 255
    pixels = (pixels - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    expected = F.normalize(dino_forward(dino_state(module.state_dict()), pixels, 4), dim=-1)
    torch.testing.assert_close(network(seen), expected, atol=1e-5, rtol=0)
    # The edge counts: a crop would not see it.
    changed = seen.clone()
    changed[..., :8] = 255 - changed[..., :8]
    assert (network(changed) - network(seen)).abs().max() > 1e-3


def test_positions_are_sampled_as_dino_does_and_not_by_size() -> None:
    positions = torch.randn(1, 1 + 14 * 14, 8, generator=torch.Generator().manual_seed(0))
    assert interpolated_positions(positions, 224, 224, 16) is positions
    found = interpolated_positions(positions, 224, 398, 16)
    assert found.shape == (1, 1 + 14 * 24, 8)
    grid = positions[:, 1:].reshape(1, 14, 14, 8).permute(0, 3, 1, 2)
    by_size = F.interpolate(grid, size=(14, 24), mode="bicubic").permute(0, 2, 3, 1).reshape(1, -1, 8)
    assert (found[:, 1:] - by_size).abs().max() > 1e-3
    assert torch.equal(found[:, :1], positions[:, :1])


def test_features_do_not_depend_on_the_portion() -> None:
    network = DinoFeatures(tiny(), fingerprint="")
    seen = frames(64, 64, count=19)
    torch.testing.assert_close(network(seen), torch.cat([network(seen[:5]), network(seen[5:])]), atol=1e-6, rtol=0)
    assert network(seen[:0]).shape == (0, 48)
    assert torch.allclose(network(seen).norm(dim=-1), torch.ones(19))


def test_pictures_of_several_sizes() -> None:
    network = DinoFeatures(tiny(), fingerprint="")
    pictures = [frames(30, 80)[0], frames(64, 64)[0]]
    found = network.of_pictures(pictures)
    assert torch.equal(found[1], network(pictures[1][None])[0])
    assert network.of_pictures([]).shape == (0, 48)


def test_a_folder_of_the_hub_is_read_with_dinos_layer_norms(tmp_path: Path) -> None:
    module = tiny(layer_norm_eps=1e-12)
    module.save_pretrained(tmp_path)
    network = DinoFeatures.from_folder(tmp_path)
    assert network.fingerprint == fingerprint(tmp_path)
    assert {norm.eps for norm in network.module.modules() if isinstance(norm, torch.nn.LayerNorm)} == {1e-6}
    assert not any(parameter.requires_grad for parameter in network.module.parameters())
    assert not network.module.training
    seen = frames(64, 64)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.encode(pixels), dino_forward(dino_state(module.state_dict()), pixels, 4))
    assert network(seen).shape == (2, 48)


def test_a_missing_weight_is_named_and_never_invented(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    lost = next(name for name in tensors if name.endswith("layer.1.output.dense.weight"))
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: .*fc2\.weight"):
        DinoFeatures.from_folder(tmp_path)


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        DinoFeatures.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    with pytest.raises(CheckpointError, match="'dinov2'"):
        DinoFeatures.from_folder(tmp_path)
    tiny().config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        DinoFeatures.from_folder(tmp_path)


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    tiny().config.save_pretrained(tmp_path)
    torch.save({"trap": Trap()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        DinoFeatures.from_folder(tmp_path)
    assert not (tmp_path / "ran").exists()
