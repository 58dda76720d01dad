"""Low-rank adapters of the Appearance Expert in files: diffusers' layout, and the common one of ComfyUI.

diffusers: ``transformer.blocks.0.attn1.to_q.lora_A.weight`` and peft's configuration in the metadata; it loads by
``WanAnimatePipeline.load_lora_weights``. ComfyUI: Wan's own names, ``diffusion_model.blocks.0.self_attn.q`` with
``.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``. Published files: see appearance_lora_layouts.py.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from macedance.errors import CheckpointError
from macedance.models.appearance_expert.network import AppearanceExpert
from macedance.nn.trainable import LoraSettings
from macedance.pipelines.appearance_config import AppearanceModelConfig, differing_arguments
from macedance.pipelines.appearance_lora_layouts import in_diffusers_layout
from macedance.pipelines.base_weights import BaseWeights, plain_name
from macedance.pipelines.checkpoint_content import CheckpointContent, Weights
from macedance.pipelines.folder import check_weights
from macedance.pipelines.pretrained import TRANSFORMER, read_transformer

logger = logging.getLogger(__name__)

#: diffusers' own name of the file.
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
#: Keys of our metadata, beside diffusers'.
CONFIG_KEY, BASE_KEY = "macedance_config", "macedance_base"
_DIFFUSERS_KEY = "lora_adapter_metadata"
_PREFIX = "transformer."
_PARTS = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.(?:default\.)?weight")
_BIAS = ".lora_B.bias"
#: Of peft's configuration: what would have to be followed, and is not.
_NOT_FOLLOWED = ("alpha_pattern", "use_rslora", "use_dora", "layer_replication", "megatron_config")
#: Names of a block's layers in diffusers -> in Wan's own code.
_WAN_NAMES = (
    ("attn1.to_out.0", "self_attn.o"), ("attn1.to_", "self_attn."), ("attn2.to_out.0", "cross_attn.o"),
    ("attn2.to_", "cross_attn."), ("ffn.net.0.proj", "ffn.0"), ("ffn.net.2", "ffn.2"),
)  # fmt: skip


@dataclass(frozen=True)
class LoraWeights:
    """Low-rank adapters and what they are for.

    Attributes:
        tensors: By name in diffusers' transformer: ``blocks.0.attn1.to_q.lora_A.weight``; in published ones also
            ``lora_B.bias``, what is added to the layer's bias.
        rank: Rank; of most layers, in published ones.
        alpha: The update is scaled by alpha / a layer's rank; None: by 1, whatever the rank.
        config: Of the model that they were trained on; None in files of others.
        base: Its weights; None: unknown.
    """

    tensors: dict[str, Tensor]
    rank: int
    alpha: float | None
    config: AppearanceModelConfig | None = None
    base: BaseWeights | None = None

    @property
    def modules(self) -> list[str]:
        """Names of the adapted layers in diffusers' transformer."""
        return sorted({name.rpartition(".lora_")[0] for name in self.tensors})

    @property
    def settings(self) -> LoraSettings:
        """The same for a network whose transformer carries the adapters.

        Raises:
            CheckpointError: Several ranks, or biases.
        """
        alpha = self.plain_alpha()
        names = "|".join(re.escape(f"{_PREFIX}{name}") for name in self.modules)
        return LoraSettings(self.rank, alpha, names)

    def rank_of(self, module: str) -> int:
        """Of one layer."""
        return int(self.tensors[f"{module}.lora_A.weight"].shape[0])

    def plain_alpha(self) -> float:
        """The alpha of adapters that are one rank's pairs and nothing else, as ours are.

        Raises:
            CheckpointError: Several ranks, or biases.
        """
        if self.alpha is None or any(name.endswith(_BIAS) for name in self.tensors):
            raise CheckpointError(
                "the adapters have several ranks, or biases",
                expected="adapters that were trained here",
                fix="attach them where the model is used: MotionToVideo.load_lora, generate --lora",
            )
        return self.alpha


def lora_of(content: CheckpointContent, which: Weights = "auto") -> LoraWeights:
    """The adapters of a checkpoint.

    Raises:
        CheckpointError: It has none, or they are not finite.
    """
    settings = content.lora
    if settings is None:
        raise CheckpointError(
            "the checkpoint has no low-rank adapters",
            where=content.path,
            expected="one of the aesthetic stage, or of any training with model.lora",
            fix="export body_adapter or pretrained",
        )
    tensors = {}
    for name, value in content.trained(which).items():
        found = _PARTS.fullmatch(name)
        if found:
            tensors[f"{found['module'].removeprefix(_PREFIX)}.lora_{found['side']}.weight"] = value.detach().clone()
    check_weights(tensors, where=content.path)
    config = AppearanceModelConfig.from_dict(content.ours["config"], content.path)
    return LoraWeights(tensors, settings.rank, float(settings.alpha), config, base_of(content))


def base_of(content: CheckpointContent) -> BaseWeights | None:
    """What a checkpoint or adapter was trained on; None where it is whole."""
    section = content.ours.get("base")
    return BaseWeights.from_dict(section, content.path) if isinstance(section, Mapping) else None


