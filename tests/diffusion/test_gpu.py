import pytest
import torch

from macedance.diffusion.draws import RowNoise, draw_step
from macedance.diffusion.guidance import ClassifierFreeGuidance, GuidanceFreeTraining
from macedance.diffusion.losses import MotionLosses
from macedance.diffusion.samplers import DdimSampler, DpmSolverSampler
from macedance.diffusion.schedule import CosineSchedule
from macedance.diffusion.windows import WindowedDenoiser
from macedance.models.motion_expert import MotionExpert
from macedance.motion.normalizer import MinMaxNormalizer
from macedance.motion.representation import encode_motion

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator"),
]

B, T, SEED = 4, 60, 3


def network(device: str) -> MotionExpert:
    torch.manual_seed(0)
    return MotionExpert(
        latent_dim=64,
        num_dance_layers=2,
        num_music_layers=1,
        num_heads=2,
        feedforward_dim=64,
        dropout=0.0,
        num_genres=2,
    ).to(device)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, MinMaxNormalizer]:
    generator = torch.Generator().manual_seed(0)
    clock = torch.arange(T)[None, :, None, None] / 10 + torch.rand(B, 1, 24, 3, generator=generator) * 6
    x = encode_motion(0.4 * torch.sin(clock), 0.1 * torch.sin(clock[..., 0, :]), 30.0)
    normalizer = MinMaxNormalizer(151)
    normalizer.update(x)
    return normalizer.normalize(x), torch.randn(B, T, 35, generator=generator), torch.tensor([0, 1, 0, 1]), normalizer


def test_training_step_on_the_accelerator_matches_the_cpu() -> None:
    totals, grads = [], []
    for device in ("cpu", "cuda"):
        x0, music, genre, normalizer = inputs()
        x0, music, genre, normalizer = x0.to(device), music.to(device), genre.to(device), normalizer.to(device)
        net, schedule, losses = network(device), CosineSchedule().to(device), MotionLosses().to(device)
        draws = draw_step(SEED, range(B), T, 151, device=device)
        assert draws.noise_BTC.device.type == device
        xt = schedule.add_noise(x0, draws.t_B, draws.noise_BTC)
        mask = torch.ones(B, T, dtype=torch.bool, device=device)
        objective = GuidanceFreeTraining(mix_fraction=0.8)
        terms = losses(objective.training_prediction(net, xt, draws, music, genre), x0, normalizer, 30.0, mask)
        terms["total"].backward()
        totals.append(float(terms["total"].detach()))
        grads.append(net.final_layer.weight.grad.cpu())
    assert totals[1] == pytest.approx(totals[0], rel=1e-3)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-2, atol=1e-3 * float(grads[0].abs().max()))


@pytest.mark.parametrize("sampler", [DdimSampler(10, 1.0), DpmSolverSampler(10)])
@pytest.mark.parametrize("objective", [GuidanceFreeTraining(), ClassifierFreeGuidance()])
def test_sampling_on_the_accelerator_matches_the_cpu(
    sampler: DdimSampler | DpmSolverSampler, objective: GuidanceFreeTraining | ClassifierFreeGuidance
) -> None:
    dances = []
    for device in ("cpu", "cuda"):
        _, music, genre, _ = inputs()
        net, schedule = network(device).eval(), CosineSchedule().to(device)
        with torch.inference_mode():
            denoise = WindowedDenoiser(
                lambda music, genre, net=net: objective.denoiser(net, music, genre),
                music.to(device),
                genre.to(device),
                window=25,
                max_batch=4,
            )
            noise = RowNoise(SEED, range(B))
            dances.append(sampler.sample(denoise, noise.normal(T, 151, device), schedule, noise).cpu())
    torch.testing.assert_close(dances[1], dances[0], rtol=0, atol=5e-3)
