"""Intervals that cover, floors that say what they are made of, and refusals with reasons."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from synthetic import random_clips

from macedance.errors import DataError
from macedance.metrics.functional.frechet import frechet_distance, mean_pairwise_distance
from macedance.metrics.motion import MotionMetrics, evaluate_clips, per_clip_values
from macedance.metrics.presets import CLEAN, MACE2D
from macedance.metrics.statistics import (
    bootstrap_diversity,
    bootstrap_frechet,
    bootstrap_mean,
    paired_difference,
    reference_floor,
)


def features(n: int, dims: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, dims)))


def test_intervals_of_means_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_mean(rng.exponential(size=60), resamples=300, seed=trial) or (0, 0)
        covered += low <= 1.0 <= high
    assert 0.86 <= covered / 200 <= 0.99


def test_intervals_of_means_know_missing_values_and_feet() -> None:
    values = np.random.default_rng(1).standard_normal(50)
    with_gaps = np.concatenate([values, np.full(20, np.nan)])
    assert bootstrap_mean(with_gaps) == bootstrap_mean(values)
    feet = np.stack([values, values + 4.0], axis=1)
    feet[::2, 1] = np.nan
    low, high = bootstrap_mean(feet) or (0, 0)
    assert low < np.nanmean(feet, axis=0).mean() < high
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values)
    assert bootstrap_mean(np.array([1.0])) is None
    assert bootstrap_mean(np.full(5, np.nan)) is None


def test_frechet_intervals_lie_around_the_value_and_shrink_with_n() -> None:
    widths = []
    for n in (40, 400):
        x, y = features(n, 8, 0) + 0.5, features(n, 8, 1)
        value = frechet_distance(x, y)
        low, high = bootstrap_frechet(x, y, value, resamples=60)
        assert low < value < high
        assert bootstrap_frechet(x, y, value, resamples=60) == (low, high)
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_diversity_intervals_cover_other_draws() -> None:
    x = features(80, 6, 0)
    low, high = bootstrap_diversity(x, mean_pairwise_distance(x)) or (0, 0)
    others = [mean_pairwise_distance(features(80, 6, seed)) for seed in range(1, 21)]
    assert low < mean_pairwise_distance(x) < high
    assert sum(low < other < high for other in others) >= 15
    assert bootstrap_diversity(x[:2], 1.0) is None


def test_floor_takes_sets_of_n_or_halves_or_says_why_not() -> None:
    reference = features(100, 10, 0)
    floor = reference_floor(reference, 50, CLEAN)
    assert (floor["n"], floor["n_reference"], floor["draws"]) == (50, 100, 20)
    assert "note" not in floor
    assert floor["value"] > 0
    assert floor["sd"] > 0
    halves = reference_floor(reference, 51, CLEAN)
    assert halves["n"] == 50
    assert halves["note"] == "disjoint halves: the reference has 100 clips, not twice the 51 generated ones"
    assert halves["value"] == floor["value"]
    # Fewer clips make the same distribution look further from itself.
    assert reference_floor(reference, 15, CLEAN)["value"] > 2 * floor["value"]
    small = reference_floor(reference, 9, CLEAN)
    assert (small["value"], small["reason"]) == (
        None,
        "9 clips are fewer than the 10 features: the distance would be mostly noise",
    )
    assert reference_floor(reference, 9, CLEAN, allow_small_n=True)["value"] > 0
    assert reference_floor(reference[:3], 9, CLEAN, allow_small_n=True)["reason"] == (
        "samples of 1 clips: at least 2 are needed"
    )


def test_floor_is_that_of_two_samples_of_one_distribution() -> None:
    x, y = features(300, 10, 1), features(300, 10, 2)
    floor = reference_floor(features(600, 10, 3), 300, CLEAN)
    assert floor["value"] == pytest.approx(frechet_distance(x, y), rel=0.3)
    assert reference_floor(features(600, 10, 3), 300, CLEAN, seed=1)["value"] != floor["value"]


def test_floor_of_a_preset_with_own_statistics_has_no_mean_term() -> None:
    reference = features(60, 5, 0)
    reference[:, 0] *= 30
    first = reference_floor(reference, 30, MACE2D)["value"]
    assert first < reference_floor(reference, 30, CLEAN)["value"]


def test_metric_gives_intervals_and_floor_where_asked() -> None:
    clips, reference = random_clips(40, songs=5, frames=40), random_clips(80, seed=1, frames=40)
    values = evaluate_clips(clips, reference, resamples=100, floor_draws=5, extras=True)
    for key, entry in values.items():
        if entry["value"] is not None:
            low, high = entry["ci95"]
            assert low <= entry["value"] <= high, key
    assert values["fid_g"]["floor"]["n"] == 40
    assert values["fid_g"]["value"] > 0
    assert "fewer than the 72" in values["fid_k"]["floor"]["reason"]
    assert "ci95" not in values["fid_k"]
    assert 0.5 < values["minima_rate"]["value"] < 8
    assert values["beat_f1"]["n"] == 40
    assert values["bone_length_variation"]["value"] > 0
    assert values["floor_penetration_m_reference"]["value"] >= 0
    plain = evaluate_clips(clips, reference)
    assert not any("ci95" in entry or "floor" in entry for entry in plain.values())
    assert set(values) - set(plain) == {
        f"{key}{suffix}"
        for suffix in ("", "_reference")
        for key in (
            "beat_precision",
            "beat_coverage",
            "beat_f1",
            "minima_rate",
            "bone_length_variation",
            "floor_penetration_m",
        )
    }
    with pytest.raises(DataError, match="-1 resamples"):
        MotionMetrics(resamples=-1)


def test_shuffled_music_is_near_the_score_of_unrelated_dances() -> None:
    clips = random_clips(30, songs=10, frames=90)
    values = evaluate_clips(clips, [])
    assert values["bas"]["value"] == pytest.approx(values["bas_shuffled"]["value"], abs=0.08)


def test_paired_differences_see_what_means_cannot() -> None:
    rng = np.random.default_rng(0)
    clip = rng.standard_normal(60) * 10  # clips differ far more from each other than the two arms
    second = clip + rng.standard_normal(60) * 0.1
    entry = paired_difference(clip + 0.2, second)
    assert entry["ci95"][0] > 0.1
    assert entry["value"] == pytest.approx(0.2, abs=0.05)
    second[:3] = np.nan
    assert (paired_difference(clip, second)["n"], paired_difference(clip, second)["left_out"]) == (57, 3)
    assert paired_difference(np.zeros(0), np.zeros(0))["value"] is None
    with pytest.raises(DataError, match="same clips"):
        paired_difference(clip, second[1:])


def test_values_of_clips_are_those_behind_the_means() -> None:
    clips = random_clips(7, songs=3)
    values, entries = per_clip_values(clips), evaluate_clips(clips, [], extras=True)
    for key, array in values.items():
        assert len(array) == 7
        assert np.nanmean(array) == pytest.approx(entries[key]["value"]), key
    alone = per_clip_values(clips[3:4])
    for key in set(values) - {"bas_shuffled"}:
        np.testing.assert_allclose(alone[key][0], values[key][3], rtol=1e-9, err_msg=key)
