"""Genre labels carried from one model to another corpus."""

from __future__ import annotations

import pytest
import torch

from macedance.errors import ConfigError
from macedance.pipelines.genres import is_unused, label_genres, relabel, unused_genre


def test_names_keep_their_labels() -> None:
    labels = label_genres(["krump", "house"], ["breaking", "house", "krump"])
    assert labels.names == ["breaking", "house", "krump"]
    assert relabel(torch.tensor([0, 1, 0]), labels.of_corpus).tolist() == [2, 1, 2]


def test_a_new_genre_takes_an_unused_label() -> None:
    labels = label_genres(["tango"], ["house", unused_genre(1)])
    assert labels.names == ["house", "tango"]
    assert labels.of_corpus == (1,)
    assert is_unused(unused_genre(3))


def test_a_genre_without_a_label_is_named() -> None:
    with pytest.raises(ConfigError, match="tango"):
        label_genres(["tango"], ["house"])


def test_a_corpus_without_genres_trains_the_first_label() -> None:
    assert label_genres([], ["house", "krump"]).of_corpus == (0,)
    assert label_genres(["a"], []).names == []
