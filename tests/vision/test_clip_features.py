"""CLIP features: exact against the published definition, in float32 whatever is around."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_vit import clip_forward, clip_state, randomized
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from macedance.errors import CheckpointError
from macedance.vision.aesthetic import AestheticPredictor
from macedance.vision.clip import CLIP_MEAN, CLIP_STD, ClipFeatures

TINY: dict[str, Any] = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "image_size": 32, "patch_size": 8, "projection_dim": 24,
}  # fmt: skip


def tiny(**changes: Any) -> Any:
    return randomized(CLIPVisionModelWithProjection(CLIPVisionConfig(**TINY | changes)))


def frames(height: int, width: int, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def published(seen: torch.Tensor, size: int, left: int, top: int, mode: str = "bicubic") -> torch.Tensor:
    """Resize of the shorter side, central square, normalisation, written out."""
    height, width = seen.shape[-2:]
    to = (size, int(size * width / height)) if height <= width else (int(size * height / width), size)
    pixels = F.interpolate(seen.float(), size=to, mode=mode, align_corners=False)
    pixels = pixels[..., top : top + size, left : left + size] / 255
    return (pixels - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]


@pytest.mark.parametrize(
    ("width", "layers", "heads", "patch", "projection"), [(768, 12, 12, 32, 512), (1024, 8, 16, 14, 768)]
)
def test_the_networks_equal_the_published_definition(
    width: int, layers: int, heads: int, patch: int, projection: int
) -> None:
    # ViT-B/32 whole; of ViT-L/14 the full width and a third of the depth.
    config = CLIPVisionConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                              intermediate_size=4 * width, image_size=224, patch_size=patch,
                              projection_dim=projection)  # fmt: skip
    with torch.device("meta"):
        module = CLIPVisionModelWithProjection(config)
    module = module.to_empty(device="cpu")
    module.vision_model.embeddings.position_ids = torch.arange((224 // patch) ** 2 + 1)[None]
    module = randomized(module)
    network = ClipFeatures(module, name="clip", fingerprint="")
    state = clip_state(module.state_dict())
    for height, long, left, top in ((240, 400, 74, 0), (300, 240, 0, 28), (224, 224, 0, 0)):
        seen = frames(height, long, count=1)
        with torch.no_grad():
            expected = F.normalize(clip_forward(state, published(seen, 224, left, top), heads), dim=-1)
        assert (network(seen) - expected).abs().max() < 1e-5, (height, long)
        if patch == 14:
            break


def test_the_overshoots_of_the_bicubic_reach_the_network() -> None:
    module = tiny()
    network = ClipFeatures(module, name="clip", fingerprint="")
    seen = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    seen[..., 5:10, 5:10] = 255
    state = clip_state(module.state_dict())
    exact = F.normalize(clip_forward(state, published(seen, 32, 0, 0), 4), dim=-1)
    assert (network(seen) - exact).abs().max() < 1e-5
    clamped = F.interpolate(seen.float(), size=(32, 32), mode="bicubic").clamp(0, 255)
    clamped = (clamped / 255 - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]
    assert (network(seen) - F.normalize(clip_forward(state, clamped, 4), dim=-1)).abs().max() > 1e-4


def test_float32_inside_a_training_in_bfloat16() -> None:
    network = ClipFeatures(tiny(), name="clip", fingerprint="")
    seen = frames(40, 60, count=5)
    expected = network(seen)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = network(seen)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    half = ClipFeatures(tiny().half(), name="clip", fingerprint="")
    assert half(seen).dtype == torch.float32


def test_a_frozen_network_is_shared_by_copies_and_moves_for_all() -> None:
    network = ClipFeatures(tiny(), name="clip", fingerprint="abc")
    assert copy.deepcopy({"a": network})["a"] is network
    assert network.to("cpu") is network
    assert network.device == torch.device("cpu")
    assert not any(parameter.requires_grad for parameter in network.module.parameters())


def test_a_folder_of_a_whole_clip_gives_its_picture_tower(tmp_path: Path) -> None:
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 50,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    whole = randomized(CLIPModel(CLIPConfig(vision_config=TINY, text_config=text, projection_dim=24)))
    whole.save_pretrained(tmp_path)
    network = ClipFeatures.from_folder(tmp_path)
    assert network.dims == 24
    state = {name: value for name, value in whole.state_dict().items() if name.startswith("v")}
    seen = frames(40, 40)
    expected = clip_forward(clip_state(state), published(seen, 32, 0, 0), 4)
    assert (network(seen) - F.normalize(expected, dim=-1)).abs().max() < 1e-5


def test_another_activation_is_another_network(tmp_path: Path) -> None:
    tiny(hidden_act="gelu").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="'gelu'"):
        ClipFeatures.from_folder(tmp_path)


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("visual_projection.weight")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: visual_projection\.weight"):
        ClipFeatures.from_folder(tmp_path)


def head(folder: Path, dims: int, **changes: torch.Tensor) -> Path:
    generator = torch.Generator().manual_seed(2)
    state = {"weight": torch.randn(1, dims, generator=generator), "bias": torch.tensor([5.0])}
    folder.mkdir(exist_ok=True)
    torch.save(state | changes, folder / "sa_0_4_vit_l_14_linear.pth")
    return folder


def test_the_aesthetic_head_is_linear_on_unit_features(tmp_path: Path) -> None:
    clip = ClipFeatures(tiny(), name="clip_vit_l14", fingerprint="abc")
    predictor = AestheticPredictor.from_folder(head(tmp_path / "head", 24), clip)
    seen = frames(40, 60, count=3)
    state = torch.load(tmp_path / "head" / "sa_0_4_vit_l_14_linear.pth", weights_only=True)
    expected = clip(seen) @ state["weight"][0] + 5.0
    torch.testing.assert_close(predictor(seen), expected)
    assert set(predictor.weights) == {"clip_vit_l14", "aesthetic_head"}


def test_another_head_is_refused(tmp_path: Path) -> None:
    clip = ClipFeatures(tiny(), name="clip_vit_l14", fingerprint="abc")
    with pytest.raises(CheckpointError, match="no linear aesthetic head"):
        AestheticPredictor.from_folder(head(tmp_path / "wide", 768), clip)
    layered = {f"layers.{i}.weight": torch.zeros(2, 2) for i in range(3)}
    with pytest.raises(CheckpointError, match="no linear aesthetic head"):
        AestheticPredictor.from_folder(head(tmp_path / "mlp", 24, **layered), clip)
    (tmp_path / "none").mkdir()
    with pytest.raises(CheckpointError, match="one file"):
        AestheticPredictor.from_folder(tmp_path / "none", clip)


def test_float32_where_precisions_were_chosen_by_torchs_newer_switches() -> None:
    network = ClipFeatures(tiny(), name="clip", fingerprint="")
    seen = frames(40, 60, count=3)
    expected = network(seen)
    switches: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    if not hasattr(switches, "fp32_precision"):
        pytest.skip("this torch has the older switches only")
    before = switches.fp32_precision
    switches.fp32_precision = "bf16"
    try:
        assert torch.equal(network(seen), expected)
        assert switches.fp32_precision == "bf16"
    finally:
        switches.fp32_precision = before
        torch.set_float32_matmul_precision("highest")
