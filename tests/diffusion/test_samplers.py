import itertools

import pytest
import torch
from torch import Tensor

from macedance.diffusion.draws import RowNoise
from macedance.diffusion.samplers import DdimSampler, DpmSolverSampler, make_sampler
from macedance.diffusion.schedule import CosineSchedule
from macedance.errors import ConfigError, NumericsError

SCHEDULE = CosineSchedule()
MEAN, STD = 0.2, 0.1


def gaussian_denoiser(xt: Tensor, t: Tensor) -> Tensor:
    """E[x0 | xt] of x0 ~ N(MEAN, STD^2), exact."""
    alpha_bar = SCHEDULE.alpha_bar.double()[t].view(-1, 1, 1)
    gain = STD**2 * alpha_bar.sqrt() / (STD**2 * alpha_bar + 1 - alpha_bar)
    return (MEAN + gain * (xt.double() - alpha_bar.sqrt() * MEAN)).to(xt.dtype)


def mixture_denoiser(xt: Tensor, t: Tensor) -> Tensor:
    """E[x0 | xt] of an equal mixture of N(-0.5, 0.05^2) and N(0.5, 0.05^2), exact."""
    alpha_bar = SCHEDULE.alpha_bar.double()[t].view(-1, 1, 1, 1)
    modes = torch.tensor([-0.5, 0.5], dtype=torch.float64)
    x = xt.double().unsqueeze(-1)
    variance = 0.05**2 * alpha_bar + 1 - alpha_bar
    responsibility = torch.softmax(-((x - alpha_bar.sqrt() * modes) ** 2) / (2 * variance), dim=-1)
    posterior = modes + 0.05**2 * alpha_bar.sqrt() / variance * (x - alpha_bar.sqrt() * modes)
    return (responsibility * posterior).sum(-1).to(xt.dtype)


def start(rows: int = 8, frames: int = 1000) -> Tensor:
    return RowNoise(0, range(rows)).normal(frames, 2)


def test_ddim_steps_are_those_of_edge() -> None:
    times = DdimSampler(50).timesteps(SCHEDULE)
    assert times[:3] == [999, 979, 959]
    assert times[-2:] == [19, -1]
    assert len(times) == 51
    assert DdimSampler(1000).timesteps(SCHEDULE) == list(range(999, -2, -1))
    assert DdimSampler(1).timesteps(SCHEDULE) == [999, -1]


@pytest.mark.parametrize("num_steps", [1, 2, 5, 10, 20, 50, 300, 1000])
def test_dpm_steps_are_distinct_and_descend_within_the_schedule(num_steps: int) -> None:
    times = DpmSolverSampler(num_steps).timesteps(SCHEDULE)
    assert len(times) == num_steps
    assert all(earlier > later for earlier, later in itertools.pairwise(times))
    assert times[0] <= 999
    assert times[-1] >= 0
    if num_steps > 1:
        assert times[-1] == 0


