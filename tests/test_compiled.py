"""Several processes that compile the same function for different types on a fresh machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LOOPS = """
import sys
import numpy as np
from numba import njit
{protection}
@njit(cache=True)
def total(x):
    s = x[0]
    for i in range(len(x)):
        s += x[i]
    return s
"""

CALL = """
import sys, time
sys.path.insert(0, sys.argv[1])
import loops, numpy as np
# Start together: the moment all processes agree on.
time.sleep(max(0.0, float(sys.argv[3]) - time.time()))
print(loops.total(np.arange(5).astype(sys.argv[2])))
"""

TYPES = ("float32", "float64", "int32", "int64", "int16", "uint8")


def test_processes_that_compile_at_once_leave_a_whole_cache(tmp_path: Path) -> None:
    import time

    protection = "from macedance.compiled import protect_numba_cache; protect_numba_cache()"
    (tmp_path / "loops.py").write_text(LOOPS.format(protection=protection), encoding="utf-8")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    start = str(time.time() + 4)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CALL, str(tmp_path), kind, start], env=environment, stdout=subprocess.PIPE, text=True
        )
        for kind in TYPES
    ]
    assert [float(process.communicate(timeout=120)[0]) for process in running] == [10.0] * len(TYPES)
    data = list((tmp_path / "cache").rglob("*.nbc"))
    assert len(data) == len(TYPES), "two processes gave their code the same name"
    for kind in TYPES:
        again = subprocess.run(
            [sys.executable, "-c", CALL, str(tmp_path), kind, "0"],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert float(again.stdout) == 10.0
