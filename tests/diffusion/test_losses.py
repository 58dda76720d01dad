import pytest
import torch

from macedance.diffusion.losses import MotionLosses, unnormalize_unclipped
from macedance.errors import ConfigError
from macedance.motion.normalizer import MinMaxNormalizer
from macedance.motion.representation import CONTACTS, encode_motion, joints_from_representation
from macedance.motion.skeleton import FOOT_JOINTS

B, T, FPS = 3, 20, 30.0


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, MinMaxNormalizer]:
    generator = torch.Generator().manual_seed(0)
    phase = torch.linspace(0, 6, T)[None, :, None, None] + torch.rand(B, 1, 24, 3, generator=generator) * 6
    poses = 0.4 * torch.sin(phase)
    trans = torch.stack([0.2 * torch.sin(phase[:, :, 0, 0]), 0.9 + 0 * phase[:, :, 0, 0], phase[:, :, 0, 1] * 0.01], -1)
    x = encode_motion(poses, trans, FPS)
    x[..., CONTACTS] = (torch.rand(B, T, 4, generator=generator) > 0.5).float()
    normalizer = MinMaxNormalizer(151)
    normalizer.update(x)
    return normalizer.normalize(x), normalizer


def off(x0: torch.Tensor, scale: float = 0.1) -> torch.Tensor:
    return x0 + scale * torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))


def plain(**options: object) -> MotionLosses:
    return MotionLosses(rebalance_below=0.0, **options)  # type: ignore[arg-type]


def test_perfect_prediction_costs_only_the_true_foot_slide(clip: tuple[torch.Tensor, MinMaxNormalizer]) -> None:
    x0, normalizer = clip
    losses = plain()(x0, x0, normalizer, FPS)
    assert float(losses["rec"]) == float(losses["joint"]) == float(losses["vel"]) == 0
    assert float(losses["total"]) == pytest.approx(10.942 * float(losses["foot"]), rel=1e-5)


def test_terms_are_those_of_the_paper_in_metres_and_seconds(clip: tuple[torch.Tensor, MinMaxNormalizer]) -> None:
    x0, normalizer = clip
    pred = off(x0)
    losses = plain()(pred, x0, normalizer, FPS)
    pred_x = unnormalize_unclipped(normalizer, pred)
    pred_joints, joints = joints_from_representation(pred_x), joints_from_representation(normalizer.unnormalize(x0))
    assert float(losses["rec"]) == pytest.approx(float((pred - x0).square().mean()), rel=1e-5)
    assert float(losses["joint"]) == pytest.approx(float((pred_joints - joints).square().mean()), rel=1e-4)
    velocity = pred_joints.diff(dim=1) * FPS
    assert float(losses["vel"]) == pytest.approx(float((velocity - joints.diff(dim=1) * FPS).square().mean()), rel=1e-4)
    planted = (pred_x[:, :-1, CONTACTS] > 0.95).unsqueeze(-1)
    foot = (velocity[:, :, FOOT_JOINTS] * planted).square().mean()
    assert float(losses["foot"]) == pytest.approx(float(foot), rel=1e-4)
    weighted = 0.636 * losses["rec"] + 2.964 * losses["vel"] + 0.646 * losses["joint"] + 10.942 * losses["foot"]
    assert float(losses["total"]) == pytest.approx(float(weighted), rel=1e-5)


def test_released_variant_works_on_normalised_values_per_frame(clip: tuple[torch.Tensor, MinMaxNormalizer]) -> None:
    x0, normalizer = clip
    pred = off(x0)
    losses = plain(velocity_space="representation", kinematics_space="normalised")(pred, x0, normalizer, FPS)
    error = (pred - x0)[..., 4:].diff(dim=1)
    assert float(losses["vel"]) == pytest.approx(float(error.square().mean()), rel=1e-5)
    joints = joints_from_representation(pred)
    assert float(losses["joint"]) == pytest.approx(
        float((joints - joints_from_representation(x0)).square().mean()), rel=1e-4
    )
    planted = (pred[:, :-1, CONTACTS] > 0.95).unsqueeze(-1)
    foot = (joints.diff(dim=1)[:, :, FOOT_JOINTS] * planted).square().mean()
    assert float(losses["foot"]) == pytest.approx(float(foot), rel=1e-4)


