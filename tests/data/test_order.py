from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.streams.order import (
    ElasticBatchSampler,
    GlobalOrder,
    crop_start,
    keyed_bits,
    micro_batch_size,
    rank_positions,
)
from macedance.errors import ConfigError

RECORDED = [11, 10, 5, 4, 6, 3, 1, 0, 7, 2, 9, 8, 8, 5, 9, 6, 7, 10, 1, 2, 0, 11, 3, 4]
RECORDED_CROPS = [31, 93, 10, 55, 5, 71]


def starts(*counts: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def epoch(order: GlobalOrder, number: int) -> list[int]:
    first = number * order.samples_per_epoch
    return [order.sample_at(first + place) for place in range(order.samples_per_epoch)]


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    batch=st.integers(1, 7),
    window=st.integers(1, 40),
    seed=st.integers(0, 2**40),
)
def test_epoch_has_every_sample_at_most_once(counts: list[int], batch: int, window: int, seed: int) -> None:
    total = sum(counts)
    batch = min(batch, total)
    order = GlobalOrder(starts(*counts), batch, seed, window)
    for number in (0, 3):
        seen = epoch(order, number)
        assert len(seen) == total // batch * batch
        assert len(set(seen)) == len(seen)
        assert set(seen) <= set(range(total))
    assert order.dropped_per_epoch == total % batch


def test_epochs_and_seeds_differ_and_repeat() -> None:
    order = GlobalOrder(starts(*[10] * 20), 8, seed=1)
    assert epoch(order, 0) != epoch(order, 1)
    assert epoch(order, 0) != epoch(GlobalOrder(starts(*[10] * 20), 8, seed=2), 0)
    assert epoch(order, 1) == epoch(GlobalOrder(starts(*[10] * 20), 8, seed=1), 1)


def test_order_is_the_recorded_one() -> None:
    """A resume after an upgrade of numpy or of this code must not silently change the order."""
    order = GlobalOrder(starts(4, 3, 5), 4, seed=7, shuffle_window=5)
    assert [order.sample_at(position) for position in range(24)] == RECORDED
    assert [crop_start(7, position, 100) for position in range(6)] == RECORDED_CROPS


def test_random_access_agrees_with_reading_on() -> None:
    order = GlobalOrder(starts(*[7] * 30), 4, seed=5, shuffle_window=16)
    straight = [order.sample_at(position) for position in range(600)]
    fresh = GlobalOrder(starts(*[7] * 30), 4, seed=5, shuffle_window=16)
    places = np.random.default_rng(0).permutation(600)
    assert [fresh.sample_at(int(place)) for place in places] == [straight[place] for place in places]


def test_windows_keep_reads_in_few_shards() -> None:
    order = GlobalOrder(starts(*[50] * 40), 10, seed=0, shuffle_window=100)
    seen = np.array(epoch(order, 0)) // 50
    assert max(len(set(seen[first : first + 100])) for first in range(0, 2000, 100)) <= 3
    assert list(seen[:100]) != sorted(seen[:100])


def test_every_sample_is_dropped_sometimes_and_none_always() -> None:
    order = GlobalOrder(starts(10), 4, seed=0, shuffle_window=3)
    missing = [set(range(10)) - set(epoch(order, number)) for number in range(60)]
    assert {len(item) for item in missing} == {2}
    assert set.union(*missing) == set(range(10))


def test_order_is_spread_evenly() -> None:
    order = GlobalOrder(starts(*[5] * 8), 8, seed=0)
    places = np.array([epoch(order, number).index(11) for number in range(300)])
    assert abs(places.mean() - 19.5) < 2.5
    assert places.min() < 3
    assert places.max() > 36


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (4, 1), (2, 2), (1, 4), (4, 3)])
def test_ranks_together_hold_the_global_order(world: int, accumulate: int) -> None:
    per_rank = [
        list(
            islice(
                ElasticBatchSampler(24, start_position=48, rank=rank, world_size=world, accumulate=accumulate),
                3 * accumulate,
            )
        )
        for rank in range(world)
    ]
    assert {len(batch) for batches in per_rank for batch in batches} == {24 // world // accumulate}
    together: list[int] = []
    for step in range(3):
        for batches in per_rank:
            for batch in batches[step * accumulate : (step + 1) * accumulate]:
                together += batch
    assert together == list(range(48, 48 + 72))


def test_rank_holds_a_contiguous_slice() -> None:
    assert list(rank_positions(32, 16, 1, 4)) == [36, 37, 38, 39]


def test_changing_ranks_mid_run_loses_and_repeats_nothing() -> None:
    position, seen = 0, []
    for world in (2, 1, 4, 2):
        samplers = [ElasticBatchSampler(8, start_position=position, rank=r, world_size=world) for r in range(world)]
        batches = [list(islice(sampler, 5)) for sampler in samplers]
        seen += [number for step in zip(*batches, strict=True) for batch in step for number in batch]
        ends = {sampler.consumed_after(mine[-1]) for sampler, mine in zip(samplers, batches, strict=True)}
        assert len(ends) == 1
        position = ends.pop()
    assert seen == list(range(160))


def test_consumed_counts_whole_steps() -> None:
    sampler = ElasticBatchSampler(8, start_position=16, rank=1, world_size=2, accumulate=2)
    assert [sampler.consumed_after(batch) for batch in islice(sampler, 4)] == [24, 24, 32, 32]


@pytest.mark.parametrize(("batch", "world", "accumulate"), [(15, 2, 1), (16, 2, 3), (1, 2, 1), (0, 1, 1)])
def test_indivisible_batch_is_one_clear_error(batch: int, world: int, accumulate: int) -> None:
    with pytest.raises(ConfigError, match=rf"not divisible by {world} ranks x {accumulate}.*fix: set it to") as caught:
        micro_batch_size(batch, world, accumulate)
    assert caught.value.exit_code == 2


def test_fewer_samples_than_a_batch_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"5 training samples are fewer than one global batch of 8.*at most 5"):
        GlobalOrder(starts(2, 3), 8)


@pytest.mark.parametrize(("batch", "window", "seed"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_impossible_order_is_refused(batch: int, window: int, seed: int) -> None:
    with pytest.raises(ConfigError):
        GlobalOrder(starts(2, 3), batch, seed, window)
    with pytest.raises(ConfigError, match="start position"):
        ElasticBatchSampler(4, start_position=-1)


def test_crop_depends_on_the_position_alone_and_covers_the_clip() -> None:
    drawn = [crop_start(0, position, 10) for position in range(400)]
    assert set(drawn) == set(range(10))
    assert drawn == [crop_start(0, position, 10) for position in range(400)]
    assert drawn != [crop_start(1, position, 10) for position in range(400)]
    assert crop_start(0, 5, 1) == crop_start(0, 5, -3) == 0


def test_keys_give_independent_words() -> None:
    keys = [(0, 1), (1, 0), (0, 1, 0), (0, 0, 1), (0,), (2**32 + 5, 1), (5, 1, 1)]
    assert len({int(keyed_bits(1, *key)[0]) for key in keys}) == len(keys)


def test_many_samples_need_little_memory_and_time() -> None:
    order = GlobalOrder(np.arange(0, 10**8 + 1, 10**4, dtype=np.int64), 1024, seed=0, shuffle_window=10**4)
    seen = [order.sample_at(position) for position in range(90_000_000, 90_000_200)]
    assert len(set(seen)) == 200
    assert order.nbytes < 2**20
