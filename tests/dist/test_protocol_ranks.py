"""Dances judged during training by two ranks: as by one, with a rank without a clip, one that fails, and resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeRun
from dist_runs import DistRun, Stop, assert_same_run
from safetensors.torch import save_file

from macedance.vision.i3d import InceptionI3d

PROTOCOL = (
    "--trainer.callbacks+={{class_path: callbacks.motion_protocol.MotionProtocol, init_args: "
    "{{every_n_steps: {every}, max_clips: {clips}, num_steps: 2, allow_small_n: true, resamples: 20, floor_draws: 2}}}}"
)
VIDEOS = (
    "--trainer.callbacks+={{class_path: callbacks.{kind}, init_args: {{every_n_steps: {every}, max_clips: {clips}, "
    "num_steps: 2, resamples: 20, weights: /nowhere, "
    "renderer: {{class_path: tests.callbacks.flat_dancer.FlatDancer, init_args: {{frames: 8}}}}, "
    "keypoints: {{class_path: tests.callbacks.flat_dancer.BrightSpots}}{more}}}}}"
)
#: Values of BAS jump with a minimum of speed that is one or none; these do not.
STEADY = ("jerk", "jerk_reference", "pbc", "div_k", "div_k_reference", "fid_k")
STEPS = ("--trainer.max_steps=4", "--trainer.val_check_interval=4")


def best(monitor: str, name: str = "best", mode: str = "min") -> str:
    return (
        "--trainer.callbacks+={class_path: callbacks.best.Best, "
        f"init_args: {{monitor: {monitor}, name: {name}, mode: {mode}}}}}"
    )


def report(run: DistRun, step: int, kind: str = "step") -> dict[str, Any]:
    return json.loads((run.directory / "protocol" / f"{kind}-{step:08d}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def judged(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DistRun]:
    """Three clips at steps 2 and 4, and one alone at step 3; by one process and by two ranks under ZeRO-2."""
    callbacks = [
        PROTOCOL.format(every=2, clips=3),
        PROTOCOL.format(every=3, clips=1),
        VIDEOS.format(kind="appearance_protocol.AppearanceProtocol", every=3, clips=1, more=""),
        VIDEOS.format(kind="appearance_protocol.AppearanceProtocol", every=2, clips=3, more=""),
        VIDEOS.format(kind="cascade_gap.CascadeGap", every=2, clips=3, more=", perturbations: [noise], levels: [2]"),
        best("val/jerk"),
    ]
    runs = {}
    for kind in ("single", "zero2"):
        runs[kind] = make_run(tmp_path_factory.mktemp(kind), kind, arguments=[*STEPS, *callbacks])
        runs[kind].run()
    return runs


@pytest.mark.parametrize("step", [2, 4])
def test_two_ranks_of_zero_2_judge_as_one_process(judged: dict[str, DistRun], step: int) -> None:
    one, two = (report(judged[kind], step) for kind in ("single", "zero2"))
    assert two["presets"]["clean"].keys() == one["presets"]["clean"].keys()
    for key in STEADY:
        a, b = one["presets"]["clean"][key], two["presets"]["clean"][key]
        assert b["n"] == a["n"] == 3, "no clip twice, none missing"
        assert b["value"] == pytest.approx(a["value"], rel=2e-3), key
    clips = list(one["per_clip"]["clean"]["jerk"])
    assert len(set(clips)) == 3
    assert list(two["per_clip"]["clean"]["jerk"]) == clips
    assert one["hash"] == two["hash"], "both were measured alike"
    assert one["floor"]["clean"]["fid_k"]["value"] == pytest.approx(two["floor"]["clean"]["fid_k"]["value"])


def test_a_rank_without_a_clip_takes_part(judged: dict[str, DistRun]) -> None:
    entries = report(judged["zero2"], 3)["presets"]["clean"]
    assert entries["jerk"]["n"] == 1
    assert entries["jerk"]["value"] == pytest.approx(
        report(judged["single"], 3)["presets"]["clean"]["jerk"]["value"], rel=2e-3
    )
    assert entries["fid_k"]["value"] is None
    assert "1 reference clips" in entries["fid_k"]["reason"]


def compare(one: dict[str, Any], two: dict[str, Any], preset: str, key: str, n: int) -> None:
    a, b = one["presets"][preset][key], two["presets"][preset][key]
    assert b["n"] == a["n"] == n, f"{preset}.{key}"
    assert b["value"] == pytest.approx(a["value"], rel=2e-2, abs=1e-3), f"{preset}.{key}"


@pytest.mark.parametrize(("step", "clips"), [(2, 3), (3, 1), (4, 3)])
def test_videos_of_two_ranks_are_judged_as_by_one(judged: dict[str, DistRun], step: int, clips: int) -> None:
    one, two = (report(judged[kind], step, "appearance") for kind in ("single", "zero2"))
    for key in ("temporal_flickering", "temporal_flickering_reference"):
        compare(one, two, "vbench", key, clips)
    for key in ("person_motion", "person_motion_reference", "keypoint_error", "missing"):
        compare(one, two, "honest", key, clips)
    assert one["hash"] == two["hash"]
    assert one["inputs"]["clips"] == two["inputs"]["clips"] == {"generated": clips, "reference": clips}
    names = list(one["per_clip"]["honest"]["person_motion"])
    assert list(two["per_clip"]["honest"]["person_motion"]) == names
    assert len(names) == clips


def test_the_gap_of_two_ranks_is_that_of_one(judged: dict[str, DistRun]) -> None:
    one, two = (report(judged[kind], 4, "cascade") for kind in ("single", "zero2"))
    assert two["presets"].keys() == one["presets"].keys()
    for preset in ("ground_truth", "generated", "gap_generated", "noise_2"):
        for key in ("person_motion", "temporal_flickering", "motion_jerk"):
            compare(one, two, preset, key, 3)
    assert one["hash"] == two["hash"]
    assert one["inputs"]["seconds_per_clip"] == two["inputs"]["seconds_per_clip"]


def test_values_are_in_the_table_once(judged: dict[str, DistRun]) -> None:
    rows = [(row["step"], row["name"]) for row in judged["zero2"].csv_rows("metrics_val.csv")]
    assert {("2", "val/jerk"), ("3", "val/jerk"), ("4", "val/jerk")} <= set(rows)
    assert len(rows) == len(set(rows))


def test_both_choose_the_same_best_checkpoint(judged: dict[str, DistRun]) -> None:
    run = judged["zero2"]
    jerks = {
        int(row["step"]): float(row["value"]) for row in run.csv_rows("metrics_val.csv") if row["name"] == "val/jerk"
    }
    chosen = min(jerks, key=lambda step: jerks[step])
    assert [os.readlink(r.checkpoints / "best.ckpt") for r in judged.values()] == [f"step-{chosen:08d}.ckpt"] * 2


FAULTS = {
    "dancing": ("dancing to the validation clips", PROTOCOL.format(every=2, clips=3)),
    "rendering": (
        "rendering the held-out dances",
        VIDEOS.format(kind="cascade_gap.CascadeGap", every=2, clips=3, more=", perturbations: []"),
    ),
    "judging": (
        "judging videos of the held-out dances",
        VIDEOS.format(kind="appearance_protocol.AppearanceProtocol", every=2, clips=3, more=""),
    ),
}


@pytest.mark.parametrize(("kind", "what"), [("zero3", "dancing"), ("ddp", "rendering"), ("ddp", "judging")])
def test_a_rank_that_fails_ends_all_with_its_error(make_run: MakeRun, tmp_path: Path, kind: str, what: str) -> None:
    lame = f"--trainer.callbacks+={{class_path: protocol_faults.Lame, init_args: {{what: {what}}}}}"
    doing, protocol = FAULTS[what]
    run = make_run(tmp_path, kind, arguments=[*STEPS, lame, protocol])
    launch = run.run(expect=2, environment={"MACEDANCE_TEST_LAME_RANK": "1"}, timeout_s=60.0)
    said = [line for rank in (0, 1) for line in launch.stderr(rank).splitlines() if "hole" in line]
    assert len(said) == 1, launch.said()
    for words in ("the evaluation failed", doing, "at clip-7", "rank 1 of 2", "mend it"):
        assert words in said[0]
    assert not (run.directory / "protocol").exists()
    assert len(run.csv_rows("metrics.csv")) == 2, "the steps before are on the disk"


def test_ranks_of_other_weights_are_refused_before_they_judge(make_run: MakeRun, tmp_path: Path) -> None:
    """One machine lacks a network: its rank has fewer metrics, whose states the others would wait for."""
    weights = tmp_path / "weights" / "i3d_kinetics400"
    weights.mkdir(parents=True)
    network = InceptionI3d(4, slimness=32)
    save_file(network.state_dict(), weights / "i3d_pretrained_400.safetensors")
    judge = VIDEOS.format(kind="appearance_protocol.AppearanceProtocol", every=1, clips=2, more="")
    run = make_run(tmp_path / "run", "ddp", arguments=[*STEPS, judge.replace("weights: /nowhere, ", "")])
    roots = [{"MACEDANCE_WEIGHTS": str(folder)} for folder in (weights.parent, tmp_path / "nowhere")]
    launch = run.run(expect=2, rank_environments=roots, timeout_s=60.0)
    said = [line for rank in (0, 1) for line in launch.stderr(rank).splitlines() if "differently" in line]
    assert len(said) == 1, launch.said()
    assert "rank 1 of 2 lacks fvd, weights i3d_kinetics400" in said[0]
    assert not (run.directory / "protocol").exists()


def test_the_choice_of_the_best_survives_kills(make_run: MakeRun, tmp_path: Path) -> None:
    """Killed between the choice, the checkpoint and the link, and after a validation that chose."""
    arguments = [
        "--trainer.max_steps=8", "--trainer.val_check_interval=3", "--checkpoint_every_n_steps=3",
        "--keep_last_checkpoints=1", "--model.network.init_args.dropout=0.1", PROTOCOL.format(every=2, clips=2),
        best("val/jerk"), best("val/loss", "quietest"),
        best("val/fid_g", "worst", "max"),
    ]  # fmt: skip
    reference = make_run(tmp_path / "whole", "ddp", arguments=arguments)
    reference.run()
    killed = make_run(tmp_path / "killed", "ddp", arguments=arguments)
    for stop in (Stop("save_rename", 1), Stop("save_link", 1), Stop("validation_end", 2, 1), Stop("save_files", 5, 1)):
        killed.die(stop)
    killed.run()
    assert_same_run(reference, killed)
    listed = [
        {p.name: os.readlink(p) if p.is_symlink() else None for p in run.checkpoints.iterdir()}
        for run in (reference, killed)
    ]
    assert listed[0] == listed[1]
    for link in ("best.ckpt", "quietest.ckpt", "worst.ckpt"):
        assert listed[0][link] in listed[0], "what is linked is there"
    assert len([name for name in listed[0] if name.startswith("step-")]) <= 4
