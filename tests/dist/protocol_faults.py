"""The tests' own callback: something fails on the rank that MACEDANCE_TEST_LAME_RANK names."""

from __future__ import annotations

import os
from typing import Any, Literal

import pytorch_lightning as pl

from macedance.errors import DataError
from macedance.metrics.honest.person_motion import VideoMotion
from macedance.pipelines.music_to_motion import MusicToMotion
from tests.callbacks.flat_dancer import FlatDancer

#: What fails -> whose method does it.
_BROKEN: dict[str, tuple[type, str]] = {
    "dancing": (MusicToMotion, "generate_batch"),
    "rendering": (FlatDancer, "render"),
    "judging": (VideoMotion, "scorer"),
}


class Lame(pl.Callback):
    """Breaks one thing on one rank, and nothing else of it.

    Args:
        what: The thing.
    """

    def __init__(self, what: Literal["dancing", "rendering", "judging"] = "dancing") -> None:
        self.what = what

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if str(trainer.global_rank) != os.environ.get("MACEDANCE_TEST_LAME_RANK"):
            return

        def broken(*args: Any, **kwargs: Any) -> Any:
            raise DataError("the music has a hole", where="clip-7", expected="music", fix="mend it")

        kind, method = _BROKEN[self.what]
        setattr(kind, method, broken)
