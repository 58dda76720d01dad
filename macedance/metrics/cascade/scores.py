"""What was measured of the arms of a cascade comparison, and the result that is made of it.

An arm is one way to drive the renderer; all arms have the same clips, music, reference images and seed, so that what
differs between them is what drove them. Shapes: n clips of an arm, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from macedance.errors import DataError
from macedance.metrics.animation.video_sets import Reporting
from macedance.metrics.cascade.differences import GATES, Gate, gap_entry
from macedance.metrics.cascade.sets import (
    SET_KEYS,
    Windows,
    feature_set,
    merge_windows,
    set_distances,
    set_gaps,
)
from macedance.metrics.protocol_result import PerClip, ProtocolResult
from macedance.metrics.statistics import MEAN_RESAMPLES, Entry, bootstrap_mean

#: Driven by the reference's motion: what all other arms are compared with.
GROUND_TRUTH = "ground_truth"
#: Driven by the keypoints of the true video: what the way from video to 3-D motion and back costs.
VIDEO_KEYPOINTS = "video_keypoints"
#: Driven by the generated motion: the cascade.
GENERATED = "generated"
#: The true video itself, which nobody rendered.
REAL = "real"
#: How far a clip's driving motion is from the true one; the true one has none.
DISTANCE = "motion_distance"
#: Presets of differences are named after their arm.
GAP_PREFIX = "gap_"


@dataclass(frozen=True)
class ArmScores:
    """The values of the clips of one arm, of one rank or of all.

    Args:
        arm: Name of the arm.
        clips: Names of the clips that were rendered and judged.
        values: Key -> (n,) values, NaN where a clip has none.
        reasons: Key -> why no clip can have a value, or why some may have none.
        left_out: Clip -> why it is not in this arm.
        absent: Why the whole arm is missing; empty where it is not.
        motion_features: (n, D) features of the driving motions, unstandardised; rows of NaN where there are none.
        windows: Features of windows of the videos; None where no network looked at them.
    """

    arm: str
    clips: tuple[str, ...] = ()
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    absent: str = ""
    motion_features: np.ndarray | None = None
    windows: Windows | None = None

    def of(self, key: str, clips: Sequence[str]) -> np.ndarray:
        """Values of a key for these clips, NaN for a clip that this arm does not have."""
        known = dict(zip(self.clips, self.values.get(key, np.full(len(self.clips), np.nan)), strict=True))
        return np.array([known.get(clip, np.nan) for clip in clips], dtype=np.float64)


def merge_scores(parts: Sequence[ArmScores]) -> ArmScores:
    """The scores of one arm from those of several ranks; a clip that two ranks have counts once.

    Raises:
        DataError: Parts of different arms, or none.
    """
    names = sorted({part.arm for part in parts})
    if len(names) != 1:
        raise DataError(f"scores of the arms {', '.join(names) or '(none)'}", expected="parts of one arm")
    keys = list(dict.fromkeys(key for part in parts for key in part.values))
    owner: dict[str, tuple[ArmScores, int]] = {}
    for part in parts:
        for row, clip in enumerate(part.clips):
            owner.setdefault(clip, (part, row))
    clips = tuple(sorted(owner))
    rows = [owner[clip] for clip in clips]
    values = {
        key: np.array([part.values[key][row] if key in part.values else np.nan for part, row in rows]) for key in keys
    }
    features = [part.motion_features[row] for part, row in rows if part.motion_features is not None]
    return ArmScores(
        names[0],
        clips,
        values,
        {key: reason for part in parts for key, reason in part.reasons.items()},
        {clip: reason for part in parts for clip, reason in part.left_out.items()},
        "" if clips else next((part.absent for part in parts if part.absent), ""),
        np.stack(features) if clips and len(features) == len(clips) else None,
        merge_windows([(part.windows, row) for part, row in rows]),
    )


def motion_distances(arm: ArmScores, reference: ArmScores, clips: Sequence[str]) -> np.ndarray | None:
    """How far each clip's driving motion is from the reference's: (n,) in the features of ``fid_k`` of ``clean``.

    Euclidean, per square root of a feature, standardised by the reference's motions of this comparison. None where one
    of the two arms has no motions or the reference fewer than two.
    """
    import torch

    from macedance.metrics.presets import CLEAN

    if arm.motion_features is None or reference.motion_features is None or len(reference.clips) < 2:
        return None
    known = ~np.isnan(reference.motion_features).any(axis=1)
    if known.sum() < 2:
        return None
    by = CLEAN.standardization(torch.from_numpy(reference.motion_features[known]))
    spread = [by.apply(torch.from_numpy(scores.motion_features)).numpy() for scores in (arm, reference)]  # type: ignore[arg-type]
    ours, theirs = (
        dict(zip(scores.clips, rows, strict=True)) for scores, rows in zip((arm, reference), spread, strict=True)
    )
    nothing = np.full(spread[0].shape[1], np.nan)
    differences = np.stack([ours.get(clip, nothing) - theirs.get(clip, nothing) for clip in clips])
    return np.asarray(np.linalg.norm(differences, axis=1) / math.sqrt(differences.shape[1]))


def cascade_result(
    arms: Sequence[ArmScores],
    keys: Sequence[str],
    *,
    inputs: Mapping[str, Any],
    conventions: Mapping[str, Any],
    weights: Mapping[str, str],
    gates: Sequence[Gate] = GATES,
    resamples: int = MEAN_RESAMPLES,
    seed: int = 0,
    allow_small_n: bool = False,
) -> ProtocolResult:
    """One preset for the values of each arm, and one, ``gap_<arm>``, for its differences from the ground-truth arm.

    Args:
        arms: Scores of all ranks, each arm once, the ground truth's among them.
        keys: What is reported, in this order; a key that no network could judge is null with its reason.
        inputs: What was compared; ``kind`` becomes ``cascade``.
        conventions: How it was measured; part of the hash.
        weights: Model -> sha256.
        gates: Limits that differences are judged by; of a key that is not reported none.
        resamples: Of the bootstrap; 0: no intervals.
        seed: Of the bootstrap.
        allow_small_n: Fréchet distances of fewer windows than features too.

    Raises:
        DataError: No scores of the ground-truth arm.
    """
    by_name = {scores.arm: scores for scores in arms}
    reference = by_name.get(GROUND_TRUTH)
    if reference is None or not reference.clips:
        raise DataError("no clip of the ground-truth arm", expected="at least one, with which the others are compared")
    limits = {gate.key: gate for gate in gates}
    presets: dict[str, dict[str, Entry]] = {}
    per_clip: PerClip = {}
    for scores in arms:
        presets[scores.arm] = {key: _mean(scores, key, resamples, seed) for key in keys}
        if scores.clips:
            rows = {key: scores.of(key, scores.clips) for key in keys}
            per_clip[scores.arm] = {
                key: dict(zip(scores.clips, values.tolist(), strict=True))
                for key, values in rows.items()
                if not np.isnan(values).all()
            }
    for scores in arms:
        if scores.arm == GROUND_TRUTH:
            continue
        distances = motion_distances(scores, reference, scores.clips)
        if distances is not None:
            own = {DISTANCE: distances}
            presets[scores.arm] |= {DISTANCE: _mean(replace(scores, values=own), DISTANCE, resamples, seed)}
            per_clip[scores.arm][DISTANCE] = dict(zip(scores.clips, distances.tolist(), strict=True))
        presets[f"{GAP_PREFIX}{scores.arm}"] = {
            key: _gap(scores, reference, key, limits.get(key), resamples, seed) for key in keys
        }
    _add_sets(presets, arms, Reporting(allow_small_n, resamples, 0, seed))
    left_out = {scores.arm: dict(scores.left_out) for scores in arms if scores.left_out}
    absent = {scores.arm: scores.absent for scores in arms if scores.absent}
    return ProtocolResult(
        presets,
        {},
        {**inputs, "kind": "cascade", "left_out": {**inputs.get("left_out", {}), **left_out}, "absent_arms": absent},
        {"cascade": dict(conventions)},
        dict(weights),
        per_clip,
    )


def gap_values(result: ProtocolResult, arm: str = GENERATED) -> dict[str, float]:
    """The differences of an arm from the ground truth's that have a value: key -> number, for loggers."""
    entries = result.presets.get(f"{GAP_PREFIX}{arm}", {})
    return {key: float(entry["value"]) for key, entry in entries.items() if entry["value"] is not None}


