"""Whether a dance is recognised as the genre that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from macedance.errors import DataError
from macedance.metrics.conventions import Clip
from macedance.metrics.functional.multimodal import genre_hits
from macedance.metrics.gathered import GatheredMetric, first_of_each
from macedance.metrics.statistics import Entry, bootstrap_mean


class GenreClassifier(Protocol):
    """Names the genre of each clip; trained elsewhere, on real dances."""

    def __call__(self, clips: Sequence[Clip], /) -> Sequence[str]:
        """The genre of each of the clips, in their order."""


class GenreAccuracy(GatheredMetric):
    """Share of the dances that a classifier takes for the genre that they were asked to be.

    Args:
        classifier: Names genres; its own accuracy on real dances is the ceiling, so state it beside the result.
        resamples: Resamples of the 95% bootstrap interval; 0: none.
        seed: Of the resampling.
        kwargs: As torchmetrics.Metric.

    Right on any number of ranks, with uneven shares, ranks without a clip and padded duplicates.
    """

    ids: list[Tensor]
    hits: list[Tensor]

    def __init__(self, classifier: GenreClassifier, *, resamples: int = 0, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classifier = classifier
        self.resamples, self.seed = resamples, seed
        self.add_rows("ids", dtype=torch.int64)
        self.add_rows("hits", dtype=torch.float64)

    def update(self, clips: Sequence[Clip], ids: Sequence[int]) -> None:
        """Classify clips; ``genre`` of each is what was asked for.

        Args:
            clips: Generated dances.
            ids: Integer of each, unique over all ranks; a second clip of the same id is ignored.

        Raises:
            DataError: As many ids, or classified genres, as clips are not given.
        """
        clips = list(clips)
        if len(ids) != len(clips):
            raise DataError(f"{len(ids)} ids for {len(clips)} clips", expected="one id for each clip")
        if not clips:
            return
        self.append_rows("hits", genre_hits(self.classifier(clips), [clip.genre for clip in clips]))
        self.append_rows("ids", np.array([int(i) for i in ids], dtype=np.int64))

    def compute(self) -> Entry:
        """``value`` in [0, 1], ``n``; ``left_out`` counts clips without a genre."""
        hits = self.rows_of("hits")[first_of_each(self.rows_of("ids"))]
        known = hits[~np.isnan(hits)]
        entry: Entry = {"value": float(known.mean()) if known.size else None, "n": int(known.size)}
        if known.size < hits.size or not hits.size:
            missing = int(hits.size - known.size)
            entry |= {"left_out": missing, "reason": "no genre was asked for"} if missing else {"reason": "no clips"}
        interval = bootstrap_mean(known, resamples=self.resamples, seed=self.seed) if self.resamples else None
        return entry if interval is None else entry | {"ci95": list(interval)}
