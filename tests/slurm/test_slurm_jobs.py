"""Jobs on a real SLURM: preempted, requeued, killed and cancelled, and what is left of the difference: nothing."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from local_slurm import wait_for
from slurm_jobs import HELD_AT, SAVE_EVERY, STEPS, Job

from macedance.pipelines.checkpoint_folder import assemble_fragments, newest_verified, verify

MakeJob = Callable[..., Job]
ZERO2 = "--config=zero2"


def final_tensors(run_dir: Path) -> dict[str, torch.Tensor]:
    """Weights, averages and optimizer state of the last step's checkpoint."""
    folder = (run_dir / "checkpoints" / "last.ckpt").resolve()
    assert verify(folder).step == STEPS
    state = folder / "state.ckpt"
    if not state.exists():
        return {
            f"{kind}.{name}": t for kind in ("weights", "ema") for name, t in assemble_fragments(folder, kind).items()
        }
    content = torch.load(state, weights_only=True)
    return dict(_tensors({key: content[key] for key in ("state_dict", "ema", "optimizer_states", "lr_schedulers")}))


def _tensors(node: Any, prefix: str = "") -> Any:
    if isinstance(node, torch.Tensor):
        yield prefix, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _tensors(value, f"{prefix}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _tensors(value, f"{prefix}.{number}")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


def assert_same_run(run_dir: Path, reference: Path) -> None:
    """Every step's numbers, every validation and every final tensor, to the bit."""
    rows = table(run_dir / "metrics.csv")
    assert [row["step"] for row in rows] == [str(step) for step in range(1, STEPS + 1)]
    assert rows == table(reference / "metrics.csv")
    assert table(run_dir / "metrics_val.csv") == table(reference / "metrics_val.csv")
    mine, theirs = final_tensors(run_dir), final_tensors(reference)
    assert mine.keys() == theirs.keys()
    assert len(mine) > 20
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert not different


@pytest.fixture(scope="session")
def timed(make_job: MakeJob, scratch: Path) -> dict[str, Job]:
    """Two jobs that stand at a step and whose time is cut short then: they wait for it while other tests run."""
    jobs = {"requeued": make_job(scratch / "timed"), "chain": make_job(scratch / "chain")}
    for name, job in jobs.items():
        job.submit("--time=10:00", "--signal-seconds=10", *(["--array-chain=3"] if name == "chain" else []))
    for name, job in jobs.items():
        job.wait_held()
        job.slurm.end_soon(job.number + ("_1" if name == "chain" else ""))
    return jobs


@pytest.fixture(scope="session")
def reference(make_job: MakeJob, scratch: Path, timed: dict[str, Job]) -> Path:
    """The same run, uninterrupted, on the same two nodes."""
    job = make_job(scratch / "reference", hold=False)
    job.submit()
    assert job.wait()["Restarts"] == "0"
    return job.run_dir


def test_a_request_that_the_partition_cannot_satisfy_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    before = job.slurm.queue()
    for extra, expected in (
        (["--nodes=4", "--data.global_batch_size=4"], "4 nodes are asked for and the partition 'main' has 2"),
        (["--gpus-per-node=1"], "2 nodes with 1 GPUs per node are asked for and the partition 'main' has 0"),
        (["--cpus-per-task=5"], "2 nodes with 5 processors per node"),
        (["--mem=9G"], "memory"),
        (["--time=1-00:00:00"], "longer than the partition 'main' allows"),
        (["--partition=closed"], "'closed' is down"),
        (["--partition=elsewhere"], "one of closed, main"),
        (["--nodes=2", "--data.global_batch_size=5"], "a multiple of 2"),
        (["--data.shards=/no/such/corpus"], "/no/such/corpus"),
    ):
        said = job.submit(*extra, expect=2).stderr.strip().splitlines()
        assert expected in said[-1], said
        assert said[-1].startswith("macedance submit: error:")
    assert job.slurm.queue() == before
    assert not job.run_dir.exists()


def test_slurm_s_own_refusal_is_one_line(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    text = (tmp_path / "cluster.yaml").read_text(encoding="utf-8")
    (tmp_path / "cluster.yaml").write_text(text + "sbatch: [--constraint=nosuch]\n", encoding="utf-8")
    said = job.submit(expect=2).stderr.strip().splitlines()
    assert "SLURM refuses the job" in said[-1]


def test_requeued_from_outside_it_goes_on_by_itself(make_job: MakeJob, reference: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job.submit()
    job.wait_held()
    job.slurm.control("requeue", job.number)
    assert job.wait()["Restarts"] == "1"
    assert f"resuming from step-{HELD_AT:08d}.ckpt" in job.said()
    assert_same_run(job.run_dir, reference)


def test_cancelled_it_leaves_a_checkpoint_and_stays_away(make_job: MakeJob, reference: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job.submit()
    job.wait_held()
    job.slurm.cancel(job.number)
    job.wait("CANCELLED")
    # What stands in the queue as cancelled may still be writing.
    job.slurm.wait_idle_of(job.number)
    folder, damaged = newest_verified(job.run_dir)
    assert folder is not None
    assert not damaged
    assert verify(folder).step == HELD_AT
    time.sleep(3)
    facts = job.slurm.job(job.number)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")
    job.submit()  # the same command goes on
    job.wait()
    assert_same_run(job.run_dir, reference)


def test_warned_of_its_time_limit_it_requeues_itself(timed: dict[str, Job], reference: Path) -> None:
    job = timed["requeued"]
    job.slurm.wait_requeued(job.number, 150)
    job.slurm.limit(job.number, 10)  # the short one was for the first start alone
    assert int(job.wait()["Restarts"]) >= 1
    assert f"saved {job.run_dir}/checkpoints/step-{HELD_AT:08d}.ckpt; job {job.number} is queued again" in job.said()
    assert_same_run(job.run_dir, reference)


def test_a_chain_goes_on_from_job_to_job_and_ends_early(timed: dict[str, Job], reference: Path) -> None:
    job = timed["chain"]
    job.slurm.wait_idle_of(job.number, 300)
    states = [job.slurm.job(f"{job.number}_{link}")["JobState"] for link in (1, 2, 3)]
    assert states == ["FAILED", "COMPLETED", "CANCELLED"], job.said()  # 75 is no 0; the third was not needed
    assert "the next job of the chain goes on" in job.said()
    assert_same_run(job.run_dir, reference)


def test_a_node_that_dies_takes_the_job_back_into_the_queue(
    make_job: MakeJob, reference: Path, timed: dict[str, Job], tmp_path: Path
) -> None:
    for other in timed.values():
        other.slurm.wait_idle_of(other.number, 300)  # the node's death would be theirs too
    job = make_job(tmp_path)
    job.submit()
    job.wait_held()
    job.slurm.kill_node("n2")
    started = time.monotonic()
    try:
        (tmp_path / "go").touch()  # the other rank goes on, and runs into the missing one
        wait_for(lambda: not (tmp_path / "held-0").exists(), 10, "the living rank")
        job.slurm.wait_requeued(job.number, 90)
        assert time.monotonic() - started < 80
        job.slurm.wait_down("n2")
        # The controller still clears up after the dead node: a job that starts within the second gets a part of its
        # nodes. Real jobs wait two minutes.
        time.sleep(4)
    finally:
        job.slurm.start_node("n2")
    wait_for(job.slurm.is_idle, 60, "both nodes")
    time.sleep(4)
    facts = job.wait()
    assert int(facts["Restarts"]) >= 1
    assert f"resuming from step-{SAVE_EVERY:08d}.ckpt" in job.said()
    assert "lost" in job.said() or "left, and this one waited for it" in job.said()
    assert_same_run(job.run_dir, reference)


def test_zero_2_is_preempted_and_goes_on(make_job: MakeJob, scratch: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    whole, job = make_job(tmp_path / "whole", ZERO2, hold=False), make_job(tmp_path / "stopped", ZERO2)
    whole.submit()
    job.submit()
    job.wait_held()  # the first of all compiles DeepSpeed's collectives
    job.slurm.control("requeue", job.number)
    assert job.wait()["Restarts"] == "1"
    whole.wait()
    assert f"resuming from step-{HELD_AT:08d}.ckpt" in job.said()
    assert_same_run(job.run_dir, whole.run_dir)
