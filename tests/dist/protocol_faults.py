"""The tests' own callback: dancing fails on the rank that MACEDANCE_TEST_LAME_RANK names."""

from __future__ import annotations

import os
from typing import Any

import pytorch_lightning as pl

from macedance.errors import DataError
from macedance.pipelines.music_to_motion import MusicToMotion


class Lame(pl.Callback):
    """Breaks one rank's dances, and nothing else of it."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if str(trainer.global_rank) != os.environ.get("MACEDANCE_TEST_LAME_RANK"):
            return

        def broken(*args: Any, **kwargs: Any) -> Any:
            raise DataError("the music has a hole", where="clip-7", expected="music", fix="mend it")

        MusicToMotion.generate_batch = broken  # type: ignore[method-assign]
