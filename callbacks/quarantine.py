"""The one place that records faulty training samples: written, said, counted over all ranks, and refused at last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from callbacks.agreement import gather
from callbacks.numerics import append_lines
from datamodules.streams.quarantine import DEFAULT_MAX_QUARANTINED, Quarantined
from macedance.errors import DataError
from macedance.motion.atomic import write_atomically

QUARANTINE_NAME = "quarantine.jsonl"
_MAX_SAID = 20


class Quarantine(pl.Callback):
    """Records every sample whose place another one took, in ``quarantine.jsonl``. Stands before what saves.

    The data module replaces faulty samples only where this callback stands among the trainer's. After each optimizer
    step the ranks tell each other in one small collective whether there was any; each faulty sample is said once and
    counts once, however often its place comes. The budget is the data module's ``max_quarantined``.

    Attributes:
        samples: The faulty samples of the run so far, as ``shard:key``, the same on every rank.

    Raises:
        DataError: While training and on every rank alike, when more samples are faulty than may be.
    """

    #: What the data module looks for before it replaces anything.
    records_quarantine = True

    def __init__(self) -> None:
        self.samples: list[str] = []
        self._pending: list[Quarantined] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the lines of positions that this run takes again."""
        self._pending = []
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            position = getattr(trainer.datamodule, "start_position", 0)  # type: ignore[attr-defined]
            cut_from(Path(trainer.default_root_dir) / QUARANTINE_NAME, position)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """At the end of an optimizer step: gather what all ranks met, write it, and refuse one fault too many."""
        self._pending.extend(batch.get("quarantined", ()))
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        if not trainer.strategy.reduce_boolean_decision(bool(self._pending), all=False):
            return
        events = sorted((e for part in gather(self._pending) for e in part), key=lambda event: event["position"])
        self._pending = []
        self._record(trainer, events)

    def _record(self, trainer: pl.Trainer, events: Sequence[Quarantined]) -> None:
        path = Path(trainer.default_root_dir) / QUARANTINE_NAME
        budget = int(getattr(trainer.datamodule, "max_quarantined", DEFAULT_MAX_QUARANTINED))  # type: ignore[attr-defined]
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            append_lines(path, [json.dumps(event) for event in events])
        known = set(self.samples)
        for event in events:
            if event["sample"] in known:
                continue
            known.add(event["sample"])
            self.samples.append(event["sample"])
            if len(self.samples) <= _MAX_SAID:
                more = f"; further ones are only written to {path}" if len(self.samples) == _MAX_SAID else ""
                rank_zero_info(
                    f"quarantined {event['sample']}: {event['reason']} (position {event['position']}, "
                    f"{event['substitute']} in its place; {len(self.samples)} of at most {budget}){more}"
                )
        if len(self.samples) > budget:
            raise DataError(
                f"{len(self.samples)} training samples cannot be used, the last is {self.samples[-1]}: "
                f"{next(e['reason'] for e in reversed(events) if e['sample'] == self.samples[-1])}",
                where=path,
                expected=f"at most {budget}, which is data.max_quarantined",
                fix="mend the shards that the file lists, or raise data.max_quarantined",
            ).everywhere()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"samples": list(self.samples)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from a checkpoint."""
        self.samples = [str(sample) for sample in state_dict["samples"]]


def cut_from(path: Path, position: int) -> None:
    """Drop the lines of later positions, and a last line that was not written to its end: a resume takes them again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if int(json.loads(line)["position"]) < position:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