@pytest.mark.parametrize("sampler", [DdimSampler(50, 0.0), DdimSampler(200, 1.0), DpmSolverSampler(10)])
def test_sampler_recovers_a_gaussian_from_its_exact_denoiser(sampler: DdimSampler | DpmSolverSampler) -> None:
    x0 = sampler.sample(gaussian_denoiser, start(), SCHEDULE, RowNoise(1, range(8)))
    assert float(x0.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(x0.std()) == pytest.approx(STD, abs=0.015)


@pytest.mark.parametrize("sampler", [DdimSampler(10, 0.0), DdimSampler(10, 1.0), DpmSolverSampler(5)])
def test_sampler_recovers_a_point(sampler: DdimSampler | DpmSolverSampler) -> None:
    point = torch.linspace(-1, 1, 12).view(1, 6, 2)
    x0 = sampler.sample(lambda xt, t: point.expand_as(xt), torch.randn(3, 6, 2), SCHEDULE, RowNoise(0, range(3)))
    torch.testing.assert_close(x0, point.expand(3, -1, -1), atol=1e-4, rtol=0)


def transport_error(sampler: DdimSampler | DpmSolverSampler) -> float:
    """Error against the exact solution of the probability flow, which for a Gaussian only scales the noise."""
    noise = start()
    x0 = sampler.sample(gaussian_denoiser, noise, SCHEDULE)
    return float((x0 - (MEAN + STD * noise).clamp(-1, 1)).square().mean().sqrt())


@pytest.mark.parametrize("num_steps", [8, 10, 15, 20])
def test_dpm_solver_beats_ddim_at_equal_steps(num_steps: int) -> None:
    assert transport_error(DpmSolverSampler(num_steps)) < 0.5 * transport_error(DdimSampler(num_steps, 0.0))


def test_dpm_solver_converges_with_second_order() -> None:
    assert transport_error(DpmSolverSampler(40)) < transport_error(DpmSolverSampler(20)) / 3


def test_dpm_solver_keeps_the_energy_that_ddim_loses() -> None:
    """DDIM at the published 50 steps shrinks what the music leaves open by a fifth: dances look timid."""
    ddim = DdimSampler(50, 1.0).sample(gaussian_denoiser, start(), SCHEDULE, RowNoise(1, range(8)))
    dpm = DpmSolverSampler(10).sample(gaussian_denoiser, start(), SCHEDULE)
    assert float(ddim.std()) < 0.85 * STD
    assert float(dpm.std()) == pytest.approx(STD, rel=0.04)


def test_last_time_of_the_dpm_solver_is_where_it_stops() -> None:
    times = DpmSolverSampler(10, last_time=12).timesteps(SCHEDULE)
    assert times[-1] == 12
    assert len(set(times)) == 10


@pytest.mark.parametrize("sampler", [DdimSampler(50, 1.0), DpmSolverSampler(15)])
def test_sampler_keeps_both_modes_of_a_mixture(sampler: DdimSampler | DpmSolverSampler) -> None:
    x0 = sampler.sample(mixture_denoiser, start(), SCHEDULE, RowNoise(1, range(8)))
    assert float((x0 > 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((x0.abs() - 0.5).abs().mean()) < 0.08


def test_ddim_step_is_the_published_update() -> None:
    noise, extra = start(1, 4), RowNoise(3, [0])
    seen: list[Tensor] = []

    def denoise(xt: Tensor, t: Tensor) -> Tensor:
        seen.append(xt)
        return 0.3 * xt

    DdimSampler(2, eta=1.0).sample(denoise, noise, SCHEDULE, extra)
    now, after = SCHEDULE.alpha_bar[999].double(), SCHEDULE.alpha_bar[499].double()
    noise = noise.double()
    x0 = (0.3 * noise).clamp(-1, 1)
    eps = (noise - now.sqrt() * x0) / (1 - now).sqrt()
    sigma = ((1 - now / after) * (1 - after) / (1 - now)).sqrt()
    expected = x0 * after.sqrt() + (1 - after - sigma**2).sqrt() * eps + sigma * RowNoise(3, [0]).normal(4, 2).double()
    torch.testing.assert_close(seen[1].double(), expected, atol=1e-5, rtol=1e-5)


def test_x0_is_clipped_at_every_step() -> None:
    inputs: list[Tensor] = []

    def denoise(xt: Tensor, t: Tensor) -> Tensor:
        inputs.append(xt)
        return 1e6 * torch.ones_like(xt)

    for sampler in (DdimSampler(10, 0.0), DpmSolverSampler(10)):
        assert float(sampler.sample(denoise, start(1, 5), SCHEDULE).max()) <= 1
    assert max(float(xt.abs().max()) for xt in inputs) < 10


def test_dance_is_the_same_whatever_is_sampled_beside_it() -> None:
    sampler = DdimSampler(10)
    three = sampler.sample(mixture_denoiser, RowNoise(0, range(3)).normal(20, 2), SCHEDULE, RowNoise(1, range(3)))
    last = sampler.sample(mixture_denoiser, RowNoise(0, [2]).normal(20, 2), SCHEDULE, RowNoise(1, [2]))
    torch.testing.assert_close(three[2:], last)
    assert not torch.allclose(three[0], three[1])


def test_progress_is_told_every_step() -> None:
    for sampler in (DdimSampler(7, 0.0), DpmSolverSampler(7)):
        told: list[tuple[int, int]] = []
        sampler.sample(
            gaussian_denoiser, start(1, 5), SCHEDULE, None, lambda done, total, told=told: told.append((done, total))
        )
        assert told == [(step, 7) for step in range(1, 8)]


def test_torch_generator_is_accepted() -> None:
    samples = [
        DdimSampler(5).sample(mixture_denoiser, start(2, 5), SCHEDULE, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


def test_nan_prediction_is_an_error() -> None:
    with pytest.raises(NumericsError):
        DdimSampler(2, 0.0).sample(lambda xt, t: xt * float("nan"), start(1, 5), SCHEDULE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DdimSampler(0),
        lambda: DpmSolverSampler(-1),
        lambda: DdimSampler(5, eta=1.5),
        lambda: DpmSolverSampler(5, last_time=-1),
        lambda: DpmSolverSampler(500, last_time=600).timesteps(SCHEDULE),
        lambda: DdimSampler(1001).timesteps(SCHEDULE),
        lambda: DpmSolverSampler(1001).timesteps(SCHEDULE),
        lambda: make_sampler("euler"),
        lambda: make_sampler("dpmpp", eta=1.0),
        lambda: DdimSampler(5).sample(gaussian_denoiser, start(1, 5), SCHEDULE),
    ],
)
def test_values_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]


def test_sampler_is_made_by_name_with_its_own_default() -> None:
    ddim, dpmpp = make_sampler("ddim"), make_sampler("dpmpp")
    assert isinstance(ddim, DdimSampler)
    assert (ddim.num_steps, ddim.eta) == (50, 1.0)
    assert isinstance(dpmpp, DpmSolverSampler)
    assert dpmpp.num_steps == 20
