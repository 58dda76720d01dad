"""The tests' own callback: spoils the loss or the gradient of one rank at given steps, or lets the rank stand still.

MACEDANCE_TEST_FAULTS holds JSON: {"rank": 1, "loss": [3], "grad": [5], "hang": 4}, steps counted from 1.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from dist_recorder import digest
from torch import Tensor


def rank_stands_still() -> None:
    """What the stack of a rank that hangs must show."""
    time.sleep(1000)


class Faults(pl.Callback):
    """Does what the environment says, on one rank."""

    def __init__(self) -> None:
        self._plan: dict[str, Any] = json.loads(os.environ.get("MACEDANCE_TEST_FAULTS", "{}"))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Write down the parameters as the network computes with them: whole on every rank, but for ZeRO-3."""
        name = f"whole-{trainer.global_rank}.txt"
        with (Path(os.environ["MACEDANCE_TEST_RECORD"]) / name).open("a", encoding="utf-8") as file:
            file.write(digest(pl_module.named_parameters()) + "\n")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Put the fault between the module and whoever calls it."""
        if trainer.global_rank != self._plan.get("rank") or stage != "fit":
            return
        inner = pl_module.training_step

        def spoiled(batch: Any, batch_idx: int) -> Tensor:
            step = trainer.global_step + 1
            if step == self._plan.get("hang"):
                rank_stands_still()
            loss: Tensor = inner(batch, batch_idx)
            return loss * float("nan") if step in self._plan.get("loss", ()) else loss

        def spoil_gradient(gradient: Tensor) -> Tensor:
            return gradient * float("inf") if trainer.global_step + 1 in self._plan.get("grad", ()) else gradient

        pl_module.training_step = spoiled  # type: ignore[method-assign]
        next(p for p in pl_module.parameters() if p.requires_grad).register_hook(spoil_gradient)
