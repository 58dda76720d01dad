"""Runs of several processes: starting them, stopping them at exact places, and comparing what they did bit by bit."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from zygote import ENVIRONMENT, ROOT, Launch, Zygote, free_port, launcher_environment

RECORDER = "--trainer.callbacks+={class_path: dist_recorder.Recorder}"
SMALL = ("--config=mace_motion_demo", "--config=debug/mace_motion_cpu", RECORDER)
#: Strategy of a cell -> its arguments.
STRATEGIES: dict[str, tuple[str, ...]] = {
    "single": (),
    "ddp": ("--config=strategies/ddp",),
    "zero1": ("--config=strategies/zero1",),
    "zero2": ("--config=strategies/zero2",),
    "zero3": ("--config=strategies/zero3",),
}
_numbers = itertools.count()


@dataclass(frozen=True)
class Stop:
    """A signal that a rank sends itself at an exact place.

    Args:
        place: One of the recorder's.
        micro: At this micro-step or the first later one that has the place; None: the first time.
        rank: Who, or "all".
        signal: Which.
    """

    place: str
    micro: int | None = None
    rank: int | str = 0
    signal: int = signal.SIGKILL

    def plan(self, number: int) -> dict[str, Any]:
        wanted = {"id": number, "place": self.place, "rank": self.rank, "signal": int(self.signal)}
        return wanted if self.micro is None else {**wanted, "micro": self.micro}


@dataclass
class DistRun:
    """One run directory, started as often as a test wants.

    Args:
        zygote: Forks the ranks.
        folder: Of the run directory, the records and the logs.
        arguments: Keys and values of the command; the same at every start unless `start` is given more.
        ranks: Processes.
    """

    zygote: Zygote
    folder: Path
    arguments: Sequence[str]
    ranks: int = 1
    launcher: bool | None = None
    starts: list[Path] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.folder / "run"

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    def command(self, *more: str, ranks: int | None = None) -> list[str]:
        devices = self.ranks if ranks is None else ranks
        return ["fit", *self.arguments, f"--run_dir={self.directory}", f"--trainer.devices={devices}", *more]

    def _new_start(self) -> Path:
        start = self.folder / f"start-{len(self.starts)}"
        self.starts.append(start)
        return start

    def start(
        self,
        *more: str,
        stops: Sequence[Stop] = (),
        ranks: int | None = None,
        environment: Mapping[str, str] | None = None,
        rank_environments: Sequence[Mapping[str, str]] = (),
    ) -> Launch:
        """Start every rank and come back at once."""
        start = self._new_start()
        own = {
            "MACEDANCE_TEST_RECORD": str(start),
            "MACEDANCE_TEST_PLAN": json.dumps([stop.plan(next(_numbers)) for stop in stops]),
            **(environment or {}),
        }
        return self.zygote.start(
            self.command(*more, ranks=ranks),
            start,
            ranks=self.ranks if ranks is None else ranks,
            launcher=self.launcher,
            environment=own,
            rank_environments=rank_environments,
        )

    def run(self, *more: str, expect: int = 0, timeout_s: float = 150.0, **options: Any) -> Launch:
        """Start, wait for the end, and insist on the exit code of every rank."""
        launch = self.start(*more, **options)
        codes = launch.finish(timeout_s)
        assert codes == [expect] * len(codes), f"exit codes {codes}, expected {expect}\n{launch.said()}"
        return launch

    def die(self, *stops: Stop, timeout_s: float = 120.0, **options: Any) -> Launch:
        """Start, let a rank kill itself at its place, kill all others with -9 at once."""
        launch = self.start(stops=stops, **options)
        launch.wait(timeout_s, one=True)
        launch.kill()
        codes = launch.wait(30.0)
        assert -signal.SIGKILL in codes, f"no rank reached {stops}: exit codes {codes}\n{launch.said()}"
        return launch

    def as_process(self, *more: str, ranks: int = 1, launcher: bool = False) -> list[subprocess.CompletedProcess[str]]:
        """The same start by real Python processes: `python -m launch.main fit ...`, one for each rank or one alone."""
        start = self._new_start()
        start.mkdir(parents=True)
        port = free_port()
        processes = []
        for rank in range(ranks if launcher else 1):
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PYTEST_"))}
            environment |= {**ENVIRONMENT, "MACEDANCE_CACHE": self.zygote.environment["MACEDANCE_CACHE"]}
            environment |= {"MACEDANCE_TEST_RECORD": str(start)}
            if launcher:
                environment |= launcher_environment(rank, ranks, port, start.name)
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "launch.main", *self.command(*more, ranks=ranks)],
                    env=environment,
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        results = []
        for process in processes:
            try:
                out, err = process.communicate(timeout=180)
            finally:
                process.kill()
            results.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
        return results

    # ---------------------------------------------------------------- what it did
    def records(self, start: int = -1) -> list[dict[str, Any]]:
        """The micro-steps of all ranks of a start, each with its rank."""
        lines = []
        for file in sorted(self.starts[start].glob("rank-*.jsonl")):
            rank = int(file.stem.rpartition("-")[2])
            for line in file.read_text(encoding="utf-8").splitlines():
                lines.append({"rank": rank, **json.loads(line)})
        return [line for line in lines if "micro" in line]

    def marks(self, name: str, start: int = -1) -> list[Any]:
        """What rank 0 of a start wrote down under `name` (start, validated)."""
        file = self.starts[start] / "rank-0.jsonl"
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
        return [line[name] for line in lines if name in line]

    def history(self) -> dict[tuple[int, int], dict[str, Any]]:
        """(rank, micro-step) -> what was done, of all starts; a repeated micro-step must have been the same."""
        done: dict[tuple[int, int], dict[str, Any]] = {}
        for start in range(len(self.starts)):
            for line in self.records(start):
                place = line["rank"], line["micro"]
                before = done.setdefault(place, line)
                assert {**before, "batch_idx": 0} == {**line, "batch_idx": 0}, (
                    f"start {start} repeats micro-step {place} otherwise:\n{before}\n{line}"
                )
        return done

    def csv_rows(self, name: str) -> list[dict[str, str]]:
        """Rows of metrics.csv or metrics_val.csv without their times."""
        with (self.directory / name).open(encoding="utf-8", newline="") as file:
            rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]
        return [row for row in rows if not row.get("name", "").startswith("time/")]

    def losses(self) -> list[float]:
        return [float(row["train/loss"]) for row in self.csv_rows("metrics.csv")]

    def newest(self) -> Path:
        """The newest checkpoint's folder."""
        return sorted(p for p in self.checkpoints.iterdir() if p.name.startswith("step-"))[-1]


