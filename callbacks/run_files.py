"""The files of a run: metrics.csv, metrics_val.csv and provenance.json."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import subprocess
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl
import torch

import macedance


class MetricsCsv(pl.Callback):
    """One row per optimizer step in ``metrics.csv``; validation values in ``metrics_val.csv`` (step, name, value).

    The columns are those of the first step. Every row is handed to the system before the callback returns, and forced
    to the disk before any checkpoint that contains its step.
    """

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self._val_file: TextIO | None = None
        self._columns: list[str] | None = None
        self._last_step = 0
        self._sums: dict[str, float] = {}
        self._batches = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open both files on the first rank."""
        if not trainer.is_global_zero:
            return
        self._last_step = trainer.global_step
        root = Path(trainer.default_root_dir)
        self._file = (root / "metrics.csv").open("w", newline="", encoding="utf-8")
        self._val_file = (root / "metrics_val.csv").open("w", newline="", encoding="utf-8")
        csv.writer(self._val_file).writerow(["step", "name", "value"])
        self._val_file.flush()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the row of this optimizer step: the mean over its micro-batches."""
        if self._file is None:
            return
        for name, value in trainer.callback_metrics.items():
            if name.startswith(("train/", "time/")):
                self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._batches += 1
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        values = {name: total / self._batches for name, total in self._sums.items()}
        self._sums, self._batches = {}, 0
        values["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        writer = csv.writer(self._file)
        if self._columns is None:
            rest = sorted(k for k in values if k != "train/loss")
            self._columns = ["train/loss", *rest] if "train/loss" in values else rest
            writer.writerow(["step", *self._columns])
        writer.writerow([trainer.global_step, *(repr(values[c]) if c in values else "" for c in self._columns)])
        self._file.flush()

    def sync(self) -> None:
        """Force what was written to the disk; a checkpoint calls it before it is saved."""
        for file in (self._file, self._val_file):
            if file is not None:
                os.fsync(file.fileno())

    def write_validation(self, step: int, values: dict[str, float]) -> None:
        """Append validation values of a step; other callbacks call this for what they compute."""
        if self._val_file is None:
            return
        writer = csv.writer(self._val_file)
        for name, value in values.items():
            writer.writerow([step, name, repr(float(value))])
        self._val_file.flush()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the values that the validation loop logged."""
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self.write_validation(trainer.global_step, values)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the files."""
        for file in (self._file, self._val_file):
            if file is not None:
                file.close()
        self._file = self._val_file = None


def find_callback(trainer: pl.Trainer, kind: type[pl.Callback]) -> Any:
    """The trainer's callback of this class, or None."""
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]


def write_json(path: Path, content: Any) -> None:
    """Write JSON to a temporary name, then rename."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _git_state(folder: Path) -> dict[str, Any] | None:
    def git(*args: str) -> str:
        run = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        return run.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


class Provenance(pl.Callback):
    """Appends to ``provenance.json`` where, from what and with what each start of the run came to be."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the entry of this start."""
        if not trainer.is_global_zero:
            return
        root = Path(trainer.default_root_dir)
        path = root / "provenance.json"
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"] if path.exists() else []
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
                "world_size": trainer.world_size,
                "precision": str(trainer.precision),
                "resumed_from_step": trainer.global_step or None,
            }
        )
        write_json(path, {"starts": starts})
