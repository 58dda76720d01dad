"""``macedance summary`` for the Appearance Expert and its autoencoder: sizes, a step's costs, memory of each rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from lightning_modules.base import ExpertModule
from lightning_modules.strategies.sizes import ZeroSizes, zero_sizes
from macedance.errors import ConfigError, MaceDanceError
from macedance.models.appearance_expert.costs import StepCosts, parameter_counts, step_costs, vae_step_costs
from macedance.models.appearance_expert.encoder_sizes import EncoderSizes, encoder_sizes
from macedance.models.appearance_expert.memory import STRATEGIES, RankBytes, state_bytes
from macedance.models.appearance_expert.network import AppearanceExpert
from macedance.models.appearance_expert.video_vae import VideoVae

#: Numbers of GPUs that memory is worked out for.
DEFAULT_RANKS = (8, 16, 64)
#: What CUDA reports of a card of 80 GB, 79.1 GiB, in 10^9 bytes.
GPU_GB = 84.9
#: Left to the driver, to NCCL and to the holes between the allocator's blocks: an assumption, not a measurement.
RESERVE_GB = 4.0
#: Parameters that ZeRO-3 leaves whole; configs/strategies/zero3.yaml.
KEEP_WHOLE_BELOW = 10_000


@dataclass(frozen=True)
class Clip:
    """Size of a clip in pixels."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class RankMemory:
    """What a rank holds at the peak of a training step of one clip, in bytes.

    Attributes:
        weights: See RankBytes, as the following two.
        gradients: Of what trains.
        optimizer: Of what trains.
        buffers: Buckets that travel, and the gradients' copy for the optimizer's step.
        gathered: ZeRO-3: weights that are whole for the moment, at most.
        activations: The peak of what the network computes.
        total: The sum.
        largest_micro_batch: Clips that fit at a time; 0: not one.
    """

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    gathered: int
    activations: int
    total: int = 0
    largest_micro_batch: int = 0


def is_appearance(module: ExpertModule) -> bool:
    """Whether this page counts the module's network."""
    return isinstance(module.built_network, (AppearanceExpert, VideoVae))


def summarise_appearance(
    cli: Any, ranks: Sequence[int] = DEFAULT_RANKS, gpu_gb: float = GPU_GB, checkpointed: Sequence[str] | None = None
) -> dict[str, Any]:
    """Figures of a config whose network is built on the meta device, without activation checkpointing.

    Args:
        cli: The parsed config; its model's network is brought to the precision that it computes in.
        ranks: Numbers of GPUs to work out the memory for.
        gpu_gb: Memory of one, 10^9 bytes.
        checkpointed: Name patterns of the submodules that compute their activations again; None: the config has none.

    Raises:
        ConfigError: Nothing says how large a clip is, or a clip does not divide into tokens.
    """
    network = cli.model.built_network
    trainer, data = cli.config.trainer, cli.config.data.init_args
    half = str(trainer.precision).startswith("bf16")
    if half:
        network.to(torch.bfloat16)
    clips = clips_of(cli)
    clip = max(clips, key=lambda c: c.frames * c.height * c.width)
    total, trained = parameter_counts(network)
    if isinstance(network, AppearanceExpert):
        costs = step_costs(network, clip.frames, clip.height, clip.width, checkpointed or ())
        sizes = encoder_sizes(network.transformer_config, network.vae_config, has_image(network))
        tokens: int | None = network.geometry.tokens(clip.frames, clip.height, clip.width)
    else:
        side = cli.model.crop
        clip = clip if side is None else Clip(clip.frames, side, side)
        costs = vae_step_costs(network, clip.frames, clip.height, clip.width, checkpointed or ())
        sizes, tokens = EncoderSizes(total, 0, 0), None
    peak = costs.checkpointed_peak_bytes
    zero = zero_sizes(trained, total, "cuda")
    weight_bytes = 2 if half else 4
    whole = sum(p.numel() for p in network.parameters() if p.numel() < KEEP_WHOLE_BELOW)
    return {
        "parameters": total,
        "trainable_parameters": trained,
        "vae_parameters": sizes.vae,
        "text_encoder_parameters": sizes.text_encoder,
        "image_encoder_parameters": sizes.image_encoder,
        "flops_per_sample": costs.step_flops,
        "forward_flops_per_sample": costs.forward_flops,
        "executed_flops_per_sample": costs.executed_flops,
        "frames_per_sample": clip.frames,
        "height": clip.height,
        "width": clip.width,
        "tokens_per_sample": tokens,
        "activation_bytes_per_sample": _activations(costs),
        "activation_checkpointing": list(checkpointed or ()),
        "precision": str(trainer.precision),
        "global_batch_size": int(data.global_batch_size),
        "gpu_gb": gpu_gb,
        "bytes_per_rank": {str(n): _strategies(total, trained, n, peak, zero, weight_bytes, gpu_gb) for n in ranks},
        "zero3_plan": {
            "bucket_elements": zero.bucket,
            "prefetch_elements": zero.prefetch,
            "live_elements": zero.live,
            "keep_whole_below": KEEP_WHOLE_BELOW,
            "whole_parameters": whole,
            "divided_parameters": total - whole,
            "largest_tensor_elements": max(p.numel() for p in network.parameters()),
        },
        "adapters": cli.model.lora is not None,
        "network": f"{type(network).__module__}.{type(network).__qualname__}",
    }


def has_image(network: AppearanceExpert) -> bool:
    """Whether the transformer takes a picture's features."""
    return network.transformer.config["image_dim"] is not None


def clips_of(cli: Any) -> list[Clip]:
    """Sizes of the clips that a config trains on: as it says, else as its corpus has them.

    Raises:
        ConfigError: Neither says.
    """
    data = cli.config.data.init_args
    frames, buckets = data.get("frames"), data.get("buckets")
    if buckets and all(bucket.frames or frames for bucket in buckets):
        return [Clip(int(bucket.frames or frames), int(bucket.height), int(bucket.width)) for bucket in buckets]
    try:
        found = [Clip(int(t), int(h), int(w)) for h, w, t in cli.datamodule.buckets]
    except MaceDanceError as error:
        raise ConfigError(
            "nothing says how large a clip is: the config has no data.frames and data.buckets, and its corpus cannot "
            "be read",
            where="data",
            fix="give data.frames and data.buckets, or a data.shards that exists",
        ) from error
    return found if frames is None else [replace(clip, frames=int(frames)) for clip in found]


def _activations(costs: StepCosts) -> dict[str, int]:
    return {
        "kept": costs.kept_bytes,
        "peak": costs.peak_bytes,
        "checkpointed_kept": costs.checkpointed_kept_bytes,
        "checkpointed_peak": costs.checkpointed_peak_bytes,
    }


def _strategies(
    total: int, trained: int, ranks: int, peak: int, zero: ZeroSizes, weight_bytes: int, gpu_gb: float
) -> dict[str, dict[str, int]]:
    states = state_bytes(total, trained, ranks, weight_bytes)
    memory = {
        name: rank_memory(name, states[name], trained, ranks, peak, zero, weight_bytes, gpu_gb) for name in STRATEGIES
    }
    return {name: asdict(row) for name, row in memory.items()}


def rank_memory(
    strategy: str,
    state: RankBytes,
    trained: int,
    ranks: int,
    peak: int,
    zero: ZeroSizes,
    weight_bytes: int,
    gpu_gb: float = GPU_GB,
) -> RankMemory:
    """Memory of one rank.

    Args:
        strategy: One of STRATEGIES.
        state: What it holds of the network.
        trained: Parameters that train.
        ranks: GPUs.
        peak: Bytes that the network computes with at the most, for one clip.
        zero: Sizes of what travels.
        weight_bytes: Of a weight that travels.
        gpu_gb: Memory of a GPU, 10^9 bytes.
    """
    # Two buckets, since one is filled while the other travels; and the optimizer's step copies a rank's gradients.
    buffers = 0 if strategy == "ddp" else 2 * weight_bytes * zero.bucket + 4 * -(-trained // ranks)
    gathered = weight_bytes * zero.live if strategy == "zero3" else 0
    fixed = state.total + buffers + gathered
    room = (gpu_gb - RESERVE_GB) * 1e9 - fixed
    return RankMemory(
        weights=state.weights,
        gradients=state.gradients,
        optimizer=state.optimizer,
        buffers=buffers,
        gathered=gathered,
        activations=peak,
        total=fixed + peak,
        largest_micro_batch=max(int(room // peak), 0),
    )


# ---------------------------------------------------------------- as text
def print_appearance(result: Mapping[str, Any]) -> None:
    """The figures as a page of text."""
    for key, value in result.items():
        if value is None:
            told = "unknown: the config does not describe it" if key.endswith("_parameters") else "none"
            print(f"{key:<28}{told}")
        elif isinstance(value, int) and not isinstance(value, bool):
            print(f"{key:<28}{value:,}")
        elif not isinstance(value, (dict, list)):
            print(f"{key:<28}{value}")
    kept = result["activation_bytes_per_sample"]
    print("\nactivations of one clip      kept for backward       at the peak")
    for name, prefix in (("  all of them", ""), ("  checkpointed", "checkpointed_")):
        print(f"{name:<28}{_gb(kept[prefix + 'kept']):>18}{_gb(kept[prefix + 'peak']):>18}")
    print(f"  checkpointed: {', '.join(result['activation_checkpointing']) or 'nothing in this config'}")
    print("\nZeRO-3 plan (elements)")
    for key, value in result["zero3_plan"].items():
        print(f"  {key:<26}{value:>18,}")
    _print_ranks(result)


def _print_ranks(result: Mapping[str, Any]) -> None:
    print(
        f"\nGB on each GPU at the peak, one clip at a time. fits: how many at a time fit into {result['gpu_gb']:g}\n"
        f"GB, of which {RESERVE_GB:g} are left to driver and NCCL. accumulate: trainer.accumulate_grad_batches of the\n"
        f"global batch of {result['global_batch_size']} with as many at a time as fit"
    )
    columns = ("weights", "gradients", "optimizer", "buffers", "gathered", "activations", "total")
    print("GPUs  strategy" + "".join(f"{name:>12}" for name in columns) + "   fits  accumulate")
    for ranks, rows in result["bytes_per_rank"].items():
        for strategy, row in rows.items():
            fits = row["largest_micro_batch"]
            told = accumulation(result["global_batch_size"], int(ranks), fits)
            figures = "".join(f"{row[name] / 1e9:12.2f}" for name in columns)
            print(f"{ranks:<6}{strategy:<8}{figures}{fits:>7}  {told}")
    if result["adapters"]:
        print("Under ddp low-rank adapters are float32 beside a bfloat16 base: up to a third more activations.")


def accumulation(global_batch: int, ranks: int, largest: int) -> str:
    """``trainer.accumulate_grad_batches`` of a global batch with as many clips at a time as fit, or what is wrong."""
    if largest == 0:
        return "does not fit"
    if global_batch % ranks:
        return f"the batch does not divide by {ranks}"
    each = global_batch // ranks
    return str(each // max(n for n in range(1, min(each, largest) + 1) if each % n == 0))


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
