"""Whole batches of one size in one global order: complete, balanced, elastic, and the same for one size as without."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.streams.bucket_order import BucketOrder, BucketShards, SameBucket
from datamodules.streams.mixture import MixtureOrder
from datamodules.streams.order import GlobalOrder
from macedance.errors import ConfigError


def shards(source: int, firsts: list[int], counts: list[int]) -> BucketShards:
    return BucketShards(source, np.array(firsts), np.array(counts))


def two_sizes(batch: int = 4, seed: int = 1) -> BucketOrder:
    """Samples 0-9 and 20-29 of one size, 10-19 of another, in one source."""
    return BucketOrder([[shards(0, [0, 20], [10, 10])], [shards(0, [10], [10])]], [0], [1], batch, seed, 8)


def test_every_global_batch_is_of_one_size_and_every_sample_comes_once() -> None:
    order = two_sizes()
    assert order.samples_per_epoch == 20 + 8
    for epoch in range(3):
        numbers = [order.sample_at(epoch * 28 + place) for place in range(28)]
        assert len(set(numbers)) == 28
        sizes = [10 <= number < 20 for number in numbers]
        assert all(len(set(sizes[first : first + 4])) == 1 for first in range(0, 28, 4))
        assert sum(sizes) == 8
    assert [order.sample_at(p) for p in range(28)] != [order.sample_at(p) for p in range(28, 56)]


def test_the_order_of_batches_mixes_the_sizes() -> None:
    order = two_sizes(batch=2)
    sizes = ["b" if 10 <= order.sample_at(place) < 20 else "a" for place in range(0, 30, 2)]
    assert "".join(sizes) not in ("a" * 10 + "b" * 5, "b" * 5 + "a" * 10)


def test_one_size_has_the_order_that_it_would_have_without_buckets() -> None:
    whole = GlobalOrder(np.array([0, 10, 25]), 4, 7, 8)
    order = BucketOrder([[shards(0, [0, 10], [10, 15])]], [0], [1], 4, 7, 8)
    assert [order.sample_at(p) for p in range(60)] == [whole.sample_at(p) for p in range(60)]


def test_a_mixture_of_one_size_is_the_mixture() -> None:
    mixed = MixtureOrder([np.array([0, 10]), np.array([0, 15])], [2, 5], 7, 3, 8)
    order = BucketOrder([[shards(0, [0], [10]), shards(1, [0], [15])]], [0, 10], [2, 5], 7, 3, 8)
    assert [order.sample_at(p) for p in range(70)] == [mixed.sample_at(p) for p in range(70)]


def test_a_mixture_keeps_its_shares_within_each_size() -> None:
    """Rendered to filmed as 2 to 5: in every batch of 7 clips, whatever their size."""
    order = BucketOrder(
        [[shards(0, [0], [40]), shards(1, [0], [60])], [shards(0, [40], [20]), shards(1, [60], [30])]],
        [0, 60], [2, 5], 7, 0, 16,
    )  # fmt: skip
    for batch in range(order.samples_per_epoch // 7):
        sources = Counter(order.sample_at(batch * 7 + place) >= 60 for place in range(7))
        assert sources == {True: 5, False: 2}


def test_a_size_below_a_batch_is_left_out_and_counted() -> None:
    order = BucketOrder([[shards(0, [0], [10])], [shards(0, [10], [3])]], [0], [1], 4, 0, 8)
    assert order.left_out == [1]
    assert {order.sample_at(place) for place in range(200)} <= set(range(10))
    with pytest.raises(ConfigError, match="no bucket has the 12 samples"):
        BucketOrder([[shards(0, [0], [10])], [shards(0, [10], [3])]], [0], [1], 12, 0, 8)
    with pytest.raises(ConfigError, match="fewer than one global batch of 14"):
        BucketOrder([[shards(0, [0], [10])], [shards(0, [10], [3])]], [0], [1], 14, 0, 8)


def test_a_substitute_is_of_the_same_size() -> None:
    order = two_sizes()
    for position in range(28):
        same = SameBucket(order, position)
        assert same.sample_at(position) == order.sample_at(position)
        size = 10 <= order.sample_at(position) < 20
        followers = {same.sample_at(position + ahead) for ahead in range(1, 40)}
        assert all((10 <= number < 20) == size for number in followers)
        assert len(followers) >= 10


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=3),
    batch=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_any_epoch_holds_each_sample_once_at_most(counts: list[list[int]], batch: int, seed: int) -> None:
    buckets, first = [], 0
    for bucket in counts:
        firsts = []
        for count in bucket:
            firsts.append(first)
            first += count
        buckets.append([shards(0, firsts, bucket)])
    whole = [sum(bucket) // batch * batch for bucket in counts]
    if not any(whole):
        return
    order = BucketOrder(buckets, [0], [1], batch, seed, 4)
    numbers = [order.sample_at(place) for place in range(order.samples_per_epoch)]
    assert len(set(numbers)) == len(numbers) == sum(whole)
