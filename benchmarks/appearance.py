"""A training step of the Appearance Expert at its published size, with random weights: seconds, memory, use of the GPU.

    python benchmarks/appearance.py [--stages kinematic aesthetic] [--frames 77 --height 480 --width 832] [--json FILE]
    python benchmarks/appearance.py --tiny --device cpu       the same program in seconds, for its own test

Wan2.2-Animate-14B's architecture with normal weights in bfloat16 (34.5 GB), one clip, activation checkpointing of the
blocks and face adapters, AdamW on what the stage trains, kept in float32, under autocast: what `macedance fit` does on
one GPU with latents encoded beforehand, without the loader. The first steps are not measured. Peak memory is the
allocator's, above nothing: weights, optimizer and activations; beside it what `macedance summary` counts. The matmul
rate is the best of several square products in bfloat16. MFU counts forward and backward pass as far as what trains
needs the latter, HFU what activation checkpointing computes again as well; both over the measured matmul rate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lightning_modules.stages import AESTHETIC_LORA
from macedance.diffusion.flow_matching import FlowMatching, draw_flow
from macedance.models.appearance_expert.conditions import Conditions
from macedance.models.appearance_expert.costs import CHECKPOINTED, clip_inputs, parameter_counts, step_costs
from macedance.models.appearance_expert.memory import state_bytes
from macedance.models.appearance_expert.network import BODY_ADAPTER, AppearanceExpert
from macedance.models.appearance_expert.training import velocity_loss
from macedance.nn.recomputation import recompute_activations
from macedance.nn.trainable import add_lora, keep_trained_precise, set_trainable

WAN_VAE = {"z_dim": 16, "scale_factor_spatial": 8, "scale_factor_temporal": 4}
WAN: dict[str, Any] = {"added_kv_proj_dim": 5120, "image_dim": 1280}
TINY: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 6, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2,
    "image_dim": None, "added_kv_proj_dim": None, "rope_max_seq_len": 32, "inject_face_latents_blocks": 1,
    "motion_encoder_size": 16, "motion_style_dim": 8, "motion_dim": 4, "motion_encoder_dim": 8,
    "face_encoder_hidden_dim": 16, "face_encoder_num_heads": 2,
    "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
}  # fmt: skip
STAGES = ("kinematic", "aesthetic")
LEARNING_RATES = {"kinematic": 1e-5, "aesthetic": 1e-4}
WARM_STEPS = 2
MATMUL_SIZES = (8192, 16384)
TARGET_MFU = 0.4


@contextmanager
def made_in(dtype: torch.dtype) -> Iterator[None]:
    """New weights are of this type, so that no copy in float32 is ever made."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def make_network(stage: str, device: str, tiny: bool) -> AppearanceExpert:
    """Random weights; what the stage trains is float32, the rest bfloat16 but for what diffusers keeps precise."""
    with made_in(torch.bfloat16), torch.device(device):
        network = AppearanceExpert(TINY if tiny else WAN, WAN_VAE, precision="bfloat16")
        if stage == "aesthetic":
            add_lora(network, AESTHETIC_LORA)
        else:
            set_trainable(network, train_only=list(BODY_ADAPTER))
    kept = set(network.transformer._keep_in_fp32_modules)
    for name, parameter in network.named_parameters():
        if kept.intersection(name.split(".")):
            parameter.data = parameter.data.float()
    keep_trained_precise(network)
    return network


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def matmul_rate(device: str, sizes: tuple[int, ...], repeats: int = 5) -> float:
    """FLOPs a second of the fastest square product in bfloat16."""
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        for _ in range(2):
            a @ b
        for _ in range(repeats):
            synchronise(device)
            started = time.perf_counter()
            for _ in range(4):
                a @ b
            synchronise(device)
            best = max(best, 4 * 2 * size**3 / (time.perf_counter() - started))
    return best


def clip_of(network: AppearanceExpert, options: argparse.Namespace) -> tuple[torch.Tensor, Conditions]:
    """A clip of noise and its conditions."""
    noisy, _, zeros = clip_inputs(network, options.frames, options.height, options.width, options.device)
    drawn = {
        name: torch.randn_like(value)
        for name in ("reference", "pose", "text", "known", "image")
        if (value := getattr(zeros, name)) is not None
    }
    return torch.randn_like(noisy[:, :, 1:]), Conditions(face=zeros.face, **{"image": None, **drawn})


