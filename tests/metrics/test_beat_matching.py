"""One-to-one beats: precision, coverage, F1, and mir_eval's own scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from macedance.errors import DataError
from macedance.metrics.functional.beat_matching import MIR_EVAL_TRIM_S, match_beats

TIMES = st.lists(st.floats(0, 3), max_size=25)


@settings(max_examples=60, deadline=None)
@given(motion=TIMES, music=TIMES)
def test_no_matching_is_larger(motion: list[float], music: list[float]) -> None:
    a, b = np.sort(motion), np.sort(music)
    match = match_beats(np.array(motion), np.array(music))
    close = (a[:, None] >= b - 0.07) & (a[:, None] <= b + 0.07)
    largest = (maximum_bipartite_matching(csr_matrix(close)) >= 0).sum() if close.size else 0
    assert (match.matched, match.motion, match.music) == (largest, len(motion), len(music))


def test_each_beat_is_used_once() -> None:
    music = np.array([1.0, 2.0, 3.0])
    flurry = np.array([0.95, 1.0, 1.05, 2.0])
    match = match_beats(flurry, music)
    assert (match.precision, match.coverage) == (0.5, pytest.approx(2 / 3))
    assert match.f1 == pytest.approx(2 * match.precision * match.coverage / (match.precision + match.coverage))
    # What one-sided scores reward, a dance that rests all the time, costs precision.
    nervous = match_beats(np.arange(0, 4, 0.1), music)
    assert (nervous.coverage, nervous.precision) == (1.0, 3 / 40)


def test_clicks_on_the_beats_are_perfect_and_off_beats_have_none() -> None:
    music = np.arange(0.25, 10, 0.5)
    assert match_beats(music + 0.06, music).f1 == 1.0
    assert match_beats(music + 0.25, music).f1 == 0.0


def test_nothing_gives_zero_not_an_error() -> None:
    beats, none = np.array([1.0]), np.zeros(0)
    for pair in ((beats, none), (none, beats), (none, none)):
        match = match_beats(*pair)
        assert (match.precision, match.coverage, match.f1) == (0.0, 0.0, 0.0)
    with pytest.raises(DataError, match="finite"):
        match_beats(np.array([np.nan]), beats)


@pytest.mark.shared
@pytest.mark.parametrize("number", range(10))
def test_f1_is_mir_eval_s_f_measure(number: int, shared_dir: Path) -> None:
    folder = shared_dir / "data" / "beats" / "mir_eval"
    expected = json.loads((folder / f"output{number:02d}.json").read_text())["F-measure"]
    estimated, reference = (np.loadtxt(folder / f"{kind}{number:02d}.txt") for kind in ("est", "ref"))
    assert match_beats(estimated, reference, trim_s=MIR_EVAL_TRIM_S).f1 == pytest.approx(expected, abs=1e-6)
