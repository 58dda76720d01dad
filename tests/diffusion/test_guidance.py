import pytest
import torch
from toy_network import ToyNetwork

from macedance.diffusion.draws import StepDraws
from macedance.diffusion.guidance import (
    ClassifierFreeGuidance,
    GuidanceFreeTraining,
    evaluation_mode,
    guidance_from_config,
    guidance_to_config,
)
from macedance.errors import ConfigError

B, T, C, M = 4, 6, 10, 5


def network(dropout: float = 0.0) -> ToyNetwork:
    torch.manual_seed(0)
    return ToyNetwork(C, M, 16, dropout)


def batch(
    beta: tuple[float, ...] = (0.2, 0.5, 0.8, 1.0),
    keep: tuple[bool, ...] = (True, True, True, True),
    mix: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9),
) -> tuple[torch.Tensor, StepDraws, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    xt, music = torch.randn(B, T, C, generator=generator), torch.randn(B, T, M, generator=generator)
    draws = StepDraws(
        torch.tensor([1, 200, 500, 999]),
        torch.tensor(beta),
        torch.tensor(keep),
        torch.zeros(B, T, C),
        torch.tensor(mix),
    )
    return xt, draws, music


def direct(
    net: ToyNetwork, xt: torch.Tensor, draws: StepDraws, music: torch.Tensor, beta: torch.Tensor
) -> torch.Tensor:
    return net.denoise(xt, draws.t_B, beta, net.encode_music(music))


def null(net: ToyNetwork, xt: torch.Tensor, draws: StepDraws, music: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    keep = torch.zeros(len(xt), dtype=torch.bool)
    return net.denoise(xt, draws.t_B, beta, net.encode_music(music, None, keep))


def test_prediction_is_equation_3_of_the_paper() -> None:
    net, (xt, draws, music) = network(), batch()
    pred = GuidanceFreeTraining().training_prediction(net, xt, draws, music, None)
    beta = draws.beta_B.view(-1, 1, 1)
    expected = beta * direct(net, xt, draws, music, draws.beta_B) + (1 - beta) * null(
        net, xt, draws, music, torch.ones(B)
    )
    torch.testing.assert_close(pred, expected)


def test_released_variant_feeds_the_same_beta_to_both_branches() -> None:
    net, (xt, draws, music) = network(), batch()
    released = GuidanceFreeTraining(drop_probability=0, unconditional_beta="same", unconditional_dropout=True)
    pred = released.training_prediction(net, xt, draws, music, None)
    beta = draws.beta_B.view(-1, 1, 1)
    expected = beta * direct(net, xt, draws, music, draws.beta_B) + (1 - beta) * null(
        net, xt, draws, music, draws.beta_B
    )
    torch.testing.assert_close(pred, expected)


def test_beta_one_is_the_plain_conditional_model() -> None:
    net, (xt, draws, music) = network(), batch(beta=(1.0,) * B)
    pred = GuidanceFreeTraining().training_prediction(net, xt, draws, music, None)
    torch.testing.assert_close(pred, direct(net, xt, draws, music, torch.ones(B)))


def test_gradient_scales_with_beta_and_skips_the_unconditional_branch() -> None:
    net, (xt, draws, music) = network(), batch()
    leaf = xt.clone().requires_grad_()
    GuidanceFreeTraining().training_prediction(net, leaf, draws, music, None).sum().backward()
    assert net.null.grad is None or float(net.null.grad.abs().max()) == 0
    other = xt.clone().requires_grad_()
    direct(net, other, draws, music, draws.beta_B).sum().backward()
    assert leaf.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(leaf.grad, draws.beta_B.view(-1, 1, 1) * other.grad)


def test_dropped_rows_train_the_null_condition_at_beta_one_with_a_gradient_scaled_by_beta() -> None:
    net, (xt, draws, music) = network(), batch(beta=(0.25,) * B, keep=(False, True, True, True))
    pred = GuidanceFreeTraining().training_prediction(net, xt, draws, music, None)
    torch.testing.assert_close(pred[:1], null(net, xt, draws, music, torch.ones(B))[:1])
    assert net.calls[0][1] == [1.0, 0.25, 0.25, 0.25]
    pred[0].sum().backward()
    scaled = net.null.grad.clone()
    net.zero_grad()
    null(net, xt, draws, music, torch.ones(B))[0].sum().backward()
    torch.testing.assert_close(scaled, 0.25 * net.null.grad)


def test_unconditional_branch_runs_without_dropout_and_restores_each_mode() -> None:
    net, (xt, draws, music) = network(dropout=0.5), batch()
    net.encoder.eval()
    GuidanceFreeTraining().training_prediction(net, xt, draws, music, None)
    assert [training for _, _, training in net.calls] == [True, False]
    assert net.training
    assert not net.encoder.training
    assert net.inner[2].training
    net.calls.clear()
    GuidanceFreeTraining(unconditional_dropout=True).training_prediction(net, xt, draws, music, None)
    assert [training for _, _, training in net.calls] == [True, True]


def test_unconditional_branch_skips_rows_that_do_not_need_it() -> None:
    net, (xt, draws, music) = network(), batch(keep=(False, True, True, True))
    GuidanceFreeTraining(mix_fraction=0.5).training_prediction(net, xt, draws, music, None)
    # Row 0 is dropped, rows 2 and 3 are above the fraction: only row 1 is mixed.
    assert [size for size, _, _ in net.calls] == [4, 1]
    assert net.calls[0][1] == [1.0, 0.5, 1.0, 1.0]


def test_rows_outside_the_mixed_share_train_conditionally_with_a_full_gradient() -> None:
    net, (xt, draws, music) = network(), batch()
    pred = GuidanceFreeTraining(mix_fraction=0.5).training_prediction(net, xt, draws, music, None)
    torch.testing.assert_close(pred[2:], direct(net, xt, draws, music, torch.ones(B))[2:])
    none = GuidanceFreeTraining(mix_fraction=0.0).training_prediction(net, xt, draws, music, None)
    torch.testing.assert_close(none, direct(net, xt, draws, music, torch.ones(B)))


def test_branch_still_runs_when_no_row_needs_it() -> None:
    net, (xt, draws, music) = network(), batch(keep=(False,) * B)
    pred = GuidanceFreeTraining().training_prediction(net, xt, draws, music, None)
    assert [size for size, _, _ in net.calls] == [4, 1]
    torch.testing.assert_close(pred, null(net, xt, draws, music, torch.ones(B)))


def test_guidance_free_denoiser_is_one_pass_at_the_asked_beta_with_the_music_encoded_once() -> None:
    net, (xt, draws, music) = network().eval(), batch()
    denoise = GuidanceFreeTraining().denoiser(net, music, None, 0.3)
    for _ in range(3):
        x0 = denoise(xt, draws.t_B)
    assert net.encodings == 1
    assert len(net.calls) == 3
    torch.testing.assert_close(x0, direct(net, xt, draws, music, torch.full((B,), 0.3)))


def test_classifier_free_denoiser_extrapolates_from_the_null_condition_in_one_call() -> None:
    net, (xt, draws, music) = network().eval(), batch()
    x0 = ClassifierFreeGuidance(weight=2.0).denoiser(net, music, None)(xt, draws.t_B)
    assert [size for size, _, _ in net.calls] == [2 * B]
    ones = torch.ones(B)
    c, u = direct(net, xt, draws, music, ones), null(net, xt, draws, music, ones)
    torch.testing.assert_close(x0, 2 * c - u)
    net.calls.clear()
    plain = ClassifierFreeGuidance().denoiser(net, music, None, 1.0)(xt, draws.t_B)
    assert [size for size, _, _ in net.calls] == [B]
    torch.testing.assert_close(plain, c)


def test_classifier_free_training_drops_rows_and_feeds_beta_one() -> None:
    net, (xt, draws, music) = network(), batch(keep=(False, True, True, True))
    pred = ClassifierFreeGuidance().training_prediction(net, xt, draws, music, None)
    assert net.calls[0][1] == [1.0] * B
    torch.testing.assert_close(pred[:1], null(net, xt, draws, music, torch.ones(B))[:1])
    torch.testing.assert_close(pred[1:], direct(net, xt, draws, music, torch.ones(B))[1:])


@pytest.mark.parametrize("beta", [0.0, -0.1, 1.01, float("nan")])
def test_beta_out_of_range_is_refused(beta: float) -> None:
    with pytest.raises(ConfigError, match="beta"):
        GuidanceFreeTraining().denoiser(network(), torch.zeros(1, T, M), None, beta)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError):
        GuidanceFreeTraining(drop_probability=1.5)
    with pytest.raises(ConfigError):
        GuidanceFreeTraining(beta_min=1.0)
    with pytest.raises(ConfigError):
        ClassifierFreeGuidance(weight=-1)


@pytest.mark.parametrize(
    "guidance", [GuidanceFreeTraining(0.2, 0.1, "same", True, 0.5, 0.6), ClassifierFreeGuidance(0.3, 1.5)]
)
def test_objective_comes_back_from_its_description(guidance: GuidanceFreeTraining | ClassifierFreeGuidance) -> None:
    again = guidance_from_config(guidance_to_config(guidance))
    assert type(again) is type(guidance)
    assert again.init_args() == guidance.init_args()


@pytest.mark.parametrize(
    "config",
    [
        {"class_path": "os.system", "init_args": {}},
        {},
        {**guidance_to_config(ClassifierFreeGuidance()), "init_args": {"x": 1}},
    ],
)
def test_description_cannot_name_foreign_code(config: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        guidance_from_config(config)


def test_evaluation_mode_restores_after_an_error() -> None:
    net = network()

    def fail() -> None:
        with evaluation_mode(net):
            assert not net.inner.training
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert net.training
    assert net.inner.training
