"""The files of a run: metrics.csv, metrics_val.csv and provenance.json."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl
import torch

import macedance
from lightning_modules.strategies import strategy_kind
from macedance.motion.atomic import write_atomically


class MetricsCsv(pl.Callback):
    """One row per optimizer step in ``metrics.csv``; validation values in ``metrics_val.csv`` (step, name, value).

    The columns are those of the first step; every value is the mean over the step's micro-batches and over the ranks.
    Every row is handed to the system before the callback returns, and forced to the disk before any checkpoint that
    contains its step. A checkpoint keeps both files' lengths: a resume cuts off what was written after it.
    """

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self._val_file: TextIO | None = None
        self._columns: list[str] | None = None
        self._last_step = 0
        self._sums: dict[str, torch.Tensor] = {}
        self._batches = 0
        self._lengths: dict[str, int] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open both files on the first rank, cut to the step that the run starts from."""
        self._last_step = trainer.global_step
        self._sums, self._batches = {}, 0
        if not trainer.is_global_zero:
            return
        root = Path(trainer.default_root_dir)
        lengths = self._lengths or {}
        self._file = _open_cut(root / "metrics.csv", trainer.global_step, lengths.get("metrics.csv"))
        self._columns = None
        if self._file.tell():
            with (root / "metrics.csv").open(encoding="utf-8", newline="") as file:
                self._columns = next(csv.reader(file))[1:]
        self._val_file = _open_cut(root / "metrics_val.csv", trainer.global_step, lengths.get("metrics_val.csv"))
        if not self._val_file.tell():
            csv.writer(self._val_file).writerow(["step", "name", "value"])
            self._val_file.flush()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the row of this optimizer step."""
        for name, value in trainer.callback_metrics.items():
            if name.startswith(("train/", "time/")):
                # Summed where it lies: asking a GPU for each number would make it wait.
                number = value.detach().to(torch.float32 if value.device.type == "mps" else torch.float64)
                self._sums[name] = self._sums[name] + number if name in self._sums else number
        self._batches += 1
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        values = self._averages(trainer)
        self._sums, self._batches = {}, 0
        if self._file is None:
            return
        values["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        writer = csv.writer(self._file)
        if self._columns is None:
            rest = sorted(k for k in values if k != "train/loss")
            self._columns = ["train/loss", *rest] if "train/loss" in values else rest
            writer.writerow(["step", *self._columns])
        writer.writerow([trainer.global_step, *(repr(values[c]) if c in values else "" for c in self._columns)])
        self._file.flush()

    def _averages(self, trainer: pl.Trainer) -> dict[str, float]:
        """Mean over micro-batches and ranks: one collective and one wait for the device per step."""
        names = sorted(self._sums)
        if not names:
            return {}
        stacked = torch.stack([self._sums[name].to(self._sums[names[0]].device) for name in names]) / self._batches
        if trainer.world_size > 1:
            stacked = trainer.strategy.reduce(stacked, reduce_op="mean")
        return dict(zip(names, stacked.tolist(), strict=True))

    def sync(self) -> None:
        """Force what was written to the disk; a checkpoint calls it before it is saved."""
        for file in (self._file, self._val_file):
            if file is not None:
                file.flush()
                os.fsync(file.fileno())

    def state_dict(self) -> dict[str, Any]:
        """Bytes of both files: what belongs to the checkpoint being written."""
        if self._file is None or self._val_file is None:
            return {}
        return {"metrics.csv": self._file.tell(), "metrics_val.csv": self._val_file.tell()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the lengths until the files are opened."""
        self._lengths = {name: int(value) for name, value in state_dict.items()}

    def write_validation(self, step: int, values: dict[str, float]) -> None:
        """Append validation values of a step; other callbacks call this for what they compute."""
        if self._val_file is None:
            return
        writer = csv.writer(self._val_file)
        for name, value in values.items():
            writer.writerow([step, name, repr(float(value))])
        self._val_file.flush()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the values that the validation loop logged; one that was broken off has none."""
        if any(getattr(c, "breaking_off", False) for c in trainer.callbacks):  # type: ignore[attr-defined]
            return
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self.write_validation(trainer.global_step, values)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the files."""
        for file in (self._file, self._val_file):
            if file is not None:
                file.close()
        self._file = self._val_file = None