def tensors_in(content: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of nested containers by its path."""
    if isinstance(content, Mapping):
        pairs = [(str(k), v) for k, v in content.items()]
    elif isinstance(content, list | tuple):
        pairs = [(str(k), v) for k, v in enumerate(content)]
    else:
        return {prefix: content}
    return {name: leaf for key, value in pairs for name, leaf in tensors_in(value, f"{prefix}/{key}").items()}


def checkpoint_content(folder: Path) -> dict[str, Any]:
    """Everything a checkpoint holds that must not depend on how often the run was stopped, by path."""
    from safetensors.torch import load_file

    content: dict[str, Any] = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = file.relative_to(folder).as_posix()
        if file.suffix == ".safetensors":
            content |= tensors_in(load_file(file), name)
        elif file.name == "model.json":
            content |= tensors_in(json.loads(file.read_text(encoding="utf-8")), name)
        elif file.name == "state.ckpt" or file.name.startswith("rank-"):
            content |= tensors_in(torch.load(file, weights_only=True), name)
        elif file.name.endswith("_optim_states.pt"):
            # The tests' own file of this very session; DeepSpeed's classes are in it.
            content |= tensors_in(torch.load(file, weights_only=False), name)
    return {
        k: v for k, v in content.items() if isinstance(v, torch.Tensor | int | float | str | bool) and not _no_result(k)
    }


def _no_result(path: str) -> bool:
    """Whether a leaf is no part of the result: how long something took, as the length of a table of times is, or
    ZeRO-3's flat weights, whose padding DeepSpeed leaves as it found the memory; the safetensors hold them without.
    """
    return any(word in path for word in ("Timer", "time_elapsed", "MetricsCsv", "provenance", "fp32_flat_groups/"))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        bits = (a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))
        return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(*bits))
    return type(a) is type(b) and a == b


def assert_same_checkpoint(a: Path, b: Path) -> None:
    """Two checkpoints hold the same bits."""
    mine, other = checkpoint_content(a), checkpoint_content(b)
    assert mine.keys() == other.keys(), sorted(mine.keys() ^ other.keys())[:10]
    assert any(isinstance(v, torch.Tensor) for v in mine.values())
    differ = [name for name in mine if not same(mine[name], other[name])]
    assert not differ, f"{len(differ)} of {len(mine)} entries differ, e.g. {differ[:8]} in {b}"


def assert_same_run(reference: DistRun, other: DistRun) -> None:
    """A run that was stopped and resumed did what the uninterrupted one did: bit by bit, no step lost or invented."""
    expected, done = reference.history(), other.history()
    for place, line in done.items():
        assert place in expected, f"micro-step {place} is not in the uninterrupted run"
        pairs = {key: (expected[place].get(key), value) for key, value in line.items() if key != "batch_idx"}
        wrong = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
        assert not wrong, f"(rank, micro-step) {place} differs from the uninterrupted run: {wrong}"
    assert done.keys() == expected.keys(), f"micro-steps missing: {sorted(expected.keys() - done.keys())}"
    assert_same_result(reference, other)


def assert_same_result(reference: DistRun, other: DistRun) -> None:
    """Two runs left the same files behind, times aside."""
    for name in ("metrics.csv", "metrics_val.csv"):
        assert other.csv_rows(name) == reference.csv_rows(name), name
    assert other.newest().name == reference.newest().name
    assert_same_checkpoint(reference.newest(), other.newest())


def assert_close_losses(reference: DistRun, other: DistRun, tolerance: float) -> None:
    """Relative difference of every step's loss."""
    expected, found = reference.losses(), other.losses()
    assert len(found) == len(expected)
    worst = max(abs(a - b) / abs(a) for a, b in zip(expected, found, strict=True))
    assert worst <= tolerance, f"losses differ by {worst:.2e} (relative): {list(zip(expected, found, strict=True))}"


def error_lines(launch: Launch) -> list[str]:
    """What all ranks said that calls itself an error."""
    said = [line for rank in range(len(launch.pids)) for line in launch.stderr(rank).splitlines()]
    return [line for line in said if "error" in line.lower()]
