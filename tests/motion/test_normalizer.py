"""The min-max normaliser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from macedance.errors import DataError
from macedance.motion.normalizer import MinMaxNormalizer


def fitted(channels: int = 151, seed: int = 0) -> tuple[MinMaxNormalizer, torch.Tensor]:
    x = torch.randn(4, 30, channels, generator=torch.Generator().manual_seed(seed)) * 3 + 1
    normalizer = MinMaxNormalizer()
    normalizer.update(x)
    return normalizer, x


@pytest.mark.parametrize("channels", [151, 35])
def test_range_of_each_channel_becomes_minus_one_to_one(channels: int) -> None:
    normalizer, x = fitted(channels)
    y = normalizer.normalize(x).flatten(0, -2)
    torch.testing.assert_close(y.amin(0), -torch.ones(channels))
    torch.testing.assert_close(y.amax(0), torch.ones(channels))
    torch.testing.assert_close(normalizer.unnormalize(normalizer.normalize(x)), x, atol=1e-5, rtol=0)


def test_streaming_gives_the_same_as_all_at_once() -> None:
    whole, x = fitted()
    parts = MinMaxNormalizer(151)
    for clip in x:
        parts.update(clip[:10])
        parts.update(clip[10:])
    assert parts.count == whole.count == 120
    assert torch.equal(parts.minimum, whole.minimum)
    assert torch.equal(parts.maximum, whole.maximum)


def test_input_is_left_alone_and_unnormalize_clips() -> None:
    normalizer, x = fitted(3)
    before = x.clone()
    normalizer.normalize(x)
    wide = torch.full((1, 3), 5.0)
    clipped = normalizer.unnormalize(wide)
    assert torch.equal(x, before)
    assert torch.equal(wide, torch.full((1, 3), 5.0))
    torch.testing.assert_close(clipped[0], normalizer.maximum)
    free = MinMaxNormalizer.from_dict(normalizer.to_dict() | {"clip": False})
    assert (free.unnormalize(wide)[0] > normalizer.maximum).all()


def test_constant_channel_has_scale_one() -> None:
    normalizer = MinMaxNormalizer()
    normalizer.update(torch.tensor([[2.0, 0.0], [2.0, 1.0]]))
    y = normalizer.normalize(torch.tensor([[2.0, 0.5], [3.0, 0.5]]))
    # Two units of [-1, 1] over a range taken as one: the constant sits at -1.
    torch.testing.assert_close(y, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(normalizer.unnormalize(torch.tensor([[-1.0, 0.0]])), torch.tensor([[2.0, 0.5]]))


def test_json_round_trip_is_exact(tmp_path: Path) -> None:
    normalizer, x = fitted(35)
    normalizer.save(tmp_path / "new" / "normalizer.json")
    again = MinMaxNormalizer.load(tmp_path / "new" / "normalizer.json")
    assert again.count == normalizer.count
    assert torch.equal(again.normalize(x), normalizer.normalize(x))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["normalizer.json"]
    empty = MinMaxNormalizer.from_dict(json.loads(json.dumps(MinMaxNormalizer(7).to_dict())))
    assert (empty.num_channels, empty.fitted) == (7, False)


def test_statistics_are_no_part_of_a_state_dict_and_survive_half_precision() -> None:
    normalizer, _ = fitted(5)
    maximum = normalizer.maximum.clone()
    module = torch.nn.Sequential(normalizer, torch.nn.Linear(2, 2)).bfloat16()
    assert set(module.state_dict()) == {"1.weight", "1.bias"}
    assert torch.equal(normalizer.maximum, maximum)
    assert normalizer.normalize(torch.zeros(1, 5, dtype=torch.float64)).dtype == torch.float64


def test_gradients_pass_through() -> None:
    normalizer, _ = fitted(4)
    x = torch.zeros(2, 4, requires_grad=True)
    normalizer.unnormalize(normalizer(x)).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(2, 4))


def test_misuse_is_refused() -> None:
    normalizer, x = fitted(4)
    with pytest.raises(DataError, match="not fitted"):
        MinMaxNormalizer(4).normalize(x)
    with pytest.raises(DataError, match="3 channels"):
        normalizer.normalize(x[..., :3])
    with pytest.raises(DataError, match="3 channels"):
        normalizer.update(x[..., :3])
    x[0, 0, 2] = torch.nan
    with pytest.raises(DataError, match=r"channels \[2\]"):
        normalizer.update(x)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"min": [0.0]},
        {"min": ["a", "b"]},
        {"max": [float("nan"), 1.0]},
        {"max": [-5.0, 1.0]},
        {"channels": None},
    ],
)
def test_foreign_or_damaged_values_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    normalizer = MinMaxNormalizer()
    normalizer.update(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    path = tmp_path / "normalizer.json"
    path.write_text(json.dumps(normalizer.to_dict() | change))
    with pytest.raises(DataError, match=r"normalizer\.json"):
        MinMaxNormalizer.load(path)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("no json")
    (tmp_path / "list.json").write_text("[1]")
    for name in ("missing.json", "text.json", "list.json"):
        with pytest.raises(DataError, match=name):
            MinMaxNormalizer.load(tmp_path / name)
