"""What each rank of the tests of ZeRO runs: a small expert trained under a list of strategies, results in files.

Usage: ``python zero_program.py OUT CASE ...`` with a launcher's environment; a case is ``kind[:option,...]``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from callbacks.ema import EmaCallback, preview_network
from lightning_modules.base import ExpertModule
from lightning_modules.schedules import WarmupCosine
from lightning_modules.strategies import ZeroStrategy, drop_gradients, gradients_finite, is_step_boundary

STEPS, SAVED_STEP, GLOBAL_BATCH, DROPPED_STEP = 6, 4, 8, 3


class Block(nn.Module):
    """Reads a child's weight without calling it, as the Mamba mixer does."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, dim)
        self.scale = nn.Parameter(torch.ones(dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(nn.functional.linear(x, self.inner.weight).tanh() * self.scale) + self.inner.bias


class Network(nn.Module):
    """Has parameters of its own and is entered by methods other than forward; part of it is frozen."""

    def __init__(self, dim: int = 12, dropout: float = 0.0) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.full((dim,), 0.5))
        self.encoder = nn.Linear(5, dim)
        self.blocks = nn.ModuleList(Block(dim, dropout) for _ in range(3))
        self.head = nn.Linear(dim, 5)
        self.frozen = nn.Parameter(torch.full((7,), 0.25), requires_grad=False)
        self.register_buffer("precise", torch.full((3,), 1 / 3))

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x) + self.null * self.frozen.sum()

    def decode(self, h: Tensor) -> Tensor:
        for block in self.blocks:
            h = block(h)
        return self.head(h)


class Expert(ExpertModule):
    def __init__(self, dropout: float, checkpointing: list[str] | None) -> None:
        super().__init__(
            lambda: Network(dropout=dropout),
            lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
            WarmupCosine(warmup_steps=2, decay_start=0.5),
            seed=3,
            activation_checkpointing=checkpointing,
        )
        self.validated: list[float] = []
        self.losses: list[float] = []

    def _loss(self, batch: Tensor) -> Tensor:
        network: Any = self.built_network
        assert network.precise.dtype == torch.float32
        predicted = network.decode(network.encode(batch))
        return (predicted.float() - batch.flip(-1)).square().mean()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.losses.append(float(loss))
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated.append(float(self._loss(batch)))

    def describe(self) -> dict[str, Any]:
        return {}

    def normalizer_dict(self) -> dict[str, Any]:
        return {}


class Samples(torch.utils.data.Dataset):
    """Micro-batches of a global order without end: rank r of W has its slice of every micro-batch."""

    def __init__(self, rank: int, world: int, accumulate: int, start: int = 0, length: int = 10**6) -> None:
        self.rank, self.world, self.start, self.length = rank, world, start * accumulate, length
        self.micro = GLOBAL_BATCH // world // accumulate

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        first = ((self.start + index) * self.world + self.rank) * self.micro
        rows = range(first, first + self.micro)
        return torch.stack([torch.randn(5, generator=torch.Generator().manual_seed(row)) * fault(row) for row in rows])


def fault(row: int) -> float:
    """The last row of one step is not a number: with several ranks only the last of them sees it."""
    return float("nan") if row == DROPPED_STEP * GLOBAL_BATCH - 1 else 1.0


