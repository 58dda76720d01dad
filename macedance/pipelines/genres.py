"""Genre labels: names of a network's labels, those without a name, and labels carried from one corpus to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from macedance.errors import ConfigError

_UNUSED = "unused-"


def unused_genre(label: int) -> str:
    """The name of a label that no genre was trained under."""
    return f"{_UNUSED}{label}"


def is_unused(name: str) -> bool:
    """Whether a label was never trained."""
    return name.startswith(_UNUSED)


@dataclass(frozen=True)
class GenreLabels:
    """Names of a network's labels, and the label of each genre of a corpus (of all its clips, where it names none)."""

    names: list[str]
    of_corpus: tuple[int, ...]


def label_genres(corpus: Sequence[str], model: Sequence[str]) -> GenreLabels:
    """Labels of a corpus under a model that has labels already: the same name, or one that was never trained.

    Args:
        corpus: Genre names of the corpus, in the order of its own labels; empty where it has none.
        model: Names of the model's labels; empty where the network takes none.

    Raises:
        ConfigError: A genre without a label, and no unused label left.
    """
    names = list(model)
    if not names:
        return GenreLabels([], ())
    missing = [genre for genre in corpus if genre not in names]
    free = [label for label, name in enumerate(names) if is_unused(name)]
    if len(missing) > len(free):
        raise ConfigError(
            f"the corpus has genres that the model to start from has no label for: {', '.join(missing)}",
            where="init_from",
            expected=f"some of {', '.join(name for name in names if not is_unused(name))}",
            fix="name the corpus's genres as the model does",
        )
    for label, genre in zip(free, missing, strict=False):
        names[label] = genre
    return GenreLabels(names, tuple(names.index(genre) for genre in corpus) or (0,))


def relabel(genre_B: Tensor, labels: Sequence[int]) -> Tensor:
    """The network's labels of a batch of the corpus's labels (B,), int64."""
    return torch.tensor(labels, dtype=genre_B.dtype, device=genre_B.device)[genre_B]
