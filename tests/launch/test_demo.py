"""The demo: its smoke run end to end, and the arithmetic of its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from launch.demos.bounds import check_bounds
from launch.demos.motion_evaluation import BOUNDS, as_clips, held_still, judge
from launch.main import main
from macedance.motion.files import JointClip, load_motion
from macedance.rendering.probe import probe_video

NUMBERS = (
    "bas", "bas_shuffled", "bas_reference", "bas_reference_shuffled", "fid_k", "fid_k_untrained", "fid_k_still",
    "fid_k_floor", "foot_skating", "foot_skating_reference", "jerk", "jerk_reference", "frames_per_second",
)  # fmt: skip


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "--smoke", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_the_smoke_run_makes_everything_the_demo_makes(smoke: Path) -> None:
    metrics = json.loads((smoke / "metrics.json").read_text(encoding="utf-8"))
    for name in NUMBERS:
        assert {"value", "n"} <= metrics[name].keys(), name
    assert len(metrics["bounds"]) == len(BOUNDS)
    page = (smoke / "index.html").read_text(encoding="utf-8")
    for k in range(3):
        assert f"dances/unheard-{k}.mp4" in page
        facts = probe_video(smoke / "dances" / f"unheard-{k}.mp4")
        assert abs(facts.duration_s - facts.audio_duration_s) <= 1 / 30
        assert {p.suffix for p in (smoke / "dances").glob(f"unheard-{k}.*")} == {".npz", ".bvh", ".glb", ".mp4"}
    assert "plots/curves.png" in page
    assert len({load_motion(smoke / "dances" / f"unheard-{k}.npz").genre for k in range(3)}) == 3
    sets = [sorted(p.name for p in (smoke / "eval" / s).iterdir()) for s in ("generated", "reference", "untrained")]
    assert sets[0] == sets[1] == sets[2]
    assert sets[0]
    assert load_motion(smoke / "eval" / "generated" / sets[0][0]).music_beats_s is not None


@pytest.mark.slow
def test_the_demo_can_be_run_again_over_its_own_folder(smoke: Path, capsys) -> None:
    (smoke / "mine.txt").write_text("not the demo's", encoding="utf-8")
    capsys.readouterr()
    assert main(["demo", "--smoke", "--out", str(smoke), "--json"]) == 0
    assert (smoke / "mine.txt").exists()
    assert json.loads(capsys.readouterr().out)["bas_reference"]["n"] >= 1


def test_somebody_else_s_folder_is_not_touched(tmp_path: Path, capsys) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").write_text("x", encoding="utf-8")
    assert main(["demo", "--smoke", "--out", str(tmp_path)]) == 2
    assert "no demo made" in capsys.readouterr().err
    assert (tmp_path / "model" / "mine").exists()


def clips(count: int, amplitude: float, seed: int) -> list[JointClip]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        t = np.arange(90)[:, None, None] / 30
        phase, size = rng.uniform(0, 6, (1, 24, 3)), rng.uniform(0.02, amplitude, (1, 24, 3))
        joints = np.array([0, 1, 0]) + size * np.sin(2 * np.pi * t + phase)
        made.append(JointClip(joints.astype(np.float32), 30.0, None, np.arange(1, 3) * 0.5, f"c{i}", song=f"s{i // 4}"))
    return made


def test_a_still_pose_scores_worse_than_the_dances_themselves() -> None:
    reference = clips(40, 0.1, 0)
    numbers = judge(clips(40, 0.1, 1), clips(40, 0.6, 2), reference, clips(40, 0.1, 3), allow_small_n=True)
    assert numbers["fid_k"]["value"] < numbers["fid_k_still"]["value"]
    assert numbers["fid_k"]["value"] < numbers["fid_k_untrained"]["value"]
    assert numbers["bas_reference_shuffled"]["n"] == 40
    still = held_still(reference)
    assert all(np.ptp(clip.joints, axis=0).max() == 0 for clip in still)
    assert [clip.name for clip in still] == [clip.name for clip in reference]


def test_bounds_are_met_missed_or_not_measured() -> None:
    good = {
        "bas_reference": 0.9, "bas_reference_shuffled": 0.4, "bas": 0.8, "bas_shuffled": 0.4, "fid_k": 10.0,
        "fid_k_untrained": 100.0, "fid_k_still": 200.0, "jerk": 150.0, "jerk_reference": 100.0,
        "foot_skating": 0.05, "foot_skating_reference": 0.05, "bone_length_variation": 1e-6,
        "floor_penetration_m": 0.0, "max_root_speed_m_s": 2.0, "max_root_speed_m_s_reference": 2.0,
    }  # fmt: skip
    entries = {name: {"value": value, "n": 100} for name, value in good.items()}
    assert all(row["met"] is True for row in check_bounds(entries, BOUNDS))
    bad = {**entries, "jerk": {"value": 201.0, "n": 100}, "fid_k": {"value": None, "n": 10, "reason": "n"}}
    verdicts = {(row["name"], row["bound"]): row["met"] for row in check_bounds(bad, BOUNDS)}
    assert verdicts["jerk", "at most 2 jerk_reference"] is False
    assert verdicts["fid_k", "at most 0.1 fid_k_still"] is None


def test_clips_take_their_names_and_songs() -> None:
    from types import SimpleNamespace

    from macedance.motion.files import Motion

    motion = Motion(poses=np.zeros((5, 24, 3), np.float32), trans=np.zeros((5, 3), np.float32), fps=30.0)
    named = as_clips([motion], [SimpleNamespace(key="k", song="s")])  # type: ignore[list-item]
    assert (named[0].name, named[0].song) == ("k", "s")
