"""Imports the Motion Expert that the authors of MACE-Dance released; nothing in their file is run.

The file is a pickle with ``model_state_dict``, ``ema_state_dict``, ``optimizer_state_dict`` and ``normalizer``, an
object of the authors' own classes whose min-max statistics are taken as data. Parameter names may carry the prefixes of
wrappers. The authors sample with ``model_state_dict``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from macedance.errors import CheckpointError, ConfigError
from macedance.models.motion_expert import MotionExpert
from macedance.motion.normalizer import FORMAT
from macedance.safe_pickle import Bag, load_foreign

_LOG = logging.getLogger(__name__)

#: Constructor arguments of the released network: 66,680,983 parameters.
RELEASED_NETWORK: dict[str, Any] = {
    "motion_dim": 151,
    "music_dim": 35,
    "latent_dim": 512,
    "num_dance_layers": 8,
    "num_music_layers": 2,
    "num_heads": 8,
    "feedforward_dim": 1024,
    "dropout": 0.1,
    "state_dim": 16,
    "conv_width": 4,
    "expand": 2,
    "mixer": "bimamba",
    "num_genres": 16,
    "frame_music": False,
    "null_condition": "add",
}
#: The released network's genres, in the order of its labels (FineDance's fine styles).
RELEASED_GENRES = (
    "Dai",
    "ShenYun",
    "Wei",
    "Korean",
    "Urban",
    "Hiphop",
    "Popping",
    "Miao",
    "HanTang",
    "Breaking",
    "Kun",
    "Locking",
    "Jazz",
    "Choreography",
    "Chinese",
    "DunHuang",
)

STATE_KEYS = {"raw": "model_state_dict", "ema": "ema_state_dict"}
PREFIXES = ("model.", "module.")
# Where the authors' own classes live: bags of these are expected, others are reported.
EXPECTED_MODULES = ("dataset.",)


def import_released_motion_expert(
    path: str | Path, weights: Literal["raw", "ema"] = "raw"
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Read the released checkpoint.

    Args:
        path: The authors' file (``train-3750.pt``).
        weights: "raw", which the authors sample with, or "ema".

    Returns:
        ``(state_dict, network, normalizer)``: float32 weights under our names, which are theirs; the constructor
        arguments of `MotionExpert`; and the content of ``normalizer.json``. Music is not normalised in this model.

    Raises:
        CheckpointError: The file is missing, damaged, hostile in a way that cannot be made inert, or not this model:
            what is missing, unexpected or of another shape is counted and named.
        ConfigError: `weights` is neither of the two.
    """
    if weights not in STATE_KEYS:
        raise ConfigError(f"weights {weights!r}", expected="raw or ema")
    path = Path(path)
    file = load_foreign(path)
    foreign = [name for name in file.inert if not name.startswith(EXPECTED_MODULES)]
    if foreign:
        _LOG.warning("%s asks for %s: left inert, not run", path, ", ".join(sorted(foreign)))
    content = file.content
    needed = (STATE_KEYS[weights], "normalizer")
    absent = [key for key in needed if not isinstance(content, Mapping) or key not in content]
    if absent:
        found = ", ".join(str(key) for key in list(content)[:8]) if isinstance(content, Mapping) else type(content)
        raise CheckpointError(
            f"not the released Motion Expert: it lacks {', '.join(absent)} (it has {found})",
            where=path,
            expected="model_state_dict, ema_state_dict, optimizer_state_dict and normalizer",
        )
    state_dict = _read_state(content[STATE_KEYS[weights]], f"{path}, {STATE_KEYS[weights]}")
    motion = _read_normalizer(content["normalizer"], f"{path}, normalizer")
    return state_dict, dict(RELEASED_NETWORK), {"motion": motion, "music": None}


def _read_state(state: Any, where: str) -> dict[str, Tensor]:
    """The weights under plain names, held to the released network's names and shapes."""
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise CheckpointError("the weights are not a state dict", where=where)
    plain = {_strip(name): value for name, value in state.items()}
    with torch.device("meta"):
        own = {name: tuple(value.shape) for name, value in MotionExpert(**RELEASED_NETWORK).state_dict().items()}
    shapes = {name: tuple(value.shape) if isinstance(value, Tensor) else None for name, value in plain.items()}
    problems = [
        _list_of("missing", [name for name in own if name not in shapes]),
        _list_of("unexpected", [name for name in shapes if name not in own]),
        _list_of(
            "of another shape",
            [f"{name} {shapes[name]} for {own[name]}" for name in own if name in shapes and shapes[name] != own[name]],
        ),
    ]
    if any(problems):
        raise CheckpointError(
            f"the weights are not the released Motion Expert's: {'; '.join(filter(None, problems))}",
            where=where,
            expected=f"{len(own)} tensors of 66,680,983 parameters",
        )
    return {name: plain[name].detach().to(torch.float32) for name in own}


def _strip(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _list_of(what: str, names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} {what} ({', '.join(names[:shown])}{more})" if names else ""


def _read_normalizer(normalizer: Any, where: str) -> dict[str, Any]:
    """Our min-max statistics from an inert object that holds ``x * scale + min`` somewhere inside."""
    expected = f"min and scale of {RELEASED_NETWORK['motion_dim']} channels"
    for attributes in _walk(normalizer):
        shift, scale = (
            next((attributes[key] for key in keys if key in attributes), None)
            for keys in (("min_", "min"), ("scale_", "scale"))
        )
        if shift is None or scale is None:
            continue
        try:
            shift_C = np.asarray(shift, dtype=np.float64).reshape(-1)
            scale_C = np.asarray(scale, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"the normaliser's numbers are unreadable: {error}", where=where) from error
        right = shift_C.shape == scale_C.shape == (RELEASED_NETWORK["motion_dim"],)
        if not right or not np.isfinite(shift_C).all() or not np.isfinite(scale_C).all() or not (scale_C > 0).all():
            raise CheckpointError(
                f"the normaliser has {shift_C.size} min and {scale_C.size} scale, or numbers that make no sense",
                where=where,
                expected=expected,
            )
        return {
            "format": FORMAT,
            "version": 1,
            "channels": int(shift_C.size),
            "count": 1,  # the file does not say how many frames it was fitted on
            "clip": True,
            "min": ((-1.0 - shift_C) / scale_C).tolist(),
            "max": ((1.0 - shift_C) / scale_C).tolist(),
        }
    raise CheckpointError("the normaliser holds no min and scale", where=where, expected=expected)


def _walk(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every attribute table in an inert object, outermost first; cycles are entered once."""
    queue, seen = [value], set()
    while queue:
        item = queue.pop(0)
        if id(item) in seen:
            continue
        seen.add(id(item))
        table: Any = vars(item) if isinstance(item, Bag) else item
        if isinstance(table, Mapping):
            yield table
            queue.extend(table.values())
        elif isinstance(table, list | tuple):
            queue.extend(table)