class Watcher(pl.Callback):
    """Drops the step whose gradients are not finite, saves another, and looks at the weights around validation."""

    def __init__(self, folder: Path | None, ema: EmaCallback) -> None:
        self.folder, self.ema = folder, ema
        self.finite: list[bool] = []
        self.restored: list[bool] = []
        self._before: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        if not is_step_boundary(trainer):
            return
        finite = gradients_finite(trainer, pl_module)
        finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        self.finite.append(finite)
        if not finite:
            drop_gradients(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._before = local_state(pl_module)
        at_step = trainer.global_step == SAVED_STEP and (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.folder is not None and at_step and not self.folder.exists():
            trainer.strategy.barrier()
            target = self.folder if isinstance(trainer.strategy, ZeroStrategy) else self.folder / "state.ckpt"
            self.folder.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(target)
            self.ema.save_rank_files(trainer, pl_module, self.folder)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        after = local_state(pl_module)
        self.restored.append(all(torch.equal(after[name], self._before[name]) for name in after))


class Loading(pl.Callback):
    def __init__(self, folder: Path, ema: EmaCallback) -> None:
        self.folder, self.ema = folder, ema

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ema.load_rank_files(trainer, pl_module, self.folder)


def local_state(module: nn.Module) -> dict[str, Tensor]:
    """What this rank computes with: parameters, and of sharded ones its part, whose padding is anything."""
    rank = int(os.environ.get("RANK", 0))
    state: dict[str, Tensor] = {}
    for name, p in module.named_parameters():
        if hasattr(p, "ds_tensor"):
            valid = max(p.ds_numel - rank * p.ds_tensor.numel(), 0)
            state[name] = p.ds_tensor.detach().view(-1)[:valid].clone()
        else:
            state[name] = p.detach().clone()
    return state


def train(kind: str, options: dict[str, str], out: Path, resume: bool) -> dict[str, Any]:
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    accumulate = int(options.get("accumulate", 1))
    strategy: Any = "auto" if world == 1 else "ddp"
    if kind.startswith("zero"):
        strategy = ZeroStrategy(
            stage=int(kind[4]), offload="offload" in options, keep_whole_below=int(options.get("whole", 0))
        )
    checkpointing = ["blocks.*"] if "recompute" in options else None
    module = Expert(float(options.get("dropout", 0)), checkpointing)
    ema = EmaCallback(decay=0.5, warmup=False)
    folder = out / "checkpoint"
    watcher = Watcher(None if resume else folder, ema)
    trainer = pl.Trainer(
        accelerator=options.get("device", "cpu"), devices=world, strategy=strategy,
        precision=options.get("precision", "32-true"),  # type: ignore[arg-type]
        max_steps=STEPS, accumulate_grad_batches=accumulate, gradient_clip_val=float(options.get("clip", 0.5)),
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0, val_check_interval=2 * accumulate,
        check_val_every_n_epoch=None, callbacks=[ema, watcher, *([Loading(folder, ema)] if resume else [])],
        default_root_dir=str(out),
    )  # fmt: skip
    torch.manual_seed(17 + rank)
    start = SAVED_STEP if resume else 0
    train_loader = torch.utils.data.DataLoader(Samples(rank, world, accumulate, start), batch_size=None)
    held_out = torch.utils.data.DataLoader(Samples(0, 1, 1, length=2), batch_size=None)
    if "validate" in options:
        trainer.callbacks = []  # type: ignore[attr-defined]
        trainer.validate(module, held_out, verbose=False)
        return {"validated": torch.tensor(module.validated, dtype=torch.float64)}
    path = None
    if resume:
        path = str(folder if kind.startswith("zero") else folder / "state.ckpt")
    trainer.fit(module, train_loader, held_out, ckpt_path=path, weights_only=True if path else None)
    return report(trainer, module, ema, watcher)


def report(trainer: Any, module: Expert, ema: EmaCallback, watcher: Watcher) -> dict[str, Any]:
    """Whole weights and averages, and what was seen on the way."""
    strategy = trainer.strategy
    tensors: dict[str, Tensor] = {}
    if isinstance(strategy, ZeroStrategy):
        tensors.update({f"raw.{n}": t.clone() for n, t in strategy.whole_parameters(module)})
        assert ema.average is not None
        tensors.update({f"ema.{n}": t.clone() for n, t in strategy.whole_parameters(module, ema.average.shadow)})
    else:
        tensors.update({f"raw.{n}": p.detach().float() for n, p in module.named_parameters()})
        assert ema.average is not None
        tensors.update({f"ema.network.{n}": t for n, t in ema.average.shadow.items()})
    with preview_network(trainer, module):
        if trainer.is_global_zero:
            with ema.applied(module):
                tensors["preview"] = torch.stack([p.detach().float().sum() for p in module.network.parameters()])
    tensors["validated"] = torch.tensor(module.validated, dtype=torch.float64)
    tensors["losses"] = torch.tensor(module.losses, dtype=torch.float64)
    tensors["restored"] = torch.tensor(watcher.restored)
    tensors["finite"] = torch.tensor(watcher.finite)
    tensors["lr"] = torch.tensor([g["lr"] for g in trainer.optimizers[0].param_groups], dtype=torch.float64)
    tensors["steps"] = torch.tensor([trainer.global_step, ema.average.num_updates])
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def main() -> None:
    out = Path(sys.argv[1])
    rank = int(os.environ.get("RANK", 0))
    for case in sys.argv[2:]:
        kind, _, rest = case.partition(":")
        options = dict(pair.partition("=")[::2] for pair in rest.split(",") if pair)
        folder = out / case.replace(":", "_").replace(",", "_").replace("=", "-")
        for resume in (False, True) if "resume" in options else (False,):
            tensors = train(kind, options, folder, resume)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, str(folder / f"{'resumed' if resume else 'whole'}-{rank}.safetensors"))


if __name__ == "__main__":
    main()
