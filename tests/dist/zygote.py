"""Ranks in a second: a process that has imported everything, from which each rank of a test's run is forked.

Importing torch, Lightning and DeepSpeed costs several seconds a process, and these tests start some hundreds. The
zygote imports them once and computes nothing, so that no thread exists when it forks; a rank is then a process of its
own with the environment that a launcher would give it, which calls the real command. Whether that is the same as
starting Python anew is itself tested (test_kill_resume.py).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: Where DeepSpeed's compiled operators are kept between sessions: about a minute to build.
EXTENSIONS = Path(os.environ.get("TORCH_EXTENSIONS_DIR", ROOT / ".cache" / "torch_extensions"))
#: What every process of a test's run is given.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MACEDANCE_QUIET": "1",
    "HF_HUB_OFFLINE": "1",
    "DS_ACCELERATOR": "cpu",
    "GLOO_SOCKET_IFNAME": "lo",
    "TORCH_EXTENSIONS_DIR": str(EXTENSIONS),
    "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}",
}


def _ports() -> Iterator[int]:
    """Ports of this process's own, below those that the system gives to whoever asks for any.

    A port lies unused from the moment that it is found until the first rank listens on it: two sessions of pytest side
    by side must not find the same one.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first, count = 12000 + worker % 8 * 2000, 2000
    start = random.SystemRandom().randrange(count)
    return itertools.cycle([*range(first + start, first + count), *range(first, first + start)])


_own_ports = _ports()


