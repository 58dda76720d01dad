"""Training and validation windows, their batches, and the loader that hands them out.

Shapes: B batch, T frames, J = 24 joints, C channels.
"""

from __future__ import annotations

import atexit
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any, TypedDict

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.streams.dataset import Samples
from datamodules.streams.order import SampleOrder, crop_start
from datamodules.streams.quarantine import Quarantined, substitute
from datamodules.streams.samples import UNKNOWN_GENRE, MotionSample, genre_label
from macedance.errors import DataError, MaceDanceError, TransportError


class Row(TypedDict):
    """One row of a batch: a window of one clip, padded to the window's length."""

    poses: np.ndarray
    trans: np.ndarray
    music: np.ndarray
    genre: int
    mask: np.ndarray
    position: int
    key: str
    quarantined: Quarantined | None


class MotionBatch(TypedDict):
    """What a training or validation step gets.

    poses (B,T,24,3) float32 axis-angle; trans (B,T,3) float32 metres; music (B,T,35) float32; genre (B,) int64;
    mask (B,T) bool, False where a clip shorter than the window is padded; position (B,) int64 global sample
    numbers; keys; quarantined: what stands in another sample's place.
    """

    poses: torch.Tensor
    trans: torch.Tensor
    music: torch.Tensor
    genre: torch.Tensor
    mask: torch.Tensor
    position: torch.Tensor
    keys: list[str]
    quarantined: list[Quarantined]


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
    return Row(
        poses=poses,
        trans=trans,
        music=music,
        genre=genre,
        mask=mask,
        position=position,
        key=sample.key,
        quarantined=None,
    )


def collate(rows: Sequence[Row] | MaceDanceError) -> MotionBatch | MaceDanceError:
    """Batch of rows, in their order; an error passes through."""
    if isinstance(rows, MaceDanceError):
        return rows
    return MotionBatch(
        poses=torch.from_numpy(np.stack([row["poses"] for row in rows])),
        trans=torch.from_numpy(np.stack([row["trans"] for row in rows])),
        music=torch.from_numpy(np.stack([row["music"] for row in rows])),
        genre=torch.tensor([row["genre"] for row in rows], dtype=torch.int64),
        mask=torch.from_numpy(np.stack([row["mask"] for row in rows])),
        position=torch.tensor([row["position"] for row in rows], dtype=torch.int64),
        keys=[row["key"] for row in rows],
        quarantined=[row["quarantined"] for row in rows if row["quarantined"] is not None],
    )


class _Windows(Dataset[Row]):
    """Fetches whole batches and returns our errors as values.

    torch would rebuild an error of a worker from its traceback's text, pages of it; as a value it arrives as it was
    raised, and `MotionLoader` raises it in the trainer's process.
    """

    def __getitem__(self, number: int) -> Row:
        raise NotImplementedError

    def __getitems__(self, numbers: Sequence[int]) -> list[Row] | MaceDanceError:
        try:
            return [self[number] for number in numbers]
        except MaceDanceError as error:
            return error


class TrainingWindows(_Windows):
    """Global position -> training window; the same row whoever asks, so ranks and workers do not matter.

    Args:
        samples: The training split.
        order: Which sample stands at which position.
        window_frames: Length of a window.
        genres: Names in label order.
        substitute_faulty: Fill the place of a sample that cannot be used with the next one that can, and record it
            in the batch; otherwise it is an error.
    """

    def __init__(
        self,
        samples: Samples,
        order: SampleOrder,
        window_frames: int,
        genres: Sequence[str],
        substitute_faulty: bool = False,
    ) -> None:
        self.samples, self.order = samples, order
        self.window_frames, self.genres = window_frames, tuple(genres)
        self.substitute_faulty = substitute_faulty
        self._labels = {name: label for label, name in enumerate(self.genres)}
        self._announced = -1

    def __getitem__(self, position: int) -> Row:
        self._announce(position)
        number = self.order.sample_at(position)
        try:
            return self._row(number, position)
        except TransportError:
            raise  # nothing is wrong with the sample
        except DataError as error:
            if not self.substitute_faulty:
                raise
            row, event = substitute(self.samples, self.order, position, error, lambda other: self._row(other, position))
            row["quarantined"] = event
            return row

    def _row(self, number: int, position: int) -> Row:
        """The window at a position, cut from sample `number`."""
        sample = self.samples[number]
        start = crop_start(self.order.seed, position, sample.motion.num_frames - self.window_frames + 1)
        genre = self._labels.get(sample.motion.genre or UNKNOWN_GENRE)
        if genre is None:
            genre = genre_label(sample.motion.genre, self.genres, self.samples.where(number))
        return cut_window(sample, start, self.window_frames, genre, position)

    def _announce(self, position: int) -> None:
        """Say, a few times in each shuffle window, which shards this window and the next one need."""
        window = self.order.shuffle_window
        part = position // max(window // 4, 1)
        if part != self._announced and self.samples.is_remote:
            self._announced = part
            soon = range(position, position + 2 * window, max(window // 256, 1))
            self.samples.want([self.order.sample_at(later) for later in soon])


class ValidationWindows(_Windows):
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
        samples: Samples,
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
        genre = genre_label(sample.motion.genre, self.genres, self.samples.where(number))
        window = cut_window(sample, 0, self.window_frames, genre, position)
        if position < 0:
            window["mask"] = np.zeros_like(window["mask"])
        return window


class MotionLoader(DataLoader[Row]):
    """A DataLoader of windows that ignores the scheduler's signals in its workers and raises our errors as they were.

    Args:
        windows: What to load.
        num_workers: Loader processes.
        pin_memory: Copy batches to pinned memory, for a GPU.
        seed: Seed of the loader's own generator: making an iterator must not draw from the one that dropout uses.
        collate: Makes a batch of rows; an error passes through.
        options: `batch_sampler`, or `batch_size`.
    """

    def __init__(
        self,
        windows: Dataset[Any],
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 0,
        collate: Callable[[Any], Any] = collate,
        **options: Any,
    ) -> None:
        super().__init__(
            windows,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=_ignore_signals if num_workers else None,
            collate_fn=collate,
            generator=torch.Generator().manual_seed(seed),
            **options,
        )
        self._guarded: object | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        if self.num_workers and batches is not self._guarded:
            self._guarded = batches
            atexit.register(_stop_workers, weakref.ref(batches), tuple(getattr(batches, "_workers", ())))
        for batch in batches:
            if isinstance(batch, MaceDanceError):
                self.stop_workers()
                raise batch
            yield batch

    def stop_workers(self) -> None:
        """Stop the loader processes; the next iterator starts new ones."""
        if self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._iterator = None
        self._guarded = None


def _stop_workers(batches: weakref.ref[Any], workers: Sequence[BaseProcess]) -> None:
    """End of the program: stop the workers that are left.

    multiprocessing would send them SIGTERM, which they ignore, and wait for ever.
    """
    iterator = batches()
    if iterator is not None:
        iterator._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def _ignore_signals(worker: int) -> None:
    """Start of a loader worker: a scheduler signals every process, and only the trainer may answer."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
