"""Several processes that compile at once on a fresh machine."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Two processes save different signatures of one function; both read the index before either writes it.
SAVE = """
import sys, time
from numba.core.caching import IndexDataCacheFile
read = IndexDataCacheFile._load_index
def slowly(self):
    found = read(self)
    time.sleep(1.0)
    return found
IndexDataCacheFile._load_index = slowly
if sys.argv[3] == "protected":
    from macedance.compiled import protect_numba_cache
    protect_numba_cache()
    protect_numba_cache()
file = IndexDataCacheFile(sys.argv[1], "f", "stamp")
time.sleep(max(0.0, float(sys.argv[4]) - time.time()))
file.save(sys.argv[2], "code of " + sys.argv[2])
"""

LOCK = """
import sys, time
from pathlib import Path
from macedance.compiled import first_compilation
with first_compilation(Path(sys.argv[1])):
    started = time.time()
    time.sleep(0.5)
    print(started, time.time())
"""


def together(code: str, rows: list[list[str]]) -> list[str]:
    running = [
        subprocess.Popen([sys.executable, "-c", code, *row], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for row in rows
    ]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(rows)
    return outputs


@pytest.mark.parametrize("protection", ["protected", "bare"])
def test_two_signatures_saved_at_once_are_both_kept(protection: str, tmp_path: Path) -> None:
    from numba.core.caching import IndexDataCacheFile

    start = str(time.time() + 3)
    together(SAVE, [[str(tmp_path), key, protection, start] for key in ("float32", "float64")])
    file = IndexDataCacheFile(str(tmp_path), "f", "stamp")
    found = [file.load(key) for key in ("float32", "float64")]
    whole = found == ["code of float32", "code of float64"]
    # The bare case shows that the danger is real; if numba mends it, this line says so and the protection can go.
    assert whole is (protection == "protected")


def test_first_compilation_is_one_process_at_a_time(tmp_path: Path) -> None:
    spans = sorted(tuple(map(float, out.split())) for out in together(LOCK, [[str(tmp_path / "new")]] * 3))
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))


def test_without_a_place_for_the_lock_work_goes_on(tmp_path: Path) -> None:
    from macedance.compiled import first_compilation

    blocker = tmp_path / "file"
    blocker.write_text("", encoding="utf-8")
    with first_compilation(blocker / "folder"):
        done = True
    assert done
