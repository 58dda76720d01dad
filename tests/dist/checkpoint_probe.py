"""What the tests of sharded checkpoints put into a run: a witness of its weights, and a disk that fills up."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch


class Witness(pl.Callback):
    """Rank 0 writes the whole network, bit by bit, as a validation saw it and as training left it."""

    def _write(self, trainer: pl.Trainer, module: Any, name: str) -> None:
        parameters = list(module.built_network.parameters())
        sharded: Any = nullcontext()
        if hasattr(parameters[0], "ds_id"):
            import deepspeed

            sharded = deepspeed.zero.GatheredParameters(parameters)
        with sharded:
            if trainer.is_global_zero:
                folder = Path(os.environ["MACEDANCE_TEST_RECORD"])
                state = {k: v.detach().clone() for k, v in module.built_network.state_dict().items()}
                torch.save(state, folder / f"{name}-{trainer.global_step}.pt")

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self._write(trainer, pl_module, "validated")

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._write(trainer, pl_module, "trained")


class FullDisk(pl.Callback):
    """From a step on, a rank finds no space for files of a name: MACEDANCE_TEST_FULL=rank:step:part of the name."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        rank, step, name = os.environ.get("MACEDANCE_TEST_FULL", "-1:0:").split(":")
        if int(rank) != trainer.global_rank or int(step) != trainer.global_step + 1:
            return
        import io

        import safetensors.torch

        real_save, real_file, real_open = torch.save, safetensors.torch.save_file, io.open

        def refuse(target: Any) -> None:
            if name in str(getattr(target, "name", target)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

        def save(content: Any, target: Any, *more: Any, **options: Any) -> None:
            refuse(target)
            real_save(content, target, *more, **options)

        def save_file(tensors: Any, target: Any, *more: Any, **options: Any) -> None:
            refuse(target)
            real_file(tensors, target, *more, **options)

        def opened(target: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
            if "w" in mode:
                refuse(target)
            return real_open(target, mode, *more, **options)

        torch.save, safetensors.torch.save_file, io.open = save, save_file, opened  # type: ignore[assignment]
