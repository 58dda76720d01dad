"""How OpenMP's threads wait, which has to be said before torch is loaded."""

from __future__ import annotations

import os

#: Turns for which a thread looks for work before it sleeps: some microseconds.
SPINS = "5000"
#: The same where nothing else wants the processor: a twentieth faster.
PATIENT_SPINS = "20000"


def let_threads_sleep(spins: str = SPINS) -> None:
    """Let waiting threads sleep after a moment, where the environment does not say otherwise.

    Threads that spin while they wait take the processor from the compiled loops, which have threads of their own (two
    virtual cores: a training step took ten times as long); threads that sleep at once wake up too late for small
    operations.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", spins)
