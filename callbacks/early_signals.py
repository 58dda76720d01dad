"""A scheduler's signal that comes while a run still imports its libraries: kept until the run can answer it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: USR1 comes before the time limit: the job wants to go on. TERM comes from whoever ends or moves the job.
REQUEUE_SIGNAL, END_SIGNAL = signal.SIGUSR1, signal.SIGTERM
SIGNALS = (REQUEUE_SIGNAL, END_SIGNAL)


class EarlySignals:
    """The handler of both signals until `Preemption` takes them over; it imports nothing that takes time.

    Attributes:
        received: What came so far.
    """

    def __init__(self) -> None:
        self.received: set[int] = set()
        self._owner = os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Keep the signal; a forked child, which inherits the handler, takes it as if there were none."""
        if os.getpid() == self._owner:
            self.received.add(number)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextmanager
def early_signals() -> Iterator[None]:
    """Within the context neither signal ends the process before `Preemption` exists; what is still ours is given back.

    Without it a job on a busy file system, whose imports take longer than the warning leads, would end by the warning
    itself and count as crashed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = EarlySignals()
    # A handler of the caller's own stays: only what would end the process is replaced.
    taken = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            if signal.getsignal(number) is handler:
                signal.signal(number, signal.SIG_DFL)
