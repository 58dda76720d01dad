"""The tests' own callback: writes down what every micro-step did, and sends signals at exact places.

It takes no argument, so that the config of a run is the same at every start: MACEDANCE_TEST_RECORD names the folder
of its records, MACEDANCE_TEST_PLAN the signals to send, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

#: Where in a micro-step a signal may be sent.
STEP_PLACES = ("batch_start", "forward", "before_backward", "backward", "after_backward", "batch_end")
#: Places that only the last micro-step of an optimizer step has.
UPDATE_PLACES = ("before_update", "update", "after_update")
#: Places within the writing of a checkpoint, and within validation.
SAVE_PLACES = ("save_begin", "save_files", "save_manifest", "save_rename", "save_link")
VALIDATION_PLACES = ("validation_start", "validation", "validation_end")


def digest(tensors: Any) -> str:
    """Of names and bits."""
    total = hashlib.sha256()
    for name, tensor in tensors:
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:24]


def weights_of(trainer: pl.Trainer, module: pl.LightningModule) -> list[tuple[str, Tensor]]:
    """This rank's share of the parameters: all of them, or its part of the master weights under ZeRO."""
    from lightning_modules.strategies import ZeroStrategy

    if isinstance(trainer.strategy, ZeroStrategy):
        return [(name, part.tensor) for name, part in trainer.strategy.local_fragments(module).items()]
    return list(module.named_parameters())


def average_of(trainer: pl.Trainer) -> list[tuple[str, Tensor]]:
    """This rank's share of the moving averages."""
    from callbacks.ema import EmaCallback

    callback = next((c for c in trainer.callbacks if isinstance(c, EmaCallback)), None)  # type: ignore[attr-defined]
    average = getattr(callback, "average", None)
    if average is None:
        return []
    found = [(k, v) for k, v in sorted(average.state_dict().items()) if isinstance(v, Tensor)]
    return [(k, v if v.dtype != torch.bfloat16 else v.float()) for k, v in found]


class Recorder(pl.Callback):
    """One JSON line a micro-step and rank: step, samples, loss, learning rate, generator, weights and average."""

    def __init__(self) -> None:
        self._plan: list[dict[str, Any]] = json.loads(os.environ.get("MACEDANCE_TEST_PLAN", "[]"))
        self._record = Path(os.environ.get("MACEDANCE_TEST_RECORD", ""))
        self._rank = 0
        self._micro = 0  # micro-steps done since the start of training, over all starts
        self._in_step = 0
        self._last_step = 0
        self._keys: list[str] = []

    # ---------------------------------------------------------------- signals
    def _at(self, place: str) -> None:
        for number, action in enumerate(self._plan):
            if action["place"] != place or action.get("micro", self._micro) > self._micro:
                continue
            if action["rank"] not in (self._rank, "all"):
                continue
            done = self._record / f"sent-{action['id']}-{self._rank}"
            del self._plan[number]
            done.write_text(f"{place} {self._micro}", encoding="utf-8")
            os.kill(os.getpid(), action["signal"])
            return

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._plan or event not in ("os.rename", "os.symlink"):
            return
        source, target = Path(os.fsdecode(arguments[0])), Path(os.fsdecode(arguments[1]))
        if event == "os.symlink":
            if source.name.startswith("step-"):
                self._at("save_link")
        elif target.name == "manifest.json":
            self._at("save_manifest")
        elif target.parent.name == "checkpoints" and target.name.startswith("step-"):
            self._at("save_rename")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._rank = trainer.global_rank
        self._record.mkdir(parents=True, exist_ok=True)
        self._at("setup")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._at("fit_start")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        accumulate = int(trainer.accumulate_grad_batches)
        self._last_step = trainer.global_step
        self._micro = trainer.global_step * accumulate
        self._write({"start": trainer.global_step, "ranks": trainer.world_size})
        sys.addaudithook(self._audit)
        register_optimizer_step_pre_hook(lambda *_: self._at("update"))
        register_optimizer_step_post_hook(lambda *_: self._at("after_update"))
        inner = [m for m in pl_module.modules() if isinstance(m, torch.nn.Linear)]
        inner[len(inner) // 2].register_forward_pre_hook(lambda *_: self._at("forward") if pl_module.training else None)
        self._at("train_start")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._at("batch_start")

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._at("before_backward")
        loss.register_hook(lambda _: self._at("backward"))

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._at("after_backward")

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self._at("before_update")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._at("validation_start")

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._at("validation")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write({"validated": trainer.global_step})
        self._at("validation_end")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._at("save_begin")

    def save_rank_files(self, trainer: pl.Trainer, pl_module: pl.LightningModule, folder: Path) -> None:
        """Called while the checkpoint's folder is half written."""
        self._at("save_files")

    # ---------------------------------------------------------------- records
    def _write(self, line: dict[str, Any]) -> None:
        with (self._record / f"rank-{self._rank}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        line: dict[str, Any] = {
            "micro": self._micro,
            "step": trainer.global_step,
            "batch_idx": batch_idx,
            "positions": batch["position"].tolist(),
            "keys": list(batch["keys"]),
            "loss": float(loss).hex(),
            "lr": float(trainer.optimizers[0].param_groups[0]["lr"]).hex(),
            "generator": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()[:16],
        }
        if trainer.global_step != self._last_step:
            line |= {"weights": digest(weights_of(trainer, pl_module)), "ema": digest(average_of(trainer))}
        self._last_step = trainer.global_step
        self._micro += 1
        self._write(line)
        self._at("batch_end")
