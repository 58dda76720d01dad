"""The Metric as a whole: entries, refusals, duplicates. Ranks: tests/dist/test_metric_ranks.py."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from synthetic import approx, pulsing_joints, random_clips, standing_joints

from macedance.errors import DataError
from macedance.metrics.motion import MotionMetrics, check_plausibility, evaluate_clips
from macedance.motion.files import JointClip

OWN = ("div_k", "div_g", "bas", "bas_motion", "bas_shuffled", "foot_skating", "pfc", "pbc", "jerk")
KEYS = {"fid_k", "fid_g", *OWN, *(f"{key}_reference" for key in OWN)}


def test_identical_sets_have_no_distance_and_equal_values() -> None:
    clips = random_clips(80, songs=10)
    result = evaluate_clips(clips, clips)
    assert set(result) == KEYS
    for key in ("fid_k", "fid_g"):
        assert result[key]["value"] < 1e-6
        assert (result[key]["n"], result[key]["n_reference"]) == (80, 80)
    for key in OWN:
        assert result[key]["value"] == pytest.approx(result[f"{key}_reference"]["value"])
    json.dumps(result)


def test_distance_grows_with_noise_stretch_and_stillness() -> None:
    reference, clips = random_clips(74, seed=1, frames=40), random_clips(74, seed=2, frames=40)
    base = evaluate_clips(clips, reference)

    def fid(change: Any) -> float:
        return evaluate_clips([replace(c, joints=change(c.joints)) for c in clips], reference)["fid_k"]["value"]

    rng = np.random.default_rng(0)
    jitter = fid(lambda x: x + rng.normal(0, 0.02, x.shape))
    slow = fid(lambda x: np.repeat(x, 2, axis=0)[: len(x)])
    still = fid(lambda x: np.repeat(x[:1], len(x), axis=0))
    assert min(jitter, slow, still) > 1.5 * base["fid_k"]["value"]


def test_small_sets_are_refused_with_the_reason_unless_asked() -> None:
    clips = random_clips(40, seed=3)
    result = evaluate_clips(clips, random_clips(80, seed=4))
    assert result["fid_k"]["value"] is None
    assert "40 clips are fewer than the 72 features" in result["fid_k"]["reason"]
    assert result["fid_g"]["value"] is not None
    assert result["div_k"]["value"] is not None
    assert evaluate_clips(clips, clips, allow_small_n=True)["fid_k"]["value"] < 1e-6


def test_empty_sets_give_reasons_not_errors() -> None:
    assert all(e["value"] is None and e["reason"] for e in evaluate_clips([], []).values())
    result = evaluate_clips(random_clips(3), [])
    assert result["fid_k"]["value"] is None
    assert result["jerk"]["n"] == 3
    assert evaluate_clips([], random_clips(3))["div_k"]["reason"]


def test_dance_on_its_beats_scores_above_other_songs() -> None:
    clips = []
    for i in range(12):
        first = 0.25 + 0.05 * (i % 6)
        joints = pulsing_joints(30.0, 5.0, 0.6, first)
        beats = np.arange(first, 4.8, 0.6)
        clips.append(JointClip(joints, 30.0, music_beats_s=beats, song=f"s{i % 6}"))
    result = evaluate_clips(clips, clips)
    assert result["bas"]["value"] > 0.95
    assert result["bas_motion"]["value"] > 0.9
    assert result["bas_shuffled"]["value"] < 0.6
    # Without names, equal beats are taken for one song.
    unnamed = evaluate_clips([replace(c, song=None) for c in clips], [])
    assert unnamed["bas_shuffled"]["value"] == pytest.approx(result["bas_shuffled"]["value"])


def test_clips_without_music_or_contact_are_left_out_and_counted() -> None:
    clips = random_clips(6, songs=3)
    clips[0] = replace(clips[0], music_beats_s=None)
    clips[1] = replace(clips[1], music_beats_s=np.array([99.0]))
    clips[2] = JointClip(standing_joints(30, 1.0), 30.0)
    result = evaluate_clips(clips, [])
    assert (result["bas"]["n"], result["bas"]["left_out"]) == (3, 3)
    assert result["bas_shuffled"]["n"] == 3
    assert result["foot_skating"]["n"] >= 1
    assert result["foot_skating"]["n"] + result["foot_skating"].get("left_out", 0) == 6


def test_still_dance_scores_zero_on_the_beat_not_nothing() -> None:
    still = JointClip(standing_joints(60), 30.0, music_beats_s=np.array([0.5, 1.0]), song="a")
    result = evaluate_clips([still, replace(still, song="b")], [])
    for key in ("bas", "bas_motion", "bas_shuffled", "foot_skating", "jerk"):
        assert result[key]["value"] == pytest.approx(0.0, abs=1e-9)
        assert result[key]["n"] == 2


def test_updates_in_parts_and_mixed_lengths_give_the_same() -> None:
    clips = random_clips(8, frames=40) + random_clips(8, seed=5, frames=70)
    reference = random_clips(6, seed=6)
    whole = evaluate_clips(clips, reference, allow_small_n=True)
    parts = MotionMetrics(allow_small_n=True)
    parts.update(reference[:5], reference=True)
    for clip in clips:
        parts.update([clip])
    parts.update([])
    parts.update(reference[5:], reference=True)
    assert parts.compute() == approx(whole)
    parts.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert parts.compute()["jerk"]["n"] == 0


def test_repeated_ids_count_once_and_order_does_not_matter() -> None:
    clips, reference = random_clips(9, songs=3), random_clips(5, seed=1)
    metric = MotionMetrics(allow_small_n=True)
    order = [4, 2, 0, 8, 6, 1, 3, 5, 7]
    metric.update([clips[i] for i in order[:5]], ids=order[:5])
    metric.update(reference, ids=range(5), reference=True)
    metric.update([clips[i] for i in (*order[5:], 4, 2)], ids=[*order[5:], 4, 2])
    metric.update(reference[:2], ids=[0, 1], reference=True)
    assert metric.compute() == approx(evaluate_clips(clips, reference, allow_small_n=True))


def test_metric_stays_double_when_a_model_is_halved() -> None:
    metric = MotionMetrics()
    metric.update(random_clips(2))
    torch.nn.ModuleList([metric]).bfloat16()
    assert metric.rows[0].dtype == torch.float64


def test_bad_updates_are_refused_by_name() -> None:
    metric = MotionMetrics()
    with pytest.raises(DataError, match="shorty"):
        metric.update([JointClip(np.zeros((3, 24, 3)), 30.0, name="shorty")])
    with pytest.raises(DataError, match="1 ids for 2 clips"):
        metric.update(random_clips(2), ids=[0])


def test_plausibility_reports_the_worst_clip() -> None:
    fast = JointClip(standing_joints(10, 2.0), 30.0)
    result = check_plausibility([JointClip(standing_joints(10), 30.0), fast])
    assert result["max_root_speed_m_s"] == {"value": pytest.approx(2.0, rel=1e-4), "n": 2}
    assert result["floor_penetration_m"]["value"] == 0
    assert check_plausibility([])["bone_length_variation"]["value"] is None


def test_evaluation_of_128_clips_takes_seconds() -> None:
    clips = random_clips(128, frames=150, songs=16)
    start = time.process_time()
    evaluate_clips(clips, clips[:2])
    assert time.process_time() - start < 5
