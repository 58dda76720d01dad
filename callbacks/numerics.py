"""Optimizer steps that must not count: non-finite numbers, or a loss far above its past, skip the step on all ranks."""

from __future__ import annotations

import copy
import json
import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch import distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from callbacks.run_files import find_callback
from lightning_modules.strategies import ZeroStrategy, drop_gradients, is_step_boundary
from macedance.errors import ConfigError, NumericsError

SKIPPED_NAME = "skipped.jsonl"
Reason = Literal["loss", "grad", "spike"]
#: Sample keys that a message names; the file has all of them.
_KEYS_SAID = 6


@dataclass(frozen=True)
class Fault:
    """Why one rank's share of an optimizer step was refused.

    Args:
        step: The optimizer step, from 1, as in metrics.csv.
        position: Global samples consumed once the step is done, as checkpoints count them.
        reason: ``loss`` or ``grad``, non-finite; ``spike``, a loss far above the last ones.
        rank: The rank whose samples these are.
        keys: Keys of the samples of all its micro-batches of the step.
        loss: Mean loss of those micro-batches.
    """

    step: int
    position: int | None
    reason: Reason
    rank: int
    keys: tuple[str, ...]
    loss: float

    def to_json(self) -> str:
        """One line of skipped.jsonl; a loss that JSON has no number for is a string: nan, inf or -inf."""
        loss = self.loss if math.isfinite(self.loss) else str(self.loss)
        return json.dumps({**self.__dict__, "keys": list(self.keys), "loss": loss}, allow_nan=False)

    def describe(self) -> str:
        """A clause for the user."""
        what = {"loss": f"loss {self.loss}", "grad": "non-finite gradient", "spike": f"loss {self.loss:.4g}"}
        more = f" and {len(self.keys) - _KEYS_SAID} more" if len(self.keys) > _KEYS_SAID else ""
        return f"{what[self.reason]} on rank {self.rank}, samples {', '.join(self.keys[:_KEYS_SAID])}{more}"


