"""How much DeepSpeed moves at a time: sizes that depend on the device, on what trains and on the whole network."""

from __future__ import annotations

from dataclasses import dataclass

#: Elements of a communication bucket at most; it is allocated whole, so never larger than the trained parameters.
BUCKET_ELEMENTS = {"cpu": 5_000_000, "cuda": 200_000_000}
#: Stage 3 lets go of gathered parameters beyond this share of the network, or this many elements.
_LIVE_SHARE, _LIVE_ELEMENTS = 1 / 8, 1_000_000_000
#: DeepSpeed wants even numbers.
_STEP = 512


@dataclass(frozen=True)
class ZeroSizes:
    """Elements, not bytes.

    Attributes:
        bucket: Of gradients, or of updated weights, that travel together.
        prefetch: Stage 3: of weights gathered before they are needed.
        live: Stage 3: of gathered weights at most.
    """

    bucket: int
    prefetch: int
    live: int


def zero_sizes(trained: int, parameters: int, device: str, largest: int | None = None) -> ZeroSizes:
    """Sizes for a network; what is frozen is gathered like everything else.

    Args:
        trained: Elements that train.
        parameters: All elements.
        device: ``cpu`` or ``cuda``.
        largest: Elements of a bucket at most; None: by device.
    """
    most = largest or BUCKET_ELEMENTS.get(device, BUCKET_ELEMENTS["cuda"])
    bucket, gathered = (-(-min(most, size) // _STEP) * _STEP for size in (trained, parameters))
    # DeepSpeed's own limits are of models of billions: a smaller one would stay gathered as a whole.
    live = min(max(int(parameters * _LIVE_SHARE), gathered // 8), _LIVE_ELEMENTS)
    return ZeroSizes(bucket, min(gathered, live), live)