def read_adapter(path: Path) -> CheckpointContent:
    """An adapter that ``macedance checkpoint export --format body_adapter`` wrote.

    Raises:
        CheckpointError: Damaged, or another kind of file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            told = file.metadata() or {}
            tensors = {f"{TRANSFORMER}.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = json.loads(told[CONFIG_KEY])
        base = json.loads(told[BASE_KEY])
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read the adapter: {error}", where=path, expected="safetensors") from error
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            "the file does not say what it was trained on",
            where=path,
            expected="an adapter of `macedance checkpoint export --format body_adapter`",
        ) from error
    ours: dict[str, Any] = {"config": config, "normalizer": {}, **({} if base is None else {"base": base})}
    return CheckpointContent(path, ours, tensors, {}, "raw")


# ---------------------------------------------------------------- diffusers
def write_diffusers(path: Path, lora: LoraWeights) -> None:
    """Write the file that ``WanAnimatePipeline.load_lora_weights`` reads, peft's configuration in its metadata.

    Args:
        path: The file; it is named as it is.
        lora: The adapters.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.plain_alpha(),  # type: ignore[arg-type]
        target_modules=lora.modules,
    ).to_dict()
    told = {f"{_PREFIX}{key}": sorted(v) if isinstance(v, set) else v for key, v in config.items()}
    metadata = {
        "format": "pt",
        _DIFFUSERS_KEY: json.dumps(told, indent=2, sort_keys=True),
        CONFIG_KEY: json.dumps(None if lora.config is None else lora.config.to_dict()),
        BASE_KEY: json.dumps(None if lora.base is None else lora.base.to_dict()),
    }
    save_tensors({f"{_PREFIX}{name}": value for name, value in lora.tensors.items()}, path, metadata)


