"""A SLURM of two nodes on this machine: started from an installed one in a folder of its own, and stopped."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("sbatch", "srun", "scontrol", "squeue", "sinfo", "scancel", "slurmctld", "slurmd", "munged", "munge")
PACKAGES = ("slurm-wlm", "slurmctld", "slurmd", "slurm-client", "munge")
NODES = ("n1", "n2")

_CONFIG = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=1
SwitchType=switch/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmctldTimeout=30
# A node that says nothing for this long is down, and its jobs are queued again.
SlurmdTimeout=15
InactiveLimit=0
MinJobAge=300
KillWait=10
MessageTimeout=10
ReturnToService=2
JobRequeue=1
# The nodes have more processors than this machine: jobs that wait for a signal need none.
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={first} CPUs=4 RealMemory=2000 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={second} CPUs=4 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=10 State=UP
PartitionName=closed Nodes=n1,n2 MaxTime=INFINITE State=DOWN
"""


def missing_programs() -> list[str]:
    """Programs of SLURM and munge that are not installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


def install_packages() -> None:
    """Install SLURM with the system's package manager (Debian, as root)."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", *command], env=environment, check=True, capture_output=True, timeout=300)


def wait_for(what: Callable[[], object], timeout_s: float, name: str) -> object:
    """Ask until the answer is true; a RuntimeError names what did not happen."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = what()
        if answer:
            return answer
        time.sleep(0.2)
    raise RuntimeError(f"not within {timeout_s:.0f} s: {name}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass
class LocalSlurm:
    """The running cluster.

    Args:
        folder: Its configuration, state and logs; emptied at the start.
    """

    folder: Path
    _started_munge: bool = False
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to talk to this cluster."""
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def start(self) -> None:
        """Start munge where none runs, the controller and both nodes; wait until the nodes are idle."""
        self._end_leftovers()
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("state", "log", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        controller, first, second = _free_ports(3)
        config = _CONFIG.format(folder=self.folder, controller=controller, first=first, second=second)
        (self.folder / "slurm.conf").write_text(config, encoding="utf-8")
        self._start_munge()
        self._spawn("slurmctld", "slurmctld", "-D", "-c", "-f", str(self.folder / "slurm.conf"))
        for node in NODES:
            self.start_node(node)
        wait_for(self.is_idle, 40, "both nodes idle\n" + self.logs())

    def _end_leftovers(self) -> None:
        """End the daemons of a session that was killed; they keep this folder busy."""
        own = str(self.folder / "slurm.conf")
        for pid, words in _processes():
            if own in words and Path(words[0]).name in ("slurmctld", "slurmd"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _start_munge(self) -> None:
        if self._run("munge", "-n", check=False).returncode == 0:
            return
        for name in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
            Path(name).mkdir(parents=True, exist_ok=True)
            shutil.chown(name, "munge", "munge")
        as_munge = ("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups")
        self._spawn("munged", *as_munge, "munged", "--foreground")
        wait_for(lambda: self._run("munge", "-n", check=False).returncode == 0, 10, "munge\n" + self.logs())

    def _spawn(self, name: str, *command: str) -> None:
        log = (self.folder / "log" / f"{name}.out").open("ab")
        self._processes[name] = subprocess.Popen(
            command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
        log.close()

    def start_node(self, node: str) -> None:
        """Start one node's daemon."""
        self._spawn(node, "slurmd", "-D", "-f", str(self.folder / "slurm.conf"), "-N", node)

    def kill_node(self, node: str) -> None:
        """Pull the plug: the node's daemon and every process of its jobs die at once."""
        daemon = self._processes[node]
        # The daemon first, so that it reports nothing; its steps are children of their own sessions.
        daemon.kill()
        daemon.wait()
        steps = [
            pid for pid, words in _processes() if words[:1] and "slurmstepd" in words[0] and self._is_of(pid, node)
        ]
        for pid in [*steps, *(child for step in steps for child in _descendants(step))]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _is_of(self, pid: int, node: str) -> bool:
        """Whether a step process belongs to this cluster's node: its environment and open files say so."""
        spool = str(self.folder / f"spool-{node}")
        with suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                target = os.readlink(descriptor)
                if target.startswith(spool) or target.endswith(f"slurmd-{node}.log"):
                    return True
        return False

    def wait_down(self, node: str, timeout_s: float = 60) -> None:
        """Wait until the controller has given a node up."""

        def down() -> bool:
            return "State=DOWN" in self.control("show", "node", node, "--oneliner")

        wait_for(down, timeout_s, f"node {node} down\n{self.logs()}")

    def is_idle(self) -> bool:
        """Whether both nodes wait for work."""
        answer = self._run("sinfo", "--noheader", "--partition=main", "--format=%t %D", check=False)
        return answer.stdout.split() == ["idle", "2"]

    def stop(self) -> None:
        """Cancel what runs and end every process that was started here."""
        if "slurmctld" in self._processes:
            self._run("scancel", "--user=root", check=False)
            with suppress(RuntimeError):
                wait_for(lambda: not self._run("squeue", "--noheader", check=False).stdout.strip(), 20, "no jobs")
        for name in reversed(list(self._processes)):
            process = self._processes.pop(name)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # ---------------------------------------------------------------- jobs
    def _run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=check, timeout=30)

    def control(self, *words: str) -> str:
        """Output of `scontrol`."""
        return self._run("scontrol", *words).stdout

    def cancel(self, job: str) -> None:
        """`scancel`."""
        self._run("scancel", job)

    def job(self, job: str) -> Mapping[str, str]:
        """What the controller knows of a job: JobState, Restarts, ExitCode ..."""
        words = self._run("scontrol", "show", "job", job, "--oneliner").stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def limit(self, job: str, minutes: int) -> None:
        """Another time limit for a job, also for one that runs."""
        self.control("update", f"JobId={job}", f"TimeLimit={minutes}")

    def end_soon(self, job: str) -> None:
        """Cut a running job's time limit to the next whole minute that still lets the warning come first.

        The controller looks every 30 seconds, and warns when the end is no further than that and the asked lead.
        """
        hours, minutes, seconds = map(int, self.job(job)["RunTime"].split(":"))
        self.limit(job, 60 * hours + minutes + (1 if seconds < 25 else 2))

    def queue(self) -> list[str]:
        """Numbers of the jobs that wait or run."""
        return self._run("squeue", "--noheader", "--format=%A").stdout.split()

    def start_now(self, job: str) -> None:
        """Spare a requeued job its two minutes of waiting."""
        self._run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)

    def wait_job(self, job: str, timeout_s: float, *, hurry: bool = True) -> Mapping[str, str]:
        """Wait for a job's end, through any number of requeues; its last facts."""

        def ended() -> Mapping[str, str] | None:
            facts = self.job(job)
            if hurry and facts["JobState"] == "PENDING" and facts["Reason"] == "BeginTime":
                self.start_now(job)
            return facts if facts["JobState"] in _ENDED else None

        try:
            return wait_for(ended, timeout_s, f"end of job {job}")  # type: ignore[return-value]
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{dict(self.job(job))}\n{self.logs()}") from None

    def wait_idle_of(self, job: str, timeout_s: float = 60) -> None:
        """Wait until nothing of a job, or of any job of its array, is left on a node or in the queue."""

        def gone() -> bool:
            states = self._run("squeue", "--noheader", f"--job={job}", "--format=%i %T %r", check=False).stdout
            for number, state, reason in (line.split(maxsplit=2) for line in states.splitlines()):
                if state == "PENDING" and reason == "BeginTime":
                    self.start_now(number)
            return not states.strip()

        wait_for(gone, timeout_s, f"the end of all of job {job}")

    def wait_requeued(self, job: str, timeout_s: float) -> None:
        """Wait until a job that ran is back in the queue, or runs again."""
        wait_for(lambda: int(self.job(job)["Restarts"]) > 0, timeout_s, f"requeue of job {job}\n{self.logs()}")

    def logs(self) -> str:
        """The last lines of the daemons' logs."""
        parts = []
        for path in sorted((self.folder / "log").iterdir()):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            parts.append(f"--- {path.name}\n" + "\n".join(lines))
        return "\n".join(parts)


_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


def _processes() -> list[tuple[int, list[str]]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                found.append((int(entry.name), (entry / "cmdline").read_text().split("\0")))
    return found


def _descendants(pid: int) -> list[int]:
    children = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += [int(word) for word in (task / "children").read_text().split()]
    return children + [deep for child in children for deep in _descendants(child)]
