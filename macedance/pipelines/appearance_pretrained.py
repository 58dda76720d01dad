"""An Appearance Expert with its encoders from a folder, and into one."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from macedance.diffusion.flow_matching import FlowMatching
from macedance.errors import CheckpointError, ConfigError
from macedance.models.appearance_expert.encoder_files import IMAGE, PROCESSOR, TEXT, TOKENIZER, VAE
from macedance.models.appearance_expert.encoders import AppearanceEncoders, model_folder
from macedance.models.appearance_expert.network import AppearanceExpert, Precision
from macedance.models.appearance_expert.text_encoders import HashedText, UMT5Text
from macedance.pipelines.appearance_config import AppearanceModelConfig
from macedance.pipelines.appearance_folder import (
    LORA_FOLDER,
    is_model_folder,
    load_network,
    read_config,
    write_model_folder,
)
from macedance.pipelines.appearance_lora import LoraWeights, read_lora

#: Subfolder of diffusers' scheduler.
SCHEDULER = "scheduler"


@dataclass(frozen=True)
class PretrainedParts:
    """What a pipeline is made of.

    Attributes:
        network: In ``eval``, adapters attached as ``default`` where the folder has some.
        encoders: Its frozen encoders.
        config: Its configuration.
        lora: The adapters.
    """

    network: AppearanceExpert
    encoders: AppearanceEncoders
    config: AppearanceModelConfig
    lora: LoraWeights | None


def read_pretrained(source: str | Path, encoders: str | Path | None, precision: Precision) -> PretrainedParts:
    """The parts of a model folder, or of Wan-Animate as it was released.

    Args:
        source: A folder, or a hub id whose files lie in the cache.
        encoders: Folder or id of the frozen encoders; None: the same.
        precision: Of transformer, text encoder and image encoder.

    Raises:
        CheckpointError: Missing, foreign or damaged, or parts of different models.
    """
    folder = model_folder(source)
    ours = is_model_folder(folder)
    if not ours and not (folder / "transformer" / "config.json").is_file():
        raise CheckpointError(
            "the folder holds no Appearance Expert",
            where=folder,
            expected="a folder of `macedance checkpoint export`, or Wan-Animate in diffusers' layout",
        )
    config = read_config(folder) if ours else released_config(folder)
    where = folder if encoders is None else model_folder(encoders)
    if not (where / VAE).is_dir():
        raise CheckpointError(
            "the folder holds no autoencoder",
            where=where,
            expected=f"{VAE}/, and where the model uses them {TEXT}/ and {IMAGE}/",
            fix="name the folder that has the frozen encoders (--encoders)",
        )
    frozen = load_encoders(where, config, precision)
    if ours:
        network = load_network(folder, precision)
    else:
        network = AppearanceExpert(config.transformer, config.vae, str(folder), precision).eval()
    lora = read_lora(folder / LORA_FOLDER) if ours and (folder / LORA_FOLDER).is_dir() else None
    return PretrainedParts(network, frozen, config, lora)


def load_encoders(where: str | Path, config: AppearanceModelConfig, precision: Precision) -> AppearanceEncoders:
    """The frozen encoders of a folder in diffusers' layout, as a model takes them; see `check_encoders`.

    Args:
        where: The folder, or a hub id whose files lie in the cache.
        config: Of the model.
        precision: Of text and image encoder.

    Raises:
        CheckpointError: As ``AppearanceEncoders.from_folder``.
    """
    text_dim, tokens = _toy_text(config)
    return AppearanceEncoders.from_folder(
        where,
        text_dim=text_dim,
        text_tokens=tokens,
        face_size=int(config.transformer.get("motion_encoder_size") or 512),
        patch=config.geometry.patch,
        with_image=config.transformer.get("image_dim") is not None,
        precision=precision,
    )


def check_encoders(encoders: AppearanceEncoders, network: AppearanceExpert, config: AppearanceModelConfig) -> None:
    """Raise CheckpointError where encoders are not those that a network was trained with."""
    encoders.check_transformer(dict(network.transformer.config), "the model")
    wanted, found = network.geometry, encoders.codec.geometry
    if (wanted.spatial, wanted.temporal) != (found.spatial, found.temporal):
        raise CheckpointError(
            f"the autoencoder packs {found.spatial} pixels and {found.temporal} frames, the transformer was trained on "
            f"{wanted.spatial} and {wanted.temporal}",
            expected="the transformer's own autoencoder",
        )
    if not config.encoders:
        return
    own = encoders.fingerprint
    other = [name for name, identity in config.encoders.items() if name in own and own[name] != identity]
    if other:
        raise CheckpointError(
            f"{', '.join(other)}: not the weights that the transformer was trained with",
            expected=", ".join(f"{name} {config.encoders[name][:12]}" for name in other),
            fix="name the folder of its own encoders",
        )


def released_config(folder: Path) -> AppearanceModelConfig:
    """Wan-Animate as it was released: 30 fps, segments of 77 frames, 20 steps of UniPC, a shift of 5.

    Where the folder has ``scheduler/scheduler_config.json``, its sampler and shift are taken.

    Raises:
        CheckpointError: Configurations that are missing or damaged, or a scheduler that is not one of a flow.
    """
    transformer, vae = (_json(folder / name / "config.json") for name in ("transformer", VAE))
    arguments = {key: value for key, value in transformer.items() if not key.startswith("_")}
    factors = ("z_dim", "scale_factor_spatial", "scale_factor_temporal")
    defaults = {"z_dim": 16, "scale_factor_spatial": 8, "scale_factor_temporal": 4}
    try:
        config = AppearanceModelConfig(
            arguments,
            {name: int(vae.get(name, defaults[name])) for name in factors},
            **_released_sampling(folder / SCHEDULER / "scheduler_config.json"),
        )
        config.check()
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"the model's configuration makes no sense: {error}", where=folder) from error
    return config


def _released_sampling(path: Path) -> dict[str, Any]:
    """Sampler and noise levels of diffusers' scheduler; Wan-Animate's own where there is no such file."""
    told = _json(path) if path.is_file() else {}
    kind = told.get("_class_name", "UniPCMultistepScheduler")
    if kind == "UniPCMultistepScheduler":
        if told and (told.get("prediction_type"), told.get("use_flow_sigmas")) != ("flow_prediction", True):
            raise CheckpointError("the scheduler is not one of a flow", where=path, expected="use_flow_sigmas: true")
        return {"sampler": "unipc", "flow": FlowMatching(float(told.get("flow_shift", 5.0)))}
    if kind == "FlowMatchEulerDiscreteScheduler":
        return {"sampler": "euler", "flow": FlowMatching(float(told.get("shift", 1.0)))}
    raise CheckpointError(
        f"the scheduler is a {kind}",
        where=path,
        expected="UniPCMultistepScheduler, with which Wan-Animate is released, or FlowMatchEulerDiscreteScheduler",
    )


def write_pretrained(
    out: str | Path,
    network: AppearanceExpert,
    encoders: AppearanceEncoders,
    config: AppearanceModelConfig,
    lora: LoraWeights | None = None,
) -> Path:
    """Write a model folder with its encoders, whole or not at all.

    Args:
        out: The folder; it must not exist.
        network: Adapters that it carries are left out of ``transformer/``.
        encoders: Written beside it.
        config: The content of ``config.json``, the encoders' identities aside.
        lora: Adapters for ``lora/``.

    Raises:
        ConfigError: `out` exists or cannot be written.
        CheckpointError: A weight is not finite.
    """
    from dataclasses import replace

    out = Path(out)
    tensors = {
        name.replace(".base_layer.", "."): value.detach().cpu()
        for name, value in network.state_dict().items()
        if ".lora_A." not in name and ".lora_B." not in name
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = tempfile.TemporaryDirectory(prefix=f".{out.name}.encoders-", dir=out.parent)
    except OSError as error:
        raise ConfigError(f"cannot write the model folder: {error.strerror}", where=out) from error
    with stage as folder:
        write_encoders(Path(folder), encoders)
        return write_model_folder(out, replace(config, encoders=encoders.fingerprint), tensors, lora, folder)


def write_encoders(folder: Path, encoders: AppearanceEncoders) -> None:
    """Write encoders in diffusers' layout: ``vae`` and, where there are any, text and image encoder."""
    encoders.codec.vae.save_pretrained(str(folder / VAE), safe_serialization=True)
    text, image = encoders.text_encoder, encoders.image_encoder
    if isinstance(text, UMT5Text):
        text.encoder.save_pretrained(str(folder / TEXT))
        text.tokenizer.save_pretrained(str(folder / TOKENIZER))
    if image is not None:
        image.encoder.save_pretrained(str(folder / IMAGE))
        image.processor.save_pretrained(str(folder / PROCESSOR))


def _toy_text(config: AppearanceModelConfig) -> tuple[int | None, int]:
    """Width and tokens of a text encoder without weights, should the model have one."""
    told = HashedText.sizes(config.encoders.get(TEXT, ""))
    dim = config.transformer.get("text_dim")
    return told or (None if dim is None else int(dim), HashedText.TOKENS)


def _json(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the configuration: {error}", where=path) from error
    if not isinstance(content, dict):
        raise CheckpointError("the configuration is no JSON object", where=path)
    return content
