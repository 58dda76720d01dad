"""The published presets give the published implementations' numbers, flaws included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from macedance.metrics.conventions import Preset
from macedance.metrics.keypoints import LAYOUTS, KeypointClip
from macedance.metrics.motion import evaluate_clips
from macedance.metrics.presets import JOINT_PRESETS, MACE2D, MACE3D, MotionPreset
from macedance.motion.files import JointClip

PUBLISHED = [preset for preset in JOINT_PRESETS.values() if preset.name != "clean"]
REL = 1e-5


def golden_clips(motions: dict[str, np.ndarray], name: str, kind: str) -> list[Any]:
    clips: list[Any] = []
    for i, (points, beats) in enumerate(zip(motions[f"{name}_{kind}"], motions[f"{name}_beats_s"], strict=True)):
        beats = beats[~np.isnan(beats)]
        if kind == "joints":
            clips.append(JointClip(points, 30.0, music_beats_s=beats, name=str(i), song=str(i)))
        else:
            layout = LAYOUTS["coco_17_plus_8"]
            clips.append(KeypointClip(points, 16.0, music_beats_s=beats, name=str(i), song=str(i), layout=layout))
    return clips


@pytest.fixture(scope="module")
def joint_sets(golden_motions: dict[str, np.ndarray]) -> tuple[list[JointClip], list[JointClip]]:
    return golden_clips(golden_motions, "generated", "joints"), golden_clips(golden_motions, "gt", "joints")


def check_distribution(values: dict[str, Any], expected: dict[str, float], rel: float = REL) -> None:
    for kind in ("k", "g"):
        assert values[f"fid_{kind}"]["value"] == pytest.approx(expected[f"fid_{kind}"], rel=rel)
        assert values[f"div_{kind}"]["value"] == pytest.approx(expected[f"div_{kind}"], rel=rel)
        assert values[f"div_{kind}_reference"]["value"] == pytest.approx(expected[f"div_{kind}_gt"], rel=rel)


@pytest.mark.parametrize("preset", PUBLISHED, ids=lambda p: p.name)
def test_published_preset_is_reproduced(
    preset: Preset, joint_sets: tuple[list[JointClip], list[JointClip]], golden_values: dict[str, dict[str, float]]
) -> None:
    values = evaluate_clips(*joint_sets, preset=preset)
    check_distribution(values, golden_values[preset.name])
    for suffix, name in (("", "generated"), ("_reference", "gt")):
        beats = golden_values["bas_music_to_motion"][name]
        assert values[f"bas{suffix}"]["value"] == pytest.approx(beats, rel=1e-6)
        if preset.name != "mace3d":
            assert values[f"pfc{suffix}"]["value"] == pytest.approx(golden_values["pfc_y_up"][name], rel=REL)
        if preset.name == "lodge_finedance":
            skating = values[f"foot_skating{suffix}"]
            assert skating["value"] == pytest.approx(golden_values["fsr_lodge"][name], rel=1e-6)
            assert skating["feet_without_contact"] == golden_values["fsr_lodge"][f"nan_{name}"]


def test_mace2d_is_reproduced(
    golden_motions: dict[str, np.ndarray], golden_values: dict[str, dict[str, float]]
) -> None:
    generated, reference = (golden_clips(golden_motions, name, "keypoints") for name in ("generated", "gt"))
    paired = [replace(c, music_beats_s=r.music_beats_s) for c, r in zip(generated, reference, strict=True)]
    values = evaluate_clips(paired, reference, preset=MACE2D)
    check_distribution(values, golden_values["mace2d"], rel=1e-6)
    assert values["bas"]["value"] == pytest.approx(golden_values["mace2d"]["bas"], rel=1e-6)
    assert values["bas_reference"]["value"] == pytest.approx(golden_values["mace2d"]["bas_gt"], rel=1e-6)
    assert values["pfc"]["value"] is None
    assert values["pfc"]["reason"] == "not part of the published 2-D protocol"


def test_published_pfc_is_per_frame_and_mace3d_takes_another_axis_for_up(
    joint_sets: tuple[list[JointClip], list[JointClip]],
) -> None:
    clip = joint_sets[1][0]
    joints = torch.from_numpy(clip.joints)[None]
    published = JOINT_PRESETS["bailando_aist"]
    torch.testing.assert_close(
        published.measure(joints, 60.0).scalars[:, 2], published.measure(joints, 30.0).scalars[:, 2]
    )
    assert isinstance(MACE3D, MotionPreset)
    sideways = joints[..., [1, 0, 2]] * torch.tensor([-1.0, 1.0, 1.0])
    upright = replace(MACE3D, quarter_turn=False).measure(sideways, 30.0)
    torch.testing.assert_close(MACE3D.measure(joints, 30.0).scalars[:, 2], upright.scalars[:, 2])
    torch.testing.assert_close(MACE3D.measure(joints, 30.0).kinetic, upright.kinetic)
