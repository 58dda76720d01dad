import pytest
import torch

from macedance.diffusion.schedule import CosineSchedule
from macedance.errors import ConfigError


def test_alpha_bar_matches_the_published_cosine_schedule() -> None:
    published = {0: 0.99996, 99: 0.97209, 249: 0.84701, 499: 0.49384, 749: 0.14427, 899: 0.02409}
    alpha_bar = CosineSchedule().alpha_bar
    for step, value in published.items():
        assert float(alpha_bar[step]) == pytest.approx(value, abs=6e-6)
    assert float(alpha_bar[979]) == pytest.approx(9.7e-4, rel=0.01)
    assert float(alpha_bar[999]) == pytest.approx(2.4e-9, rel=0.02)


def test_noised_motion_has_the_stated_moments() -> None:
    schedule = CosineSchedule()
    noise = torch.randn(4, 4000, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 300, 600, 999])
    xt = schedule.add_noise(torch.full_like(noise, 0.5), t, noise)
    expected = schedule.alpha_bar[t]
    torch.testing.assert_close(xt.mean((1, 2)), 0.5 * expected.sqrt(), atol=0.05, rtol=0)
    torch.testing.assert_close(xt.var((1, 2)), 1 - expected, atol=0.05, rtol=0)


def test_tables_keep_their_precision_when_the_module_is_cast() -> None:
    schedule = torch.nn.ModuleDict({"schedule": CosineSchedule()}).to(torch.bfloat16)["schedule"]
    torch.testing.assert_close(schedule.alpha_bar, CosineSchedule().alpha_bar, rtol=0, atol=0)
    assert not schedule.state_dict()


def test_schedule_refuses_no_steps() -> None:
    with pytest.raises(ConfigError):
        CosineSchedule(0)
