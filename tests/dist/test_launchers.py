"""The launchers that others bring: torchrun and `deepspeed` start the same run as our own ranks do."""

from __future__ import annotations

import base64
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dist_runs import SMALL
from zygote import ENVIRONMENT, ROOT, free_port

from macedance.pipelines.checkpoint_folder import newest_verified

PYTHON = Path(sys.executable)


def torchrun() -> list[str]:
    return [
        str(PYTHON), "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", "--master-addr=127.0.0.1",
        f"--master-port={free_port()}", "-m", "launch.main",
    ]  # fmt: skip


def deepspeed() -> list[str]:
    pytest.importorskip("deepspeed")
    return [
        str(PYTHON), "-m", "deepspeed.launcher.runner", "--num_gpus=2", "--master_addr=127.0.0.1",
        f"--master_port={free_port()}", "--no_local_rank", "--module", "launch.main",
    ]  # fmt: skip


def deepspeed_machine(number: int, port: int) -> list[str]:
    """What `deepspeed --hostfile` runs on each of two machines, by ssh."""
    machines = base64.urlsafe_b64encode(json.dumps({"a": [0], "b": [0]}).encode()).decode()
    return [
        str(PYTHON), "-m", "deepspeed.launcher.launch", f"--world_info={machines}", f"--node_rank={number}",
        "--master_addr=127.0.0.1", f"--master_port={port}", "--no_local_rank", "--module", "launch.main",
    ]  # fmt: skip


def start(launcher: list[str], run_dir: Path, corpus: Path, *extra: str) -> subprocess.Popen[str]:
    command = [
        *launcher, "fit", *SMALL[:2], "--config=strategies/ddp", "--trainer.devices=2", f"--run_dir={run_dir}",
        f"--data.shards={corpus}", *extra,
    ]  # fmt: skip
    taken = ("SLURM_", "PYTEST_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(taken)} | ENVIRONMENT
    # deepspeed looks for its helpers beside the interpreter.
    environment["PATH"] = f"{PYTHON.parent}{os.pathsep}{environment['PATH']}"
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], timeout_s: float = 120) -> tuple[int, str]:
    """Exit code and output; nothing of the launch is left behind."""
    try:
        output, _ = process.communicate(timeout=timeout_s)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, output


def losses(run_dir: Path) -> list[str]:
    with (run_dir / "metrics.csv").open(encoding="utf-8") as file:
        return [row["train/loss"] for row in csv.DictReader(file)]


def test_torchrun_and_deepspeed_start_the_same_run(tmp_path: Path, dist_corpus: Path) -> None:
    runs = {"torchrun": torchrun(), "deepspeed": deepspeed()}
    for name, launcher in runs.items():
        code, output = finish(start(launcher, tmp_path / name, dist_corpus, "--trainer.max_steps=3"))
        assert code == 0, output[-3000:]
        assert output.count("done: 3 steps") == 1  # one rank speaks
    assert len(losses(tmp_path / "torchrun")) == 3
    port = free_port()
    apart = ("--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.max_steps=3")
    machines = [start(deepspeed_machine(n, port), tmp_path / "apart", dist_corpus, *apart) for n in range(2)]
    ended = [finish(machine) for machine in machines]
    assert [code for code, _ in ended] == [0, 0], ended
    assert losses(tmp_path / "torchrun") == losses(tmp_path / "deepspeed") == losses(tmp_path / "apart")


def test_torchrun_told_to_end_leaves_a_checkpoint(tmp_path: Path, dist_corpus: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(torchrun(), run_dir, dist_corpus, "--trainer.max_steps=100000", "--trainer.val_check_interval=1000")
    deadline = time.monotonic() + 90
    while not (run_dir / "metrics.csv").exists() or len(losses(run_dir)) < 3:
        assert time.monotonic() < deadline, finish(process, 1)
        assert process.poll() is None, finish(process)
        time.sleep(0.1)
    process.terminate()  # torchrun hands it on
    code, output = finish(process)
    assert code != 0
    assert "preempted: saved" in output
    folder, damaged = newest_verified(run_dir)
    assert folder is not None
    assert not damaged
    step = int(folder.name[5:13])
    assert step == len(losses(run_dir))
    code, output = finish(start(torchrun(), run_dir, dist_corpus, f"--trainer.max_steps={step + 1}"))
    assert code == 0, output[-3000:]
    assert f"resuming from step-{step:08d}.ckpt" in output