def verdicts(result: ProtocolResult, arm: str = GENERATED) -> dict[str, str | None]:
    """The verdict of each gate on an arm: gate -> passed, failed, undecided, or None where nothing was measured."""
    entries = result.presets.get(f"{GAP_PREFIX}{arm}", {}).values()
    return {entry["gate"]: entry["verdict"] for entry in entries if "gate" in entry}


def _add_sets(presets: dict[str, dict[str, Entry]], arms: Sequence[ArmScores], reporting: Reporting) -> None:
    """Distances between sets of videos and their gaps: to the true videos, else to the ground-truth arm."""
    sets = {scores.arm: feature_set(scores.windows, scores.clips) for scores in arms}
    whose = REAL if sets.get(REAL) is not None else GROUND_TRUTH
    reference, truth = sets.get(whose), sets[GROUND_TRUTH]
    for scores in arms:
        found = set_distances(sets[scores.arm], reference, reporting)
        gaps = set_gaps(sets[scores.arm], truth, reference, reporting)
        for key in SET_KEYS:
            reason = scores.absent or scores.reasons.get(key)
            for entry in (found[key], gaps[key]):
                entry.pop("floor", None)
                if entry["value"] is None and sets[scores.arm] is None and reason:
                    entry["reason"] = reason
            if reference is not None:
                found[key]["reference_set"] = gaps[key]["reference_set"] = whose
            if scores.arm == whose and reference is not None:
                found[key] |= {"value": None, "reason": "it is the set that the others are compared with"}
                found[key].pop("ci95", None)
            presets[scores.arm][key] = found[key]
            if scores.arm not in (GROUND_TRUTH, whose):
                presets[f"{GAP_PREFIX}{scores.arm}"][key] = gaps[key]


def _mean(scores: ArmScores, key: str, resamples: int, seed: int) -> Entry:
    values = scores.of(key, scores.clips)
    known = values[~np.isnan(values)]
    entry: Entry = {"value": float(known.mean()) if len(known) else None, "n": len(known)}
    if len(known) < len(values) or not len(values):
        entry["reason"] = scores.absent or scores.reasons.get(key) or "a clip has no value"
        if len(known):
            entry["n_undefined"] = len(values) - len(known)
    interval = bootstrap_mean(known, resamples=resamples, seed=seed) if resamples else None
    return entry if interval is None else entry | {"ci95": list(interval)}


def _gap(scores: ArmScores, reference: ArmScores, key: str, gate: Gate | None, resamples: int, seed: int) -> Entry:
    # A clip that this arm lacks is still a pair, which is counted as left out.
    clips = sorted({*reference.clips, *scores.clips})
    distances = motion_distances(scores, reference, clips)
    entry = gap_entry(
        scores.of(key, clips),
        reference.of(key, clips),
        distances,
        gate=gate,
        resamples=resamples,
        seed=seed,
    )
    if entry["value"] is None:
        entry["reason"] = (
            scores.absent or scores.reasons.get(key) or reference.reasons.get(key) or "no clip has a value in both arms"
        )
    return entry
