"""A training run submitted through the real `macedance submit`, and its end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local_slurm import LocalSlurm, wait_for

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: A run of seconds: three steps an epoch, dropout on, a loader process, validations and checkpoints on the way.
STEPS, HELD_AT, SAVE_EVERY, VALIDATE_EVERY = 24, 10, 8, 5
SMALL = (
    "--config=mace_motion_demo", "--config=debug/mace_motion_cpu", f"--trainer.max_steps={STEPS}",
    f"--trainer.val_check_interval={VALIDATE_EVERY}", f"--checkpoint_every_n_steps={SAVE_EVERY}",
    "--model.network.init_args.dropout=0.1", "--data.num_workers=1",
)  # fmt: skip


@dataclass
class Job:
    """A run that was submitted; `submit` again goes on with it."""

    slurm: LocalSlurm
    folder: Path
    arguments: Sequence[str]
    number: str = ""

    def submit(self, *extra: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """`macedance submit` in a process of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "launch.main", "submit", f"--run_dir={self.run_dir}", *self.arguments, *extra]
        environment = {**self.slurm.environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
        done = subprocess.run(
            [*command, "--json"], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == expect, done.stderr
        if not expect:
            self.number = json.loads(done.stdout)["job_id"]
        return done

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def wait_held(self, ranks: int = 2, timeout_s: float = 240.0) -> None:
        """Until every rank stands at the step where it waits for a signal."""

        def held() -> bool:
            state = self.slurm.job(self.number)["JobState"]
            if state not in ("PENDING", "RUNNING", "CONFIGURING"):
                raise AssertionError(f"the job is {state}\n{self.said()}")
            return all((self.folder / f"held-{rank}").exists() for rank in range(ranks))

        try:
            wait_for(held, timeout_s, "held ranks")
        except RuntimeError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None

    def wait(self, expect: str = "COMPLETED", timeout_s: float = 300.0) -> Mapping[str, str]:
        """Until the job has ended for good."""
        try:
            facts = self.slurm.wait_job(self.number, timeout_s)
        except RuntimeError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None
        assert facts["JobState"] == expect, f"{facts}\n{self.said()}"
        return facts

    def said(self) -> str:
        """What the script and the ranks wrote."""
        logs = sorted((self.run_dir / "slurm").glob("job-*.log"))
        return "\n".join(
            f"--- {path.name}\n{path.read_text(encoding='utf-8', errors='replace')[-3000:]}" for path in logs
        )
