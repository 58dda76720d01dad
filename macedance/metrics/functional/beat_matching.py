"""One-to-one matching of two lists of beats: precision, coverage and their harmonic mean.

Shapes: N motion beats, M music beats; times in seconds.

Source: the F-measure of Davies, Degara & Plumbley, "Evaluation methods for musical audio beat tracking algorithms"
(2009), as mir_eval computes it: within 70 ms, each beat used once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from macedance.errors import DataError

WINDOW_S = 0.07
#: mir_eval leaves out the beats of the first five seconds.
MIR_EVAL_TRIM_S = 5.0


@dataclass(frozen=True)
class BeatMatch:
    """How many beats found each other.

    Args:
        matched: Pairs.
        motion: Motion beats.
        music: Music beats.
    """

    matched: int
    motion: int
    music: int

    @property
    def precision(self) -> float:
        """Share of the motion beats that have a music beat of their own; 0 without motion beats."""
        return self.matched / self.motion if self.motion else 0.0

    @property
    def coverage(self) -> float:
        """Share of the music beats that have a motion beat of their own; 0 without music beats."""
        return self.matched / self.music if self.music else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and coverage; 0 without a pair."""
        return 2.0 * self.matched / (self.motion + self.music) if self.matched else 0.0


def match_beats(
    motion_s: np.ndarray, music_s: np.ndarray, *, window_s: float = WINDOW_S, trim_s: float = 0.0
) -> BeatMatch:
    """The largest one-to-one matching of beats at most ``window_s`` apart.

    Beats lie on a line and all windows are equally wide, so that pairing each beat with the earliest partner that is
    still free is a largest matching; no search is needed.

    Args:
        motion_s: (N,) beats of the dance.
        music_s: (M,) beats of the music.
        window_s: Largest distance of a pair, inclusive.
        trim_s: Beats before this time are left out of both lists; MIR_EVAL_TRIM_S for mir_eval's own value.

    Raises:
        DataError: Not one-dimensional, or times that are not finite.
    """
    motion, music = (_sorted_times(times, trim_s) for times in (motion_s, music_s))
    matched = i = j = 0
    while i < len(motion) and j < len(music):
        # Compared as mir_eval does, so that a distance of exactly the window falls on the same side.
        if motion[i] < music[j] - window_s:
            i += 1
        elif motion[i] > music[j] + window_s:
            j += 1
        else:
            matched, i, j = matched + 1, i + 1, j + 1
    return BeatMatch(matched, len(motion), len(music))


def _sorted_times(times: np.ndarray, trim_s: float) -> np.ndarray:
    times = np.asarray(times, dtype=np.float64)
    if times.ndim != 1 or not np.isfinite(times).all():
        raise DataError(f"beats have shape {times.shape} or are not finite", expected="(N,) finite seconds")
    return np.sort(times[times >= trim_s])