def test_padded_frames_change_nothing(clip: tuple[torch.Tensor, MinMaxNormalizer]) -> None:
    x0, normalizer = clip
    pred = off(x0).requires_grad_()
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[:, 15:] = False
    losses = plain(acceleration_weight=1e-3)(pred, x0, normalizer, FPS, mask)
    total = losses["total"]
    short = plain(acceleration_weight=1e-3)(pred[:, :15], x0[:, :15], normalizer, FPS)
    for name, value in losses.items():
        assert float(value.detach()) == pytest.approx(float(short[name].detach()), rel=1e-5), name
    total.backward()
    assert pred.grad is not None
    assert float(pred.grad[:, 15:].abs().max()) == 0
    assert float(pred.grad[:, 14].abs().max()) > 0


def test_rows_of_different_length_weigh_the_same(clip: tuple[torch.Tensor, MinMaxNormalizer]) -> None:
    x0, normalizer = clip
    pred = off(x0)
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[0, 6:] = False
    whole = plain()(pred, x0, normalizer, FPS, mask)
    rows = [plain()(pred[b : b + 1], x0[b : b + 1], normalizer, FPS, mask[b : b + 1]) for b in range(B)]
    for name, value in whole.items():
        assert float(value) == pytest.approx(sum(float(row[name]) for row in rows) / B, rel=1e-4), name


def test_contacts_get_no_gradient_from_the_foot_term(clip: tuple[torch.Tensor, MinMaxNormalizer]) -> None:
    x0, normalizer = clip
    pred = off(x0).requires_grad_()
    plain()(pred, x0, normalizer, FPS)["foot"].backward()
    assert pred.grad is not None
    assert float(pred.grad[..., CONTACTS].abs().max()) == 0
    assert float(pred.grad.abs().max()) > 0


def test_prediction_outside_the_range_keeps_its_gradient(clip: tuple[torch.Tensor, MinMaxNormalizer]) -> None:
    x0, normalizer = clip
    pred = (x0 * 0 + 1.5).requires_grad_()
    plain()(pred, x0, normalizer, FPS)["joint"].backward()
    assert pred.grad is not None
    assert float(pred.grad[..., 4:7].abs().min()) > 0
    inside = 0.9 * x0
    torch.testing.assert_close(unnormalize_unclipped(normalizer, inside), normalizer.unnormalize(inside))


def test_kinematics_stay_in_float32_under_autocast(clip: tuple[torch.Tensor, MinMaxNormalizer]) -> None:
    x0, normalizer = clip
    expected = plain()(off(x0), x0, normalizer, FPS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = plain()(off(x0), x0, normalizer, FPS)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=0)


def test_acceleration_is_off_unless_weighted(clip: tuple[torch.Tensor, MinMaxNormalizer]) -> None:
    x0, normalizer = clip
    pred = off(x0)
    assert "acceleration" not in plain()(pred, x0, normalizer, FPS)
    with_it = plain(acceleration_weight=0.001)(pred, x0, normalizer, FPS)
    without = plain()(pred, x0, normalizer, FPS)
    error = joints_from_representation(unnormalize_unclipped(normalizer, pred)) - joints_from_representation(
        normalizer.unnormalize(x0)
    )
    acceleration = (error.diff(dim=1).diff(dim=1) * FPS**2).square().mean()
    assert float(with_it["acceleration"]) == pytest.approx(float(acceleration), rel=1e-3)
    assert float(with_it["total"] - without["total"]) == pytest.approx(0.001 * float(acceleration), rel=1e-3)