class Budget:
    """Counts skipped steps and refuses one too many.

    Args:
        total: Steps that may be skipped in the whole run.
        consecutive: Steps that may be skipped in a row.
        where: Name for errors.

    Raises:
        ConfigError: A number below 0.
    """

    def __init__(self, total: int, consecutive: int, where: str) -> None:
        for name, value in (("budget", total), ("consecutive", consecutive)):
            if value < 0:
                raise ConfigError(f"{name} is {value}", where=where, expected="0 or more")
        self.total, self.consecutive = total, consecutive
        self.skipped = self.in_a_row = 0

    def spend(self) -> None:
        """Count one skipped step."""
        self.skipped += 1
        self.in_a_row += 1

    @property
    def is_exceeded(self) -> bool:
        """Whether more was skipped than may be."""
        return self.skipped > self.total or self.in_a_row > self.consecutive

    def describe(self) -> str:
        """A clause for the user."""
        return f"{self.skipped} of at most {self.total} in all, {self.in_a_row} of {self.consecutive} in a row"

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a checkpoint."""
        self.skipped, self.in_a_row = int(state["skipped"]), int(state["in_a_row"])


class LossSpike(pl.Callback):
    """Lets :class:`NonFinite` also skip steps whose loss, mean over ranks, stands far above the last ones.

    Off unless a config lists it. A refused loss enters the statistics as the limit that it broke, so that one spike
    does not hide the next, and a loss that stays high is believed after a while or ends the run by its budget.

    Args:
        sigmas: Standard deviations above the mean of the window that a loss may have.
        window: Steps that the statistics are taken over.
        min_steps: Steps before the first judgement.
        budget: Steps that may be skipped in the whole run.
        consecutive: Steps that may be skipped in a row.

    Raises:
        ConfigError: A number out of range.
    """

    def __init__(
        self, sigmas: float = 6.0, window: int = 128, min_steps: int = 64, budget: int = 100, consecutive: int = 10
    ) -> None:
        if not sigmas > 0 or not 2 <= min_steps <= window:
            raise ConfigError(
                f"sigmas {sigmas}, window {window} and min_steps {min_steps}",
                where="LossSpike",
                expected="sigmas above 0 and 2 <= min_steps <= window",
            )
        self.sigmas, self.min_steps = sigmas, min_steps
        self.budget = Budget(budget, consecutive, "LossSpike")
        self._losses: deque[float] = deque(maxlen=window)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse to stand alone."""
        if find_callback(trainer, NonFinite) is None:
            raise ConfigError("LossSpike needs NonFinite beside it", where="trainer.callbacks")

    @property
    def limit(self) -> float:
        """The highest loss that passes; infinite until ``min_steps`` losses are known."""
        if len(self._losses) < self.min_steps:
            return math.inf
        mean = math.fsum(self._losses) / len(self._losses)
        variance = math.fsum((loss - mean) ** 2 for loss in self._losses) / len(self._losses)
        # Losses that do not move at all would make a spike of any rounding error.
        return mean + self.sigmas * max(math.sqrt(variance), 1e-6 * abs(mean))

    def judge(self, losses: Sequence[float]) -> dict[int, Reason]:
        """Take every rank's finite loss of a step; rank -> ``spike`` of those above the limit, if their mean is."""
        limit, mean = self.limit, math.fsum(losses) / len(losses)
        self._losses.append(min(mean, limit))
        return {rank: "spike" for rank, loss in enumerate(losses) if loss > limit} if mean > limit else {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {**self.budget.state_dict(), "losses": list(self._losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.budget.load_state_dict(state_dict)
        self._losses.clear()
        self._losses.extend(float(loss) for loss in state_dict["losses"])


class NonFinite(pl.Callback):
    """Skips an optimizer step on every rank when any rank's loss or gradient is not finite.

    Weights, optimizer state and EMA stay as they were; the step, the learning-rate schedule and the data go on. The
    verdict over all micro-batches and ranks costs one small collective and one read by the host for each optimizer
    step. Every refused share of a step is written to ``skipped.jsonl`` with the keys of its samples.

    Gradients are judged by their Euclidean norm: one that overflows float32 counts as not finite too. Which rank's it
    was is known under one rank and DDP; sharded gradients are only seen summed, and then every rank's samples are
    listed, unless a loss already told. With 16-bit loss scaling the scaler judges the gradients, which overflow in its
    normal work, and only losses are judged here.

    Args:
        budget: Steps that may be skipped in the whole run; one more ends it.
        consecutive: Steps that may be skipped in a row; one more ends the run.

    Raises:
        ConfigError: A number below 0.
        NumericsError: While training, when more steps were skipped than may be.
    """

    def __init__(self, budget: int = 10, consecutive: int = 3) -> None:
        self.budget = Budget(budget, consecutive, "NonFinite")
        #: Whether the optimizer step just taken was skipped; the EMA and whoever counts steps reads it.
        self.skipped_this_step = False
        self._keys: list[str] = []
        self._loss: Tensor | None = None
        self._local_norm: Tensor | None = None
        self._undo: Any = None

    # ---------------------------------------------------------------- what a step is made of
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget lines of steps that this run takes again, and watch each rank's own gradients under DDP."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            cut_after(Path(trainer.default_root_dir) / SKIPPED_NAME, trainer.global_step)
        if isinstance(trainer.model, DistributedDataParallel):
            self._watch_local_gradients(trainer.model)

    def _watch_local_gradients(self, model: DistributedDataParallel) -> None:
        def look_then_reduce(_: None, bucket: dist.GradBucket) -> Any:
            norm = bucket.buffer().norm()
            self._local_norm = norm if self._local_norm is None else self._local_norm.maximum(norm)
            return allreduce_hook(None, bucket)  # type: ignore[arg-type]

        look_then_reduce.__annotations__.clear()  # torch compares them with classes; here they are texts
        try:
            model.register_comm_hook(None, look_then_reduce)
        except RuntimeError:
            # A hook of the user's own stands there: a bad gradient is then put down to every rank.
            self._local_norm = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember whose samples the step is made of."""
        self._keys.extend(sample_keys(batch))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Add the micro-batch's loss, which is divided by their number already."""
        value = loss.detach().float()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            value = value / scaler.scale(value.new_ones(()))
        self._loss = value if self._loss is None else self._loss + value

    # ---------------------------------------------------------------- the verdict
    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Judge the step on all ranks alike; drop the gradients of a bad one.

        Raises:
            NumericsError: More steps were skipped than may be.
        """
        if not is_step_boundary(trainer):
            return
        verdicts = self._verdicts(trainer, optimizer)
        keys, self._keys, self._loss, self._local_norm = self._keys, [], None, None
        spike: LossSpike | None = find_callback(trainer, LossSpike)
        reasons, budget = refusals(verdicts), self.budget
        if not reasons and spike is not None:
            reasons = spike.judge([v.loss for v in verdicts])
            budget = spike.budget if reasons else budget
        self.skipped_this_step = bool(reasons)
        for each in (self.budget, *([spike.budget] if spike else [])):
            if not reasons or each is not budget:
                each.in_a_row = 0
        if reasons:
            budget.spend()
            self._skip(trainer, pl_module, optimizer, budget, self._faults(trainer, pl_module, verdicts, reasons, keys))

    def _verdicts(self, trainer: pl.Trainer, optimizer: Any) -> list[Verdict]:
        """Every rank's, in rank order: one collective, one read."""
        assert self._loss is not None
        if str(trainer.precision).startswith("16"):
            summed = self._loss.new_ones(())
        else:
            summed = get_total_norm(gradients_of(trainer, optimizer)).isfinite()
        local = summed if self._local_norm is None else self._local_norm.isfinite()
        mine = self._loss.new_empty(3)
        for place, value in enumerate((self._loss, summed, local)):
            mine[place] = value
        rows = [mine]
        if trainer.world_size > 1:
            rows = [mine.new_empty(3) for _ in range(trainer.world_size)]
            dist.all_gather(rows, mine)
        read = mine.new_empty(len(rows), 3)
        for place, row in enumerate(rows):
            read[place] = row
        knows_local = self._local_norm is not None or trainer.world_size == 1
        return [Verdict(loss, bool(s), bool(own), knows_local) for loss, s, own in read.tolist()]

    def _faults(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        verdicts: Sequence[Verdict],
        reasons: Mapping[int, Reason],
        keys: Sequence[str],
    ) -> list[Fault]:
        everyones: list[Any] = [list(keys)]
        if trainer.world_size > 1:
            everyones = [None] * trainer.world_size
            dist.all_gather_object(everyones, list(keys) if trainer.global_rank in reasons else None)
        step, position = trainer.global_step + 1, getattr(pl_module, "position", None)
        return [
            Fault(step, position, reason, rank, tuple(everyones[rank]), verdicts[rank].loss)
            for rank, reason in sorted(reasons.items())
        ]

    def _skip(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        optimizer: Any,
        budget: Budget,
        faults: Sequence[Fault],
    ) -> None:
        path = Path(trainer.default_root_dir) / SKIPPED_NAME
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            append_lines(path, [fault.to_json() for fault in faults])
        told = "; ".join(fault.describe() for fault in faults)
        if budget.is_exceeded:
            spiked = faults[0].reason == "spike"
            raise NumericsError(
                f"{'loss spikes' if spiked else 'non-finite numbers'} in too many steps: {budget.describe()}; {told}",
                where=f"step {faults[0].step}",
                fix=f"look at the samples of {path}; lower the learning rate, set trainer.gradient_clip_val, or take "
                "the samples out of the corpus",
            ).everywhere()
        rank_zero_info(f"step {faults[0].step} is skipped: {told} ({budget.describe()}; all in {path})")
        drop_gradients(trainer, pl_module)
        if not isinstance(trainer.strategy, ZeroStrategy):
            self._undo = put_back_after_step(optimizer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A loss scaler may not have called the optimizer at all: nothing is left to be undone at the next step."""
        if self._undo is not None:
            self._undo.remove()
            self._undo = None

    # ---------------------------------------------------------------- checkpoints
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return dict(self.budget.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.budget.load_state_dict(state_dict)


@dataclass(frozen=True)
class Verdict:
    """One rank's view of a step.

    Args:
        loss: Mean over its micro-batches.
        summed_finite: Whether the gradients as the optimizer would get them are finite on this rank.
        local_finite: Whether its own were, before they met those of others.
        knows_local: Whether that is known.
    """

    loss: float
    summed_finite: bool
    local_finite: bool
    knows_local: bool


def refusals(verdicts: Sequence[Verdict]) -> dict[int, Reason]:
    """Rank -> why its share of a step is refused; empty for a good step.

    A bad gradient that no rank is known to have brought is put down to all of them.
    """
    reasons: dict[int, Reason] = {rank: "loss" for rank, v in enumerate(verdicts) if not math.isfinite(v.loss)}
    if all(v.summed_finite for v in verdicts):
        return reasons
    guilty = [rank for rank, v in enumerate(verdicts) if v.knows_local and not v.local_finite]
    if not guilty and not reasons:
        guilty = list(range(len(verdicts)))
    return {**dict.fromkeys(guilty, "grad"), **reasons}


def sample_keys(batch: Any) -> list[str]:
    """Keys of a batch's samples, where it names them."""
    return [str(key) for key in batch["keys"]] if isinstance(batch, Mapping) and "keys" in batch else []


def gradients_of(trainer: pl.Trainer, optimizer: Any) -> list[Tensor]:
    """What this rank's optimizer would use: all gradients, summed over ranks, or this rank's share of them."""
    if isinstance(trainer.strategy, ZeroStrategy):
        return trainer.strategy.local_gradients()
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def put_back_after_step(optimizer: Any) -> Any:
    """Keep an optimizer that finds no gradients from counting the step all the same, as Adan does in its groups.

    Returns:
        A handle whose ``remove()`` takes that back.
    """
    kept = [
        {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]

    def put_back(stepped: Any, args: Any, kwargs: Any) -> None:
        for group, values in zip(stepped.param_groups, kept, strict=True):
            for name, value in values.items():
                if isinstance(value, Tensor):
                    group[name].copy_(value)
                else:
                    group[name] = value

    return optimizer.register_step_post_hook(put_back)


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Add lines to a file and force them to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def cut_after(path: Path, step: int) -> None:
    """Drop the lines of later steps, and a last line that was not written to its end: a resume takes them again."""
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if int(json.loads(line)["step"]) <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    os.replace(temporary, path)
