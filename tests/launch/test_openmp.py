"""How OpenMP's threads wait: as the environment says, else for a moment."""

from __future__ import annotations

import os

import pytest

from launch.openmp import SPINS, let_threads_sleep


@pytest.mark.parametrize(("given", "expected"), [(None, SPINS), ("7", "7")])
def test_what_the_environment_says_is_left(given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    if given is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", given)
    let_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ["GOMP_SPINCOUNT"] == expected
