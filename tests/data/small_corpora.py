"""Small corpora of synthetic motion; its own module because every room has a `conftest`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.streams.samples import ClipMeta
from datamodules.streams.writer import CorpusWriter
from macedance.motion.files import Motion

GENRES = ("house", "waack")


def clip_motion(number: int, frames: int, genre: str | None = "house") -> Motion:
    """A smooth motion whose trans x is `number` + frame / 1000, so that tests can tell frames apart."""
    rng = np.random.default_rng(number)
    time = np.arange(frames)[:, None, None] / 30.0
    poses = 0.3 * np.sin(2 * np.pi * (time + rng.random((1, 24, 3))))
    trans = np.stack([number + np.arange(frames) / 1000.0, np.ones(frames), np.zeros(frames)], axis=1)
    return Motion(poses, trans, 30.0, genre=genre, music_beats_s=np.arange(0, frames / 30, 0.5), licence="CC0")


def clip_music(number: int, frames: int) -> np.ndarray:
    """Features whose first channel is the frame number."""
    music = np.random.default_rng(1000 + number).random((frames, 35)).astype(np.float32)
    music[:, 0] = np.arange(frames)
    return music


def write_corpus(
    folder: Path, train: int = 23, val: int = 5, test: int = 3, clips_per_shard: int = 4, genres: bool = True
) -> Path:
    """A corpus of clips of 20 to 44 frames; clip n of a split is `<split>-<n>`."""
    with CorpusWriter(folder, clips_per_shard=clips_per_shard, seed=3) as writer:
        number = 0
        for split, count in (("train", train), ("val", val), ("test", test)):
            for _ in range(count):
                frames = 20 + 7 * number % 25
                genre = GENRES[number % 2] if genres else None
                meta = ClipMeta(f"{split}-song-{number // 2}", f"dancer-{number % 3}", start_s=number / 2)
                writer.add(
                    split, f"{split}-{number:03d}", clip_motion(number, frames, genre), clip_music(number, frames), meta
                )
                number += 1
    return folder
