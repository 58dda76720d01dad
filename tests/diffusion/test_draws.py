import time

import pytest
import torch

from macedance.diffusion.draws import RowNoise, StepDraws, choose, draw_step
from macedance.errors import ConfigError


def fields(draws: StepDraws) -> list[torch.Tensor]:
    return [draws.t_B, draws.beta_B, draws.keep_B, draws.noise_BTC, draws.mix_B]


def test_draws_of_a_sample_do_not_depend_on_its_batch() -> None:
    whole = draw_step(7, torch.arange(100, 108), 12, 5)
    for rank in range(4):
        part = draw_step(7, [100 + 2 * rank, 101 + 2 * rank], 12, 5)
        for a, b in zip(fields(part), fields(whole), strict=True):
            assert torch.equal(a, b[2 * rank : 2 * rank + 2])
    backwards = draw_step(7, torch.arange(107, 99, -1), 12, 5)
    for a, b in zip(fields(backwards), fields(whole), strict=True):
        assert torch.equal(a.flip(0), b)


def test_draws_do_not_depend_on_threads_or_global_random_state() -> None:
    frames, channels = 1200, 151
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = draw_step(3, range(8), frames, channels)
        torch.manual_seed(1)
        torch.set_num_threads(2)
        two = draw_step(3, range(8), frames, channels)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(fields(one), fields(two), strict=True))


@pytest.mark.parametrize("other", [(8, 5), (7, 6), (7 + 2**32, 5), (7, 5 + 2**32)])
def test_seed_and_number_both_select_the_stream_with_all_their_bits(other: tuple[int, int]) -> None:
    here, there = draw_step(7, [5], 16, 3), draw_step(other[0], [other[1]], 16, 3)
    assert not torch.equal(here.noise_BTC, there.noise_BTC)


def test_draws_have_their_distributions() -> None:
    draws = draw_step(1, range(4000), 2, 3, num_steps=1000, drop_probability=0.1, beta_min=0.2)
    assert int(draws.t_B.min()) >= 0
    assert int(draws.t_B.max()) <= 999
    assert float(draws.t_B.float().mean()) == pytest.approx(499.5, abs=15)
    assert 0.2 < float(draws.beta_B.min()) < 0.21
    assert 0.99 < float(draws.beta_B.max()) <= 1
    assert float(draws.keep_B.float().mean()) == pytest.approx(0.9, abs=0.02)
    assert float(draws.noise_BTC.std()) == pytest.approx(1, abs=0.02)
    assert float(draws.noise_BTC.mean()) == pytest.approx(0, abs=0.02)
    correlation = torch.corrcoef(torch.stack([draws.t_B.float(), draws.beta_B, draws.mix_B, draws.noise_BTC[:, 0, 0]]))
    assert float((correlation - torch.eye(4)).abs().max()) < 0.06


def test_drop_probability_zero_and_one_are_exact() -> None:
    assert bool(draw_step(0, range(200), 1, 1, drop_probability=0.0).keep_B.all())
    assert not bool(draw_step(0, range(200), 1, 1, drop_probability=1.0).keep_B.any())


def test_a_large_batch_is_drawn_within_a_second() -> None:
    start = time.process_time()
    draw_step(0, range(128), 1200, 151)
    assert time.process_time() - start < 1.5


def test_noise_of_a_dance_does_not_depend_on_the_others() -> None:
    three, last = RowNoise(5, range(3)), RowNoise(5, [2])
    for _ in range(3):
        assert torch.equal(three.normal(9, 4)[2:], last.normal(9, 4))
    mixed = RowNoise(0, [2, 0], seeds=[5, 9])
    assert torch.equal(mixed.normal(9, 4)[0], RowNoise(5, [2]).normal(9, 4)[0])


def test_sampling_noise_is_not_the_training_noise() -> None:
    assert not torch.equal(RowNoise(5, [2]).normal(9, 4), draw_step(5, [2], 9, 4).noise_BTC)


def test_noise_refuses_a_seed_list_of_another_length() -> None:
    with pytest.raises(ConfigError):
        RowNoise(0, range(3), seeds=[1, 2])


def test_choice_is_stable_and_reaches_every_option() -> None:
    chosen = [choose(seed, 0, 8) for seed in range(200)]
    assert set(chosen) == set(range(8))
    assert chosen == [choose(seed, 0, 8) for seed in range(200)]
