"""Samples of a shard set by number, and the training windows that a global position stands for.

Shapes: B batch, T frames, J = 24 joints, C channels.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.streams.index import ShardIndex, build_index
from datamodules.streams.manifest import ShardSet
from datamodules.streams.order import GlobalOrder, crop_start
from datamodules.streams.samples import MotionSample, decode_sample, split_members
from macedance.errors import DataError

UNKNOWN_GENRE = "unknown"
_OPEN_SHARDS = 16


class ShardReader:
    """Reads stretches of shards by (shard, offset, size); keeps a few files open.

    Safe after a fork and in a spawned worker: `pread` shares no file position, and a copy opens its own files.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._open: OrderedDict[int, int] = OrderedDict()

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """`size` bytes of shard number `shard` from `offset`.

        Raises:
            DataError: The shard vanished or became shorter.
        """
        try:
            data = os.pread(self._descriptor(shard), size, offset)
        except OSError as error:
            raise DataError(f"shard cannot be read ({error.strerror})", where=self.files[shard]) from error
        if len(data) != size:
            raise DataError("shard became shorter", where=self.files[shard], fix="copy the shard again")
        return data

    def _descriptor(self, shard: int) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            if len(self._open) >= _OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
            self._open[shard] = os.open(self.files[shard], os.O_RDONLY)
        return self._open[shard]

    def close(self) -> None:
        """Close the files; they open again when needed."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "_open": OrderedDict()}

    def __del__(self) -> None:
        self.close()


class MotionSamples:
    """Decoded samples of one split by number, the most recent ones kept in memory.

    Args:
        shards: The split.
        cache_mb: Memory for decoded samples, in 2^20 bytes for each process; 0 keeps none.

    Raises:
        DataError: A shard cannot be indexed, or holds another number of samples than the manifest says.
    """

    def __init__(self, shards: ShardSet, *, cache_mb: float = 512.0) -> None:
        self.shards = shards
        self.index: ShardIndex = build_index(shards.files)
        counts = np.diff(self.index.starts_S1)
        for entry, count in zip(shards.info.shards, counts, strict=True):
            if entry.samples != count:
                raise DataError(
                    f"shard holds {count} samples", where=shards.folder / entry.file, expected=f"{entry.samples}"
                )
        self._reader = ShardReader(self.index.files)
        self._limit = int(cache_mb * 2**20)
        self._held: OrderedDict[int, MotionSample] = OrderedDict()
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> MotionSample:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        shard, offset, size = self.index.locate(number)
        where = self.index.where(number)
        members = split_members(self._reader.read(shard, offset, size), where)
        sample = decode_sample(members, self.index.key(number), where, self.shards.manifest.fps)
        self._held[number] = sample
        self._held_bytes += sample.nbytes
        while self._held_bytes > self._limit and self._held:
            self._held_bytes -= self._held.popitem(last=False)[1].nbytes
        return sample

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict(), "_held_bytes": 0}


class Row(TypedDict):
    """One row of a batch: a window of one clip, padded to the window's length."""

    poses: np.ndarray
    trans: np.ndarray
    music: np.ndarray
    genre: int
    mask: np.ndarray
    position: int
    key: str


class MotionBatch(TypedDict):
    """What a training or validation step gets.

    poses (B,T,24,3) float32 axis-angle; trans (B,T,3) float32 metres; music (B,T,35) float32; genre (B,) int64;
    mask (B,T) bool, False where a clip shorter than the window is padded; position (B,) int64 global sample
    numbers; keys.
    """

    poses: torch.Tensor
    trans: torch.Tensor
    music: torch.Tensor
    genre: torch.Tensor
    mask: torch.Tensor
    position: torch.Tensor
    keys: list[str]


def genre_label(genre: str | None, genres: Sequence[str], where: str) -> int:
    """Label of a genre in the manifest's list; 0 where no clip has one.

    Raises:
        DataError: A genre that the list lacks.
    """
    if not genres:
        return 0
    name = genre or UNKNOWN_GENRE
    if name not in genres:
        raise DataError(f"unknown genre {name!r}", where=where, expected=f"one of {', '.join(genres)}")
    return list(genres).index(name)


def cut_window(sample: MotionSample, start: int, length: int, genre: int, position: int) -> Row:
    """Frames [start, start + length) of a sample; past its end the last pose is held, music is zero, mask False."""
    stop = min(start + length, sample.motion.num_frames)
    missing = length - (stop - start)
    poses, trans = sample.motion.poses[start:stop], sample.motion.trans[start:stop]
    music, mask = sample.music_TC[start:stop], np.ones(length, dtype=bool)
    if missing:
        poses = np.concatenate([poses, np.repeat(poses[-1:], missing, axis=0)])
        trans = np.concatenate([trans, np.repeat(trans[-1:], missing, axis=0)])
        music = np.concatenate([music, np.zeros((missing, music.shape[1]), np.float32)])
        mask[length - missing :] = False
    return Row(poses=poses, trans=trans, music=music, genre=genre, mask=mask, position=position, key=sample.key)


def collate(rows: Sequence[Row]) -> MotionBatch:
    """Batch of rows, in their order."""
    return MotionBatch(
        poses=torch.from_numpy(np.stack([row["poses"] for row in rows])),
        trans=torch.from_numpy(np.stack([row["trans"] for row in rows])),
        music=torch.from_numpy(np.stack([row["music"] for row in rows])),
        genre=torch.tensor([row["genre"] for row in rows], dtype=torch.int64),
        mask=torch.from_numpy(np.stack([row["mask"] for row in rows])),
        position=torch.tensor([row["position"] for row in rows], dtype=torch.int64),
        keys=[row["key"] for row in rows],
    )


class TrainingWindows(Dataset[Row]):
    """Global position -> training window; the same row whoever asks, so ranks and workers do not matter.

    Args:
        samples: The training split.
        order: Which sample stands at which position.
        window_frames: Length of a window.
        genres: Names in label order.
    """

    def __init__(self, samples: MotionSamples, order: GlobalOrder, window_frames: int, genres: Sequence[str]) -> None:
        self.samples, self.order = samples, order
        self.window_frames, self.genres = window_frames, tuple(genres)

    def __getitem__(self, position: int) -> Row:
        number = self.order.sample_at(position)
        sample = self.samples[number]
        start = crop_start(self.order.seed, position, sample.motion.num_frames - self.window_frames + 1)
        genre = genre_label(sample.motion.genre, self.genres, self.samples.index.where(number))
        return cut_window(sample, start, self.window_frames, genre, position)


class ValidationWindows(Dataset[Row]):
    """The first window of each chosen clip, in order; every rank has equally many rows.

    Args:
        samples: The validation split.
        numbers: Which samples.
        window_frames: Length of a window.
        genres: Names in label order.
        rank: This rank, in [0, world_size).
        world_size: Number of ranks. Rank r has every world_size-th row from r; where the last ones are missing,
            the first clip stands with mask False and position -1, so that no rank waits for another.
    """

    def __init__(
        self,
        samples: MotionSamples,
        numbers: Sequence[int],
        window_frames: int,
        genres: Sequence[str],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.samples, self.window_frames, self.genres = samples, window_frames, tuple(genres)
        padded = [*enumerate(numbers), *[(-1, numbers[0])] * (-len(numbers) % world_size)]
        self.rows = padded[rank::world_size]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Row:
        position, number = self.rows[row]
        sample = self.samples[number]
        genre = genre_label(sample.motion.genre, self.genres, self.samples.index.where(number))
        window = cut_window(sample, 0, self.window_frames, genre, position)
        if position < 0:
            window["mask"] = np.zeros_like(window["mask"])
        return window
