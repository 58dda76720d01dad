"""Genre accuracy through any classifier, and distances of text and motion embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from synthetic import random_clips

from macedance.errors import DataError
from macedance.metrics.functional.multimodal import genre_hits, multimodal_distance
from macedance.metrics.genre import GenreAccuracy


def clips_of(genres: Sequence[str | None]) -> list[Any]:
    return [replace(clip, genre=genre) for clip, genre in zip(random_clips(len(genres)), genres, strict=True)]


def always_house(clips: Sequence[Any]) -> list[str]:
    return ["house"] * len(clips)


def test_accuracy_counts_each_clip_once_and_leaves_out_those_without_a_genre() -> None:
    metric = GenreAccuracy(always_house)
    clips = clips_of(["house", "krump", "house", None])
    metric.update(clips, ids=[3, 1, 2, 0])
    metric.update(clips[:1], ids=[3])
    metric.update([], ids=[])
    expected = {"value": pytest.approx(2 / 3), "n": 3, "left_out": 1, "reason": "no genre was asked for"}
    assert metric.compute() == expected
    many = GenreAccuracy(always_house, resamples=200)
    many.update(clips_of(["house", "krump"] * 30), ids=range(60))
    low, high = many.compute()["ci95"]
    assert 0.3 < low < 0.5 < high < 0.7


def test_nothing_and_wrong_numbers() -> None:
    metric = GenreAccuracy(always_house)
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute() == {"value": None, "n": 0, "reason": "no clips"}
    with pytest.raises(DataError, match="1 ids for 2 clips"):
        metric.update(clips_of(["a", "b"]), ids=[0])
    with pytest.raises(DataError, match="1 classified genres for 2 clips"):
        genre_hits(["a"], ["a", "b"])


def test_text_distance_is_that_of_the_own_motion() -> None:
    text = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    motion = text + torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0]])
    assert multimodal_distance(text, motion).tolist() == [5.0, 0.0, 2.0]
    assert multimodal_distance(text, motion).mean() < multimodal_distance(text, motion.roll(1, 0)).mean()
    for bad in (motion[:2], motion * float("nan")):
        with pytest.raises(DataError):
            multimodal_distance(text, bad)
