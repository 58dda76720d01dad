"""Kill -9 at any micro-step, resume with the same command: bit-equal to the run that nobody touched."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from conftest import MakeRun
from dist_recorder import SAVE_PLACES, STEP_PLACES, UPDATE_PLACES, VALIDATION_PLACES
from dist_runs import DistRun, Stop, assert_same_run

#: MACEDANCE_KILL_SEED draws other points.
SEED = int(os.environ.get("MACEDANCE_KILL_SEED", "20260917"))
KILLS = 4
STEPS, SAVE_EVERY, VALIDATE_EVERY = 18, 4, 6  # two data epochs of nine steps; step 12 is saved and validated
#: cell -> (accumulated batches, loader workers)
CELLS = {"single": (2, 1), "ddp": (1, 1), "zero1": (2, 0), "zero2": (1, 1), "zero3": (2, 0)}
RANK_0_PLACES = ("save_manifest", "save_rename", "save_link")


def cell_arguments(accumulate: int = 1, workers: int = 0, dropout: float = 0.1) -> list[str]:
    """A run of two data epochs with validations and checkpoints on the way."""
    return [
        f"--trainer.max_steps={STEPS}",
        f"--trainer.val_check_interval={VALIDATE_EVERY}",
        f"--checkpoint_every_n_steps={SAVE_EVERY}",
        f"--trainer.accumulate_grad_batches={accumulate}",
        f"--data.num_workers={workers}",
        f"--model.network.init_args.dropout={dropout}",
    ]


def drawn_stops(cell: str) -> list[Stop]:
    """The kills of a cell in order: half of them in each data epoch, any place, any rank."""
    draw = random.Random(f"{SEED} {cell}")
    accumulate, _ = CELLS[cell]
    half = STEPS * accumulate // 2
    micros = sorted(
        [draw.randrange(0, half) for _ in range(KILLS // 2)]
        + [draw.randrange(half, 2 * half) for _ in range(KILLS - KILLS // 2)]
    )
    stops = []
    for micro in micros:
        kinds = draw.choices([STEP_PLACES, UPDATE_PLACES, SAVE_PLACES, VALIDATION_PLACES], weights=[4, 3, 3, 2])[0]
        place = draw.choice(kinds)
        rank = draw.randrange(1 if cell == "single" or place in RANK_0_PLACES else 2)
        stops.append(Stop(place, micro, rank))
    return stops


def assert_two_epochs(run: DistRun, samples: int) -> None:
    """Nothing of either epoch lost or repeated."""
    seen = sorted(position for line in run.history().values() for position in line["positions"])
    assert seen == list(range(2 * samples))
    keys = {p: k for line in run.history().values() for p, k in zip(line["positions"], line["keys"], strict=True)}
    assert {keys[p] for p in range(samples)} == {keys[p] for p in range(samples, 2 * samples)}


@pytest.mark.parametrize("cell", CELLS)
def test_killed_at_random_micro_steps_and_resumed(cell: str, make_run: MakeRun, tmp_path: Path) -> None:
    arguments = cell_arguments(*CELLS[cell])
    reference = make_run(tmp_path / "whole", cell, arguments=arguments)
    reference.run()
    assert_two_epochs(reference, STEPS * 4 // 2)
    assert reference.marks("validated") == [6, 12, 18]

    stops = drawn_stops(cell)
    print(f"seed {SEED}, {cell}: {stops}")
    killed = make_run(tmp_path / "killed", cell, arguments=arguments)
    for stop in stops:
        killed.die(stop)
    killed.run()
    resumed_from = [killed.marks("start", number) for number in range(len(killed.starts))]
    assert resumed_from[-1][0] >= STEPS // 2, f"no resume in the second epoch: {resumed_from}"
    assert_same_run(reference, killed)


def test_the_zygote_s_runs_are_those_of_real_processes(make_run: MakeRun, tmp_path: Path) -> None:
    arguments = cell_arguments(accumulate=2, workers=1)
    forked = make_run(tmp_path / "forked", arguments=arguments)
    forked.run()
    real = make_run(tmp_path / "real", arguments=arguments)
    (result,) = real.as_process()
    assert result.returncode == 0, result.stderr[-3000:]
    assert_same_run(forked, real)


def test_ranks_started_by_lightning_do_the_same(make_run: MakeRun, tmp_path: Path) -> None:
    arguments = cell_arguments(workers=1)
    forked = make_run(tmp_path / "forked", "ddp", arguments=arguments)
    forked.run()
    real = make_run(tmp_path / "real", "ddp", arguments=arguments)
    (result,) = real.as_process(ranks=2)
    assert result.returncode == 0, result.stderr[-3000:]
    assert_same_run(forked, real)


def test_another_seed_would_be_noticed(make_run: MakeRun, tmp_path: Path) -> None:
    """The comparison can fail: one draw that is not restored is enough."""
    arguments = cell_arguments()
    reference = make_run(tmp_path / "whole", arguments=arguments)
    reference.run()
    other = make_run(tmp_path / "other", arguments=[*arguments, "--model.network.init_args.dropout=0.2"])
    other.run()
    with pytest.raises(AssertionError, match="differs from the uninterrupted run"):
        assert_same_run(reference, other)


@pytest.mark.parametrize("kind", ["single", "ddp", "zero3"])
def test_killed_at_any_time(kind: str, make_run: MakeRun, tmp_path: Path) -> None:
    """By the clock, not by the place: also while starting up, taking the lock, restoring, cutting the tables."""
    arguments = cell_arguments(workers=1)
    reference = make_run(tmp_path / "whole", kind, arguments=arguments)
    began = time.monotonic()
    reference.run()
    whole_s = time.monotonic() - began
    draw = random.Random(f"{SEED} {kind}")
    killed = make_run(tmp_path / "killed", kind, arguments=arguments)
    after_s = []
    for _ in range(8):
        launch = killed.start()
        after_s.append(draw.uniform(0.1, min(1.2 * whole_s, 2.5)))
        time.sleep(after_s[-1])
        launch.kill()
        codes = launch.wait(30.0)
        assert set(codes) <= {-signal.SIGKILL, 0}, f"seed {SEED}, killed after {after_s} s: {codes}\n{launch.said()}"
    killed.run()
    assert_same_run(reference, killed)


def test_previews_and_protocol_are_made_once(make_run: MakeRun, tmp_path: Path) -> None:
    """What callbacks write at the steps of a checkpoint and of a validation survives kills around both."""
    protocol = (
        "--trainer.callbacks+={class_path: callbacks.motion_protocol.MotionProtocol, "
        "init_args: {every_n_steps: 4, max_clips: 2, num_steps: 2, allow_small_n: true}}"
    )
    arguments = [*cell_arguments(), protocol]
    reference = make_run(tmp_path / "whole", "ddp", arguments=arguments)
    reference.run()
    killed = make_run(tmp_path / "killed", "ddp", arguments=arguments)
    for stop in (Stop("save_rename", 4), Stop("save_link", 4), Stop("batch_start", 10, 1), Stop("validation_end", 11)):
        killed.die(stop)
    killed.run()
    assert_same_run(reference, killed)
    reports = [{p.name: p.read_bytes() for p in (run.directory / "protocol").iterdir()} for run in (reference, killed)]
    assert sorted(reports[0]) == [f"step-{step:08d}.json" for step in (4, 8, 12, 16)]
    assert reports[0] == reports[1]


def test_a_rank_that_dies_alone_takes_the_others_with_it(make_run: MakeRun, tmp_path: Path) -> None:
    """Nobody kills the others: they must end by themselves, not wait for ever, and the run can go on."""
    arguments = cell_arguments()
    reference = make_run(tmp_path / "whole", "ddp", arguments=arguments)
    reference.run()
    run = make_run(tmp_path / "run", "ddp", arguments=arguments)
    launch = run.start(stops=[Stop("backward", 7, rank=1)])
    codes = launch.wait(90.0)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, 2, 75)
    run.run()
    assert_same_run(reference, run)
