"""The stages of the Appearance Expert's training (MACE-Dance): typed names for settings of what trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from macedance.errors import ConfigError
from macedance.models.appearance_expert.network import BODY_ADAPTER, LORA_TARGETS
from macedance.nn.trainable import LoraSettings

Stage = Literal["kinematic", "aesthetic", "full"]
#: The aesthetic stage's adapters in the paper and the released scripts.
AESTHETIC_LORA = LoraSettings(rank=32, alpha=32.0, target_modules=LORA_TARGETS)


def stage_settings(
    stage: Stage | None, train_only: Sequence[str] | None, lora: LoraSettings | None
) -> tuple[list[str] | None, LoraSettings | None]:
    """``train_only`` and ``lora`` of a stage: those that are given, else the stage's own.

    ``kinematic`` trains the Body Adapter, ``aesthetic`` low-rank adapters of rank 32 (other ranks by ``lora``; without
    an expression of its own they stand where the paper has them), ``full`` everything.

    Raises:
        ConfigError: A setting that belongs to another stage.
    """
    given = None if train_only is None else list(train_only)
    if lora is not None and lora.target_modules == LoraSettings().target_modules:
        lora = replace(lora, target_modules=LORA_TARGETS)  # the default expression is the Motion Expert's
    if (stage == "kinematic" and lora is not None) or (stage == "full" and (lora is not None or given is not None)):
        name = "lora" if lora is not None else "train_only"
        raise ConfigError(
            f"the {stage} stage and {name}",
            where=f"model.{name}",
            fix=f"leave model.{name} out, or give no model.stage",
        )
    if stage == "kinematic":
        return list(BODY_ADAPTER) if given is None else given, None
    if stage == "aesthetic":
        return given, AESTHETIC_LORA if lora is None else lora
    return given, lora
