"""Files of low-rank adapters as they are published for Wan, read as diffusers reads them.

Beside diffusers' own layout there are ComfyUI's (``diffusion_model.blocks.0.self_attn.q.lora_down.weight`` and an
``alpha``) and musubi-tuner's (``lora_unet_blocks_0_...``). Adapters that were distilled for few steps, such as
lightx2v's, hold more than low-rank pairs: ``diff_b`` changes a bias, ``diff`` a whole weight. diffusers' converter
decides what of it is applied.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from macedance.errors import CheckpointError

logger = logging.getLogger(__name__)

#: Beginnings of the names in foreign layouts.
_FOREIGN = ("diffusion_model.", "lora_unet_")
#: A tensor of a low-rank pair, which the converter takes or refuses; it drops none.
_PAIR = re.compile(r".+\.lora_(?:A|B|down|up)\.(?:default\.)?weight")
#: Names that a message holds at most.
_NAMED = 4


def in_diffusers_layout(raw: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The adapters by diffusers' names, each ``alpha`` multiplied into its pair; what is left out is warned about.

    Args:
        raw: The file's tensors; the converter may scale them in place.
        where: The file, for messages.

    Raises:
        CheckpointError: Names that the converter does not know, which the message holds.
    """
    from diffusers.loaders import WanLoraLoaderMixin

    foreign = any(name.startswith(_FOREIGN) for name in raw)
    stray = sorted(name for name in raw if foreign and not name.startswith(_FOREIGN))
    try:
        converted: dict[str, Tensor] = WanLoraLoaderMixin.lora_state_dict(dict(raw))
    except (ValueError, KeyError, IndexError, RuntimeError) as error:
        stray = stray or _quoted(error)
        raise CheckpointError(
            f"the adapters cannot be applied: {_listed(stray) if stray else error}",
            where=where,
            expected="low-rank adapters of a Wan transformer that diffusers can convert",
        ) from error
    if stray:
        raise CheckpointError(f"the file mixes layouts: {_listed(stray)}", where=where, expected=" or ".join(_FOREIGN))
    taken = {id(value) for value in converted.values()}
    left_out = {
        name: value
        for name, value in raw.items()
        if id(value) not in taken and not _PAIR.fullmatch(name) and not _is_used_alpha(name, raw)
    }
    if left_out:
        changing = sum(bool(torch.count_nonzero(value)) for value in left_out.values())
        logger.warning(
            "%s: %d tensors are left out, as diffusers leaves them out, %d of them not all zeros: %s",
            where,
            len(left_out),
            changing,
            _listed(sorted(left_out)),
        )
    return converted


def _is_used_alpha(name: str, raw: Mapping[str, Tensor]) -> bool:
    """Whether a name is the alpha of a pair that the file holds."""
    module = name.removesuffix(".alpha")
    return module != name and any(f"{module}.{down}.weight" in raw for down in ("lora_down", "lora_A"))


def _quoted(error: Exception) -> list[str]:
    """Names of tensors in a converter's message, in order."""
    return re.findall(r"'([\w.]+)'", str(error))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
