"""Distances between sets of videos, their bias, their intervals and their floors."""

from __future__ import annotations

import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from macedance.errors import DataError
from macedance.metrics.animation.video_sets import (
    Reporting,
    bootstrap_frechet,
    equal_sizes,
    reference_floors,
    set_entries,
)
from macedance.metrics.functional import video_frechet
from macedance.metrics.functional.video_frechet import (
    FeatureSet,
    KernelSums,
    extrapolated_frechet,
    frechet,
    frechet_of_moments,
    infinity_needs,
    kernel_distance,
    moments,
    moments_of_sums,
)

QUICK = Reporting(resamples=100, floor_draws=5)


def drawn(n: int, dims: int, *, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dims, generator=generator, dtype=torch.float64) * scale + shift


def of_clips(features: Tensor, *, per_clip: int = 1, first: int = 0) -> FeatureSet:
    return FeatureSet(features, first + np.arange(len(features)) // per_clip)


@pytest.mark.parametrize("ddof", [0, 1])
def test_frechet_equals_the_matrix_square_root(ddof: int) -> None:
    x, y = drawn(60, 6, seed=0), drawn(50, 6, seed=1, shift=0.4, scale=1.5) @ drawn(6, 6, seed=2)
    c_x, c_y = (np.cov(f.numpy(), rowvar=False, ddof=ddof) for f in (x, y))
    mean = ((x.mean(0) - y.mean(0)) ** 2).sum()
    expected = float(mean) + np.trace(c_x + c_y - 2 * sqrtm(c_x @ c_y)).real
    assert frechet(x, y, ddof=ddof) == pytest.approx(expected, rel=1e-9)
    assert frechet(x, x, ddof=ddof) == pytest.approx(0.0, abs=1e-12)


def test_frechet_of_singular_sets_is_real() -> None:
    x, y = drawn(4, 10, seed=3), drawn(5, 10, seed=4, shift=1.0)
    assert np.isfinite(frechet(x, y))
    assert frechet(x, y) > 0


def test_streamed_sums_give_the_same_moments() -> None:
    x = drawn(700, 12, seed=5, shift=30.0)
    total, outer, n = torch.zeros(12, dtype=torch.float64), torch.zeros(12, 12, dtype=torch.float64), 0
    for part in x.split(64):
        total, outer, n = total + part.sum(0), outer + part.T @ part, n + len(part)
    streamed, whole = moments_of_sums(n, total, outer), moments(x)
    torch.testing.assert_close(streamed.covariance, whole.covariance, rtol=1e-9, atol=1e-10)
    assert frechet_of_moments(streamed, whole) == pytest.approx(0.0, abs=1e-9)


def test_weighted_moments_are_those_of_repeated_windows() -> None:
    x, counts = drawn(20, 3, seed=6), torch.tensor([0, 1, 2, 3] * 5)
    weighted, repeated = moments(x, weights=counts), moments(x.repeat_interleave(counts, dim=0))
    assert weighted.n == repeated.n == 30
    torch.testing.assert_close(weighted.covariance, repeated.covariance)


def naive_kernel_distance(x: FeatureSet, y: FeatureSet) -> float:
    """Pair by pair."""

    def mean(a: FeatureSet, b: FeatureSet) -> float:
        values = [
            float(u @ v / len(u) + 1) ** 3
            for u, i in zip(a.features, a.clips, strict=True)
            for v, j in zip(b.features, b.clips, strict=True)
            if i != j
        ]
        return float(np.mean(values))

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def test_kernel_distance_leaves_out_windows_of_the_same_clip() -> None:
    x = of_clips(drawn(9, 4, seed=7), per_clip=3)
    apart = of_clips(drawn(8, 4, seed=8, shift=0.5), per_clip=2, first=100)
    same = of_clips(drawn(8, 4, seed=8, shift=0.5), per_clip=2)
    for y in (apart, same):
        assert kernel_distance(x, y) == pytest.approx(naive_kernel_distance(x, y), rel=1e-10)
    assert kernel_distance(x, apart) != pytest.approx(kernel_distance(x, same), rel=1e-3)
    assert kernel_distance(x, x) == pytest.approx(0.0, abs=1e-12)


def weighted_kernel_distance(x: FeatureSet, y: FeatureSet, counts: np.ndarray) -> float:
    """All pairs at once, each as often as its clips were drawn."""

    def mean(a: FeatureSet, b: FeatureSet) -> float:
        kernel = (a.features @ b.features.T / a.features.shape[1] + 1.0).numpy() ** 3
        weights = np.outer(counts[a.clips % 100], counts[b.clips % 100]) * (a.clips[:, None] != b.clips[None])
        return float((kernel * weights).sum() / weights.sum())

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def test_kernel_sums_do_not_depend_on_portions_and_order(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    # Clips of one to five windows, in no order; both sets have clips of the same numbers.
    clips = generator.permutation(np.repeat(np.arange(12), 1 + np.arange(12) % 5))
    x = FeatureSet(drawn(len(clips), 4, seed=1), clips)
    y = FeatureSet(drawn(len(clips), 4, seed=2, shift=0.3), generator.permutation(clips))
    counts = generator.multinomial(12, np.full(12, 1 / 12), size=6).astype(np.float64)
    expected = [weighted_kernel_distance(x, y, row) for row in counts]
    for size in (1, 8 * len(clips) * 7, 2**26):
        monkeypatch.setattr(video_frechet, "_PORTION_BYTES", size)
        np.testing.assert_allclose(KernelSums.of(x, y).distances(counts, counts), expected, rtol=1e-10)
    np.testing.assert_array_equal(x.window_counts(counts[0]), counts[0][clips])


def test_kernel_distance_and_floors_of_many_clips_need_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of 3000 x 3000 windows is 72 MB."""
    monkeypatch.setattr(video_frechet, "_PORTION_BYTES", 2**20)
    x, y = of_clips(drawn(3000, 2, seed=0)), of_clips(drawn(3000, 2, seed=1), first=10_000)
    tracemalloc.start()
    try:
        kernel_distance(x, y)
        bootstrap_frechet(x, y, 1.0, ddof=1, reporting=Reporting(resamples=10))
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_floors_hold_one_draw_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[FeatureSet]] = []
    most = 0

    def counted(self: FeatureSet, positions: np.ndarray) -> FeatureSet:
        nonlocal most
        found = of_clips_of(self, positions)
        held.append(weakref.ref(found))
        most = max(most, sum(one() is not None for one in held))
        return found

    of_clips_of = FeatureSet.of_clips
    monkeypatch.setattr(FeatureSet, "of_clips", counted)
    floors = reference_floors(of_clips(drawn(40, 3, seed=0)), 10, ddof=1, reporting=QUICK)
    assert (len(held), floors["kvd"]["draws"]) == (10, 5)
    assert most <= 4


def test_kernel_distance_has_no_bias_where_windows_of_a_clip_are_alike() -> None:
    def clustered(seed: int) -> Tensor:
        return drawn(12, 4, seed=seed).repeat_interleave(3, dim=0) + 0.3 * drawn(36, 4, seed=seed + 1)

    by_clip, by_window = [], []
    for seed in range(0, 600, 4):
        x, y = clustered(seed), clustered(seed + 2)
        by_clip.append(kernel_distance(of_clips(x, per_clip=3), of_clips(y, per_clip=3, first=100)))
        by_window.append(kernel_distance(of_clips(x), of_clips(y, first=100)))
    error = np.std(by_clip) / np.sqrt(len(by_clip))
    assert abs(np.mean(by_clip)) < 3 * error
    assert np.mean(by_window) > 4 * error


def test_extrapolation_takes_the_bias_away() -> None:
    dims = 20
    # Truth: means 0.5 apart in each of 20 features, standard deviations 1 and 1.2.
    truth = dims * 0.5**2 + dims * 0.2**2
    plain, extrapolated = [], []
    for seed in range(0, 12, 2):
        x, y = drawn(100, dims, seed=seed, shift=0.5, scale=1.2), drawn(100, dims, seed=seed + 1)
        plain.append(frechet(x, y))
        found = extrapolated_frechet(of_clips(x), of_clips(y, first=1000), draws=5)
        assert found is not None
        assert found.shares[0] == 0.5
        assert np.all(np.diff(found.values) < 0.1)
        extrapolated.append(found.value)
    assert np.mean(plain) > truth + 1.5
    assert abs(np.mean(extrapolated) - truth) < 0.6


def test_extrapolation_needs_more_windows_than_features() -> None:
    assert infinity_needs(20) == 24
    x, y = of_clips(drawn(23, 20, seed=0)), of_clips(drawn(23, 20, seed=1), first=50)
    assert extrapolated_frechet(x, y) is None
    entry = set_entries(x, y, ddof=1, reporting=QUICK)["fvd_inf"]
    assert entry["value"] is None
    assert "needs 24" in entry["reason"]


def test_entries_of_two_sets() -> None:
    x, y = of_clips(drawn(60, 5, seed=0, shift=0.7)), of_clips(drawn(140, 5, seed=1), first=1000)
    entries = set_entries(x, y, ddof=1, reporting=QUICK)
    fvd = entries["fvd"]
    assert (fvd["n"], fvd["n_reference"]) == (60, 60)
    assert (entries["kvd"]["n"], entries["kvd"]["n_reference"]) == (60, 140)
    for key in ("fvd", "fvd_inf", "kvd"):
        low, high = entries[key]["ci95"]
        assert low < entries[key]["value"] < high
    assert entries["fvd_inf"]["value"] < fvd["value"]
    for key in ("fvd", "kvd"):
        assert entries[key]["floor"]["n_clips"] == 60
        assert entries[key]["floor"]["value"] < entries[key]["ci95"][0]
    assert set_entries(x, y, ddof=1, reporting=QUICK) == entries


def test_equal_sets_of_the_same_clips_are_no_distance_apart() -> None:
    x = of_clips(drawn(40, 5, seed=0), per_clip=2)
    entries = set_entries(x, x, ddof=0, reporting=QUICK)
    for key in ("fvd", "fvd_inf", "kvd"):
        assert entries[key]["value"] == pytest.approx(0.0, abs=1e-10)
        assert entries[key]["ci95"] == pytest.approx([0.0, 0.0], abs=1e-10)


def test_fewer_windows_than_features_are_refused_unless_asked_for() -> None:
    x, y = of_clips(drawn(7, 8, seed=0)), of_clips(drawn(7, 8, seed=1), first=50)
    refused = set_entries(x, y, ddof=1, reporting=QUICK)
    assert refused["fvd"]["value"] is None
    assert "7 clips are fewer than the 8 features: the" in refused["fvd"]["reason"]
    assert refused["kvd"]["value"] is not None
    assert refused["fvd"]["floor"]["value"] is None
    allowed = set_entries(x, y, ddof=1, reporting=Reporting(allow_small_n=True, resamples=50, floor_draws=2))
    assert allowed["fvd"]["value"] > 0
    assert allowed["fvd"]["floor"]["value"] > 0


def test_windows_do_not_stand_in_for_clips() -> None:
    """Eight windows of each of six clips are forty-eight windows, and still six clips."""
    x, y = (of_clips(drawn(48, 8, seed=seed), per_clip=8, first=100 * seed) for seed in (0, 1))
    refused = set_entries(x, y, ddof=1, reporting=QUICK)
    for key in ("fvd", "fvd_inf"):
        assert refused[key]["value"] is None
        assert "6 clips are fewer than the 8 features, and their 48 windows are alike" in refused[key]["reason"]
    assert refused["fvd"]["floor"]["value"] is None
    assert refused["kvd"]["value"] is not None
    allowed = set_entries(x, y, ddof=1, reporting=Reporting(allow_small_n=True, resamples=0, floor_draws=0))
    assert allowed["fvd"]["value"] > 0
    assert allowed["fvd_inf"]["value"] is not None
    assert (allowed["fvd"]["n"], allowed["fvd"]["n_clips"]) == (48, 6)


@pytest.mark.parametrize("allow", [False, True])
def test_single_windows_are_never_a_distance(allow: bool) -> None:
    one, two = of_clips(drawn(1, 3, seed=0)), of_clips(drawn(2, 3, seed=1), first=5)
    for x, y in ((one, two), (two, one)):
        entries = set_entries(x, y, ddof=1, reporting=Reporting(allow_small_n=allow))
        assert {key: entry["value"] for key, entry in entries.items()} == dict.fromkeys(("fvd", "fvd_inf", "kvd"))
        assert all(entry["reason"] for entry in entries.values())


def test_floors_are_of_disjoint_clips() -> None:
    # Windows of one clip are equal: a floor that split clips would find samples that share half of theirs.
    reference = of_clips(drawn(40, 3, seed=0).repeat_interleave(2, dim=0), per_clip=2)
    halves = reference_floors(reference, 30, ddof=1, reporting=QUICK)["fvd"]
    assert (halves["n_clips"], halves["n"]) == (20, 40)
    assert "disjoint halves" in halves["note"]
    smaller = reference_floors(reference, 10, ddof=1, reporting=QUICK)["fvd"]
    assert (smaller["n_clips"], smaller["n"]) == (10, 20)
    assert "note" not in smaller
    assert smaller["value"] > halves["value"] > 0
    assert smaller["sd"] > 0


def test_equal_sizes_are_drawn_by_the_seed() -> None:
    x, y = of_clips(drawn(5, 2, seed=0)), of_clips(drawn(50, 2, seed=1), first=100)
    small, large = equal_sizes(x, y, 0)
    assert small is x
    assert len(large.features) == 5
    assert np.array_equal(equal_sizes(x, y, 0)[1].clips, large.clips)
    assert not np.array_equal(equal_sizes(x, y, 1)[1].clips, large.clips)


def test_intervals_resample_clips() -> None:
    """Ten windows of a clip that are all alike say no more than one."""
    features = drawn(40, 2, seed=0, shift=0.5)
    y = of_clips(drawn(40, 2, seed=1), first=1000)
    once = set_entries(of_clips(features), y, ddof=1, reporting=Reporting(resamples=400, floor_draws=0))
    tenfold = FeatureSet(features.repeat_interleave(10, dim=0), np.arange(400) // 10)
    y_tenfold = FeatureSet(y.features.repeat_interleave(10, dim=0), 1000 + np.arange(400) // 10)
    many = set_entries(tenfold, y_tenfold, ddof=1, reporting=Reporting(resamples=400, floor_draws=0))
    widths = [entries["kvd"]["ci95"][1] - entries["kvd"]["ci95"][0] for entries in (once, many)]
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)
    widths = [entries["fvd"]["ci95"][1] - entries["fvd"]["ci95"][0] for entries in (once, many)]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_impossible_numbers() -> None:
    with pytest.raises(DataError, match="at least 2"):
        kernel_distance(of_clips(drawn(4, 2, seed=0), per_clip=4), of_clips(drawn(4, 2, seed=1)))
    with pytest.raises(DataError, match="3 features against 2"):
        frechet(drawn(4, 3, seed=0), drawn(4, 2, seed=0))
    with pytest.raises(DataError, match="NaN"):
        frechet(drawn(4, 2, seed=0), torch.full((4, 2), float("nan")))
    with pytest.raises(DataError, match="numbers from 0"):
        Reporting(resamples=-1)
