"""The number of ranks and of loader workers changes while a run goes on: same samples, same losses.

Sums over ranks are taken in another order, so that losses agree to a tolerance, not to the bit: 1e-5, relative.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from conftest import MakeRun
from dist_runs import STRATEGIES, DistRun, Stop, assert_close_losses

TOLERANCE = 1e-5
STEPS, BATCH = 18, 4


def arguments() -> list[str]:
    """Dropout is the one draw that belongs to a rank and not to a sample: off; and so is measuring a first batch."""
    return [
        f"--trainer.max_steps={STEPS}",
        "--trainer.val_check_interval=6",
        "--checkpoint_every_n_steps=2",
        "--model.network.init_args.dropout=0.0",
        "--model.losses.rebalance_below=0",
    ]


def samples_by_step(run: DistRun, start: int) -> dict[int, list[tuple[int, str]]]:
    """Step -> (position, key) of its global batch, in order of position."""
    steps: dict[int, list[tuple[int, str]]] = {}
    for line in run.records(start):
        steps.setdefault(line["step"], []).extend(zip(line["positions"], line["keys"], strict=True))
    return {step: sorted(samples) for step, samples in steps.items()}


def assert_same_samples(reference: DistRun, run: DistRun) -> None:
    """Every complete step of every start trained on the samples of the uninterrupted run's, each once."""
    expected = samples_by_step(reference, 0)
    assert [p for step in sorted(expected) for p, _ in expected[step]] == list(range(STEPS * BATCH))
    done: set[int] = set()
    for start in range(len(run.starts)):
        for step, samples in samples_by_step(run, start).items():
            if len(samples) == BATCH:  # the last step before a kill may lack a rank's record
                assert samples == expected[step]
                done.add(step)
    assert done == set(expected)


def test_ranks_and_workers_change_twice(make_run: MakeRun, tmp_path: Path) -> None:
    """1 rank x 0 workers, 2 x 1, 4 x 0."""
    reference = make_run(tmp_path / "whole", arguments=arguments())
    reference.run()
    run = make_run(tmp_path / "run", arguments=arguments())
    run.die(Stop("backward", 7))
    run.launcher, run.ranks = True, 2
    run.arguments = [*run.arguments, *STRATEGIES["ddp"], "--data.num_workers=1"]
    launch = run.die(Stop("update", 12, 1))
    assert "1 -> 2 ranks" in launch.stderr()
    run.ranks = 4
    run.arguments = [*run.arguments, "--data.num_workers=0"]
    launch = run.run()
    assert "2 -> 4 ranks" in launch.stderr()
    assert [run.marks("start", number) for number in range(3)] == [[0], [6], [12]]
    assert_same_samples(reference, run)
    assert_close_losses(reference, run, TOLERANCE)
    validated = [float(row["value"]) for row in run.csv_rows("metrics_val.csv") if row["name"] == "val/loss"]
    expected = [float(row["value"]) for row in reference.csv_rows("metrics_val.csv") if row["name"] == "val/loss"]
    assert len(validated) == STEPS // 6
    assert validated == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["zero2", "zero3"])
def test_a_sharded_run_goes_from_two_ranks_to_one_and_back(kind: str, make_run: MakeRun, tmp_path: Path) -> None:
    reference = make_run(tmp_path / "whole", kind, arguments=arguments())
    reference.run()
    run = make_run(tmp_path / "run", kind, arguments=[*arguments(), "--keep_last_checkpoints=20"])
    run.die(Stop("backward", 7))
    run.ranks = 1
    launch = run.die(Stop("update", 12))
    assert "2 -> 1 ranks" in launch.stderr()
    assert "cut for 1 in .step-00000006.ranks-1.ckpt, the original stays" in launch.stderr()
    run.ranks = 2
    launch = run.run()
    assert "1 -> 2 ranks" in launch.stderr()
    assert [run.marks("start", number) for number in range(3)] == [[0], [6], [12]]
    # The originals stay as they were.
    from macedance.pipelines.checkpoint_folder import verify

    assert verify(run.checkpoints / "step-00000006.ckpt").world_size == 2
    assert verify(run.checkpoints / "step-00000012.ckpt").world_size == 1
    assert_same_samples(reference, run)
    assert_close_losses(reference, run, TOLERANCE)


def test_killed_while_it_is_cut_for_another_number_of_ranks(make_run: MakeRun, tmp_path: Path) -> None:
    """By the clock, again and again: the checkpoint that is being cut stays good, and half a new one is never used."""
    reference = make_run(tmp_path / "whole", "zero2", arguments=arguments())
    reference.run()
    run = make_run(tmp_path / "run", "zero2", arguments=arguments())
    run.die(Stop("backward", 7))
    draw = random.Random(0)
    run.ranks = 1
    for _ in range(5):
        launch = run.start("--trainer.max_steps=8")  # where it gets through, it stops two steps later
        time.sleep(draw.uniform(0.3, 1.3))
        launch.kill()
        assert set(launch.wait(30.0)) <= {-signal.SIGKILL, 0}, launch.said()
    run.ranks = 2
    run.run()
    assert_same_samples(reference, run)
    assert_close_losses(reference, run, TOLERANCE)


def test_validation_falls_on_the_same_steps_everywhere(make_run: MakeRun, tmp_path: Path) -> None:
    """Steps, not micro-batches: accumulation, ranks and strategy change nothing about when a run validates."""
    steps = set()
    for kind, accumulate in (("single", 1), ("single", 2), ("single", 4), ("ddp", 2), ("zero1", 2), ("zero3", 1)):
        extra = [*arguments(), f"--trainer.accumulate_grad_batches={accumulate}"]
        run = make_run(tmp_path / f"{kind}-{accumulate}", kind, arguments=extra)
        run.run()
        steps.add(tuple(run.marks("validated")))
        rows = [int(row["step"]) for row in run.csv_rows("metrics_val.csv") if row["name"] == "val/loss"]
        assert tuple(rows) == tuple(run.marks("validated"))
    assert steps == {(6, 12, 18)}


def test_lightning_s_own_sampler_stays_out(make_run: MakeRun, tmp_path: Path) -> None:
    """`use_distributed_sampler` would deal the samples out a second time: it is off, and on it is refused."""
    import yaml

    run = make_run(tmp_path / "run", "ddp", arguments=[*arguments(), "--trainer.max_steps=2"])
    run.run()
    written = yaml.safe_load((run.directory / "config.yaml").read_text(encoding="utf-8"))
    assert written["trainer"]["use_distributed_sampler"] is False
    other = make_run(tmp_path / "other", "ddp", arguments=[*arguments(), "--trainer.use_distributed_sampler=true"])
    launch = other.start()
    assert set(launch.finish()) == {2}
    assert "use_distributed_sampler" in launch.stderr()
