"""Fréchet distance, standardisation and diversity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from macedance.errors import DataError
from macedance.metrics.functional.frechet import frechet_distance, mean_pairwise_distance, standardization


def gaussian(n: int, d: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) * scale + shift)


def test_distance_equals_the_matrix_square_root_form() -> None:
    x, y = gaussian(80, 12, 0), gaussian(60, 12, 1, shift=0.5)
    a, b = np.cov(x.numpy().T), np.cov(y.numpy().T)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum().item() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 60), d=st.integers(1, 40), seed=st.integers(0, 100))
def test_distance_of_a_set_to_itself_is_zero_even_when_singular(n: int, d: int, seed: int) -> None:
    x = gaussian(n, d, seed)
    assert frechet_distance(x, x.clone()) <= 1e-9 * float(x.var(dim=0).sum() + 1)


def test_distance_of_shifted_and_scaled_sets_is_known() -> None:
    x = gaussian(50, 6)
    assert frechet_distance(x + 2.0, x) == pytest.approx(6 * 4.0, rel=1e-9)
    centred = x - x.mean(0)
    assert frechet_distance(3 * centred, centred) == pytest.approx(4 * float(x.var(dim=0).sum()), rel=1e-9)


def test_distance_grows_with_noise() -> None:
    x, noise = gaussian(300, 10), gaussian(300, 10, 5)
    distances = [frechet_distance(x + amount * noise, x) for amount in (0.0, 0.3, 1.0, 3.0)]
    assert distances == sorted(distances)
    assert distances[-1] > 1.0


def test_dead_dimensions_are_dropped_and_counted() -> None:
    x = gaussian(30, 5)
    x[:, 2] = 7.0
    by = standardization(x)
    assert by.num_dropped == 1
    y = by.apply(x)
    assert y.shape == (30, 4)
    torch.testing.assert_close(y.std(0), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(y.mean(0), torch.zeros(4, dtype=torch.float64))
    # A model that fires the dead question once changes nothing, instead of everything.
    fired = x.clone()
    fired[0, 2] = 8.0
    assert frechet_distance(by.apply(fired), y) < 1e-12
    assert standardization(x, dead_std=None, eps=1e-4).apply(x).shape == (30, 5)


def test_standard_deviation_follows_the_switches() -> None:
    x = torch.tensor([[0.0], [2.0]])
    assert standardization(x).scale.item() == pytest.approx(2**0.5)
    assert standardization(x, ddof=0, eps=0.5).scale.item() == pytest.approx(1.5)


def test_diversity_is_the_mean_distance_over_pairs() -> None:
    assert mean_pairwise_distance(torch.tensor([[0.0, 0], [3, 4], [0, 0]])) == pytest.approx(10 / 3)
    assert mean_pairwise_distance(torch.ones(5, 3)) == 0.0


def test_unusable_sets_are_refused() -> None:
    x = gaussian(5, 3)
    for call in (
        lambda: frechet_distance(x[:1], x),
        lambda: frechet_distance(x, x[:, :2]),
        lambda: frechet_distance(x, x * torch.nan),
        lambda: standardization(x[:1]),
        lambda: mean_pairwise_distance(x[:1]),
    ):
        with pytest.raises(DataError):
            call()
