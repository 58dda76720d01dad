"""Writes files as the authors' code would, with classes of a `dataset` package that is gone when they are read."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from macedance.models import checkpoint_import
from macedance.models.motion_expert import MotionExpert

CHANNELS = 151


@contextmanager
def authors_modules() -> Iterator[tuple[type, type]]:
    """The classes dataset.preprocess.Normalizer and dataset.scaler.MinMaxScaler, importable inside the block only."""
    modules = {name: types.ModuleType(name) for name in ("dataset", "dataset.preprocess", "dataset.scaler")}
    normalizer = type("Normalizer", (), {"__module__": "dataset.preprocess"})
    scaler = type("MinMaxScaler", (), {"__module__": "dataset.scaler"})
    modules["dataset.preprocess"].Normalizer = normalizer  # type: ignore[attr-defined]
    modules["dataset.scaler"].MinMaxScaler = scaler  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        yield normalizer, scaler
    finally:
        for name in modules:
            del sys.modules[name]


def statistics() -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of 151 channels, as the authors' normaliser was fitted on."""
    low = np.linspace(-3.0, 1.0, CHANNELS).astype(np.float32)
    return low, low + np.linspace(0.5, 4.0, CHANNELS).astype(np.float32)


def released_state(seed: int) -> dict[str, Tensor]:
    """Weights of the released network's names and shapes, or of what stands for it in a test."""
    with torch.device("meta"):
        shapes = {
            name: value.shape for name, value in MotionExpert(**checkpoint_import.RELEASED_NETWORK).state_dict().items()
        }
    generator = torch.Generator().manual_seed(seed)
    # One bfloat16 tensor per distinct shape keeps the synthetic file at a tenth of the true one's size.
    made = {shape: (torch.randn(shape, generator=generator) * 0.02).bfloat16() for shape in set(shapes.values())}
    return {name: made[shape] for name, shape in shapes.items()}


def write_released(
    path: Path,
    *,
    prefix: str = "",
    nested: bool = True,
    as_tensor: bool = True,
    legacy: bool = False,
    extra: Any = None,
    change: Any = None,
) -> Path:
    """Write a synthetic released checkpoint; `change` may edit the content first."""
    low, high = statistics()
    scale = 2 / (high - low)
    shift = -1 - low * scale
    with authors_modules() as (normalizer_class, scaler_class):
        scaler = scaler_class()
        numbers = {"min_": shift, "scale_": scale, "data_min_": low, "data_max_": high}
        scaler.__dict__.update(
            {key: torch.from_numpy(value) if as_tensor else value for key, value in numbers.items()},
            feature_range=(-1, 1),
            clip=True,
        )
        normalizer = scaler
        if nested:
            normalizer = normalizer_class()
            normalizer.scaler = scaler
        content = {
            "model_state_dict": {prefix + name: value for name, value in released_state(1).items()},
            "ema_state_dict": {prefix + name: value for name, value in released_state(2).items()},
            "optimizer_state_dict": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 4e-4}]},
            "normalizer": normalizer,
        }
        if extra is not None:
            content["extra"] = extra
        if change is not None:
            change(content)
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path
