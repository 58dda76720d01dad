"""The switches of the features, set to what papers published, give the published implementations' numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from macedance.metrics.functional.beat import beat_alignment, mean_joint_speed, speed_minima
from macedance.metrics.functional.frechet import frechet_distance, mean_pairwise_distance
from macedance.metrics.presets import MotionPreset

AIST = {"kinetic_frame_s": 1 / 60, "half_window": 2, "acceleration": "published", "geometric_frame_s": 1 / 120}
MEGA = {"kinetic_frame_s": 1 / 30, "half_window": 2, "convolved": True, "geometric_frame_s": 1 / 120}
POPULATION = {"std_ddof": 0, "std_eps": 1e-10, "dead_std": None}
UNBIASED = {"std_ddof": 1, "std_eps": 1e-10, "dead_std": None}
CONVENTIONS: list[dict[str, Any]] = [
    {"name": "bailando_aist", **AIST, **POPULATION},
    {
        "name": "lodge_finedance",
        **AIST,
        **POPULATION,
        "num_joints": 22,
        "kinetic_dims": 66,
        "centring": "root_relative",
    },
    {"name": "megadance", **MEGA, **UNBIASED},
    {"name": "mace3d", **MEGA, **UNBIASED, "std_eps": 1e-4, "kinetic_dims": 66, "quarter_turn": True},
]


@pytest.mark.parametrize("convention", CONVENTIONS, ids=lambda c: c["name"])
def test_published_convention_is_reproduced(
    convention: dict[str, Any],
    golden_joints: dict[str, torch.Tensor],
    golden_values: dict[str, dict[str, float]],
) -> None:
    preset = MotionPreset(**convention)
    expected = golden_values[preset.name]
    for key, features in (("k", preset.kinetic), ("g", preset.geometric)):
        x, y = features(golden_joints["generated"], 30.0), features(golden_joints["gt"], 30.0)
        by_reference = preset.standardization(y)
        x, y = by_reference.apply(x), by_reference.apply(y)
        assert frechet_distance(x, y) == pytest.approx(expected[f"fid_{key}"], rel=1e-5)
        assert mean_pairwise_distance(x) == pytest.approx(expected[f"div_{key}"], rel=1e-5)
        assert mean_pairwise_distance(y) == pytest.approx(expected[f"div_{key}_gt"], rel=1e-5)


def test_published_beat_alignment_is_reproduced_in_frames(
    golden_motions: dict[str, np.ndarray], golden_values: dict[str, dict[str, float]]
) -> None:
    for name in ("gt", "generated"):
        minima = speed_minima(mean_joint_speed(golden_motions[f"{name}_joints"], 1.0), 5.0)
        beats = golden_motions[f"{name}_beats_s"]
        scores = [
            beat_alignment(np.floor(b[~np.isnan(b)] * 30), np.flatnonzero(m), 3.0)
            for b, m in zip(beats, minima, strict=True)
        ]
        assert np.mean(scores) == pytest.approx(golden_values["bas_music_to_motion"][name], rel=1e-6)