def _open_cut(path: Path, step: int, length: int | None) -> TextIO:
    """Open a table for appending, without what was written after `step`.

    Args:
        path: The file; made where it is absent.
        step: Optimizer step that training goes on from; 0 empties the file.
        length: Bytes that it had when the checkpoint was written, where that is known.
    """
    if step == 0 or not path.exists():
        return path.open("w", newline="", encoding="utf-8")
    content = path.read_bytes()
    if length is not None and length <= len(content) and (length == 0 or content[length - 1 : length] == b"\n"):
        keep = length
    else:  # another directory's checkpoint, or an edited table: by the steps of its rows
        lines = content.splitlines(keepends=True)
        kept = [line for line in lines[1:] if line.endswith(b"\n") and _step_of(line) <= step]
        keep = sum(map(len, [*lines[:1], *kept]))
        content = b"".join([*lines[:1], *kept])
    if keep != path.stat().st_size:
        write_atomically(path, content[:keep])
    return path.open("a", newline="", encoding="utf-8")


def _step_of(line: bytes) -> float:
    """Step of a row; infinite where it has none."""
    first = line.partition(b",")[0]
    return int(first) if first.isdigit() else float("inf")


def find_callback(trainer: pl.Trainer, kind: type[pl.Callback]) -> Any:
    """The trainer's callback of this class, or None."""
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]


def write_json(path: Path, content: Any) -> None:
    """Write JSON to a temporary name, then rename."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def _git_state(folder: Path) -> dict[str, Any] | None:
    def git(*args: str) -> str:
        run = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        return run.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy may lie in somebody's repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


class Provenance(pl.Callback):
    """Appends to ``provenance.json`` where, from what and with what each start of the run came to be.

    Args:
        notes: What a reader should know of this start: changed keys, a lock taken over, a reshaped checkpoint.
        resumed_from: The checkpoint that this start goes on from.
    """

    def __init__(self, notes: Sequence[str] = (), resumed_from: str | None = None) -> None:
        self.notes, self.resumed_from = list(notes), resumed_from

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the entry of this start."""
        if not trainer.is_global_zero:
            return
        root = Path(trainer.default_root_dir)
        path = root / "provenance.json"
        starts = _earlier_starts(path)
        config = root / "config.yaml"
        manifest = getattr(trainer.datamodule, "manifest", None)  # type: ignore[attr-defined]
        packages = sorted(f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata["Name"])
        starts.append(
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "macedance": macedance.__version__,
                "git": _git_state(Path(__file__).parent),
                "config_sha256": hashlib.sha256(config.read_bytes()).hexdigest() if config.exists() else None,
                "packages_sha256": hashlib.sha256("\n".join(packages).encode()).hexdigest(),
                "packages": packages,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "data": {
                    "manifest_sha256": manifest.sha256,
                    "splits": {k: v.samples for k, v in manifest.splits.items()},
                }
                if manifest
                else None,
                "hardware": {
                    "host": platform.node(),
                    "machine": platform.machine(),
                    "cpus": os.cpu_count(),
                    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
                },
                "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
                "world_size": trainer.world_size,
                "strategy": strategy_kind(trainer),
                "precision": str(trainer.precision),
                "resumed_from_step": trainer.global_step or None,
                "resumed_from": self.resumed_from,
                "notes": self.notes,
            }
        )
        write_json(path, {"starts": starts})

    def save_rank_files(self, trainer: pl.Trainer, pl_module: pl.LightningModule, folder: Path) -> None:
        """Every checkpoint carries the run's config and where it came from."""
        for name in ("config.yaml", "provenance.json"):
            path = Path(trainer.default_root_dir) / name
            if trainer.is_global_zero and path.exists():
                (folder / name).write_bytes(path.read_bytes())


def _earlier_starts(path: Path) -> list[Any]:
    """The entries so far; a file that is no longer ours to read is put aside, not lost."""
    if not path.exists():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["starts"])
    except (ValueError, KeyError, TypeError):
        path.rename(path.with_name(f"provenance-{time.time_ns()}.damaged.json"))
        return []