def test_small_term_is_raised_to_one_percent_once_and_reported(clip: tuple[torch.Tensor, MinMaxNormalizer]) -> None:
    x0, normalizer = clip
    pred = (0.7 * x0).requires_grad_()
    pred.data[..., CONTACTS] = x0[..., CONTACTS]
    losses = MotionLosses()
    assert losses.rebalance_report() is None
    first = {name: value.detach() for name, value in losses(pred, x0, normalizer, FPS).items()}
    report = losses.rebalance_report()
    assert report is not None
    assert report["joint"]["raised"]
    assert not report["vel"]["raised"]
    shares = {name: report[name]["weight"] * float(first[name]) / float(first["total"]) for name in report}
    assert min(shares.values()) == pytest.approx(0.01, rel=1e-3)
    assert sum(entry["share"] for entry in report.values()) == pytest.approx(1, rel=1e-5)
    assert report["joint"]["weight_before"] == pytest.approx(0.646)
    before = losses.weights.clone()
    losses(off(x0, 0.5).requires_grad_(), x0, normalizer, FPS)
    assert torch.equal(losses.weights, before)


def test_nothing_is_measured_in_validation_or_when_switched_off(clip: tuple[torch.Tensor, MinMaxNormalizer]) -> None:
    x0, normalizer = clip
    losses = MotionLosses(joint_weight=1e-4)
    losses.eval()(off(x0), x0, normalizer, FPS)
    with torch.no_grad():
        losses.train()(off(x0), x0, normalizer, FPS)
    assert losses.rebalance_report() is None
    untouched = plain(joint_weight=1e-4)
    untouched(off(x0).requires_grad_(), x0, normalizer, FPS)
    report = untouched.rebalance_report()
    assert report is not None
    assert not any(entry["raised"] for entry in report.values())


def test_empty_foot_mask_at_the_start_does_not_explode_the_weight(clip: tuple[torch.Tensor, MinMaxNormalizer]) -> None:
    x0, normalizer = clip
    pred = off(x0, 0.02)
    pred[..., CONTACTS] = -1
    losses = MotionLosses()
    assert float(losses(pred.requires_grad_(), x0, normalizer, FPS)["foot"].detach()) == 0
    report = losses.rebalance_report()
    assert report is not None
    assert report["foot"]["measured_on"] == "true contacts"
    assert report["foot"]["weight"] == pytest.approx(10.942, rel=1e-5)


def test_absent_term_keeps_its_weight_and_a_tiny_one_stops_at_the_cap(
    clip: tuple[torch.Tensor, MinMaxNormalizer],
) -> None:
    x0, normalizer = clip
    still = x0[:, :1].expand(-1, T, -1).clone()
    losses = MotionLosses(rec_weight=1e-7)
    losses(still.requires_grad_(), x0, normalizer, FPS)
    report = losses.rebalance_report()
    assert report is not None
    assert report["foot"]["measured_on"] == "nothing"
    assert report["foot"]["weight"] == pytest.approx(10.942, rel=1e-5)
    assert report["rec"]["weight"] == pytest.approx(1e-5, rel=1e-4)


def test_resumed_run_keeps_its_weights(clip: tuple[torch.Tensor, MinMaxNormalizer]) -> None:
    x0, normalizer = clip
    losses = MotionLosses(joint_weight=0.001)
    losses(off(x0).requires_grad_(), x0, normalizer, FPS)
    resumed = MotionLosses(joint_weight=0.001)
    resumed.load_state_dict(losses.state_dict())
    resumed(off(x0, 0.7).requires_grad_(), x0, normalizer, FPS)
    assert torch.equal(resumed.weights, losses.weights)
    assert resumed.rebalance_report() is None


def test_values_out_of_range_are_refused() -> None:
    for options in ({"rec_weight": -1.0}, {"rebalance_below": 0.5}, {"rebalance_cap": 0.5}, {"velocity_space": "x"}):
        with pytest.raises(ConfigError):
            MotionLosses(**options)  # type: ignore[arg-type]
