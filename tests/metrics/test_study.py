"""Raters' answers: win rates with honest intervals, agreement, and the metrics that follow raters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, spearmanr

from macedance.metrics.study import (
    EDMG_QUESTIONS,
    MACE_QUESTIONS,
    QUESTION_SETS,
    Answer,
    correlation_with_metric,
    krippendorff_alpha,
    left_share,
    preferences,
    self_agreement,
    wilson_interval,
    win_rates,
)


def answers(table: dict[str, str], question: str = "ds", **options: Any) -> list[Answer]:
    """Rater -> one letter a clip: a, b or t for a tie."""
    kinds = {"a": "a", "b": "b", "t": "tie"}
    return [
        Answer(rater, f"p{clip}", f"c{clip}", question, kinds[letter], "a" if clip % 2 else "b", **options)  # type: ignore[arg-type]
        for rater, letters in table.items()
        for clip, letter in enumerate(letters)
    ]


def test_the_questions_are_the_papers() -> None:
    assert [question.name for question in MACE_QUESTIONS] == [
        "Dance Synchronization", "Dance Quality", "Dance Creativity",
        "Perceptual Quality", "Temporal Consistency", "Identity Consistency",
    ]  # fmt: skip
    assert [question.key for question in EDMG_QUESTIONS] == ["gm", "rm", "div"]
    assert len({question.key for question in QUESTION_SETS["all"]}) == 9


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 200), share=st.floats(0, 1))
def test_wilson_interval_is_scipys(n: int, share: float) -> None:
    wins = round(share * n)
    expected = binomtest(wins, n).proportion_ci(method="wilson")
    assert wilson_interval(wins, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_choice_has_no_interval() -> None:
    assert wilson_interval(0, 0) is None
    entry = win_rates(answers({"r": "tt", "s": "tt"}))["ds"]
    assert (entry["value"], entry["win_rate"], entry["ties"]) == (0.5, None, 4)
    assert "win_rate_wilson95" not in entry
    assert left_share(answers({"r": "tt"}))["value"] is None


def test_ties_count_half_and_everything_is_counted() -> None:
    entry = win_rates(answers({"r": "aab", "s": "atb", "t": "aat"}))["ds"]
    assert entry["value"] == pytest.approx((5 + 1) / 9)
    assert [entry[key] for key in ("n", "raters", "clips", "wins_a", "wins_b", "ties")] == [9, 3, 3, 5, 2, 2]
    assert entry["win_rate"] == pytest.approx(5 / 7)
    low, high = entry["ci95"]
    assert low <= entry["value"] <= high
    assert "3 raters: too few" in entry["reason"]


def test_answers_of_one_rater_are_no_independent_samples() -> None:
    # Ten raters, each of one mind about twenty pairs: ten opinions, not two hundred.
    table = {f"r{i}": ("a" if i < 6 else "b") * 20 for i in range(10)}
    entry = win_rates(answers(table))["ds"]
    wilson, clustered = entry["win_rate_wilson95"], entry["ci95"]
    assert clustered[1] - clustered[0] > 3 * (wilson[1] - wilson[0])
    assert wilson[0] > 0.5
    assert clustered[0] < 0.5
    assert entry["p_value"] == pytest.approx(binomtest(6, 10).pvalue)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        taste = np.clip(rng.normal(0.6, 0.15, 24), 0, 1)
        table = {f"r{i}": "".join("a" if draw < taste[i] else "b" for draw in rng.random(12)) for i in range(24)}
        low, high = win_rates(answers(table), resamples=400, seed=trial)["ds"]["ci95"]
        covered += low <= 0.6 <= high
    assert covered >= 51  # 57 of 60 expected


def test_resampling_clips_too_widens_the_interval_where_clips_decide() -> None:
    # Everybody agrees; it depends on the pair alone.
    entry = win_rates(answers({f"r{i}": "aaaaabbb" for i in range(8)}))["ds"]
    assert entry["ci95"] == pytest.approx([0.625, 0.625])
    low, high = entry["ci95_raters_and_clips"]
    assert high - low > 0.4


def test_p_values_are_those_of_sign_flips_and_corrected_over_questions() -> None:
    strong, weak = {f"r{i}": "aaa" for i in range(8)}, {f"r{i}": "aab" if i < 5 else "bba" for i in range(8)}
    entries = win_rates([*answers(strong), *answers(weak, "dq")])
    assert entries["ds"]["p_value"] == pytest.approx(2 / 2**8)
    assert entries["ds"]["p_holm"] == pytest.approx(4 / 2**8)
    assert entries["dq"]["p_holm"] >= entries["dq"]["p_value"] > 0.5
    many = win_rates(answers({f"r{i}": "aab" for i in range(30)}))["ds"]
    assert many["p_value"] == pytest.approx(1 / 20000, abs=1e-4)


def test_same_seed_same_interval_and_order_of_answers_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    given_answers = answers({f"r{i}": "".join(rng.choice(list("aabt"), 11)) for i in range(9)})
    assert win_rates(given_answers, seed=3) == win_rates(given_answers[::-1], seed=3)
    assert win_rates(given_answers, seed=3)["ds"]["ci95"] != win_rates(given_answers, seed=4)["ds"]["ci95"]


def test_repeated_pairs_show_whether_raters_agree_with_themselves_and_count_once() -> None:
    first = answers({"r": "ab", "s": "at"})
    again = [replace(first[0], trial="x", repeat=True), replace(first[2], trial="x", choice="b", repeat=True)]
    assert self_agreement([*first, *again])["value"] == 0.5
    assert win_rates([*first, *again]) == win_rates(first)
    assert preferences([*first, *again]) == {"ds": {"c0": 1.0, "c1": 0.25}}
    assert self_agreement(first)["reason"] == "no pair was shown twice"


def test_krippendorffs_own_example() -> None:
    table = {"A": "babbbbbbab", "B": "aaabbabbbb"}
    assert krippendorff_alpha(answers(table)) == pytest.approx(0.095, abs=5e-4)
    assert krippendorff_alpha(answers({"A": "ab", "B": "ab"})) == 1.0
    assert krippendorff_alpha(answers({"A": "ab"})) is None
    assert krippendorff_alpha(answers({"A": "aa", "B": "aa"})) is None


def test_who_always_chooses_one_side_is_seen() -> None:
    sided = [replace(answer, choice=answer.left) for answer in answers({"r": "aaaaaaaa"})]
    assert left_share(sided)["value"] == 1.0
    assert left_share(answers({"r": "aaaaaaaa"}))["value"] == 0.5


def test_correlation_is_spearmans_and_agreement_knows_which_way_is_better() -> None:
    rng = np.random.default_rng(1)
    liked = {f"c{i}": float(value) for i, value in enumerate(rng.integers(0, 7, 30) / 6)}
    a = {name: value + rng.normal(0, 0.3) for name, value in liked.items()}
    b = dict.fromkeys(liked, 0.5)
    entry = correlation_with_metric(liked, a, b, better=1)
    expected = spearmanr([a[name] - b[name] for name in liked], list(liked.values())).statistic
    assert entry["value"] == pytest.approx(expected)
    assert entry["ci95"][0] < expected < entry["ci95"][1]
    assert entry["agreement"] > 0.6
    worse = correlation_with_metric(liked, a, b, better=-1)
    assert worse["agreement"] == pytest.approx(1 - entry["agreement"])
    assert "agreement" not in correlation_with_metric(liked, a, b)
    assert entry["n"] == 30


def test_clips_without_a_value_are_counted_and_too_few_are_refused() -> None:
    liked = {f"c{i}": i / 5 for i in range(6)}
    a = {f"c{i}": float(i) for i in range(5)} | {"c0": float("nan")}
    entry = correlation_with_metric(liked, a, dict.fromkeys(liked, 0.0), resamples=0)
    assert (entry["n"], entry["left_out"], entry["value"]) == (4, 2, pytest.approx(1.0))
    assert "ci95" not in entry
    few = correlation_with_metric({"c0": 1.0}, {"c0": 1.0}, {"c0": 0.0})
    assert (few["value"], few["reason"]) == (None, "1 clips have both: at least 4 are needed")
    same = correlation_with_metric(liked, dict.fromkeys(liked, 1.0), dict.fromkeys(liked, 0.0))
    assert same["reason"] == "the metric's difference is the same on every clip"
