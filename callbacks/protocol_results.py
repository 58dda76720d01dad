"""What the callbacks that judge a model during training share: where results go and who is told of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torchmetrics import Metric

from callbacks.agreement import agreed_evaluation, from_first
from callbacks.best import Best
from callbacks.previews import Preview
from callbacks.run_files import MetricsCsv, find_callback
from lightning_modules.base import ExpertModule
from macedance.metrics.protocol import ProtocolResult, write_protocol
from macedance.report.progress import Progress

SPLIT = "val"
FOLDER = "protocol"
#: Keys of the reference's own values end so.
REFERENCE = "_reference"
#: Keys that a message names before it counts them.
_NAMED = 6

MetricType = TypeVar("MetricType", bound=Metric)


class JudgedPreview(Preview):
    """Base of the callbacks that judge what the model makes of the validation clips.

    Args:
        every_n_steps: As of Preview.
        every_n_epochs: As of Preview.
    """

    #: What its results' files are called before their step.
    file_stem = "step"

    def __init__(self, every_n_steps: int | None, every_n_epochs: int | None) -> None:
        super().__init__(every_n_steps, every_n_epochs)
        self._said: set[str] = set()

    def file(self, trainer: pl.Trainer) -> Path:
        """Where the result of this step goes."""
        return Path(trainer.default_root_dir) / FOLDER / f"{self.file_stem}-{trainer.global_step:08d}.json"

    def together(self, trainer: pl.Trainer, what: str, function: Callable[[], Any]) -> Any:
        """Call a function on every rank; an error of one ends all of them with it."""
        return agreed_evaluation(what, function, where=self.file(trainer))

    def on_first_rank(self, trainer: pl.Trainer, what: str, function: Callable[[], Any]) -> Any:
        """Call a function on the first rank, None elsewhere; an error there ends all ranks with it."""
        return self.together(trainer, what, function if trainer.is_global_zero else lambda: None)

    def bar(self, trainer: pl.Trainer, what: str) -> Any:
        """A progress bar of the first rank, whose share is one of the largest; None elsewhere."""
        return Progress(what, 1) if trainer.is_global_zero else nullcontext()

    # ---------------------------------------------------------------- results
    def making(self) -> dict[str, Any]:
        """How what is judged is made, as JSON holds it."""
        return {}

    def training_inputs(self, trainer: pl.Trainer, module: ExpertModule) -> dict[str, Any]:
        """What of a result's ``inputs`` says where in training it was made, and how; not part of its hash."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        return {
            "training": {
                "step": trainer.global_step,
                "position": module.position,
                "epoch": data.epoch_of(module.position),
                "split": SPLIT,
                **self.making(),
            }
        }

    def publish(
        self, trainer: pl.Trainer, result: ProtocolResult | None, prefixes: Mapping[str, str | None]
    ) -> dict[str, float]:
        """Write the first rank's result and tell its values to the tables, the loggers and who keeps the best.

        Args:
            trainer: The trainer.
            result: On the first rank the result.
            prefixes: Preset -> what its values are called by before their key, ``val/`` where it is not named; None:
                they are in the file only.

        Returns:
            Name -> value, on every rank; keys without a value are left out, with the reason said once.

        Raises:
            MaceDanceError: On every rank, where it cannot be written.
        """

        def write() -> dict[str, float]:
            assert result is not None
            values = named_values(result, prefixes)
            write_protocol(self.file(trainer), result)
            csv_file = find_callback(trainer, MetricsCsv)
            if csv_file is not None:
                csv_file.write_validation(trainer.global_step, values)
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)
            self._say_missing(trainer, result, prefixes)
            return values

        values: dict[str, float] = from_first(self.on_first_rank(trainer, "writing the result", write))
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Best):
                callback.offer(trainer.global_step, values)
        return values

    def _say_missing(self, trainer: pl.Trainer, result: ProtocolResult, prefixes: Mapping[str, str | None]) -> None:
        """Name the numbers that there are not, by their reasons; each reason once in a run, whoever has it."""
        missing: dict[str, list[str]] = {}
        for preset, entries in result.presets.items():
            for key, entry in entries.items():
                if entry.get("value") is None and prefixes.get(preset, "val/") is not None:
                    reason = str(entry.get("reason", "no value")).partition("; at ")[0]
                    missing.setdefault(reason, []).append(key.removesuffix(REFERENCE))
        said = {reason for judge in all_judges(trainer) for reason in judge._said}
        for reason, keys in missing.items():
            if reason not in said:
                self._say(reason, f"validation numbers left out: {_listed(list(dict.fromkeys(keys)))}: {reason}")
        if missing.keys() - said:
            rank_zero_info(f"the whole reasons are in {self.file(trainer)}")

    def _say(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            rank_zero_info(text)


def all_judges(trainer: pl.Trainer) -> list[JudgedPreview]:
    """Every callback of this kind."""
    return [callback for callback in trainer.callbacks if isinstance(callback, JudgedPreview)]  # type: ignore[attr-defined]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def named_values(result: ProtocolResult, prefixes: Mapping[str, str | None]) -> dict[str, float]:
    """Values of a result as logs call them: ``val/fid_k``, or with the prefix of their preset."""
    named: dict[str, float] = {}
    for preset, entries in result.presets.items():
        prefix = prefixes.get(preset, "val/")
        if prefix is not None:
            named |= {f"{prefix}{key}": float(e["value"]) for key, e in entries.items() if e.get("value") is not None}
    return named


def gathered(metric: MetricType) -> MetricType:
    """A copy of a metric that holds what all ranks' have seen and never gathers again; a collective."""
    with metric.sync_context(dist_sync_fn=metric.dist_sync_fn):
        states = dict(metric.metric_state)
    whole = copy.deepcopy(metric)
    whole.sync_on_compute = whole._to_sync = False
    for name, state in states.items():
        setattr(whole, name, list(state) if isinstance(state, list) else state)
    return whole


def gathering_device(trainer: pl.Trainer) -> torch.device:
    """Where a metric must lie for its states to be gathered: NCCL moves what is on a GPU only."""
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    on_gpu = joined and torch.distributed.get_backend() == "nccl"
    return trainer.strategy.root_device if on_gpu else torch.device("cpu")
