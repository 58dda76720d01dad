"""Paired differences between two arms of a comparison: how large, how sure, and whether they grow with the motion's.

Shapes: n clips that both arms have; NaN where one has no value.

Sources: percentile bootstrap over clips, Efron (1979); Student's t for few of them; signed ranks, Wilcoxon (1945).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from macedance.errors import ConfigError
from macedance.metrics.statistics import MEAN_RESAMPLES, Entry, Interval, paired_difference

#: Below this number of pairs no order of signed ranks is rarer than 5%.
MIN_WILCOXON_PAIRS = 6
MIN_REGRESSION_PAIRS = 4
#: Below this number of pairs intervals are Student's: of normal differences the percentile bootstrap's 95% cover .51 at
#: two pairs, .71 at three, .84 at five and .89 at eight. Nor does a gate pass or fail.
MIN_GATE_PAIRS = 10
#: Nor does it where more than this share of the pairs has no value: those that fell out may be the worst.
MOST_LEFT_OUT = 0.1
_COVERED = (0.025, 0.975)

Verdict = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True)
class Gate:
    """What a difference must not fall below, or not exceed.

    Args:
        key: The value whose difference is judged.
        limit: In the unit of the value.
        higher_is_better: Whether the difference must stay above the limit, or below it.
    """

    key: str
    limit: float
    higher_is_better: bool = True

    def verdict(self, entry: Entry) -> Verdict | None:
        """By the 95% interval: passed or failed where it lies on one side of the limit, else undecided.

        None without a value; without an interval (one pair, or none asked for) the value itself is never enough. Nor
        are few pairs, or those that are left of many: see ``undecided_because``.
        """
        if entry.get("value") is None:
            return None
        if undecided_because(entry):
            return "undecided"
        low, high = entry.get("ci95") or (-np.inf, np.inf)
        if not self.higher_is_better:
            low, high = -high, -low
        limit = self.limit if self.higher_is_better else -self.limit
        if low > limit:
            return "passed"
        return "failed" if high <= limit else "undecided"

    def described(self) -> str:
        """The gate as a reader sees it."""
        return f"{self.key} {'>' if self.higher_is_better else '<'} {self.limit:+g}"


def undecided_because(entry: Entry) -> str:
    """Why no gate can be judged by this difference, wherever its interval lies; empty where one can."""
    n, lost = int(entry.get("n", 0)), int(entry.get("left_out", 0))
    if n < MIN_GATE_PAIRS:
        return f"{n} pairs: a gate is judged by {MIN_GATE_PAIRS} or more"
    if lost > MOST_LEFT_OUT * (n + lost):
        return f"{lost} of {n + lost} pairs have no value: a gate is judged where at most {MOST_LEFT_OUT:.0%} have none"
    return ""


#: Defaults: two hundredths of a cosine, two points of keypoints, a tenth of the contacts.
GATES: tuple[Gate, ...] = (
    Gate("face_similarity", -0.02),
    Gate("person_identity", -0.02),
    Gate("pck_10", -0.02),
    Gate("contact_error", 0.10, higher_is_better=False),
)


def parse_gate(text: str) -> Gate:
    """A gate from ``key>limit`` or ``key<limit``.

    Raises:
        ConfigError: Another text.
    """
    for sign, higher in ((">", True), ("<", False)):
        key, found, limit = text.partition(sign)
        if found:
            try:
                return Gate(key.strip(), float(limit), higher)
            except ValueError:
                break
    raise ConfigError(f"the gate {text!r}", expected="KEY>LIMIT or KEY<LIMIT, for example 'pck_10>-0.02'")


def gap_entry(
    arm_n: np.ndarray,
    reference_n: np.ndarray,
    distance_n: np.ndarray | None = None,
    *,
    gate: Gate | None = None,
    resamples: int = MEAN_RESAMPLES,
    seed: int = 0,
) -> Entry:
    """The mean of arm - reference over pairs of clips, and what is known about it.

    Args:
        arm_n: Values of the clips under one arm.
        reference_n: Values of the same clips under the arm that it is compared with.
        distance_n: How far each clip's driving motion is from the reference's; None: no regression.
        gate: What the difference is judged by.
        resamples: Of the bootstrap; 0: no intervals.
        seed: Of the bootstrap.

    Returns:
        ``value``, ``n``, ``ci95`` (below ten pairs Student's, which ``interval`` then says), ``wilcoxon_p`` (two-sided;
        None with a ``wilcoxon_reason``), ``regression`` of the difference on the distance, ``gate`` and ``verdict``
        (with a ``verdict_reason`` where pairs are too few); pairs without a value are ``left_out``.
    """
    entry = paired_difference(arm_n, reference_n, resamples=resamples, seed=seed)
    difference = np.asarray(arm_n, dtype=np.float64) - np.asarray(reference_n, dtype=np.float64)
    if entry["value"] is None:
        entry["reason"] = "no clip has a value in both arms"
    else:
        if "ci95" in entry and entry["n"] < MIN_GATE_PAIRS:
            entry |= {"ci95": list(student_interval(difference)), "interval": "Student's t"}
        entry |= signed_ranks(difference)
        if distance_n is not None:
            entry["regression"] = regression(distance_n, difference, resamples=resamples, seed=seed)
    if gate is not None:
        entry |= {"gate": gate.described(), "verdict": gate.verdict(entry)}
        if entry["value"] is not None and (reason := undecided_because(entry)):
            entry["verdict_reason"] = reason
    return entry


def student_interval(difference_n: np.ndarray) -> Interval:
    """95% interval of the mean of at least two paired differences (n,), as of normal ones; NaN is a missing value."""
    from scipy.stats import t

    present = difference_n[~np.isnan(difference_n)]
    n = len(present)
    half = float(t.ppf(_COVERED[1], n - 1)) * float(present.std(ddof=1)) / n**0.5
    return float(present.mean()) - half, float(present.mean()) + half


def signed_ranks(difference_n: np.ndarray) -> Entry:
    """``wilcoxon_p`` of paired differences (n,): two-sided, zero differences kept in the ranks (Pratt 1959)."""
    from scipy.stats import wilcoxon

    present = difference_n[~np.isnan(difference_n)]
    if len(present) < MIN_WILCOXON_PAIRS:
        reason = f"{len(present)} pairs: from {MIN_WILCOXON_PAIRS} on a difference can be significant"
        return {"wilcoxon_p": None, "wilcoxon_reason": reason}
    if not present.any():
        return {"wilcoxon_p": 1.0}
    return {"wilcoxon_p": float(wilcoxon(present, zero_method="pratt").pvalue)}


def regression(
    distance_n: np.ndarray, difference_n: np.ndarray, *, resamples: int = MEAN_RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Least-squares line of the differences (n,) over the motions' distances (n,): does odd motion explain the drop.

    Returns:
        ``slope``, ``intercept``, ``r`` (Pearson), ``n``, ``slope_ci95`` by resampling clips; only ``n`` and a
        ``reason`` where there is no line.
    """
    x, y = np.asarray(distance_n, dtype=np.float64), np.asarray(difference_n, dtype=np.float64)
    present = ~(np.isnan(x) | np.isnan(y))
    x, y = x[present], y[present]
    n = len(x)
    if n < MIN_REGRESSION_PAIRS or np.ptp(x) < 1e-9:
        what = f"{n} pairs, at least {MIN_REGRESSION_PAIRS} are needed" if n < MIN_REGRESSION_PAIRS else "equal motions"
        return {"n": n, "reason": what}
    slope, intercept = _line(x, y, np.ones((1, n)))
    result: dict[str, Any] = {"slope": float(slope[0]), "intercept": float(intercept[0]), "n": n, "r": None}
    if np.ptp(y) > 0:
        result["r"] = float(np.corrcoef(x, y)[0, 1])
    if resamples:
        weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=resamples).astype(np.float64)
        slopes = _line(x, y, weights)[0]
        result["slope_ci95"] = [float(end) for end in np.nanquantile(slopes, _COVERED)]
    return result


def _line(x: np.ndarray, y: np.ndarray, weights_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and intercepts (R,) of weighted least squares; NaN where a resample holds one clip only."""
    total = weights_RN.sum(axis=1)
    mean_x, mean_y = weights_RN @ x / total, weights_RN @ y / total
    covariance = weights_RN @ (x * y) / total - mean_x * mean_y
    variance = weights_RN @ (x * x) / total - mean_x**2
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(variance > 1e-12 * max(float(np.var(x)), 1e-300), covariance / variance, np.nan)
    return slope, mean_y - slope * mean_x
