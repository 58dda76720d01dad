"""The options of a generation, checked before anything is computed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from macedance.diffusion.guidance import ClassifierFreeGuidance, Guidance
from macedance.diffusion.samplers import Sampler, make_sampler
from macedance.errors import ConfigError, DataError

#: Raw music features (T, 35).
Features = np.ndarray | Tensor


def check_seconds(seconds: float | None) -> None:
    """Raise ConfigError unless `seconds` is None or above 0 and finite."""
    if seconds is not None and not 0 < seconds < float("inf"):
        raise ConfigError(f"{seconds} seconds of dance", expected="more than 0")


def check_num_dances(num_dances: int) -> None:
    """Raise ConfigError unless `num_dances` is 1 or more."""
    if num_dances < 1:
        raise ConfigError(f"{num_dances} dances", expected="1 or more")


def check_genre(genre: str | None, genres: Sequence[str]) -> str | None:
    """The genre, if it is None or one of `genres`.

    Raises:
        ConfigError: An unknown genre (the known ones are listed), or any where there are none.
    """
    if genre is None or genre in genres:
        return genre
    if not genres:
        raise ConfigError(f"genre {genre!r}, but this model was trained without genres", fix="leave the genre out")
    near = difflib.get_close_matches(genre, genres, n=1)
    raise ConfigError(
        f"unknown genre {genre!r}",
        expected=f"one of {', '.join(genres)}",
        fix=f"did you mean {near[0]}?" if near else None,
    )


def resolve_strength(objective: Guidance, beta: float | None, guidance_weight: float | None) -> float:
    """What the objective's denoiser takes: beta, or the weight of classifier-free guidance.

    Raises:
        ConfigError: Out of range, or the one that the model was not trained for.
    """
    if isinstance(objective, ClassifierFreeGuidance):
        if beta is not None:
            raise ConfigError("beta for a model trained with classifier-free guidance", fix="give guidance_weight")
        return objective.check_strength(guidance_weight)
    if guidance_weight is not None:
        raise ConfigError("guidance_weight for a model of guidance-free training", fix="give beta")
    return objective.check_strength(beta)


def resolve_sampler(
    default: Mapping[str, Any], sampler: str | Sampler | None, num_steps: int | None, eta: float | None
) -> Sampler:
    """The sampler asked for; the model's `default` fills in what is not said of it.

    Raises:
        ConfigError: An unknown name, a value out of range, or steps beside an instance.
    """
    if sampler is not None and not isinstance(sampler, str):
        if num_steps is not None or eta is not None:
            raise ConfigError("num_steps or eta beside a sampler instance", fix="give them to the instance")
        return sampler
    name = default.get("name", "ddim") if sampler is None else sampler
    if name == default.get("name", "ddim"):
        num_steps = default.get("num_steps") if num_steps is None else num_steps
        eta = default.get("eta") if eta is None else eta
    return make_sampler(name, num_steps, eta)


def check_features(features_TM: Features, channels: int, index: int) -> Tensor:
    """Features of clip `index` as a float32 tensor.

    Raises:
        DataError: The wrong shape, no frame, or NaN.
    """
    music_TM = torch.as_tensor(features_TM, dtype=torch.float32)
    if music_TM.dim() != 2 or music_TM.shape[1] != channels or len(music_TM) == 0:
        raise DataError(
            f"music features of shape {tuple(music_TM.shape)}", where=f"clip {index}", expected=f"(T, {channels})"
        )
    if not bool(torch.isfinite(music_TM).all()):
        raise DataError("music features that are NaN or infinite", where=f"clip {index}", expected="finite numbers")
    return music_TM
