"""The order under any number of ranks and workers, changed in the middle of a run: nothing lost, nothing repeated."""

from __future__ import annotations

import itertools
import random
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from test_motion_datamodule import as_rank, module
from test_quarantine import flat

CELLS = list(itertools.product((1, 2, 4), (0, 1, 3)))
BATCH, STEPS = 8, 3


def rows(data: Any, count: int) -> list[tuple[int, str, float]]:
    """(position, key, what the window holds) of a rank's next batches, its workers stopped."""
    loader = data.train_dataloader()
    batches = list(islice(iter(loader), count))
    if loader.num_workers:
        loader.stop_workers()
    contents = [float(poses.double().sum()) for batch in batches for poses in batch["poses"]]
    positions = [int(position) for position in flat(batches, "position")]
    return list(zip(positions, flat(batches, "keys"), contents, strict=True))


def stretch(corpus: Path, ranks: int, workers: int, start: int, steps: int) -> tuple[list[tuple[int, str, float]], int]:
    """What all ranks together train on in some steps, in the global order, and the position behind it."""
    found: list[tuple[int, str, float]] = []
    ends = set()
    for rank in range(ranks):
        data = module(corpus, num_workers=workers)
        data.start_position = start
        as_rank(data, rank, ranks)
        mine = rows(data, steps)
        share = BATCH // ranks
        assert [position for position, _, _ in mine] == [
            start + step * BATCH + rank * share + place for step in range(steps) for place in range(share)
        ]
        found += mine
        ends.add(data.consumed_after({"position": torch.tensor([mine[-share][0]])}))
    assert len(ends) == 1
    return sorted(found), ends.pop()


@pytest.fixture(scope="module")
def alone(corpus: Path) -> list[tuple[int, str, float]]:
    """One rank without workers, four epochs of 16 samples."""
    return rows(module(corpus), 8)


@pytest.mark.parametrize(("ranks", "workers"), CELLS)
def test_every_cell_reads_the_one_global_order(
    corpus: Path, alone: list[tuple[int, str, float]], ranks: int, workers: int
) -> None:
    """From the middle of an epoch over its end."""
    found, end = stretch(corpus, ranks, workers, start=BATCH, steps=STEPS)
    assert found == alone[BATCH : BATCH + STEPS * BATCH]
    assert end == BATCH * (1 + STEPS)


def test_ranks_and_workers_change_mid_run(corpus: Path, alone: list[tuple[int, str, float]]) -> None:
    """Every cell once, in a drawn order, one step each but the last."""
    cells = CELLS[:]
    random.Random(3).shuffle(cells)
    seen: list[tuple[int, str, float]] = []
    position = 0
    for ranks, workers in cells[:8]:
        found, position = stretch(corpus, ranks, workers, position, steps=1)
        seen += found
    assert seen == alone
    assert [place for place, _, _ in seen] == list(range(64))
    for epoch in range(4):
        assert len({key for _, key, _ in seen[epoch * 16 : (epoch + 1) * 16]}) == 16
