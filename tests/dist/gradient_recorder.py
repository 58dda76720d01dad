"""A callback that keeps the gradients of the first optimizer steps, as they are before anything changes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch import nn


class GradientRecorder(pl.Callback):
    """Writes ``gradients-<step>.safetensors`` (first rank) and ``batch-<rank>.safetensors``: masks and positions.

    It turns off what draws per rank or measures the first micro-batch: dropout and re-balanced loss weights.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._masks: list[torch.Tensor] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for module in pl_module.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if hasattr(module, "rebalance_below"):
                module.rebalance_below = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        mask = batch.get("mask")
        # Clips of video have one length: their rows are told apart by their positions.
        self._masks.append(mask.cpu() if mask is not None and mask.ndim == 2 else batch["position"].cpu()[:, None])
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file({"mask": torch.cat(self._masks)}, str(self.folder / f"batch-{trainer.global_rank}.safetensors"))

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        if trainer.is_global_zero:
            grads = {n: p.grad for n, p in pl_module.named_parameters() if p.grad is not None}
            found = {n: grad.float().cpu().clone(memory_format=torch.contiguous_format) for n, grad in grads.items()}
            save_file(found, str(self.folder / f"gradients-{trainer.global_step}.safetensors"))