def train(stage: str, options: argparse.Namespace) -> dict[str, float]:
    """A few steps of one stage on one clip."""
    torch.manual_seed(0)
    if options.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    network = make_network(stage, options.device, options.tiny).train()
    recompute_activations(network, CHECKPOINTED)
    total, trained = parameter_counts(network)
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATES[stage], fused=options.device == "cuda")
    latents, conditions = clip_of(network, options)
    flow, shape = FlowMatching(), (latents.shape[1], latents.shape[2] + 1, *latents.shape[3:])
    seconds, losses = [], []
    for step in range(WARM_STEPS + options.steps):
        draws = draw_flow(0, torch.tensor([step]), shape, 0.0, 0.0).to(latents.device)
        synchronise(options.device)
        started = time.perf_counter()
        with torch.autocast(options.device, torch.bfloat16):
            loss = velocity_loss(network, flow, latents, conditions, draws)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        synchronise(options.device)
        seconds.append(time.perf_counter() - started)
        losses.append(float(loss.detach()))
    peak = float(torch.cuda.max_memory_allocated()) if options.device == "cuda" else float("nan")
    return {
        "parameters": total, "trainable_parameters": trained, "peak_bytes": peak,
        "step_s": statistics.median(seconds[WARM_STEPS:]), "finite": all(map(torch.isfinite, torch.tensor(losses))),
    }  # fmt: skip


def expected(stage: str, options: argparse.Namespace) -> dict[str, float]:
    """What the summary counts for the same step."""
    with torch.device("meta"):
        network = AppearanceExpert(TINY if options.tiny else WAN, WAN_VAE, precision="bfloat16")
        if stage == "aesthetic":
            add_lora(network, AESTHETIC_LORA)
        else:
            set_trainable(network, train_only=list(BODY_ADAPTER))
    costs = step_costs(network.to(torch.bfloat16), options.frames, options.height, options.width)
    state = state_bytes(*parameter_counts(network), ranks=1)["ddp"].total
    return {
        "tokens": network.geometry.tokens(options.frames, options.height, options.width),
        "step_flops": costs.step_flops, "executed_flops": costs.executed_flops,
        "expected_peak_bytes": state + costs.checkpointed_peak_bytes,
    }  # fmt: skip


def measure(options: argparse.Namespace) -> dict[str, Any]:
    rate = matmul_rate(options.device, (64,) if options.tiny else MATMUL_SIZES)
    stages: dict[str, dict[str, float]] = {}
    for stage in options.stages:
        row = {**expected(stage, options), **train(stage, options)}
        row["mfu"] = row["step_flops"] / row["step_s"] / rate
        row["hfu"] = row["executed_flops"] / row["step_s"] / rate
        stages[stage] = row
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    clip = {"frames": options.frames, "height": options.height, "width": options.width}
    return {"device": device, "torch": torch.__version__, "matmul_flops_per_s": rate, "clip": clip, "stages": stages}


def report(result: dict[str, Any]) -> None:
    clip, rate = result["clip"], result["matmul_flops_per_s"] / 1e12
    print(
        f"{result['device']}, torch {result['torch']}, matmul {rate:.1f} TFLOP/s in bf16,"
        f" one clip of {clip['frames']} x {clip['height']} x {clip['width']}"
    )
    print("stage       trained        step s   peak GB  expected GB   MFU    HFU")
    for stage, row in result["stages"].items():
        print(
            f"{stage:<10}{row['trainable_parameters']:>12,}{row['step_s']:>10.3f}{row['peak_bytes'] / 1e9:>10.2f}"
            f"{row['expected_peak_bytes'] / 1e9:>12.2f}{row['mfu']:>8.3f}{row['hfu']:>7.3f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--frames", type=int, default=77)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a network of a few thousand weights")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here")
    result = measure(options)
    report(result)
    if options.json:
        # A peak that a processor cannot tell is null.
        text = json.dumps(result, indent=2).replace("NaN", "null")
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
