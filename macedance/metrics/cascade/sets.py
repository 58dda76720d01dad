"""How far the videos of an arm are from the true ones as a set, and how much further than the ground truth's.

The true videos are the reference where they were given, else the ground-truth arm itself, and then the distance of an
arm is its gap. Shapes: n clips, m windows, D features of a window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from macedance.errors import DataError
from macedance.metrics.animation.fvd import VideoFeatureMetric
from macedance.metrics.animation.presets import STYLEGANV
from macedance.metrics.animation.video_sets import Reporting, set_entries, small_reason
from macedance.metrics.animation.windows import WindowSampling
from macedance.metrics.cascade.judges import ArmClip
from macedance.metrics.functional.video_frechet import FeatureSet, KernelSums, frechet_of_moments, moments
from macedance.metrics.statistics import Entry
from macedance.vision.video_network import VideoNetwork

SET_KEYS: tuple[str, ...] = ("fvd", "kvd")
NO_FEATURES = "no window of its videos was looked at"
_COVERED = (0.025, 0.975)
#: Each resample of a Fréchet distance costs decompositions of two sets.
_FRECHET_SHARE = 5


@dataclass(frozen=True)
class Windows:
    """Features of windows of an arm's videos.

    Args:
        features: (m, D) float32.
        owners: (m,) which of the arm's clips each window is of.
    """

    features: np.ndarray
    owners: np.ndarray


class WindowLooker:
    """Looks at windows of videos, the same ones of a clip in every arm.

    Args:
        network: Frozen.
        sampling: Which windows; None: 16 frames at 16 frames per second, one of each clip.
        device: Where the network runs.

    Raises:
        ConfigError: Windows shorter than the network can see.
    """

    def __init__(self, network: VideoNetwork, sampling: WindowSampling | None = None, *, device: str = "cpu") -> None:
        self.sampling = sampling or WindowSampling()
        self.network, self._device = network, torch.device(device)
        self._looking = VideoFeatureMetric(network, STYLEGANV, self.sampling)

    def __call__(self, clips: Sequence[ArmClip]) -> Windows:
        """Features of the windows of these clips; a clip that is too short has none.

        Raises:
            DataError: A video has fewer frames per second than a window, or cannot be decoded.
        """
        rows, owners = [], []
        for row, clip in enumerate(clips):
            picked = self._looking.picked(clip.video, _number(clip.name))
            found = self._looking.features(picked, self._device).cpu().numpy()
            rows.append(found)
            owners += [row] * len(found)
        return Windows(np.concatenate(rows) if rows else np.zeros((0, 0), np.float32), np.array(owners, dtype=np.int64))


def set_distances(arm: FeatureSet | None, reference: FeatureSet | None, reporting: Reporting) -> dict[str, Entry]:
    """``fvd`` and ``kvd`` of an arm to the reference set; null with the reason below the feature dimension."""
    if arm is None or reference is None or not len(arm.features) or not len(reference.features):
        return {key: {"value": None, "n": 0, "reason": NO_FEATURES} for key in SET_KEYS}
    found = set_entries(arm, reference, ddof=STYLEGANV.ddof, reporting=reporting)
    return {key: found[key] for key in SET_KEYS}


def set_gaps(
    arm: FeatureSet | None, truth: FeatureSet | None, reference: FeatureSet | None, reporting: Reporting
) -> dict[str, Entry]:
    """``fvd`` and ``kvd`` of an arm less those of the ground-truth arm, over the clips that all three sets have.

    ``ci95`` resamples clips, the same ones in all three: the difference varies less than either distance.
    """
    empty = [one for one in (arm, truth, reference) if one is None or not len(one.features)]
    if empty or arm is None or truth is None or reference is None:
        return {key: {"value": None, "n": 0, "reason": NO_FEATURES} for key in SET_KEYS}
    shared = np.intersect1d(np.intersect1d(arm.numbers, truth.numbers), reference.numbers)
    x, r = _only(arm, shared), _only(reference, shared)
    t = r if truth is reference else _only(truth, shared)
    n, dims = min(len(one.features) for one in (x, t, r)), r.features.shape[1]
    entries: dict[str, Entry] = {key: {"value": None, "n": n, "n_clips": len(shared)} for key in SET_KEYS}
    if len(shared) < 3:
        few = f"{len(shared)} clips in all of the arm, the ground truth's and the reference: at least 3 are needed"
        return {key: entry | {"reason": few} for key, entry in entries.items()}
    counts = np.random.default_rng(reporting.seed).multinomial(
        len(shared), np.full(len(shared), 1.0 / len(shared)), size=reporting.resamples
    )
    entries["kvd"] |= _kernel_gap(x, t, r, counts)
    reason = small_reason(len(shared), dims, n)
    if reason and not reporting.allow_small_n:
        entries["fvd"]["reason"] = reason
    else:
        entries["fvd"] |= _frechet_gap(x, t, r, counts[: reporting.resamples // _FRECHET_SHARE])
    return entries


def _kernel_gap(x: FeatureSet, t: FeatureSet, r: FeatureSet, counts: np.ndarray) -> Entry:
    of_arm, of_truth = KernelSums.of(x, r), KernelSums.of(t, r)
    once = np.ones((1, x.num_clips))

    def difference(weights: np.ndarray) -> np.ndarray:
        if t is r:
            return of_arm.distances(weights, weights)
        return of_arm.distances(weights, weights) - of_truth.distances(weights, weights)

    entry: Entry = {"value": float(difference(once)[0])}
    if len(counts) > 1:
        entry["ci95"] = [float(end) for end in np.nanquantile(difference(counts.astype(np.float64)), _COVERED)]
    return entry


def _frechet_gap(x: FeatureSet, t: FeatureSet, r: FeatureSet, counts: np.ndarray) -> Entry:
    def distance(one: FeatureSet, weights: np.ndarray) -> float:
        fitted = (
            moments(
                part.features, ddof=STYLEGANV.ddof, weights=torch.from_numpy(part.window_counts(weights.astype(float)))
            )
            for part in (one, r)
        )
        return frechet_of_moments(*fitted)

    def difference(weights: np.ndarray) -> float:
        # Without real videos the reference is the ground-truth arm, whose distance to itself is nothing.
        return distance(x, weights) - (0.0 if t is r else distance(t, weights))

    value = difference(np.ones(x.num_clips))
    drawn = np.array([difference(weights) for weights in counts if np.count_nonzero(weights) > 1])
    if len(drawn) < 2:
        return {"value": value}
    # Repeated clips make distances too large: their spread is laid around the value, as bootstrap_frechet does.
    return {"value": value, "ci95": [float(end) for end in np.quantile(drawn, _COVERED) - drawn.mean() + value]}


def feature_set(windows: Windows | None, clips: Sequence[str]) -> FeatureSet | None:
    """The windows of an arm with numbers that a clip has in every arm; None without any."""
    if windows is None or not len(windows.owners):
        return None
    numbers = np.array([_number(clips[owner]) for owner in windows.owners])
    return FeatureSet(torch.from_numpy(windows.features), numbers)


class Looking:
    """The windows of an arm, clip by clip.

    Args:
        looker: Looks at them; None: nobody does.

    Attributes:
        why_not: Why the arm has no windows: what was wrong with a clip; empty where nothing was.
    """

    def __init__(self, looker: WindowLooker | None) -> None:
        self.why_not = ""
        self._looker = looker
        self._features: list[np.ndarray] = []
        self._owners: list[int] = []

    def add(self, row: int, clip: ArmClip) -> None:
        """Look at the clip of this position; after one that cannot be looked at the arm has no windows."""
        if self._looker is None or self.why_not:
            return
        try:
            features = self._looker([clip]).features
        except DataError as error:
            self.why_not = str(error)
            return
        self._features.append(features)
        self._owners += [row] * len(features)

    def windows(self) -> Windows | None:
        """The windows of all clips; None where nobody looked or could look."""
        if self._looker is None or self.why_not:
            return None
        seen = [features for features in self._features if len(features)]
        features = np.concatenate(seen) if seen else np.zeros((0, 0), np.float32)
        return Windows(features, np.array(self._owners, dtype=np.int64))


def merge_windows(parts: Sequence[tuple[Windows | None, int]]) -> Windows | None:
    """Windows of some clips of several parts, in the order of the clips; None where no part has any.

    Args:
        parts: For each clip of the merged arm the windows of its part and its row in that part.
    """
    rows, owners = [], []
    for number, (windows, row) in enumerate(parts):
        if windows is None:
            continue
        chosen = windows.features[windows.owners == row]
        rows.append(chosen)
        owners += [number] * len(chosen)
    return Windows(np.concatenate(rows), np.array(owners, dtype=np.int64)) if owners else None


def _only(features: FeatureSet, numbers: np.ndarray) -> FeatureSet:
    return features.of_clips(np.flatnonzero(np.isin(features.numbers, numbers)))


def _number(name: str) -> int:
    """A number that a clip of this name has in every arm and on every rank."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "backslashreplace"), digest_size=8).digest(), "big") >> 2
