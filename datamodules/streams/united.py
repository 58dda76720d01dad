"""One manifest for several corpora: genres by name, normalisers over all, one identity."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from datamodules.streams.manifest import Manifest, SplitInfo
from macedance.errors import ConfigError, DataError


def unite(manifests: Sequence[Manifest], names: Sequence[str]) -> Manifest:
    """What several corpora hold together.

    Genres are those of the first corpus and then what the others add, so a label means one name; where some corpora
    have genres and others none, the latter count as unknown. A channel's range is the smallest that covers all
    corpora. The identity is the hash of all corpora's, in order. One manifest comes back as it is.

    Args:
        manifests: At least one.
        names: Their places, for messages.

    Raises:
        ConfigError: Another frame rate.
        DataError: Another representation or number of music channels.
    """
    first = manifests[0]
    if len(manifests) == 1:
        return first
    for manifest, name in zip(manifests, names, strict=True):
        if abs(manifest.fps - first.fps) > 1e-6:
            raise ConfigError(
                f"the sources of the mixture have {first.fps} and {manifest.fps} frames per second",
                where=name,
                expected="equal frame rates",
                fix="make the corpora anew at one rate",
            )
        if (manifest.representation, manifest.music_dim) != (first.representation, first.music_dim):
            raise DataError(
                f"the corpus holds {manifest.representation} and {manifest.music_dim} music channels",
                where=name,
                expected=f"{first.representation} and {first.music_dim} as in {names[0]}",
            )
    splits = dict.fromkeys(split for manifest in manifests for split in manifest.splits)
    return Manifest(
        fps=first.fps,
        representation=first.representation,
        genres=_genres(manifests),
        splits={split: _split(manifests, split) for split in splits},
        absent_splits={split: why for m in manifests for split, why in m.absent_splits.items() if split not in splits},
        normalizer={kind: _ranges([manifest.normalizer[kind] for manifest in manifests]) for kind in first.normalizer},
        created_by=first.created_by,
        seed=first.seed,
        notes=tuple(dict.fromkeys(note for manifest in manifests for note in manifest.notes)),
        music_dim=first.music_dim,
        format=first.format,
        sha256=hashlib.sha256("\n".join(manifest.sha256 for manifest in manifests).encode()).hexdigest(),
    )


def _genres(manifests: Sequence[Manifest]) -> tuple[str, ...]:
    from datamodules.streams.samples import UNKNOWN_GENRE

    names = dict.fromkeys(genre for manifest in manifests for genre in manifest.genres)
    if names and not all(manifest.genres for manifest in manifests):
        names[UNKNOWN_GENRE] = None
    return tuple(names)


def _split(manifests: Sequence[Manifest], name: str) -> SplitInfo:
    parts = [manifest.splits[name] for manifest in manifests if name in manifest.splits]
    return SplitInfo(
        samples=sum(part.samples for part in parts),
        frames=sum(part.frames for part in parts),
        songs=tuple(sorted({song for part in parts for song in part.songs})),
        shards=tuple(shard for part in parts for shard in part.shards),
    )


def _ranges(values: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The statistics of several normalisers together; `check_normalizers` has looked at each."""
    fitted = [value for value in values if value["count"]]
    if not fitted:
        return dict(values[0])
    if len({value["channels"] for value in fitted}) > 1:
        raise DataError("the normalisers of the mixture's sources have different numbers of channels")
    return {
        **fitted[0],
        "count": sum(value["count"] for value in fitted),
        "min": [min(channel) for channel in zip(*(value["min"] for value in fitted), strict=True)],
        "max": [max(channel) for channel in zip(*(value["max"] for value in fitted), strict=True)],
    }
