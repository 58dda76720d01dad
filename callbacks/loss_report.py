"""What each term of the loss weighs at the start, said once and kept."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from callbacks.run_files import MetricsCsv, find_callback


class LossReport(pl.Callback):
    """After the first batch: each term's share of the loss to the user and into ``metrics_val.csv`` (``init/...``)."""

    def __init__(self) -> None:
        self._done = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report once, where the module's losses measured themselves."""
        if self._done:
            return
        self._done = True
        losses: Any = getattr(pl_module, "losses", None)
        report = losses.rebalance_report() if hasattr(losses, "rebalance_report") else None
        if not report:
            return
        shares = ", ".join(f"{name} {entry['share']:.2%}" for name, entry in report.items())
        rank_zero_info(f"loss at the start: {shares}")
        for name, entry in report.items():
            if entry["raised"]:
                rank_zero_info(
                    f"the loss term {name} was below its smallest share: its weight is raised from "
                    f"{entry['weight_before']:.4g} to {entry['weight']:.4g}"
                )
        csv_file = find_callback(trainer, MetricsCsv)
        if csv_file is not None:
            values = {f"init/{name}_share": entry["share"] for name, entry in report.items()}
            values |= {f"init/{name}_weight": entry["weight"] for name, entry in report.items()}
            csv_file.write_validation(trainer.global_step, values)
