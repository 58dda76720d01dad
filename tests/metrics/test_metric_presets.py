"""Windows, beats and standardisation of the presets, and who may read what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import approx, random_clips, random_joints, random_keypoint_clips

from macedance.errors import ConfigError, DataError
from macedance.metrics.conventions import Window, points_of
from macedance.metrics.motion import MotionMetrics, evaluate_clips
from macedance.metrics.presets import (
    BAILANDO_AIST,
    CLEAN,
    CLEAN_KEYPOINTS,
    JOINT_PRESETS,
    KEYPOINT_PRESETS,
    LODGE_FINEDANCE,
    MACE2D,
    MACE3D,
    MEGADANCE,
    presets_for,
)
from macedance.motion.files import JointClip


def long_clip(frames: int, beats: list[float], name: str = "long") -> JointClip:
    return JointClip(random_joints(0, frames), 30.0, music_beats_s=np.array(beats), name=name, song=name)


@pytest.mark.parametrize(
    ("window", "frames", "reference", "starts"),
    [
        (BAILANDO_AIST.window, 1300, False, [0]),
        (BAILANDO_AIST.window, 1300, True, [0]),
        (LODGE_FINEDANCE.window, 900, False, [0]),
        (MEGADANCE.window, 1024, False, [0]),
        (MEGADANCE.window, 1535, False, [0]),
        (MEGADANCE.window, 2100, True, [0, 512, 1024]),
        (MACE3D.window, 2500, False, [0, 1200]),
        (MACE2D.window, 64, False, [0]),
        (MACE2D.window, 63, True, []),
        (CLEAN.window, 99999, False, [0]),
    ],
)
def test_windows_start_where_published(window: Window, frames: int, reference: bool, starts: list[int]) -> None:
    assert window.starts(frames, reference=reference) == starts


def test_only_longer_clips_are_cut_and_beats_move_with_the_window() -> None:
    window = Window(40, 20)
    clip = long_clip(90, [0.5, 1.0, 2.5])
    cut = window.cut(clip)
    assert [len(points_of(part)) for part in cut] == [40, 40, 40]
    np.testing.assert_array_equal(points_of(cut[1]), clip.joints[20:60])
    np.testing.assert_allclose(cut[1].music_beats_s, [1 / 3, 2.5 - 2 / 3])  # type: ignore[arg-type]
    assert Window(90, 20).cut(clip) == [clip]
    assert Window(40, whole_reference=True).cut(clip, reference=True) == [clip]
    assert Window(91, leave_out_shorter=True).cut(clip) == []


def test_a_preset_sees_of_a_long_clip_only_its_window() -> None:
    clips = [long_clip(100, [0.5, 1.0, 1.6, 2.4], str(i)) for i in range(3)]
    preset = replace(LODGE_FINEDANCE, window=Window(60))
    cut = [replace(c, joints=c.joints[:60]) for c in clips]
    whole = evaluate_clips(clips, clips, preset=preset, allow_small_n=True)
    assert whole == approx(evaluate_clips(cut, cut, preset=preset, allow_small_n=True))
    windows = replace(MEGADANCE, window=Window(40, 20))
    assert evaluate_clips(clips, clips, preset=windows, allow_small_n=True)["div_k"]["n"] == 12


def test_lodge_counts_the_beats_of_the_whole_song() -> None:
    joints = random_joints(3, 60)
    clip = JointClip(joints, 30.0, music_beats_s=np.array([0.4, 0.9, 1.4]), name="a", song="a")
    late = replace(clip, music_beats_s=np.array([0.4, 0.9, 1.4, 30.0, 31.0, 32.0]))
    for preset, share in ((LODGE_FINEDANCE, 0.5), (MEGADANCE, 1.0), (CLEAN, 1.0)):
        short, long = (evaluate_clips([c], [], preset=preset)["bas"]["value"] for c in (clip, late))
        assert long == pytest.approx(share * short), preset.name


def test_clips_below_the_window_are_left_out_by_mace2d_alone_and_counted() -> None:
    clips = random_keypoint_clips(6)
    short = [replace(c, keypoints=c.keypoints[:50]) for c in clips[:2]]
    values = evaluate_clips([*short, *clips[2:]], clips, preset=MACE2D, allow_small_n=True)
    assert (values["fid_k"]["n"], values["fid_k"]["shorter_than_window"]) == (4, 2)
    assert values["fid_k"]["n_reference"] == 6
    assert values["bas"]["shorter_than_window"] == 2
    assert "shorter_than_window" not in values["bas_reference"]
    clean = evaluate_clips([*short, *clips[2:]], clips, preset=CLEAN_KEYPOINTS, allow_small_n=True)
    assert (clean["fid_k"]["n"], "shorter_than_window" in clean["fid_k"]) == (6, False)
    assert evaluate_clips(short, clips, preset=MACE2D)["bas"]["value"] is None


def test_mace2d_standardises_each_set_by_itself() -> None:
    clips = random_keypoint_clips(40, seed=1)
    larger = [replace(c, keypoints=c.keypoints * np.array([3.0, 3.0, 1.0])) for c in clips]
    assert evaluate_clips(larger, clips, preset=MACE2D, allow_small_n=True)["fid_k"]["value"] < 1e-3


def test_published_presets_do_not_know_the_frame_rate() -> None:
    clips, reference = random_clips(5), random_clips(5, seed=1)
    fast = [replace(c, fps=60.0, music_beats_s=None) for c in clips]
    slow = [replace(c, music_beats_s=None) for c in clips]
    for preset in JOINT_PRESETS.values():
        a, b = (evaluate_clips(x, reference, preset=preset, allow_small_n=True) for x in (slow, fast))
        same = a["fid_k"]["value"] == pytest.approx(b["fid_k"]["value"])
        assert same == (preset.name != "clean"), preset.name


def test_kinds_do_not_mix() -> None:
    joints, keypoints = random_clips(2), random_keypoint_clips(2)
    for preset, clips in ((CLEAN, keypoints), (CLEAN_KEYPOINTS, joints), (MACE2D, joints)):
        with pytest.raises(DataError, match=f"preset {preset.name} cannot read"):
            MotionMetrics(preset).update(clips)
        with pytest.raises(DataError, match=r"2 of 2 clips: .* at 0-0; .* at 0-1"):
            MotionMetrics(preset).update(clips)
    coco_17 = [replace(c, keypoints=c.keypoints[:, :17], layout=None) for c in keypoints]
    with pytest.raises(DataError, match="25 keypoints"):
        MotionMetrics(MACE2D).update(coco_17)


def test_presets_are_found_by_name_and_kind() -> None:
    assert presets_for(["clean", "mace3d"], random_clips(1)) == [CLEAN, MACE3D]
    assert presets_for(["clean", "mace2d"], random_keypoint_clips(1)) == [CLEAN_KEYPOINTS, MACE2D]
    assert set(JOINT_PRESETS) | set(KEYPOINT_PRESETS) == {
        "clean", "bailando_aist", "lodge_finedance", "megadance", "mace3d", "mace2d",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="the clips hold joints"):
        presets_for(["mace2d"], random_clips(1))
    with pytest.raises(ConfigError, match="unknown"):
        presets_for(["mace4d"], random_clips(1))
