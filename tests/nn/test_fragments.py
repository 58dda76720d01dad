"""Fragments of parameters: cut for one number of ranks, read for another."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from macedance.errors import CheckpointError
from macedance.nn.ema import ExponentialMovingAverage
from macedance.nn.fragments import Fragment, all_finite, read_fragments, save_fragments, whole_tensors

SHAPES = {"a": (5, 3), "b": (7,), "c": (1,)}


def whole() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def cut(ranks: int, rank: int, values: dict[str, torch.Tensor]) -> dict[str, Fragment]:
    """Each parameter in equal parts, the last ones shorter or empty, as stage 3 cuts."""
    parts = {}
    for name, value in values.items():
        size = -(-value.numel() // ranks)
        part = value.flatten()[rank * size : (rank + 1) * size]
        if part.numel():
            parts[name] = Fragment(part, rank * size, tuple(value.shape))
    return parts


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"ema-{rank:04d}.safetensors" for rank in range(3)]
    for rank, path in enumerate(paths):
        save_fragments(path, cut(3, rank, whole()), {"num_updates": "4"})
    return paths


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_what_three_ranks_wrote_any_number_reads(files: list[Path], ranks: int) -> None:
    for rank in range(ranks):
        wanted = cut(ranks, rank, whole())
        empty = {n: Fragment(torch.zeros_like(f.tensor), f.offset, f.shape) for n, f in wanted.items()}
        found = read_fragments(files, empty)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name].tensor) for name in wanted)


def test_a_missing_rank_and_another_network_are_named(files: list[Path]) -> None:
    wanted = cut(1, 0, whole())
    with pytest.raises(CheckpointError, match=r"not in the checkpoint as a whole.*files of all ranks"):
        read_fragments(files[:2], wanted)
    other = {"a": Fragment(torch.zeros(14), 0, (7, 2))}
    with pytest.raises(CheckpointError, match=r"the parameter a is \(5, 3\) there and \(7, 2\) here"):
        read_fragments(files, other)
    files[1].write_bytes(files[1].read_bytes()[:40])
    with pytest.raises(CheckpointError, match="ema-0001"):
        read_fragments(files, wanted)


def test_one_process_puts_its_parts_together() -> None:
    values = whole()
    parts = cut(1, 0, values)
    found = dict(whole_tensors(SHAPES, parts, {name: part.tensor for name, part in parts.items()}))
    assert all(torch.equal(found[name], values[name]) for name in SHAPES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_non_finite_numbers_are_found_and_large_ones_are_not(dtype: torch.dtype) -> None:
    good = [torch.ones(3, dtype=dtype), torch.full((4,), 1e30, dtype=dtype), torch.empty(0, dtype=dtype)]
    assert all_finite(good), "the norm overflows and no number does"
    assert all_finite([])
    for bad in (float("nan"), float("inf"), -float("inf")):
        assert not all_finite([*good, torch.tensor([0.0, bad], dtype=dtype)])


def test_the_average_of_parts_is_the_part_of_the_average() -> None:
    """bfloat16 values are averaged in float32: steps below their last digit count."""
    values = whole()
    network = ExponentialMovingAverage(values, 0.9, warmup=False)
    ranks = [
        ExponentialMovingAverage({n: f.tensor for n, f in cut(2, r, values).items()}, 0.9, warmup=False) for r in (0, 1)
    ]
    for step in range(5):
        moved = {name: value + step for name, value in values.items()}
        network.update(moved)
        for rank, average in enumerate(ranks):
            average.update({n: f.tensor for n, f in cut(2, rank, moved).items()})
    for rank, average in enumerate(ranks):
        for name, part in cut(2, rank, network.shadow).items():
            assert torch.allclose(average.shadow[name], part.tensor, atol=1e-6)
    coarse = ExponentialMovingAverage({"w": torch.ones(2, dtype=torch.bfloat16)}, 0.9999, warmup=False)
    coarse.update({"w": torch.full((2,), 1.0078125, dtype=torch.bfloat16)})
    assert coarse.shadow["w"].dtype == torch.float32
    assert float(coarse.shadow["w"][0]) > 1


def test_fragments_go_straight_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a copy of the whole file in memory; where the disk is full, nothing stays."""
    monkeypatch.setattr(safetensors.torch, "save", lambda *_: pytest.fail("it is made in memory"))
    path = tmp_path / "ema-0000.safetensors"
    save_fragments(path, cut(1, 0, whole()))
    before = path.read_bytes()

    def full(tensors: object, name: str, metadata: object) -> None:
        Path(name).write_bytes(b"half")
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_fragments(path, cut(1, 0, whole()))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before
