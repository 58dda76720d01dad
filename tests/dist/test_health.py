"""Several ranks: a bad step is skipped by all, too many end the run, and a rank that stands still ends it with 76."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeRun
from dist_runs import DistRun, Stop

FAULTS = "--trainer.callbacks+={class_path: dist_faults.Faults}"
WATCHDOG = (
    "--trainer.callbacks+={class_path: callbacks.watchdog.Watchdog, init_args: {timeouts_s: {start: 90}, timeout_s: 8}}"
)


def faults(**plan: Any) -> dict[str, str]:
    return {"MACEDANCE_TEST_FAULTS": json.dumps({"rank": 1, **plan})}


def skipped(run: DistRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.directory / "skipped.jsonl").read_text(encoding="utf-8").splitlines()]


def keys_of(run: DistRun, rank: int, step: int) -> list[str]:
    """The samples of all micro-batches of a rank's step; a micro-batch before the step's last still counts the last."""
    found: list[str] = []
    done = 0
    for line in run.records():
        if line["rank"] == rank:
            found += line["keys"] if done == step - 1 else []
            done = line["step"]
    return found


def by_step(run: DistRun, rank: int) -> dict[int, dict[str, Any]]:
    """The record of each optimizer step's end."""
    return {line["step"]: line for line in run.records() if line["rank"] == rank and "weights" in line}


@pytest.mark.parametrize(("kind", "accumulate"), [("ddp", 1), ("zero1", 1), ("zero2", 2), ("zero3", 1)])
def test_a_bad_step_of_one_rank_is_skipped_by_all_and_the_run_goes_on(
    make_run: MakeRun, tmp_path: Path, kind: str, accumulate: int
) -> None:
    arguments = ["--trainer.max_steps=8", f"--trainer.accumulate_grad_batches={accumulate}", FAULTS]
    run = make_run(tmp_path, kind, arguments=[*arguments, "--checkpoint_every_n_steps=4"])
    run.run(environment=faults(loss=[3], grad=[6]))
    lines = skipped(run)
    # Sharded gradients are only seen summed: every rank's samples are named.
    ranks = [1, 1] if kind == "ddp" else [1, 0, 1]
    assert [(line["step"], line["reason"]) for line in lines] == [(3, "loss"), *[(6, "grad")] * (len(ranks) - 1)]
    assert [line["rank"] for line in lines] == ranks
    assert all(line["keys"] == keys_of(run, line["rank"], line["step"]) for line in lines)
    assert all(len(line["keys"]) == 2 for line in lines)
    assert lines[0]["loss"] == "nan"
    assert all(math.isfinite(line["loss"]) for line in lines[1:])
    assert [line["position"] for line in lines] == [4 * line["step"] for line in lines]

    one, two = by_step(run, 0), by_step(run, 1)
    assert list(one) == list(two) == list(range(1, 9))
    for step in range(2, 9):
        stood_still = step in (3, 6)
        for done in (one, two):
            assert (done[step]["weights"] == done[step - 1]["weights"]) == stood_still, f"weights at step {step}"
            assert (done[step]["ema"] == done[step - 1]["ema"]) == stood_still, f"average at step {step}"
    assert [one[s]["lr"] for s in one] == [two[s]["lr"] for s in two]
    assert one[3]["lr"] != one[2]["lr"], "the schedule goes on"
    whole = [(run.starts[0] / f"whole-{rank}.txt").read_text(encoding="utf-8").split() for rank in (0, 1)]
    assert whole[0] == whole[1], "the ranks compute with the same weights"
    assert len(whole[0]) == 8 * accumulate
    assert [step for step in two if not math.isfinite(float.fromhex(two[step]["loss"]))] == [3]
    assert all(math.isfinite(float.fromhex(one[step]["loss"])) for step in one), "the other rank had no part in it"

    # The same run, killed after a skip and gone on from the checkpoint before it, ends the same, with the same file.
    again = make_run(tmp_path / "killed", kind, arguments=[*arguments, "--checkpoint_every_n_steps=4"])
    again.die(Stop("batch_end", 7 * accumulate - 1), environment=faults(loss=[3], grad=[6]))
    again.run(environment=faults(loss=[3], grad=[6]))
    assert skipped(again) == lines
    assert by_step(again, 0)[8]["weights"] == one[8]["weights"]
    assert by_step(again, 0)[8]["ema"] == one[8]["ema"]


def test_too_many_bad_steps_end_the_run_in_one_line(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path, "ddp", arguments=["--trainer.max_steps=12", FAULTS])
    launch = run.run(expect=1, environment=faults(loss=list(range(2, 13))))
    errors = [line for line in launch.stderr().splitlines() if "error:" in line]
    assert len(errors) == 1, launch.said()
    last = skipped(run)[-1]
    assert last["step"] == 5, "three in a row are allowed"
    assert "step 5" in errors[0]
    assert last["keys"][0] in errors[0]
    assert "rank 1" in errors[0]
    assert "Traceback" not in launch.said()
    assert "error" not in launch.stderr(1), "the first rank speaks for all"


def test_a_rank_that_stands_still_ends_the_run_with_76_on_all(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path, "ddp", arguments=["--trainer.max_steps=6", FAULTS, WATCHDOG])
    launch = run.run(expect=76, environment=faults(hang=3))
    stuck, waiting = ((run.directory / f"hang-rank-000{r}.txt").read_text(encoding="utf-8") for r in (1, 0))
    assert "in phase step after step 2" in stuck
    assert "rank_stands_still" in stuck
    assert "rank_stands_still" not in waiting
    for rank, text in ((0, waiting), (1, stuck)):
        said = [line for line in launch.stderr(rank).splitlines() if "hang:" in line]
        assert len(said) == 1
        samples = said[0].partition("last samples ")[2].partition(";")[0].split(", ")
        assert len(samples) == 2
        assert f"last samples: {', '.join(samples)}" in text
    assert not set(keys_of(run, 1, 2)) & set(samples), "of the step that hangs, not of the last one done"


def test_the_main_process_of_several_leaves_76_too(make_run: MakeRun, tmp_path: Path, monkeypatch: Any) -> None:
    """Lightning's own launcher kills its main process when a child fails: the child waits for it to end first."""
    monkeypatch.setenv("MACEDANCE_TEST_FAULTS", faults(hang=2)["MACEDANCE_TEST_FAULTS"])
    run = make_run(tmp_path, "ddp", arguments=["--trainer.max_steps=4", FAULTS, WATCHDOG])
    (result,) = run.as_process(ranks=2)
    assert result.returncode == 76, result.stderr[-3000:]
    assert {p.name for p in run.directory.glob("hang-*")} == {"hang-rank-0000.txt", "hang-rank-0001.txt"}


@pytest.mark.parametrize("kind", ["single", "ddp"])
def test_ctrl_c_ends_with_130_in_one_line(make_run: MakeRun, tmp_path: Path, kind: str) -> None:
    """A terminal sends it to every rank."""
    run = make_run(tmp_path, kind, arguments=["--trainer.max_steps=6"])
    launch = run.run(expect=130, stops=[Stop("forward", 2, rank="all", signal=signal.SIGINT)])
    said = launch.said()
    assert said.count("interrupted") == 1, said
    assert "Traceback" not in said
    assert "KeyboardInterrupt" not in said
