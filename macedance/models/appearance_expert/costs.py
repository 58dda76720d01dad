"""What a training step of the Appearance Expert costs, counted without weights or memory: on the meta device.

Shapes: B = 1 clip. Bytes are bytes, FLOPs count a multiply-add as two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from macedance.models.appearance_expert.conditions import Conditions, no_face
from macedance.models.appearance_expert.network import AppearanceExpert
from macedance.nn.recomputation import matching_submodules

#: Tokens of Wan's text encoder (prompts are padded to it) and of CLIP's features of the reference.
TEXT_TOKENS, IMAGE_TOKENS = 512, 257


#: Submodules whose activations are computed again: the blocks, and the face adapters between them.
CHECKPOINTED = ("transformer.blocks.*", "transformer.face_adapter.*")


@dataclass(frozen=True)
class StepCosts:
    """Costs of one clip.

    Attributes:
        tokens: Of the transformer, the reference frame's included.
        forward_flops: Of one forward pass: matrix products, convolutions, attention.
        activation_bytes: What autograd keeps between forward and backward.
        checkpointed_bytes: The same when some submodules keep their inputs only, plus the largest of them computed
            again.
    """

    tokens: int
    forward_flops: int
    activation_bytes: int
    checkpointed_bytes: int


def step_costs(
    network: AppearanceExpert, frames: int, height: int, width: int, checkpointed: Sequence[str] = CHECKPOINTED
) -> StepCosts:
    """Costs of a training step on one clip of this size; what trains is what requires a gradient in the network.

    Args:
        network: On the meta device, in the precision that it trains in, without activation checkpointing.
        frames: Of the clip, pixels' frames; ``height`` and ``width`` likewise.
        height: Pixels.
        width: Pixels.
        checkpointed: Name patterns of the submodules that are computed again in the backward pass.

    Raises:
        ConfigError: A size that does not divide into tokens, or a pattern that matches nothing.
    """
    noisy, sigma, conditions = _inputs(network, frames, height, width)
    names = matching_submodules(network, checkpointed)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(noisy, sigma, conditions)
    calls: dict[str, tuple[Any, Any]] = {}
    with _saved() as saved, _FusedAttention(), _calls_of(network, names, calls):
        # The output keeps the graph and with it every saved tensor alive, so that no storage is counted as another.
        output = network(noisy, sigma, conditions)
        everything = saved.total()
    inside, kept = [], []
    measured: dict[type, int] = {}
    for name in names:
        module = network.get_submodule(name)
        # Blocks of one class are alike: what one keeps, all keep.
        if type(module) not in measured:
            measured[type(module)] = _kept_inside(module, *calls[name])
        inside.append(measured[type(module)])
        kept.append(calls[name][0][0].nbytes)
    del output
    return StepCosts(
        tokens=network.geometry.tokens(frames, height, width),
        forward_flops=int(counter.get_total_flops()),
        activation_bytes=everything,
        checkpointed_bytes=everything - sum(inside) + sum(kept) + max(inside, default=0),
    )


def parameter_counts(network: nn.Module) -> tuple[int, int]:
    """Parameters of the network, and those that train."""
    counts = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return sum(n for n, _ in counts), sum(n for n, trains in counts if trains)


#: Bytes of a weight, and of the gradient, the float32 copy and Adam's two moments of one that trains in bfloat16.
_WEIGHT, _GRADIENT, _OPTIMIZER = 2, 2, 12
#: Strategy -> which of (weights, gradients, optimizer) are divided over the ranks (Rajbhandari et al., 2020, fig. 1).
_DIVIDED = {
    "ddp": (False, False, False),
    "zero1": (False, False, True),
    "zero2": (False, True, True),
    "zero3": (True, True, True),
}


def state_bytes(parameters: int, trainable: int, ranks: int) -> dict[str, dict[str, int]]:
    """Bytes on each rank by strategy: weights, gradients, optimizer and their sum, in bfloat16 with Adam.

    Args:
        parameters: All of the network's, kept in bfloat16.
        trainable: Those that train.
        ranks: GPUs that share what is divided.
    """
    table = {}
    for strategy, divided in _DIVIDED.items():
        whole = (_WEIGHT * parameters, _GRADIENT * trainable, _OPTIMIZER * trainable)
        parts = [-(-size // ranks) if cut else size for size, cut in zip(whole, divided, strict=True)]
        table[strategy] = dict(zip(("weights", "gradients", "optimizer", "total"), (*parts, sum(parts)), strict=True))
    return table


def _inputs(network: AppearanceExpert, frames: int, height: int, width: int) -> tuple[Tensor, Tensor, Conditions]:
    channels, t, h, w = network.geometry.latent_shape(frames, height, width)
    config: Any = network.transformer.config
    with torch.device("meta"):
        image = None if config["image_dim"] is None else torch.empty(1, IMAGE_TOKENS, config["image_dim"])
        latents, reference = torch.empty(1, channels, t, h, w), torch.empty(1, channels, 1, h, w)
        face = no_face(1, t, network.face_size)
        text = torch.empty(1, TEXT_TOKENS, config["text_dim"])
        noisy, sigma = torch.empty(1, channels, t + 1, h, w), torch.empty(1)
    return noisy, sigma, Conditions(reference, latents, face, text, latents, image)


def _kept_inside(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> int:
    """Bytes that autograd keeps of one submodule."""
    hidden = arguments[0].detach().requires_grad_()
    with _saved() as saved, _FusedAttention():
        output = module(hidden, *arguments[1:], **keywords)
        total = saved.total()
    del output
    return total


@contextmanager
def _calls_of(network: nn.Module, names: Sequence[str], calls: dict[str, tuple[Any, Any]]) -> Iterator[None]:
    """Remember what the named submodules are called with."""

    def remember(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, keywords: Any) -> None:
            calls[name] = (arguments, keywords)

        return hook

    handles = [
        network.get_submodule(name).register_forward_pre_hook(remember(name), with_kwargs=True) for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Fused(torch.autograd.Function):
    """Attention as fused kernels keep it: queries, keys, values and the result, never the matrix of scores."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # type: ignore[override]
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        """Never run: only what is saved counts."""
        raise NotImplementedError


class _FusedAttention(TorchFunctionMode):
    """Attention on the meta device would keep the scores, as no GPU does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            keywords = dict(kwargs or {})
            query, key, value = (*args, *(keywords[name] for name in ("query", "key", "value")[len(args) :]))[:3]
            return _Fused.apply(query, key, value)
        return func(*args, **(kwargs or {}))


class _Saved:
    """Storages that autograd saved, each once; weights are not counted, they are there anyway."""

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and tensor.numel():
            self._kept.setdefault(tensor.untyped_storage()._cdata, tensor.detach())
        return tensor

    def total(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._kept.values())


@contextmanager
def _saved() -> Iterator[_Saved]:
    saved = _Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        yield saved
