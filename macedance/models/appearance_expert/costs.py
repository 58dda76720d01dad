"""What a training step of the Appearance Expert costs: the step is walked through on the meta device, where tensors
have sizes and no memory.

Shapes: B = 1 clip. Bytes are bytes, FLOPs count a multiply-add as two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from macedance.models.appearance_expert.conditions import Conditions, no_face
from macedance.models.appearance_expert.memory import LiveBytes
from macedance.models.appearance_expert.network import AppearanceExpert
from macedance.models.appearance_expert.video_vae import VideoVae
from macedance.nn.recomputation import keep_activations, recompute_activations

#: Tokens of Wan's text encoder (prompts are padded to it), of the weightless one, and of CLIP's features of a picture.
TEXT_TOKENS, WORD_TOKENS, IMAGE_TOKENS = 512, 16, 257
#: Channels of Wan's text encoder.
WAN_TEXT_DIM = 4096
#: Submodules whose activations are computed again: the blocks, and the face adapters between them.
CHECKPOINTED = ("transformer.blocks.*", "transformer.face_adapter.*")


@dataclass(frozen=True)
class StepCosts:
    """Costs of a training step on one clip.

    Attributes:
        forward_flops: Of the forward pass: matrix products, convolutions, attention.
        step_flops: Of forward and backward pass, as far as what trains needs the latter; nothing computed twice.
        executed_flops: The same with what activation checkpointing computes again.
        kept_bytes: Alive between forward and backward pass, beside the weights.
        peak_bytes: The most alive at any time, beside the weights and the gradients of what trains.
        checkpointed_kept_bytes: ``kept_bytes`` with activation checkpointing.
        checkpointed_peak_bytes: ``peak_bytes`` with activation checkpointing.
    """

    forward_flops: int
    step_flops: int
    executed_flops: int
    kept_bytes: int
    peak_bytes: int
    checkpointed_kept_bytes: int
    checkpointed_peak_bytes: int


@dataclass(frozen=True)
class Walk:
    """One step, walked through; see StepCosts."""

    forward_flops: int
    step_flops: int
    kept_bytes: int
    peak_bytes: int


def parameter_counts(network: nn.Module) -> tuple[int, int]:
    """Parameters of the network, and those that train."""
    counts = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return sum(n for n, _ in counts), sum(n for n, trains in counts if trains)


def step_costs(
    network: AppearanceExpert, frames: int, height: int, width: int, checkpointed: Sequence[str] = CHECKPOINTED
) -> StepCosts:
    """Costs of a training step on one clip of this size; what trains is what requires a gradient in the network.

    Args:
        network: On the meta device, in the precision that it computes in, without activation checkpointing.
        frames: Of the clip, pixels' frames; ``height`` and ``width`` likewise.
        height: Pixels.
        width: Pixels.
        checkpointed: Name patterns of the submodules that are computed again in the backward pass.

    Raises:
        ConfigError: A size that does not divide into tokens, or a pattern that matches nothing.
    """
    inputs = clip_inputs(network, frames, height, width)
    return _costs(network, lambda: network(*inputs), checkpointed)


def vae_step_costs(
    network: VideoVae, frames: int, height: int, width: int, checkpointed: Sequence[str] = ()
) -> StepCosts:
    """The same for an autoencoder; see ``step_costs``."""
    network.geometry.check(frames, height, width)
    dtype = next(network.parameters()).dtype
    pixels = torch.empty(1, 3, frames, height, width, device="meta", dtype=dtype)
    return _costs(network, lambda: network(pixels).pixels, checkpointed)


def clip_inputs(
    network: AppearanceExpert, frames: int, height: int, width: int, device: torch.device | str = "meta"
) -> tuple[Tensor, Tensor, Conditions]:
    """Inputs of the network for one clip of this size, of zeros where the device has memory.

    Raises:
        ConfigError: A size that does not divide into tokens.
    """
    channels, t, h, w = network.geometry.latent_shape(frames, height, width)
    config: Any = network.transformer.config
    with torch.device(device):
        image = None if config["image_dim"] is None else torch.zeros(1, IMAGE_TOKENS, config["image_dim"])
        latents, reference = torch.zeros(1, channels, t, h, w), torch.zeros(1, channels, 1, h, w)
        text = torch.zeros(1, text_tokens(config), config["text_dim"])
        noisy, sigma = torch.zeros(1, channels, t + 1, h, w), torch.full((1,), 0.5)
        conditions = Conditions(reference, latents, no_face(1, t, network.face_size), text, latents, image)
    return noisy, sigma, conditions


def text_tokens(config: Any) -> int:
    """Tokens of a prompt: those of Wan's text encoder, which a network with a picture's features relies on, or of the
    weightless one."""
    return TEXT_TOKENS if config["image_dim"] is not None or config["text_dim"] == WAN_TEXT_DIM else WORD_TOKENS


def _costs(network: nn.Module, forward: Callable[[], Tensor], checkpointed: Sequence[str]) -> StepCosts:
    plain = again = executed = walk_step(network, forward, count_flops=True)
    if checkpointed:
        with _recomputing(network, checkpointed):
            # Counting operations keeps tensors alive that checkpointing lets go: here each has a walk of its own.
            again, executed = walk_step(network, forward), walk_step(network, forward, count_flops=True)
    return StepCosts(
        forward_flops=plain.forward_flops,
        step_flops=plain.step_flops,
        executed_flops=executed.step_flops,
        kept_bytes=plain.kept_bytes,
        peak_bytes=plain.peak_bytes,
        checkpointed_kept_bytes=again.kept_bytes,
        checkpointed_peak_bytes=again.peak_bytes,
    )


def walk_step(network: nn.Module, forward: Callable[[], Tensor], count_flops: bool = False) -> Walk:
    """Forward and backward pass under the counters; gradients of what trains are let go as soon as they are there.

    Args:
        network: On any device; its gradients are gone afterwards.
        forward: Makes the output of a network's pass.
        count_flops: Count operations; the bytes are then too many where activations are computed again.
    """

    def let_go(parameter: Tensor) -> None:
        parameter.grad = None

    trained = [p for p in network.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(let_go) for p in trained]
    counter = FlopCounterMode(display=False) if count_flops else None
    live = LiveBytes([*network.parameters(), *network.buffers()])
    was_training = network.training
    network.train()
    try:
        with _fused_attention(), live, counter or nullcontext():
            output = forward()
            kept, after_forward = live.now, counter.get_total_flops() if counter else 0
            loss = output.float().square().mean()
            del output
            torch.autograd.backward(loss)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return Walk(int(after_forward), int(counter.get_total_flops()) if counter else 0, kept, live.peak)


@contextmanager
def _recomputing(network: nn.Module, patterns: Sequence[str]) -> Iterator[None]:
    """Activation checkpointing for the time being."""
    recompute_activations(network, patterns)
    try:
        yield
    finally:
        keep_activations(network)


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention on the meta device as GPUs have it: without the matrix of scores, which it would keep there.

    A mode of torch's functions cannot do it: none is active in a backward pass, where attention may run once more.
    """
    plain = F.scaled_dot_product_attention

    def fused(query: Tensor, key: Tensor, value: Tensor, *args: Any, **keywords: Any) -> Tensor:
        if query.device.type != "meta":
            return plain(query, key, value, *args, **keywords)
        result: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
        return result

    F.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain
