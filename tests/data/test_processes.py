"""Work shared out over processes: results in order, one thread of numpy's BLAS in each."""

from __future__ import annotations

import os

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from datamodules.processes import in_order


def tell(number: int) -> tuple[int, int, list[int]]:
    """(number, process, threads of every BLAS there), after scipy has loaded its own."""
    import scipy.linalg

    scipy.linalg.inv(np.eye(3))
    return number, os.getpid(), [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def fail(number: int) -> int:
    if number == 2:
        raise ValueError("the third")
    return number


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_order_from_workers_of_one_thread(workers: int) -> None:
    with threadpool_limits(2, user_api="blas"):
        told = list(in_order(tell, range(9), workers))
        numbers, processes, threads = zip(*told, strict=True)
        assert numbers == tuple(range(9))
        assert all(each and set(each) == {1} for each in threads), threads
        assert (os.getpid() in processes) == (workers < 2)
        assert set(tell(0)[2]) == {2}, "this process has its own again"


def test_an_error_of_a_worker_is_the_callers() -> None:
    made = in_order(fail, range(20), 2)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(made)