def read_lora(path: str | Path) -> LoraWeights:
    """Adapters from a file in diffusers' layout or one that diffusers converts, or a folder with diffusers' file.

    Tensors that diffusers leaves out are left out and warned about.

    Raises:
        CheckpointError: Missing, damaged, not finite, or no adapters of a Wan transformer.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path).expanduser()
    path = path / DIFFUSERS_FILE if path.is_dir() else path
    try:
        with safe_open(str(path), framework="pt") as file:
            told = file.metadata() or {}
            raw = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read the adapters: {error}", where=path, expected="safetensors") from error
    tensors = {name.removeprefix(_PREFIX): value for name, value in in_diffusers_layout(raw, path).items()}
    unknown = sorted(name for name in tensors if not _PARTS.fullmatch(name) and not name.endswith(_BIAS))
    ranks = Counter(int(value.shape[0]) for name, value in tensors.items() if name.endswith(".lora_A.weight"))
    if unknown or not ranks:
        raise CheckpointError(
            f"the file does not hold low-rank adapters of a Wan transformer{''.join(f': {n}' for n in unknown[:1])}",
            where=path,
            expected="a file of `macedance checkpoint export --format lora` or `comfyui`, or one that diffusers reads",
        )
    check_weights(tensors, where=path)
    rank = ranks.most_common(1)[0][0]
    try:
        peft = json.loads(told.get(_DIFFUSERS_KEY) or "{}")
        beyond = [key for key in _NOT_FOLLOWED if peft.get(f"{_PREFIX}{key}")]
        said = peft.get(f"{_PREFIX}lora_alpha")
        alpha = float(said) if said is not None else float(rank) if len(ranks) == 1 else None
        config, base = (json.loads(told.get(key) or "null") for key in (CONFIG_KEY, BASE_KEY))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the adapters' metadata is damaged: {error}", where=path) from error
    if beyond:
        raise CheckpointError(f"the adapters are of a kind that is not known here: {', '.join(beyond)}", where=path)
    return LoraWeights(
        tensors,
        rank,
        alpha,
        None if config is None else AppearanceModelConfig.from_dict(config, path),
        None if base is None else BaseWeights.from_dict(base, path),
    )


def file_and_scale(text: str) -> tuple[Path, float]:
    """File and strength of ``FILE[:SCALE]``, as options name adapters; a strength of 1 where none is given."""
    file, colon, scale = text.rpartition(":")
    if colon and not Path(text).exists():
        try:
            return Path(file), float(scale)
        except ValueError:
            pass
    return Path(text), 1.0


def attach_lora(network: AppearanceExpert, lora: LoraWeights, where: str | Path, name: str = "default") -> None:
    """Put adapters round the layers of a network's transformer, in place, as diffusers does.

    Their strength is then ``network.transformer.set_adapters(name, scale)``; 0 is the network without them.

    Args:
        network: Without adapters of this name.
        lora: The adapters.
        where: Their file, for the message.
        name: What they are called.

    Raises:
        CheckpointError: They are of another model, which is named.
    """
    differing = [] if lora.config is None else differing_arguments(network, lora.config)
    if differing:
        raise CheckpointError(
            f"the adapters are of another model: {', '.join(differing[:4])}",
            where=where,
            expected="adapters that were trained on this model",
        )
    wrong = _not_fitting(network, lora)
    if wrong:
        raise CheckpointError(
            f"the adapters are of another model: {len(wrong)} of {len(lora.modules)} do not fit, first {wrong[0]}",
            where=where,
            expected="adapters that were trained on this model",
        )
    tensors = dict(lora.tensors)
    biased = any(name.endswith(_BIAS) for name in tensors)
    if biased:  # peft gives all layers one or none
        for module in lora.modules:
            up = tensors[f"{module}.lora_B.weight"]
            tensors.setdefault(f"{module}{_BIAS}", up.new_zeros(up.shape[0]))
    ranks = {module: lora.rank_of(module) for module in lora.modules}
    others = {f"^{re.escape(module)}": rank for module, rank in ranks.items() if rank != lora.rank}
    told = {
        "r": lora.rank,
        "lora_alpha": lora.rank if lora.alpha is None else lora.alpha,
        "target_modules": lora.modules,
        "rank_pattern": others,
        "alpha_pattern": others if lora.alpha is None else {},
        "lora_bias": biased,
    }
    network.transformer.load_lora_adapter(
        {f"{_PREFIX}{key}": value for key, value in tensors.items()},
        prefix="transformer",
        adapter_name=name,
        metadata={f"{_PREFIX}{key}": value for key, value in told.items()},
    )


def _not_fitting(network: AppearanceExpert, lora: LoraWeights) -> list[str]:
    """Adapted layers that a network has not, or of another shape."""
    shapes = {
        key.replace(".base_layer.", "."): tuple(value.shape) for key, value in network.transformer.state_dict().items()
    }
    wrong = []
    for module in lora.modules:
        sizes = [None if value is None else tuple(value.shape) for value in (
            lora.tensors.get(f"{module}.lora_A.weight"), lora.tensors.get(f"{module}.lora_B.weight"),
        )]  # fmt: skip
        own, bias = shapes.get(f"{module}.weight", ()), lora.tensors.get(f"{module}{_BIAS}")
        rank = 0 if sizes[0] is None else sizes[0][0]
        if len(own) != 2 or sizes != [(rank, own[1]), (own[0], rank)]:
            wrong.append(module)
        elif bias is not None and tuple(bias.shape) != shapes.get(f"{module}.bias"):
            wrong.append(f"{module}, whose bias it has not")
    return wrong


def check_trained_on(network: AppearanceExpert, lora: LoraWeights, where: str | Path) -> None:
    """Warn where adapters were not trained on a network's weights, or do not say on which ones.

    Adapters fit every model of the same shape, and on another one they spoil its pictures without an error.

    Args:
        network: Its weights are compared as they are stored, where it was loaded: in memory they may be rounded.
        lora: The adapters.
        where: Their file, for the message.

    Raises:
        CheckpointError: The network's own weights are not where it was loaded from any more.
    """
    if lora.base is None:
        logger.warning("%s: the file does not say which model its adapters were trained on; nothing is compared", where)
        return
    if network.pretrained is not None and lora.base.found_in(read_transformer(network.pretrained)) is not None:
        return
    own = {plain_name(name): p for name, p in network.named_parameters() if ".lora_" not in name}
    if lora.base.found_in(own) is None:
        logger.warning(
            "%s: its adapters were trained on the weights of %s, and the model's are other ones: expect worse pictures",
            where,
            lora.base.source,
        )


# ---------------------------------------------------------------- ComfyUI
def write_comfyui(path: Path, lora: LoraWeights) -> None:
    """Write the file that ComfyUI, and tools that follow Wan's own names, read.

    Args:
        path: The file.
        lora: The adapters.

    Raises:
        CheckpointError: A layer that has no name there.
    """
    tensors = {}
    for module in lora.modules:
        name = f"diffusion_model.{_wan_name(module, path)}"
        tensors[f"{name}.lora_down.weight"] = lora.tensors[f"{module}.lora_A.weight"]
        tensors[f"{name}.lora_up.weight"] = lora.tensors[f"{module}.lora_B.weight"]
        tensors[f"{name}.alpha"] = torch.tensor(lora.plain_alpha())
    save_tensors(tensors, path, {"format": "pt"})


def _wan_name(module: str, where: Path) -> str:
    head, block, layer = module.split(".", 2) if module.count(".") > 1 else (module, "", "")
    for ours, theirs in _WAN_NAMES:
        if head == "blocks" and block.isdigit() and layer.startswith(ours):
            return f"{head}.{block}.{theirs}{layer.removeprefix(ours)}"
    raise CheckpointError(
        f"{module} has no name in ComfyUI's layout",
        where=where,
        expected="adapters on attention and feed-forward layers of the blocks",
        fix="--format lora",
    )


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, Any]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        DataError: It cannot be written.
    """
    from safetensors.torch import save_file

    from macedance.rendering.files import replacing

    with replacing(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, str(temporary), metadata=metadata)
        temporary.chmod(0o644)  # safetensors writes private files
