"""Ranks inside a SLURM job: what they tell the batch script, and what they do once they were stopped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from callbacks.preemption import Preemption
from launch.cluster import slurm
from launch.config_files import resolve_arguments
from launch.training_cli import build_cli
from macedance.errors import ConfigError, MaceDanceError, TransportError

SMALL = ["--config=mace_motion_demo", "--config=debug/mace_motion_cpu"]


@pytest.fixture
def outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MACEDANCE_OUTCOME", str(tmp_path))
    monkeypatch.setenv("SLURM_PROCID", "3")
    return tmp_path / "rank-3"


def raising(error: BaseException) -> object:
    def function() -> int:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), "1"),
        (ConfigError("x"), "2"),
        (MaceDanceError("x"), "1"),
        (TransportError("x"), "76"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1"), "76"),
        (RuntimeError("Connection closed by peer"), "1"),  # of a web server, say
        (RuntimeError("the tensor is broken"), "1"),
    ],
)
def test_a_rank_leaves_its_exit_code(error: Exception, code: str, outcome: Path) -> None:
    with pytest.raises(type(error)):
        slurm.recorded(raising(error))  # type: ignore[arg-type]
    assert outcome.read_text(encoding="utf-8").strip() == code


def test_an_explained_lost_rank_is_still_one(outcome: Path) -> None:
    def function() -> int:
        raise MaceDanceError("a rank left") from RuntimeError("[gloo/transport/tcp/pair.cc:9] Connection reset by peer")

    with pytest.raises(MaceDanceError) as caught:
        slurm.recorded(function)
    assert caught.value.exit_code == 1
    assert outcome.read_text(encoding="utf-8").strip() == "76"


def test_a_rank_that_ends_well_says_so_and_outside_of_a_job_nothing_is_written(
    outcome: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert slurm.recorded(lambda: 75) == 75
    assert outcome.read_text(encoding="utf-8") == "75\n"
    monkeypatch.delenv("MACEDANCE_OUTCOME")
    outcome.unlink()
    assert slurm.recorded(lambda: 0) == 0
    assert not outcome.exists()


def stopped(requeue: bool, saved: bool = True) -> Preemption:
    preemption = Preemption()
    preemption.preempted, preemption._ended_by_term = True, not requeue
    preemption.saved = Path("/runs/first/checkpoints/step-00000007.ckpt") if saved else None
    return preemption


def test_what_happens_next_is_said(outcome: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden = outcome.parent / "no-requeue"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    said = slurm.after_preemption(stopped(True), Path("/runs/first"))
    assert "step-00000007.ckpt; the same command goes on from there" in said
    assert "nothing to save yet" in slurm.after_preemption(stopped(True, saved=False), Path("/runs/first"))

    monkeypatch.setenv("SLURM_JOB_ID", "31")
    said = slurm.after_preemption(stopped(True), Path("/runs/first"))  # in a container, without scontrol
    assert "the batch script queues job 31 again (there is no scontrol here)" in said
    assert not forbidden.exists()
    assert "whoever ended job 31" in slurm.after_preemption(stopped(False), Path("/runs/first"))
    assert forbidden.exists()
    forbidden.unlink()

    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    for body, expected in (
        ('echo "$*" >"$0.said"', "job 31 is queued again"),
        ("echo 'slurm_requeue error: Job is already being requeued' >&2; exit 1", "job 31 is queued again"),
        ("echo 'Invalid job id specified' >&2; exit 1", "the batch script queues job 31 again (scontrol: Invalid job"),
    ):
        forbidden.unlink(missing_ok=True)
        scontrol.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        scontrol.chmod(0o755)
        assert expected in slurm.after_preemption(stopped(True), Path("/runs/first"))
        assert forbidden.exists() == ("Invalid" not in body)
    assert (tmp_path / "bin" / "scontrol.said").read_text(encoding="utf-8").strip() == "requeue 31"

    # Of a start that trained nothing the script keeps count.
    forbidden.unlink(missing_ok=True)
    monkeypatch.setenv("MACEDANCE_STARTED_FROM", "step-00000007.ckpt")
    for saved in (True, False):
        said = slurm.after_preemption(stopped(True, saved=saved), Path("/runs/first"))
        assert "nothing was trained; the batch script decides" in said
        assert not forbidden.exists()
    monkeypatch.setenv("MACEDANCE_STARTED_FROM", "step-00000006.ckpt")
    monkeypatch.setenv("MACEDANCE_CHAIN", "30")
    assert "next job of the chain" in slurm.after_preemption(stopped(True), Path("/runs/first"))


@pytest.mark.parametrize(
    ("facts", "waits"),
    [
        (["JobState=RUNNING PreemptTime=2030-01-01T00:00:00"] * 4 + ["JobState=COMPLETING PreemptTime=2030-01-01"], 3),
        (["JobState=RUNNING PreemptTime=2030-01-01T00:00:00"], 240),  # nobody ends it: 20 minutes
        (["JobState=RUNNING PreemptTime=None"], 0),  # somebody sent the signal
        (["JobState=CANCELLED PreemptTime=None"], 0),
        (["JobState=PENDING PreemptTime=2030-01-01T00:00:00"], 0),  # being requeued
        (["", ""], 0),
    ],
)
def test_a_job_preempted_with_grace_waits_for_its_end(
    facts: list[str], waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ends by itself would be taken for a failed one, and not be queued again."""
    monkeypatch.setenv("SLURM_JOB_ID", "31")
    monkeypatch.setattr(slurm.shutil, "which", lambda name: name)
    answers = iter(facts)
    last = facts[-1]
    monkeypatch.setattr(
        slurm.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=f"JobId=31 {next(answers, last)}")
    )
    pauses: list[float] = []
    slurm.outlast_grace(stopped(False), pauses.append)
    assert len(pauses) == waits
    pauses.clear()
    slurm.outlast_grace(stopped(True), pauses.append)  # its time limit: it was queued again
    assert not pauses


@pytest.mark.parametrize("launched", [True, False])
def test_a_launcher_inside_a_job_says_who_is_which_rank(launched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """srun, or the batch script, is one process there: SLURM_PROCID is 0 on all."""
    for name, value in {
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NAME": "j",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NODELIST": "n1",
    }.items():
        monkeypatch.setenv(name, value)
    if launched:
        for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    else:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
    devices = 2 if launched else 1
    words = [*SMALL, "--trainer.accelerator=cpu", f"--trainer.devices={devices}", "--config=strategies/ddp"]
    trainer = build_cli(resolve_arguments(words)).trainer
    environment = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
    assert type(environment).__name__ == ("TorchElasticEnvironment" if launched else "SLURMEnvironment")
    assert (environment.global_rank(), environment.local_rank()) == ((1, 1) if launched else (0, 0))
    assert trainer.world_size == devices


def test_a_chain_s_next_job_takes_the_directory_of_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock still beats a few seconds ago, on a host of which nothing is known here."""
    import socket

    from launch.run_lock import RunLock

    monkeypatch.setenv("MACEDANCE_CHAIN", "30")
    killed = RunLock(tmp_path)
    killed.acquire()
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    monkeypatch.setattr("os.getpid", lambda: 1)
    monkeypatch.setenv("MACEDANCE_CHAIN", "40")
    with pytest.raises(ConfigError, match="another job trains in this directory"):
        RunLock(tmp_path).acquire()
    monkeypatch.setenv("MACEDANCE_CHAIN", "30")
    lock = RunLock(tmp_path)
    assert "chain" in str(lock.acquire())
    for each in (lock, killed):
        each.release()
