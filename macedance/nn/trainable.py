"""Which parameters train: name patterns and LoRA, one mechanism for every expert."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from macedance.errors import ConfigError

#: Modules of the Mamba mixer whose weights go into the scan and the convolution without the module being called.
_READ_DIRECTLY = ("dt_proj", "conv1d")


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (Hu et al., "LoRA", ICLR 2022) by peft.

    Args:
        rank: Rank r of the update B A.
        alpha: The update is scaled by alpha / rank.
        target_modules: A regular expression that the whole name of a module must match.
        dropout: Dropout in front of the adapters.
    """

    rank: int = 16
    alpha: float = 16.0
    target_modules: str = r".*\.(in_proj|x_proj|out_proj|linear1|linear2)"
    dropout: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        return asdict(self)


def set_trainable(
    network: nn.Module,
    *,
    train_only: Sequence[str] | None = None,
    freeze: Sequence[str] | None = None,
    adapted: bool = False,
) -> None:
    """Freeze parameters by shell-style patterns on their names (``*`` spans dots).

    Args:
        network: Changed in place: ``requires_grad`` of its parameters.
        train_only: Only parameters that match one of these train. None: all.
        freeze: Parameters that match one of these do not train, applied after ``train_only``.
        adapted: The network carries LoRA adapters: they train unless frozen by name, ``train_only`` adds to them, and
            nothing else of the base comes back to life.

    Raises:
        ConfigError: A pattern matches no parameter (the nearest names are listed), or nothing is left to train.
    """
    names = [name for name, _ in network.named_parameters()]
    for key, patterns in (("train_only", train_only), ("freeze", freeze)):
        for pattern in patterns or ():
            if not any(fnmatchcase(name, pattern) for name in names):
                near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3)
                raise ConfigError(
                    f"the pattern {pattern!r} matches no parameter",
                    where=f"model.{key}",
                    expected=f"a pattern for names such as {', '.join(near or names[:3])}",
                    fix="quote the pattern and use * for any part of a name",
                )
    for name, parameter in network.named_parameters():
        listed = any(fnmatchcase(name, p) for p in train_only or ())
        trains = parameter.requires_grad or listed if adapted else train_only is None or listed
        frozen = any(fnmatchcase(name, p) for p in freeze or ())
        parameter.requires_grad_(trains and not frozen)
    if not any(p.requires_grad for p in network.parameters()):
        raise ConfigError("train_only and freeze leave nothing to train", fix="drop one of the patterns")


def add_lora(network: nn.Module, settings: LoraSettings) -> None:
    """Insert adapters into the matching modules, in place; everything but the adapters is frozen.

    Raises:
        ConfigError: ``target_modules`` matches no module.
    """
    import re

    from peft import LoraConfig, inject_adapter_in_model

    if not any(re.fullmatch(settings.target_modules, name) for name, _ in network.named_modules()):
        examples = [n for n, m in network.named_modules() if isinstance(m, nn.Linear)][:3]
        raise ConfigError(
            f"the expression {settings.target_modules!r} matches no module",
            where="model.lora.target_modules",
            expected=f"a regular expression for names such as {', '.join(examples)}",
        )
    unreachable = [
        name
        for name, _ in network.named_modules()
        if re.fullmatch(settings.target_modules, name) and name.rpartition(".")[2] in _READ_DIRECTLY
    ]
    if unreachable:
        raise ConfigError(
            f"an adapter on {unreachable[0]} would change nothing: the scan reads that weight itself",
            where="model.lora.target_modules",
            fix="leave dt_proj and conv1d out, or name them in train_only instead",
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
    )
    inject_adapter_in_model(config, network)


def keep_trained_precise(network: nn.Module) -> None:
    """Bring what trains to float32, in place: small steps are lost on weights in bfloat16."""
    for parameter in network.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()


def merged_state_dict(state: Mapping[str, Tensor], settings: LoraSettings) -> dict[str, Tensor]:
    """The plain network's state dict: every adapter folded into its base weight, W + (alpha / r) B A.

    Args:
        state: State dict of a network that :func:`add_lora` changed.
        settings: The settings it was changed with.
    """
    merged: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        plain = name.replace(".base_layer.", ".")
        if name.endswith(".base_layer.weight"):
            module = name.removesuffix("base_layer.weight")
            a, b = state[f"{module}lora_A.default.weight"], state[f"{module}lora_B.default.weight"]
            value = value + (settings.alpha / settings.rank) * (b @ a).to(value.dtype)
        merged[plain] = value
    return merged