def free_port() -> int:
    """A port on this machine that nobody listens on."""
    while True:
        port = next(_own_ports)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def launcher_environment(rank: int, ranks: int, port: int, name: str) -> dict[str, str]:
    """What torchrun sets for a rank."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": name,
    }


@dataclass
class Launch:
    """The ranks of one start of a run."""

    zygote: Zygote
    logs: Path
    pids: list[int]
    codes: dict[int, int] = field(default_factory=dict)

    def kill(self, number: int = signal.SIGKILL, ranks: Sequence[int] | None = None, *, children: bool = False) -> None:
        """Send a signal to the living ranks, or to those named; with `children` to their loader processes too."""
        for rank, pid in enumerate(self.pids):
            if rank not in self.codes and (ranks is None or rank in ranks):
                self.zygote.signal(pid, number, children=children)

    def wait(self, timeout_s: float = 120.0, *, one: bool = False) -> list[int | None]:
        """Exit codes by rank (negative: ended by that signal), None for one that still runs.

        Args:
            timeout_s: After it every rank is killed and TimeoutError tells what they said.
            one: Return as soon as the first has ended.
        """
        end = time.monotonic() + timeout_s
        while len(self.codes) < len(self.pids) and not (one and self.codes):
            self.zygote.poll(0.2)
            for rank, pid in enumerate(self.pids):
                if pid in self.zygote.ended:
                    self.codes[rank] = self.zygote.ended.pop(pid)
            if time.monotonic() > end:
                for rank in range(len(self.pids)):  # their stacks, for whoever reads the failure
                    self.kill(signal.SIGABRT, [rank])
                time.sleep(1.0)
                self.kill()
                raise TimeoutError(f"ranks still run after {timeout_s} s; exited {self.codes}\n{self.said()}")
        return [self.codes.get(rank) for rank in range(len(self.pids))]

    def finish(self, timeout_s: float = 120.0) -> list[int]:
        """As `wait`, but once one rank has failed the others get a few seconds and are then killed, as srun does."""
        end = time.monotonic() + timeout_s
        self.wait(timeout_s, one=True)
        if any(self.codes.values()):
            try:
                self.wait(min(20.0, max(end - time.monotonic(), 1.0)))
            except TimeoutError:
                self.wait(20.0)
        return [int(code) for code in self.wait(max(end - time.monotonic(), 1.0)) if code is not None]

    def stdout(self, rank: int = 0) -> str:
        return (self.logs / f"rank-{rank}.out").read_text(encoding="utf-8", errors="replace")

    def stderr(self, rank: int = 0) -> str:
        return (self.logs / f"rank-{rank}.err").read_text(encoding="utf-8", errors="replace")

    def said(self) -> str:
        """The end of what every rank wrote to stderr, or what it wrote when it crashed."""
        parts = []
        for rank in range(len(self.pids)):
            text = self.stderr(rank)
            crash = text.find("Fatal Python error")
            parts.append(f"--- rank {rank}\n{text[crash : crash + 6000] if crash >= 0 else text[-3000:]}")
        return "\n".join(parts)


class Zygote:
    """The parent's end of a zygote process.

    Args:
        log: File for what the zygote itself writes to stderr.
        cache: MACEDANCE_CACHE of every run.
    """

    def __init__(self, log: Path, cache: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PYTEST_"))}
        environment |= {**ENVIRONMENT, "MACEDANCE_CACHE": str(cache)}
        EXTENSIONS.mkdir(parents=True, exist_ok=True)
        self.environment = environment
        self.ended: dict[int, int] = {}
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            cwd=log.parent,
        )
        self._buffer = b""
        self._answers: list[dict[str, Any]] = []
        self._ask({"ready": True}, timeout_s=600.0)

    def start(
        self,
        arguments: Sequence[str],
        logs: Path,
        *,
        ranks: int = 1,
        launcher: bool | None = None,
        environment: Mapping[str, str] | None = None,
        rank_environments: Sequence[Mapping[str, str]] = (),
    ) -> Launch:
        """Start every rank of `macedance ARGUMENTS`.

        Args:
            arguments: Verb and options.
            logs: Folder for what each rank says.
            ranks: Number of processes.
            launcher: Give torchrun's environment; None: when there are several ranks.
            environment: More variables, for all ranks.
            rank_environments: More variables for each rank.
        """
        logs.mkdir(parents=True, exist_ok=True)
        port = free_port()
        launched = ranks > 1 if launcher is None else launcher
        pids = []
        for rank in range(ranks):
            own = launcher_environment(rank, ranks, port, logs.name) if launched else {}
            more = rank_environments[rank] if rank < len(rank_environments) else {}
            request = {
                "arguments": list(arguments),
                "environment": {**(environment or {}), **own, **more},
                "stdout": str(logs / f"rank-{rank}.out"),
                "stderr": str(logs / f"rank-{rank}.err"),
            }
            pids.append(int(self._ask(request)["pid"]))
        return Launch(self, logs, pids)

    def signal(self, pid: int, number: int, *, children: bool = False) -> None:
        """Signal a rank that has not been reaped: the zygote is its parent and knows."""
        self._ask({"kill": pid, "signal": int(number), "children": children})

    def poll(self, timeout_s: float) -> None:
        """Take in what the zygote has to say."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        if select.select([descriptor], [], [], timeout_s)[0]:
            data = os.read(descriptor, 65536)
            if not data:
                raise RuntimeError(
                    f"the zygote ended; see {self._log.name}:\n{Path(self._log.name).read_text()[-3000:]}"
                )
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "exit" in message:
                    self.ended[message["pid"]] = message["exit"]
                else:
                    self._answers.append(message)

    def _ask(self, request: dict[str, Any], timeout_s: float = 30.0) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        end = time.monotonic() + timeout_s
        while not self._answers:
            self.poll(0.2)
            if time.monotonic() > end:
                raise TimeoutError(f"the zygote did not answer {request}")
        return self._answers.pop(0)

    def close(self) -> None:
        """End the zygote and every rank that is left."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()


# ---------------------------------------------------------------- the zygote's own side
def _import_everything() -> None:
    """All that a rank would import, and machine code from the caches; no computation, no thread."""
    import importlib

    import torch

    torch.set_num_threads(1)
    for name in (
        "launch.main", "launch.fit", "launch.training", "callbacks.motion_protocol", "callbacks.samples",
        "callbacks.ema", "lightning_modules.motion_expert", "datamodules.motion", "macedance.models.motion_expert",
        "macedance.nn.scan_compiled", "torch.utils.tensorboard", "torch.distributed", "torch.onnx",
    ):  # fmt: skip
        importlib.import_module(name)
    for name in ("lightning_modules.strategies", "callbacks.preemption", "callbacks.numerics", "launch.resume"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    from macedance.music.features import warm_up

    warm_up()
    import deepspeed.runtime.zero.muon.muon_optimizer  # with it torch._inductor: a second at every start under ZeRO
    import deepspeed.runtime.zero.stage3  # noqa: F401
    from deepspeed.ops.op_builder import ShareMemCommBuilder  # also imports deepspeed

    ShareMemCommBuilder().load(verbose=False)


def _be_a_rank(request: dict[str, Any]) -> None:
    """Never returns: run the command in this forked process and leave with its exit code."""
    import atexit
    import random
    import threading
    import traceback

    import numpy as np

    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    for target, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, target)
        os.close(descriptor)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.environ.update(request["environment"])
    # A new process would draw these from the system; what nobody seeds must not look reproducible here.
    random.seed()
    np.random.seed()
    _inject_faults()
    import launch.main

    sys.argv = [str(launch.main.__file__), *request["arguments"]]
    code = 1
    try:
        code = launch.main.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _inject_faults() -> None:
    """What tests cannot do from outside, as root: a folder that this rank may not write to, a disk that is full.

    MACEDANCE_TEST_DENY names a folder, MACEDANCE_TEST_FILE_LIMIT the bytes that a file may have, and
    MACEDANCE_TEST_EARLY_SIGNAL the signal that comes when the command is about to import the verb.
    """
    import errno
    import importlib
    import resource

    early = os.environ.get("MACEDANCE_TEST_EARLY_SIGNAL")
    if early:
        really_import = importlib.import_module

        def signalled(name: str, package: str | None = None) -> Any:
            importlib.import_module = really_import
            os.kill(os.getpid(), int(early))
            return really_import(name, package)

        importlib.import_module = signalled

    denied = os.environ.get("MACEDANCE_TEST_DENY")
    if denied:
        writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND

        def deny(event: str, arguments: tuple[Any, ...]) -> None:
            if event not in ("open", "os.mkdir", "os.rename", "os.link", "os.symlink"):
                return
            path = arguments[0]
            if not isinstance(path, str | bytes) or not os.path.abspath(os.fsdecode(path)).startswith(str(denied)):
                return
            if event != "open" or (isinstance(arguments[2], int) and arguments[2] & writing):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fsdecode(path))

        sys.addaudithook(deny)
    limit = os.environ.get("MACEDANCE_TEST_FILE_LIMIT")
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))


def _serve() -> None:
    """Answer requests on stdin until it closes; tell of every rank's end."""
    import faulthandler
    import gc

    faulthandler.enable()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.set_inheritable(answers.fileno(), False)
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    _import_everything()
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"the zygote has {threads} threads: a fork would lose all but one")
    gc.collect()
    gc.freeze()

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message).encode() + b"\n")

    children: set[int] = set()
    buffer, is_open = b"", True
    while is_open:
        if select.select([0], [], [], 0.02)[0]:
            data = os.read(0, 65536)
            is_open = bool(data)
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if "ready" in request:
                    answer({"ready": True})
                elif "kill" in request:
                    if request["kill"] in children:
                        (os.killpg if request["children"] else os.kill)(request["kill"], request["signal"])
                    answer({"signalled": request["kill"] in children})
                else:
                    pid = os.fork()
                    if pid == 0:
                        answers.close()
                        _be_a_rank(request)
                    with contextlib.suppress(OSError):  # as the child does: whoever is first
                        os.setpgid(pid, pid)
                    children.add(pid)
                    answer({"pid": pid})
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            children.discard(pid)
            answer({"pid": pid, "exit": os.waitstatus_to_exitcode(status)})
    for pid in children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
