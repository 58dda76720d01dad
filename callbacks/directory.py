"""Training ends when its run directory was given to another job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from macedance.errors import MaceDanceError


class OwnDirectory(pl.Callback):
    """Asks before every step and every checkpoint whether the directory's lock is still ours.

    A job that was suspended for over a minute is taken for dead, and another may have gone on from its checkpoint: two
    that write into one directory would destroy each other's.

    Args:
        lost: Whether the lock is another job's; asked on the first rank, which holds it.
    """

    def __init__(self, lost: Callable[[], bool]) -> None:
        self._lost = lost

    def _check(self, trainer: pl.Trainer) -> None:
        if self._lost():
            raise MaceDanceError(
                "another job took over this run's directory while this one was silent",
                where=trainer.default_root_dir,
                fix="let the other one go on; this one has written nothing since",
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before a step.

        Raises:
            MaceDanceError: The directory is another job's.
        """
        self._check(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Before a checkpoint is written.

        Raises:
            MaceDanceError: The directory is another job's.
        """
        self._check(trainer)
