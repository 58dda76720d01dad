from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import linregress, sem, t

from macedance.errors import ConfigError, DataError
from macedance.metrics.animation.video_sets import Reporting
from macedance.metrics.cascade import ArmScores, Gate, gap_entry, gap_values, merge_scores, parse_gate, verdicts
from macedance.metrics.cascade.differences import regression, signed_ranks
from macedance.metrics.cascade.scores import GENERATED, GROUND_TRUTH, cascade_result, motion_distances
from macedance.metrics.cascade.sets import set_gaps
from macedance.metrics.functional.video_frechet import FeatureSet
from macedance.metrics.presets import CLEAN


def result_of(*arms: ArmScores, keys: tuple[str, ...] = ("pck_10",), **options: object):  # type: ignore[no-untyped-def]
    return cascade_result(arms, keys, inputs={}, conventions={}, weights={}, resamples=200, **options)  # type: ignore[arg-type]


def scores(arm: str, values: dict[str, float], **options: object) -> ArmScores:
    return ArmScores(arm, tuple(values), {"pck_10": np.array(list(values.values()))}, **options)  # type: ignore[arg-type]


def test_a_gap_is_the_mean_of_paired_differences_and_says_how_sure_it_is() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.2, 0.9, 40)
    arm = truth - 0.1 + rng.normal(0, 0.02, 40)
    entry = gap_entry(arm, truth, resamples=500)
    low, high = entry["ci95"]
    assert entry["value"] == pytest.approx(float((arm - truth).mean()))
    assert low < -0.1 < high
    # The spread between clips is 0.2, that of the differences a tenth of it: pairing is what finds the gap.
    assert high - low < 0.02
    assert entry["wilcoxon_p"] < 1e-6
    assert entry["n"] == 40
    assert gap_entry(arm, truth, resamples=0).get("ci95") is None


def test_clips_without_a_value_in_both_arms_are_counted_and_not_averaged() -> None:
    entry = gap_entry(np.array([0.5, np.nan, 0.7]), np.array([0.4, 0.3, np.nan]), resamples=50)
    assert (entry["value"], entry["n"], entry["left_out"]) == (pytest.approx(0.1), 1, 2)
    nothing = gap_entry(np.array([np.nan]), np.array([1.0]), resamples=50, gate=Gate("x", 0.0))
    assert (nothing["value"], nothing["verdict"]) == (None, None)
    assert "no clip" in nothing["reason"]
    with pytest.raises(DataError, match="same clips"):
        gap_entry(np.zeros(2), np.zeros(3))


def test_signed_ranks_know_few_pairs_and_equal_arms() -> None:
    assert signed_ranks(np.full(5, 1.0))["wilcoxon_p"] is None
    assert signed_ranks(np.zeros(9)) == {"wilcoxon_p": 1.0}
    # Six differences of one sign: the rarest order, 2 / 2^6.
    assert signed_ranks(np.arange(1.0, 7.0))["wilcoxon_p"] == pytest.approx(2 / 2**6)


def test_the_regression_is_that_of_least_squares_and_its_interval_covers_the_slope() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 3, 60)
    y = -0.2 * x + 0.05 + rng.normal(0, 0.05, 60)
    found, known = regression(x, y, resamples=500), linregress(x, y)
    assert found["slope"] == pytest.approx(known.slope)
    assert found["intercept"] == pytest.approx(known.intercept)
    assert found["r"] == pytest.approx(known.rvalue)
    assert found["slope_ci95"][0] < -0.2 < found["slope_ci95"][1] < 0
    assert "reason" in regression(np.ones(9), y[:9])
    assert "reason" in regression(x[:3], y[:3])
    assert regression(x[:9], np.zeros(9))["r"] is None
    assert regression(np.append(x, np.nan), np.append(y, 0.0), resamples=0)["n"] == 60


@pytest.mark.parametrize(
    ("shift", "higher", "verdict"),
    [(0.0, True, "passed"), (-0.02, True, "undecided"), (-0.06, True, "failed"), (0.06, False, "failed"),
     (0.0, False, "passed")],
)  # fmt: skip
def test_a_gate_is_judged_by_the_whole_interval(shift: float, higher: bool, verdict: str) -> None:
    difference = shift + np.random.default_rng(2).normal(0, 0.02, 30)
    difference += shift - difference.mean()
    gate = Gate("pck_10", -0.02 if higher else 0.02, higher)
    assert gap_entry(difference, np.zeros(30), gate=gate)["verdict"] == verdict
    # Whatever the value, few clips are never enough, nor those that are left where many have none.
    for few in (1, 2, 9):
        entry = gap_entry(shift + np.zeros(few), np.zeros(few), gate=gate)
        assert entry["verdict"] == "undecided"
        assert entry["verdict_reason"].startswith(f"{few} pairs")
    assert gap_entry(difference[:10] - difference[:10].mean() + shift * 9, np.zeros(10), gate=gate)["verdict"] != (
        "undecided" if shift in (0.0, 0.06) else "passed"
    )
    holes = np.full(200, np.nan)
    holes[:30] = shift
    entry = gap_entry(holes, np.zeros(200), gate=gate)
    assert (entry["verdict"], entry["verdict_reason"][:16]) == ("undecided", "170 of 200 pairs")
    holes[:180] = 1.0 if higher else -1.0
    assert gap_entry(holes, np.zeros(200), gate=gate)["verdict"] == "passed"


