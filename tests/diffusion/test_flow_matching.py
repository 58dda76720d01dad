"""Flow matching: paths, noise levels and draws."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from macedance.diffusion.flow_matching import FlowMatching, FlowSampler, draw_flow, sampling_noise
from macedance.errors import ConfigError


def test_a_path_goes_from_data_to_noise_along_its_velocity() -> None:
    flow = FlowMatching(shift=5.0)
    x0, noise = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)
    for sigma in (0.0, 0.25, 1.0):
        xt = flow.add_noise(x0, noise, torch.full((2,), sigma))
        assert torch.allclose(xt, x0 + sigma * flow.velocity(x0, noise), atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_the_levels_are_those_of_the_published_scheduler(shift: float) -> None:
    steps = 20
    theirs = FlowMatchEulerDiscreteScheduler(shift=1.0)
    theirs.set_timesteps(sigmas=torch.linspace(1, 0, steps + 1)[:-1].numpy())
    even = theirs.sigmas
    expected = shift * even / (1 + (shift - 1) * even)
    assert torch.allclose(torch.tensor(FlowMatching(shift).levels(steps)), expected.to(torch.float32), atol=1e-6)


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
@pytest.mark.parametrize("num_steps", [1, 2, 16])
def test_sampling_with_the_true_velocity_gives_the_data_back(num_steps: int, sampler: FlowSampler) -> None:
    flow = FlowMatching(shift=3.0)
    x0, noise = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)
    told: list[tuple[int, int]] = []
    found = flow.sample(lambda x, s: noise - x0, noise, num_steps, lambda a, b: told.append((a, b)), sampler)
    assert torch.allclose(found, x0, atol=1e-5)
    assert len(told) == num_steps
    assert told[-1] == (num_steps, num_steps)


def test_unipc_needs_fewer_steps_than_euler() -> None:
    """Data of standard deviation s: the velocity is known, and the path ends at s times the noise."""
    flow, s = FlowMatching(shift=5.0), 2.0
    noise = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))

    def velocity(x: torch.Tensor, sigma_B: torch.Tensor) -> torch.Tensor:
        sigma = sigma_B.view(-1, 1)
        return x * (sigma - (1 - sigma) * s**2) / ((1 - sigma) ** 2 * s**2 + sigma**2)

    def error(steps: int, sampler: FlowSampler) -> float:
        return float((flow.sample(velocity, noise, steps, sampler=sampler) - s * noise).abs().mean())

    for steps in (8, 20):
        assert error(steps, "unipc") < 0.3 * error(steps, "euler")


def test_unipc_takes_many_steps_and_refuses_none() -> None:
    flow = FlowMatching(shift=5.0)
    noise = torch.randn(1, 4)
    # So many that two of them have one timestep.
    found = flow.sample(lambda x, s: noise, noise, 1500, sampler="unipc")
    assert torch.allclose(found, torch.zeros(1, 4), atol=1e-4)
    with pytest.raises(ConfigError, match="0 sampling steps"):
        flow.sample(lambda x, s: noise, noise, 0, sampler="unipc")
    with pytest.raises(ConfigError, match="unknown sampler 'heun'"):
        flow.sample(lambda x, s: noise, noise, 2, sampler="heun")  # type: ignore[arg-type]


def test_weights_of_the_bell_have_mean_one_and_its_shape() -> None:
    flow = FlowMatching(weighting="bell")
    sigma = torch.linspace(0, 1, 2001)
    weight = flow.loss_weight(sigma)
    assert float(weight.mean()) == pytest.approx(1.0, abs=1e-3)
    assert float(weight[0]) == pytest.approx(0.0, abs=1e-6)
    assert int(weight.argmax()) == 1000
    assert torch.equal(FlowMatching().loss_weight(sigma), torch.ones_like(sigma))


def test_draws_belong_to_their_sample_and_to_nothing_else() -> None:
    together = draw_flow(7, [3, 9, 4], (2, 3, 4, 4), drop_probability=0.5)
    alone = draw_flow(7, torch.tensor([9]), (2, 3, 4, 4), drop_probability=0.5)
    assert torch.equal(together.noise[1:2], alone.noise)
    assert torch.equal(together.u_B[1:2], alone.u_B)
    assert torch.equal(together.drop_B[1:2], alone.drop_B)
    assert not torch.equal(draw_flow(8, [9], (2, 3, 4, 4)).noise, alone.noise)
    many = draw_flow(0, range(4000), (1,), drop_probability=0.1)
    assert (many.u_B > 0).all()
    assert (many.u_B <= 1).all()
    assert float(many.u_B.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(many.drop_B.float().mean()) == pytest.approx(0.1, abs=0.02)
    assert not torch.equal(sampling_noise(7, 9, (2, 3, 4, 4)), alone.noise[0])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="shift"):
        FlowMatching(shift=0)
    with pytest.raises(ConfigError, match="weighting"):
        FlowMatching(weighting="flat")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="sampling steps"):
        FlowMatching().levels(0)
