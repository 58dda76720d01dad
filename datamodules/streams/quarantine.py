"""A sample that cannot be used: what takes its place, and the record of it.

The row at a position whose sample is faulty is filled with the next readable sample of the order, at the same
position: epochs keep their length, every other position its sample, and every draw its key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypedDict, TypeVar

from macedance.errors import DataError, TransportError

DEFAULT_MAX_QUARANTINED = 16
_LONGEST_SEARCH = 4096
_Made = TypeVar("_Made")


class Named(Protocol):
    """Samples that have names."""

    def where(self, number: int) -> str:
        """`shard:key` of a sample, for messages."""


class Ordered(Protocol):
    """Samples that stand in an order."""

    def sample_at(self, position: int) -> int:
        """Number of the sample at a global position."""


class Quarantined(TypedDict):
    """One substitution: the faulty sample as `shard:key`, why, the global position, and what stands there instead."""

    sample: str
    reason: str
    position: int
    substitute: str


def substitute(
    samples: Named, order: Ordered, position: int, error: DataError, make: Callable[[int], _Made]
) -> tuple[_Made, Quarantined]:
    """What `make` gives for the first sample behind `position` in the order that it can be made of.

    Args:
        samples: All samples.
        order: Their order.
        position: Where the faulty sample stands.
        error: What is wrong with it.
        make: Makes the row of a sample's number; DataError where it cannot.

    Raises:
        DataError: No other sample can be used.
        TransportError: One of them cannot be fetched for now.
    """
    faulty = order.sample_at(position)
    tried = {faulty}
    for ahead in range(1, _LONGEST_SEARCH):
        number = order.sample_at(position + ahead)
        if number in tried:
            continue
        tried.add(number)
        try:
            row = make(number)
        except TransportError:
            raise  # the substitute would be another one when the network is back
        except DataError:
            continue  # its own turn comes, and its own record
        event = Quarantined(
            sample=samples.where(faulty), reason=str(error.what), position=position, substitute=samples.where(number)
        )
        return row, event
    raise DataError(
        f"no readable sample among the {len(tried)} that follow position {position}; the first fault: {error.what}",
        where=error.where,
        fix="mend the corpus",
    )
