"""Work shared out over processes, its results in order."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

import scipy.linalg  # noqa: F401  its BLAS is one of those that are limited, if it is loaded
from threadpoolctl import threadpool_limits

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(make: Callable[[_Item], _Result], items: Sequence[_Item], workers: int) -> Iterator[_Result]:
    """``make`` of each item, in their order; no more than a few results wait in memory.

    Args:
        make: A function that can be pickled.
        items: What it is given.
        workers: Processes; 1 or fewer: this one.
    """
    if workers <= 1:
        for item in items:
            # As in a worker: a product's last bits depend on the number of threads.
            with threadpool_limits(1):
                result = make(item)
            yield result
        return
    # Spawned, not forked: a fork of a process that has used OpenMP may hang in its next parallel region.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _one_thread() -> None:
    """Start of a worker: the processes are the parallelism.

    The threads of numpy's BLAS spin while they wait for the next product, in every worker: two workers on two cores
    were hardly faster than one.
    """
    import cv2
    import torch

    threadpool_limits(1)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
