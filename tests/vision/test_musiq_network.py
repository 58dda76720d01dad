"""MUSIQ: patches, positions and masks as published, an independent forward pass, and weights that fit exactly."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from macedance.errors import CheckpointError
from macedance.vision.musiq import Musiq, MusiqNetwork, StandardizedConv
from macedance.vision.musiq_patches import hashed_positions, multiscale_patches, same_padding
from macedance.vision.weights import fingerprint

State = dict[str, Tensor]


def pictures(height: int, width: int, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def random_network(layers: int = 2, seed: int = 0) -> MusiqNetwork:
    torch.manual_seed(seed)
    network = MusiqNetwork(width=24, hidden=32, heads=3, layers=layers)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1 or name.endswith(("_emb", "cls")):
                parameter.normal_(0.0, 0.5, generator=generator)
            elif parameter.ndim == 2:
                # Attention that looks somewhere, so that a patch in the wrong place shows.
                parameter.normal_(0.0, 1.5 / parameter.shape[1] ** 0.5, generator=generator)
            if name.split(".")[-2].startswith(("gn", "norm")) and name.endswith("weight"):
                parameter.add_(1.0)
    return network.eval()


def test_the_published_network_has_its_names_and_27_million_parameters() -> None:
    with torch.device("meta"):
        state = MusiqNetwork().state_dict()
    norms = [f"block1.{norm}.{kind}" for norm in ("gn1", "gn2", "gn3", "gn_proj") for kind in ("weight", "bias")]
    names = {f"block1.{conv}.weight" for conv in ("conv1", "conv2", "conv3", "conv_proj")} | set(norms)
    names |= {"conv_root.weight", "transformer_encoder.cls", "transformer_encoder.posembed_input.position_emb"}
    names |= {"transformer_encoder.scaleembed_input.scale_emb"}
    linear = ["gn_root", "embedding", "head", "transformer_encoder.encoder_norm"]
    for i in range(14):
        block = f"transformer_encoder.transformer.encoderblock_{i}"
        linear += [f"{block}.{part}" for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")]
        linear += [f"{block}.attention.{part}" for part in ("query", "key", "value", "out")]
    names |= {f"{part}.{kind}" for part in linear for kind in ("weight", "bias")}
    assert set(state) == names
    assert sum(tensor.numel() for tensor in state.values()) == 27_125_825
    assert state["embedding.weight"].shape == (384, 16384)
    assert state["transformer_encoder.posembed_input.position_emb"].shape == (1, 100, 384)
    assert state["transformer_encoder.scaleembed_input.scale_emb"].shape == (3, 384)
    assert state["conv_root.weight"].shape == (64, 3, 7, 7)
    assert state["head.weight"].shape == (1, 384)


@pytest.mark.parametrize(
    ("height", "width", "counts"),
    [
        (288, 512, (4 * 7, 7 * 12, 9 * 16)),  # 126 x 224, 216 x 384
        (512, 512, (49, 144, 256)),
        (512, 288, (7 * 4, 12 * 7, 16 * 9)),
        (64, 40, (7 * 5, 12 * 8, 2 * 2)),  # smaller than the copies: these are enlarged
    ],
)
def test_numbers_of_patches(height: int, width: int, counts: tuple[int, int, int]) -> None:
    values = torch.zeros(2, 3, height, width)
    sequence = multiscale_patches(values)
    assert sequence.patches.shape == (2, sum(counts), 3, 32, 32)
    assert torch.bincount(sequence.scales, minlength=3).tolist() == list(counts)
    assert bool(sequence.mask.all())
    filled = multiscale_patches(values, fill_up=True)
    assert filled.patches.shape[1] == 49 + 144 + counts[2]
    assert int(filled.mask.sum()) == sum(counts)
    # What fills up stands behind the patches of its scale.
    assert filled.mask.tolist() == [i < counts[0] for i in range(49)] + [i < counts[1] for i in range(144)] + (
        [True] * counts[2]
    )


def test_places_are_hashed_into_a_grid_of_ten_by_the_nearest_below() -> None:
    found = hashed_positions(9, 16).reshape(9, 16)
    rows, columns = [0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 6, 7, 8, 8, 9]
    assert found[:, 0].tolist() == [10 * row for row in rows]
    assert found[0].tolist() == columns
    assert found[8, 15] == 89
    for count in range(1, 120):
        nearest = F.interpolate(torch.arange(10.0).reshape(1, 1, 10), size=count, mode="nearest").flatten()
        assert torch.equal(hashed_positions(1, count), nearest.long()), count


def test_patches_are_read_row_by_row_and_zeros_fill_both_sides() -> None:
    values = torch.arange(1, 1 + 3 * 40 * 70, dtype=torch.float32).reshape(1, 3, 40, 70)
    patches = multiscale_patches(values).patches[0, -2 * 3 :]
    assert same_padding(40, 32, 32) == (12, 12)
    assert same_padding(70, 32, 32) == (13, 13)
    assert patches[0, :, :12].abs().max() == 0
    assert patches[0, :, :, :13].abs().max() == 0
    assert torch.equal(patches[0, :, 12:, 13:], values[0, :, :20, :19])
    assert torch.equal(patches[1, :, 12:, :], values[0, :, :20, 19:51])
    assert torch.equal(patches[5, :, :20, :19], values[0, :, 20:, 51:])


def test_copies_are_bicubic_with_sides_rounded_to_the_nearest() -> None:
    values = pictures(100, 333).float() / 127.5 - 1
    copy = F.interpolate(values, size=(67, 224), mode="bicubic", align_corners=False)
    patches = multiscale_patches(values).patches[0, : 3 * 7].reshape(3, 7, 3, 32, 32)
    joined = patches.permute(2, 0, 3, 1, 4).reshape(3, 96, 224)
    top = same_padding(67, 32, 32)[0]
    torch.testing.assert_close(joined[:, top : top + 67], copy[0])


def published_convolution(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A convolution of TensorFlow's SAME, kernel standardised with the unbiased deviation, window by window."""
    kernel = weight.shape[-1]
    flat = weight.flatten(1)
    weight = ((flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-5)).reshape(weight.shape)
    sizes = [math.ceil(side / stride) for side in x.shape[-2:]]
    missing = [max(0, (n - 1) * stride + kernel - side) for n, side in zip(sizes, x.shape[-2:], strict=True)]
    padded = torch.zeros(*x.shape[:2], x.shape[2] + missing[0], x.shape[3] + missing[1], dtype=x.dtype)
    top, left = missing[0] // 2, missing[1] // 2
    padded[..., top : top + x.shape[2], left : left + x.shape[3]] = x
    out = torch.zeros(len(x), len(weight), *sizes, dtype=x.dtype)
    for row in range(sizes[0]):
        for column in range(sizes[1]):
            window = padded[..., row * stride : row * stride + kernel, column * stride : column * stride + kernel]
            out[..., row, column] = torch.einsum("nchw,ochw->no", window, weight)
    return out


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (1, 1)])
def test_convolutions_are_standardised_and_padded_at_the_end_first(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    module = StandardizedConv(3, 5, kernel, stride)
    x = torch.randn(2, 3, 32, 32)
    expected = published_convolution(x, module.weight.detach(), stride)
    torch.testing.assert_close(module(x).detach(), expected, atol=1e-5, rtol=1e-4)
    assert module.bias is None


def reference_score(state: State, picture: Tensor, heads: int, layers: int) -> Tensor:
    """MUSIQ of one picture (3, H, W) from -1 to 1, written from the publication, with its masked filling."""
    rows: list[Tensor] = []
    places, scales, valid = [], [], []
    for scale, longest in enumerate((224, 384, None)):
        height, width = picture.shape[-2:]
        copy = picture[None]
        if longest is not None:
            ratio = longest / max(height, width)
            copy = F.interpolate(copy, size=(round(height * ratio), round(width * ratio)), mode="bicubic")
        down, across = math.ceil(copy.shape[2] / 32), math.ceil(copy.shape[3] / 32)
        gap_h, gap_w = down * 32 - copy.shape[2], across * 32 - copy.shape[3]
        copy = F.pad(copy, (gap_w // 2, gap_w - gap_w // 2, gap_h // 2, gap_h - gap_h // 2))
        patches = list(F.unfold(copy, 32, stride=32)[0].T)
        count = math.ceil(longest / 32) ** 2 if longest is not None else len(patches)
        for index in range(count):
            inside = index < len(patches)
            rows.append(patches[index] if inside else torch.zeros(3 * 32 * 32))
            row, column = divmod(index, across)
            places.append(int(row * 10 / down) * 10 + int(column * 10 / across) if inside else 0)
            scales.append(scale if inside else 0)
            valid.append(inside)
    x = torch.stack(rows).reshape(-1, 3, 32, 32)
    x = F.group_norm(published_convolution(x, state["conv_root.weight"], 2), 32, state["gn_root.weight"],
                     state["gn_root.bias"], 1e-6).relu()  # fmt: skip
    x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 3, 2)

    def normed(y: Tensor, conv: str, norm: str) -> Tensor:
        y = published_convolution(y, state[f"block1.{conv}.weight"], 1)
        return F.group_norm(y, 32, state[f"block1.{norm}.weight"], state[f"block1.{norm}.bias"], 1e-4)

    y = normed(normed(normed(x, "conv1", "gn1").relu(), "conv2", "gn2").relu(), "conv3", "gn3")
    x = (y + normed(x, "conv_proj", "gn_proj")).relu()
    tokens = torch.stack([patch.permute(1, 2, 0).flatten() for patch in x])
    tokens = tokens @ state["embedding.weight"].T + state["embedding.bias"]
    start = "transformer_encoder."
    tokens = tokens + state[f"{start}posembed_input.position_emb"][0][places]
    tokens = torch.cat([state[f"{start}cls"][0], tokens + state[f"{start}scaleembed_input.scale_emb"][scales]])
    mask = torch.tensor([True, *valid])
    for i in range(layers):
        own = {n.removeprefix(f"{start}transformer.encoderblock_{i}."): p for n, p in state.items()}
        width = tokens.shape[1]
        y = F.layer_norm(tokens, (width,), own["norm1.weight"], own["norm1.bias"], 1e-6)
        q, k, v = (y @ own[f"attention.{p}.weight"].T + own[f"attention.{p}.bias"] for p in ("query", "key", "value"))
        parts = []
        for head in range(heads):
            part = slice(head * width // heads, (head + 1) * width // heads)
            scores = q[:, part] @ k[:, part].T / math.sqrt(width // heads)
            scores[~(mask[:, None] & mask[None])] = -1e3
            parts.append(scores.softmax(-1) @ v[:, part])
        tokens = tokens + torch.cat(parts, 1) @ own["attention.out.weight"].T + own["attention.out.bias"]
        y = F.layer_norm(tokens, (width,), own["norm2.weight"], own["norm2.bias"], 1e-6)
        y = F.gelu(y @ own["mlp.fc1.weight"].T + own["mlp.fc1.bias"])
        tokens = tokens + y @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"]
    norm = (state[f"{start}encoder_norm.weight"], state[f"{start}encoder_norm.bias"])
    return F.layer_norm(tokens[0], (width,), *norm, 1e-6) @ state["head.weight"][0] + state["head.bias"][0]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 33)])
def test_a_score_equals_the_publication_written_out(height: int, width: int) -> None:
    network = random_network()
    seen = pictures(height, width)
    expected = reference_score(dict(network.state_dict()), seen[0].float() / 127.5 - 1, 3, 2)
    found = Musiq(network, fingerprint="")(seen)
    assert found.shape == (1,)
    assert abs(float(found) - float(expected)) < 2e-5 * max(1.0, abs(float(expected)))


def test_what_fills_up_changes_no_score() -> None:
    network = random_network()
    values = pictures(64, 100, count=2).float() / 127.5 - 1
    with torch.no_grad():
        plain, filled = (network(multiscale_patches(values, fill_up=fill)) for fill in (False, True))
    torch.testing.assert_close(plain, filled, atol=2e-6, rtol=1e-5)


def test_place_and_scale_of_a_patch_matter() -> None:
    network = random_network()
    sequence = multiscale_patches(pictures(64, 96).float() / 127.5 - 1)
    with torch.no_grad():
        score = network(sequence)
        for name in ("positions", "scales"):
            changed = {**vars(sequence), name: getattr(sequence, name).flip(0)}
            assert (network(type(sequence)(**changed)) - score).abs() > 1e-3, name


def test_scores_do_not_depend_on_the_portion_and_of_nothing_there_is_none() -> None:
    judge = Musiq(random_network(), fingerprint="")
    seen = pictures(40, 64, count=6)
    torch.testing.assert_close(judge(seen), torch.cat([judge(seen[:1]), judge(seen[1:])]), atol=1e-5, rtol=1e-5)
    assert judge(seen[:0]).shape == (0,)
    assert torch.equal(judge(seen), judge(seen.float()))


def saved(folder: Path, state: State, wrapper: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save({wrapper: state} if wrapper else state, folder / "musiq_spaq_ckpt-358bb6af.pth")
    return folder


@pytest.mark.parametrize("wrapper", [None, "params"])
def test_published_files_are_read(tmp_path: Path, wrapper: str | None) -> None:
    network = random_network(seed=1)
    folder = saved(tmp_path / "musiq", dict(network.state_dict()), wrapper)
    judge = Musiq.from_folder(folder, random_network(seed=2))
    assert judge.fingerprint == fingerprint(next(folder.iterdir()))
    assert torch.equal(judge(pictures(40, 40)), Musiq(network, fingerprint="")(pictures(40, 40)))


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network = random_network(seed=1)
    save_file(dict(network.state_dict()), tmp_path / "musiq.safetensors")
    judge = Musiq.from_folder(tmp_path, random_network(seed=2))
    assert torch.equal(judge(pictures(40, 40)), Musiq(network, fingerprint="")(pictures(40, 40)))


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    state = dict(random_network().state_dict())
    ava = {name: tensor for name, tensor in state.items() if not name.startswith("head")}
    ava |= {"head.0.weight": torch.zeros(10, 24), "head.0.bias": torch.zeros(10)}
    with pytest.raises(CheckpointError, match=r"missing: head\.bias, head\.weight; unknown: head\.0\.bias"):
        Musiq.from_folder(saved(tmp_path / "ava", ava), random_network())
    wide = state | {"embedding.bias": torch.zeros(25)}
    with pytest.raises(CheckpointError, match=r"another shape: embedding\.bias"):
        Musiq.from_folder(saved(tmp_path / "wide", wide), random_network())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "musiq.pth").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Musiq.from_folder(tmp_path / "broken")
    with pytest.raises(CheckpointError, match="one file of weights"):
        Musiq.from_folder(tmp_path)
