import math

import torch

from macedance.diffusion.draws import RowNoise, draw_step
from macedance.diffusion.guidance import GuidanceFreeTraining
from macedance.diffusion.losses import MotionLosses
from macedance.diffusion.samplers import DpmSolverSampler
from macedance.diffusion.schedule import CosineSchedule
from macedance.models.motion_expert import MotionExpert
from macedance.motion.normalizer import MinMaxNormalizer
from macedance.motion.representation import encode_motion, joints_from_representation

T, BATCH, STEPS = 45, 4, 150


def test_one_clip_is_learned_by_heart_and_danced_back() -> None:
    """The whole chain: draws, noise, mixed prediction, losses, sampler. 2% of the first loss is the bound."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    clock_s = torch.arange(T) / 30
    phase = 2 * math.pi * torch.rand(24, 3, generator=generator)
    poses = 0.3 * torch.sin(2 * math.pi * clock_s[:, None, None] + phase)
    trans = torch.stack([0.05 * torch.sin(3 * clock_s), 0.9 + 0 * clock_s, 0.05 * torch.cos(3 * clock_s)], -1)
    x = encode_motion(poses, trans, 30.0)
    normalizer = MinMaxNormalizer(151)
    normalizer.update(x)
    x0 = normalizer.normalize(x).expand(BATCH, T, 151)
    music = torch.randn(T, 35, generator=generator).expand(BATCH, T, 35)

    network = MotionExpert(
        latent_dim=32,
        num_dance_layers=2,
        num_music_layers=1,
        num_heads=2,
        feedforward_dim=64,
        state_dim=4,
        dropout=0.0,
        frame_music=True,
    )
    objective, losses, schedule = GuidanceFreeTraining(), MotionLosses(), CosineSchedule()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS, pct_start=0.1)
    history = []
    for step in range(STEPS):
        draws = draw_step(0, range(step * BATCH, (step + 1) * BATCH), T, 151)
        xt = schedule.add_noise(x0, draws.t_B, draws.noise_BTC)
        terms = losses(objective.training_prediction(network, xt, draws, music, None), x0, normalizer, 30.0)
        optimizer.zero_grad()
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rate.step()
        history.append({name: float(value.detach()) for name, value in terms.items()})
    last = history[-10:]
    assert sum(terms["total"] for terms in last) / 10 < 0.02 * history[0]["total"]

    network.eval()
    with torch.no_grad():
        denoise = objective.denoiser(network, music, None, 0.75)
        danced = DpmSolverSampler(10).sample(denoise, RowNoise(0, range(BATCH)).normal(T, 151), schedule)
    joints = joints_from_representation(x)
    error = (joints_from_representation(normalizer.unnormalize(danced)) - joints).norm(dim=-1).mean()
    still = (joints - joints.mean(0)).norm(dim=-1).mean()
    assert float(error) < 0.5 * float(still)
