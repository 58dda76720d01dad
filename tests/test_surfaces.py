"""Frozen surfaces: commands, config keys, file formats, state-dict keys. A change needs a CHANGELOG line.

After a change that is meant: ``MACEDANCE_UPDATE_GOLDEN=1 python -m pytest tests/test_surfaces.py``, and the line.
"""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parent / "golden" / "surfaces.json"


def check(name: str, found: Any) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    found = json.loads(json.dumps(found))
    if os.environ.get("MACEDANCE_UPDATE_GOLDEN"):
        golden[name] = found
        GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    assert golden.get(name) == found, f"{name} changed: a CHANGELOG line, then the golden file"


def options_of(parser: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for action in parser._actions:
        if hasattr(action, "choices") and isinstance(action.choices, dict):
            found.update({f"{name}": options_of(sub) for name, sub in action.choices.items()})
        else:
            key = action.option_strings[-1] if action.option_strings else action.dest
            found[key] = list(action.choices) if action.choices else None
    return found


def test_verbs_and_options() -> None:
    from importlib import import_module

    from launch import data, generate
    from launch.demos import appearance, motion
    from launch.evaluation.command import SUBCOMMANDS
    from launch.main import VERBS

    check(
        "commands",
        {
            "verbs": sorted(VERBS),
            "data": options_of(data.build_parser()),
            "demo": options_of(motion.build_parser()),
            "demo appearance": options_of(appearance.build_parser()),
            "generate": options_of(generate.build_parser()),
            "evaluate": {
                name: options_of(import_module(module).build_parser()) for name, (module, _) in SUBCOMMANDS.items()
            },
        },
    )


def test_config_keys() -> None:
    from callbacks.animation_protocol import AnimationProtocol
    from callbacks.appearance_protocol import AppearanceProtocol
    from callbacks.best import Best
    from callbacks.cascade_gap import CascadeGap
    from callbacks.ema import EmaCallback
    from callbacks.motion_protocol import MotionProtocol
    from callbacks.samples import SampleVideos
    from datamodules.motion import MotionDataModule
    from launch.config_files import shipped_configs
    from lightning_modules.motion_expert import MotionExpertModule
    from lightning_modules.schedules import WarmupCosine
    from macedance.diffusion.guidance import ClassifierFreeGuidance, GuidanceFreeTraining
    from macedance.diffusion.losses import MotionLosses
    from macedance.models.motion_expert import MotionExpert
    from macedance.nn.trainable import LoraSettings

    classes = (
        EmaCallback, MotionProtocol, AnimationProtocol, AppearanceProtocol, CascadeGap, Best, SampleVideos,
        MotionDataModule, MotionExpertModule, WarmupCosine,
        ClassifierFreeGuidance, GuidanceFreeTraining, MotionLosses, MotionExpert, LoraSettings,
    )  # fmt: skip
    check(
        "config_keys",
        {f"{c.__module__}.{c.__qualname__}": list(inspect.signature(c).parameters) for c in classes},
    )
    check("shipped_configs", {kind: sorted(shipped_configs(kind)) for kind in ("experiments", "debug")})


def test_corpus_and_motion_files(tiny_corpus: Path, tmp_path: Path) -> None:
    import tarfile

    from macedance.motion.files import Motion, save_motion

    with tarfile.open(next((tiny_corpus / "train").glob("*.tar"))) as tar:
        members = tar.getmembers()
        first = members[0].name.split(".")[0]
        meta = json.loads(tar.extractfile(f"{first}.meta.json").read())  # type: ignore[union-attr]
    manifest = json.loads((tiny_corpus / "manifest.json").read_text(encoding="utf-8"))
    motion = Motion(
        poses=np.zeros((5, 24, 3), np.float32), trans=np.zeros((5, 3), np.float32), fps=30.0, genre="g", song="s",
        source="x", licence="y", music_beats_s=np.array([0.1]),
    )  # fmt: skip
    save_motion(tmp_path / "m.npz", motion)
    with np.load(tmp_path / "m.npz") as archive:
        keys = {key: str(archive[key].dtype) for key in sorted(archive.files)}
    check(
        "files",
        {
            "sample": sorted({m.name.split(".", 1)[1] for m in members}),
            "meta.json": sorted(meta),
            "manifest.json": sorted(manifest),
            "motion.npz": keys,
        },
    )


def test_state_dict_keys_of_the_demo_model() -> None:
    from launch.config_files import resolve_arguments
    from launch.training_cli import ParsingCLI, build_cli

    model = build_cli(resolve_arguments(["--config=mace_motion_demo"]), kind=ParsingCLI).model
    with torch.device("meta"):
        model.configure_model()
    check("demo_state_dict", {name: list(value.shape) for name, value in model.network.state_dict().items()})


def test_metric_keys() -> None:
    from macedance.metrics.motion import evaluate_clips
    from macedance.motion.files import JointClip

    rng = np.random.default_rng(0)
    clips = [
        JointClip(rng.normal(size=(40, 24, 3)).astype(np.float32), 30.0, None, np.array([0.4]), str(i), song=str(i))
        for i in range(3)
    ]
    check("metric_keys", sorted(evaluate_clips(clips, clips, allow_small_n=True)))


@pytest.mark.parametrize("name", ["commands", "config_keys", "files", "demo_state_dict", "metric_keys"])
def test_the_golden_file_is_complete(name: str) -> None:
    assert name in json.loads(GOLDEN.read_text(encoding="utf-8"))
