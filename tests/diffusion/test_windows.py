import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from macedance.diffusion.draws import RowNoise
from macedance.diffusion.guidance import Denoiser
from macedance.diffusion.samplers import DdimSampler
from macedance.diffusion.schedule import CosineSchedule
from macedance.diffusion.windows import WindowedDenoiser, plan_windows
from macedance.errors import ConfigError


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 700), st.integers(1, 60), st.data())
def test_weights_are_positive_and_sum_to_one_over_every_frame(frames: int, window: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, window - 1))
    plan = plan_windows(frames, window, overlap)
    assert plan.window == min(window, frames)
    assert plan.starts_N[0] == 0
    assert plan.starts_N[-1] + plan.window == frames
    assert float(plan.weights_NW.min()) > 0
    total = torch.zeros(frames)
    for start, weights in zip(plan.starts_N, plan.weights_NW, strict=True):
        total[start : start + plan.window] += weights
    torch.testing.assert_close(total, torch.ones(frames), atol=1e-5, rtol=0)
    shared = [a + plan.window - b for a, b in zip(plan.starts_N[:-1], plan.starts_N[1:], strict=True)]
    assert min(shared, default=overlap) >= overlap


def test_number_of_windows_grows_with_the_length_only() -> None:
    assert len(plan_windows(150, 150, 50).starts_N) == 1
    assert len(plan_windows(151, 150, 50).starts_N) == 2
    assert len(plan_windows(108_000, 150, 50).starts_N) == 1080


@pytest.mark.parametrize("values", [(0, 10, 2), (5, 0, 0), (5, 10, 10), (5, 10, -1)])
def test_impossible_windows_are_refused(values: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError):
        plan_windows(*values)


def framewise_factory(sizes: list[tuple[int, int]]) -> object:
    """A denoiser that is a function of its own frame's music and noise, so that windows cannot matter."""

    def factory(music: Tensor, genre: Tensor | None) -> Denoiser:
        def denoise(xt: Tensor, t: Tensor) -> Tensor:
            sizes.append((len(xt), xt.shape[1]))
            shift = 0.0 if genre is None else genre.view(-1, 1, 1)
            return 0.1 * xt + music[..., :1] + shift + t.view(-1, 1, 1) / 1000

        return denoise

    return factory


@pytest.mark.parametrize("frames", [1, 7, 30, 31, 95])
def test_framewise_denoiser_gives_the_same_in_windows_as_whole(frames: int) -> None:
    sizes: list[tuple[int, int]] = []
    music, xt = torch.randn(3, frames, 4), torch.randn(3, frames, 2)
    genre, t = torch.tensor([0, 1, 2]), torch.tensor([5, 500, 900])
    factory = framewise_factory(sizes)
    windowed = WindowedDenoiser(factory, music, genre, window=30, overlap=10, max_batch=4)  # type: ignore[arg-type]
    torch.testing.assert_close(windowed(xt, t), factory(music, genre)(xt, t))  # type: ignore[operator]
    assert max(size for size, _ in sizes[:-1]) <= 4
    assert {length for _, length in sizes[:-1]} == {min(frames, 30)}


def test_windows_in_one_batch_or_many_give_the_same() -> None:
    music, xt, t = torch.randn(2, 95, 4), torch.randn(2, 95, 2), torch.tensor([10, 600])
    results = [
        WindowedDenoiser(framewise_factory([]), music, None, window=30, max_batch=size)(xt, t)  # type: ignore[arg-type]
        for size in (1, 3, 100)
    ]
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


def test_windows_that_disagree_are_joined_without_a_jump() -> None:
    """The harshest case: every window wants its own slope and offset."""
    window, frames = 60, 400
    made = [0]

    def factory(music: Tensor, genre: Tensor | None) -> Denoiser:
        first = made[0]
        made[0] += len(music)
        offsets = torch.sin(torch.arange(first, first + len(music), dtype=torch.float32) * 2.5).view(-1, 1, 1) * 0.5
        clock = torch.linspace(0, 9, window).view(1, -1, 1)
        motion = 0.4 * torch.sin(clock + 3 * offsets) + 0.4 * offsets
        return lambda xt, t: motion.expand_as(xt)

    denoise = WindowedDenoiser(factory, torch.zeros(1, frames, 1), None, window=window, overlap=30, max_batch=3)
    x0 = DdimSampler(5).sample(denoise, RowNoise(0, [0]).normal(frames, 3), CosineSchedule(), RowNoise(1, [0]))
    speed = x0[0].diff(dim=0).norm(dim=-1)
    at_joins = torch.cat([speed[join - 2 : join + 2] for join in denoise.joins])
    rest = torch.ones_like(speed, dtype=torch.bool)
    for join in denoise.joins:
        rest[join - 2 : join + 2] = False
    assert float(at_joins.max()) <= 1.5 * float(torch.quantile(speed[rest], 0.99))
