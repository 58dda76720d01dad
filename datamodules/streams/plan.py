"""From opened splits to the order that a run trains in; the same for training and for `macedance data order`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice, takewhile

import numpy as np

from datamodules.streams.index import ShardIndex
from datamodules.streams.mixture import MixtureOrder
from datamodules.streams.order import ElasticBatchSampler, GlobalOrder, SampleOrder


def training_order(
    indices: Sequence[ShardIndex], weights: Sequence[int], global_batch_size: int, seed: int, shuffle_window: int
) -> GlobalOrder | MixtureOrder:
    """The order of one source, or the mixture of several.

    Args:
        indices: Of each source's training split.
        weights: Of each source; of a single one it does not matter.
        global_batch_size: Samples of one optimizer step over all ranks.
        seed: Seed of the order.
        shuffle_window: Samples of one source that are shuffled together.

    Raises:
        ConfigError: Sizes or weights that cannot be, or fewer samples than a global batch.
    """
    starts: list[np.ndarray] = [index.starts_S1 for index in indices]
    if len(starts) == 1:
        return GlobalOrder(starts[0], global_batch_size, seed, shuffle_window)
    return MixtureOrder(starts, weights, global_batch_size, seed, shuffle_window)


def key_at(indices: Sequence[ShardIndex], number: int) -> str:
    """Key of a sample, numbered one source after another."""
    for index in indices:
        if number < len(index):
            return index.key(number)
        number -= len(index)
    raise IndexError(number)


def rank_keys(
    indices: Sequence[ShardIndex],
    order: SampleOrder,
    sampler: ElasticBatchSampler,
    count: int | None = None,
) -> Iterator[str]:
    """Keys of the samples that a rank trains on, in order.

    Args:
        indices: Of each source's training split.
        order: Their order.
        sampler: The rank's positions, from its start position on.
        count: How many; None goes on to the end of the epoch that the start position lies in.
    """
    positions = chain.from_iterable(sampler)
    if count is None:
        end = (order.epoch_of(sampler.start_position) + 1) * order.samples_per_epoch
        # A rank's positions only grow, so its part of the epoch ends at the first one behind it.
        chosen: Iterator[int] = takewhile(lambda position: position < end, positions)
    else:
        chosen = islice(positions, count)
    return (key_at(indices, order.sample_at(position)) for position in chosen)