def test_of_few_pairs_the_interval_is_student_s() -> None:
    rng = np.random.default_rng(4)
    for n in (2, 3, 5, 9):
        # 95% of such intervals have the true mean, 0, in them; of the bootstrap's .51 to .89.
        drawn = [gap_entry(rng.normal(size=n), np.zeros(n), resamples=2)["ci95"] for _ in range(600)]
        covered = np.mean([low <= 0 <= high for low, high in drawn])
        assert 0.93 < covered < 0.97, n
    difference = rng.normal(size=7)
    found = gap_entry(difference, np.zeros(7))
    known = t.interval(0.95, 6, loc=difference.mean(), scale=sem(difference))
    assert found["ci95"] == pytest.approx(list(known))
    assert found["interval"] == "Student's t"
    assert "interval" not in gap_entry(rng.normal(size=10), np.zeros(10))
    assert "ci95" not in gap_entry(difference, np.zeros(7), resamples=0)


def test_sets_without_a_clip_in_common_have_no_gap_and_say_so() -> None:
    """The real videos are of other clips than those that the arm has windows of."""
    rng = np.random.default_rng(5)
    sets = [FeatureSet(torch.from_numpy(rng.normal(size=(4, 2))), np.arange(4) + 10 * k) for k in range(3)]
    gaps = set_gaps(*sets, Reporting())
    assert gaps["fvd"]["value"] is gaps["kvd"]["value"] is None
    assert "0 clips in all" in gaps["fvd"]["reason"]


def test_gates_are_read_from_text() -> None:
    assert parse_gate("pck_10 > -0.05") == Gate("pck_10", -0.05)
    assert parse_gate("contact_error<0.2") == Gate("contact_error", 0.2, higher_is_better=False)
    for text in ("pck_10", "pck_10>much", "pck_10>=0.1"):
        with pytest.raises(ConfigError, match="KEY>LIMIT"):
            parse_gate(text)


def test_arms_become_presets_with_gaps_reasons_and_verdicts() -> None:
    truth = scores(GROUND_TRUTH, {"a": 0.9, "b": 0.8, "c": 0.7})
    worse = scores(GENERATED, {"a": 0.8, "b": 0.7}, left_out={"c": "no motion"})
    absent = ArmScores("video_keypoints", absent="no depth")
    result = result_of(truth, worse, absent, keys=("pck_10", "oks"), gates=(Gate("pck_10", -0.02),))
    assert list(result.presets) == [GROUND_TRUTH, GENERATED, "video_keypoints", "gap_generated", "gap_video_keypoints"]
    assert result.presets[GENERATED]["pck_10"]["value"] == pytest.approx(0.75)
    gap = result.presets["gap_generated"]["pck_10"]
    assert (gap["value"], gap["n"], gap["left_out"]) == (pytest.approx(-0.1), 2, 1)
    assert result.presets["video_keypoints"]["pck_10"] == {"value": None, "n": 0, "reason": "no depth"}
    assert result.presets["gap_video_keypoints"]["pck_10"]["reason"] == "no depth"
    assert result.presets[GENERATED]["oks"]["value"] is None
    assert result.inputs["kind"] == "cascade"
    assert result.inputs["left_out"] == {GENERATED: {"c": "no motion"}}
    assert result.inputs["absent_arms"] == {"video_keypoints": "no depth"}
    assert result.per_clip[GENERATED]["pck_10"] == {"a": 0.8, "b": 0.7}
    assert gap_values(result) == {"pck_10": pytest.approx(-0.1)}
    assert verdicts(result) == {"pck_10 > -0.02": "undecided"}
    with pytest.raises(DataError, match="ground-truth"):
        result_of(worse)


def test_shares_of_ranks_make_the_scores_of_one_process() -> None:
    features = np.random.default_rng(0).normal(size=(4, 3))
    whole = scores(GENERATED, {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}, motion_features=features)
    parts = [
        scores(GENERATED, {"c": 0.3, "d": 0.4}, motion_features=features[2:]),
        ArmScores(GENERATED, absent="no clips"),
        # A clip that a sampler padded this rank with comes twice and counts once.
        scores(GENERATED, {"a": 0.1, "b": 0.2, "d": 9.9}, motion_features=features[[0, 1, 3]]),
    ]
    merged = merge_scores(parts)
    assert merged.clips == whole.clips
    assert merged.absent == ""
    np.testing.assert_array_equal(merged.values["pck_10"], whole.values["pck_10"])
    np.testing.assert_array_equal(merged.motion_features, features)
    nobody = merge_scores([ArmScores("x", absent="no depth"), ArmScores("x", absent="no depth")])
    assert (nobody.absent, nobody.clips) == ("no depth", ())
    with pytest.raises(DataError, match="arms"):
        merge_scores([whole, ArmScores("other")])


def test_motion_distance_is_measured_in_standardised_features_and_zero_for_the_truth() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(5, CLEAN.kinetic_dims)) * np.arange(1, CLEAN.kinetic_dims + 1)
    names = tuple("abcde")
    truth = ArmScores(GROUND_TRUTH, names, motion_features=features)
    assert motion_distances(truth, truth, names) == pytest.approx(np.zeros(5))
    moved = ArmScores(GENERATED, names, motion_features=features + features.std(axis=0, ddof=1))
    np.testing.assert_allclose(motion_distances(moved, truth, names), np.ones(5), rtol=1e-6)  # type: ignore[arg-type]
    assert math.isnan(motion_distances(moved, truth, ["a", "nobody"])[1])  # type: ignore[index]
    assert motion_distances(ArmScores("real", names), truth, names) is None
