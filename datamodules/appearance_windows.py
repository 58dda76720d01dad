"""Rows and batches of clips of dancers, as pixels or as latents.

Shapes: B batch, T frames, H rows, W columns, z latent channels, t latent frames, h, w latent rows and columns, R
references.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from datamodules.appearance_clips import Clips, Size
from datamodules.streams.bucket_order import BucketOrder, SameBucket
from datamodules.streams.order import crop_start, keyed_bits
from datamodules.streams.quarantine import substitute
from macedance.appearance_data.encoding import signed_pixels
from macedance.appearance_data.latents import EncodedClip
from macedance.appearance_data.samples import RawClip
from macedance.appearance_data.windows import Bucket, Window, read_window, reference_choices
from macedance.errors import DataError, MaceDanceError, TransportError
from macedance.models.appearance_expert.conditions import face_frames

_REFERENCE = 9  # stream of random numbers beside those of the order
#: What a batch holds that is no tensor of one row each.
_SHARED = ("known_frames", "blank", "empty_text")
_LISTS = ("prompt", "keys")
Row = dict[str, Any]
Batch = dict[str, Any]


def reference_number(seed: int, position: int, count: int) -> int:
    """Which of `count` references the sample at a global position is shown."""
    if count <= 1:
        return 0
    return int(keyed_bits(1, seed, _REFERENCE, position)[0] % np.uint64(count))


class _Rows(Dataset[Row]):
    """Fetches whole batches and returns our errors as values, as the motion loader's windows do.

    Attributes:
        empty_text: Embedding (N, D) of the empty prompt, which the batches of latents hold where there is one.
    """

    empty_text: Tensor | None = None

    def __init__(
        self, clips: Clips, blanks: Mapping[Size, Tensor], known_frames: int, seed: int, face_size: int | None = None
    ) -> None:
        self.clips, self.blanks, self.known_frames, self.seed = clips, dict(blanks), known_frames, seed
        self.face_size = face_size

    def __getitem__(self, number: Any) -> Row:
        raise NotImplementedError

    def __getitems__(self, numbers: Sequence[Any]) -> list[Row] | MaceDanceError:
        try:
            return [self[number] for number in numbers]
        except MaceDanceError as error:
            return error

    def _size(self, number: int) -> Size:
        size = self.clips.size(number)
        assert size is not None  # orders and lists of held-out clips leave such clips out
        return size

    def _encoded(self, sample: EncodedClip, number: int, position: int, choice: int) -> Row:
        row: Row = {name: sample[name] for name in ("latents", "pose", "known", "text")}
        row["reference"] = sample["references"][choice]
        if "image" in sample:
            row["image"] = sample["image"][choice]
        row["blank"] = self.blanks[self._size(number)]
        row["known_frames"] = self.known_frames
        if self.empty_text is not None:
            row["empty_text"] = self.empty_text
        if sample.face is not None and self.face_size is not None:
            shown = face_frames(self._size(number).frames, sample["latents"].shape[1]).tolist()
            row["face"] = signed_pixels(sample.face.pictures(shown, self.face_size))
        return row | {"position": position, "keys": self.clips.key(number), "quarantined": None}

    def _raw(self, clip: RawClip, number: int, position: int, window: Window) -> Row:
        row: Row = {
            "video": signed_pixels(window.video_THW3),
            "pose_video": signed_pixels(window.pose_THW3),
            "reference_image": signed_pixels(window.reference_HW3),
            "prompt": clip.facts.prompt,
        }
        if window.mask_THW is not None:
            row["mask"] = torch.from_numpy(window.mask_THW).float()
        if window.face_TSS3 is not None:
            row["face_video"] = signed_pixels(window.face_TSS3)
        return row | {"position": position, "keys": self.clips.key(number), "quarantined": None}


class TrainingClips(_Rows):
    """Global position -> training row; the same row whoever asks, so ranks and workers do not matter.

    Args:
        clips: The training split.
        order: Which clip stands at which position.
        blanks: Latents of an unknown clip of each size; empty for videos.
        known_frames: Of the latents.
        random_windows: Windows of a video begin anywhere, drawn by (seed, position); else at its first frame.
        substitute_faulty: Fill the place of a clip that cannot be used with the next one of its size that can, and
            record it in the batch; otherwise it is an error.
        face_size: Pixels of one side of the face videos; None: they are left out.
    """

    def __init__(
        self,
        clips: Clips,
        order: BucketOrder,
        blanks: Mapping[Size, Tensor],
        known_frames: int = 0,
        random_windows: bool = True,
        substitute_faulty: bool = False,
        face_size: int | None = None,
    ) -> None:
        super().__init__(clips, blanks, known_frames, order.seed, face_size)
        self.order, self.random_windows, self.substitute_faulty = order, random_windows, substitute_faulty
        self._announced = -1

    def __getitem__(self, position: int) -> Row:
        self._announce(position)
        number = self.order.sample_at(position)
        try:
            return self._row(number, position)
        except TransportError:
            raise  # nothing is wrong with the clip
        except DataError as error:
            if not self.substitute_faulty:
                raise
            same = SameBucket(self.order, position)
            row, event = substitute(self.clips, same, position, error, lambda other: self._row(other, position))
            row["quarantined"] = event
            return row

    def _row(self, number: int, position: int) -> Row:
        sample = self.clips[number]
        if not isinstance(sample, RawClip):
            choice = reference_number(self.seed, position, len(sample["references"]))
            return self._encoded(sample, number, position, choice)
        size = self._size(number)
        starts = sample.facts.frames - size.frames + 1
        start = crop_start(self.seed, position, starts) if self.random_windows else 0
        choices = reference_choices(sample.facts, start, size.frames)
        reference = choices[reference_number(self.seed, position, len(choices))] if choices else None
        bucket = Bucket(size.height, size.width)
        window = read_window(sample, start, bucket, size.frames, reference, self.face_size)
        return self._raw(sample, number, position, window)

    def _announce(self, position: int) -> None:
        """Say, a few times in each shuffle window, which shards this window and the next one need."""
        window = self.order.shuffle_window
        part = position // max(window // 4, 1)
        if part != self._announced and self.clips.is_remote:
            self._announced = part
            soon = range(position, position + 2 * window, max(window // 256, 1))
            self.clips.want([self.order.sample_at(later) for later in soon])


class HeldOutClips(_Rows):
    """The first window of each held-out clip with its last reference; a row is (number of the clip, position).

    A row of position -1 stands where a rank has no clip left, and does not count.
    """

    def __getitem__(self, row: tuple[int, int]) -> Row:
        number, position = row
        sample = self.clips[number]
        if not isinstance(sample, RawClip):
            return self._encoded(sample, number, position, len(sample["references"]) - 1)
        size = self._size(number)
        choices = reference_choices(sample.facts, 0, size.frames)
        bucket, reference = Bucket(size.height, size.width), choices[-1] if choices else None
        window = read_window(sample, 0, bucket, size.frames, reference, self.face_size)
        return self._raw(sample, number, position, window)


class HeldOutBatches(Sampler[list[tuple[int, int]]]):
    """One rank's batches of held-out clips: of one size each, and equally many on every rank.

    Args:
        clips: The split.
        numbers: Which clips, in order; those that belong to no bucket are left out.
        batch_size: Clips of one batch.
        rank: This rank, in [0, world_size): it has every world_size-th clip of a size from its own number on.
        world_size: Number of ranks.
    """

    def __init__(
        self, clips: Clips, numbers: Sequence[int], batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        by_size: dict[Size, list[tuple[int, int]]] = {}
        for position, number in enumerate(numbers):
            size = clips.size(number)
            if size is not None:
                by_size.setdefault(size, []).append((number, position))
        self.batches: list[list[tuple[int, int]]] = []
        for rows in by_size.values():
            mine = [*rows, *[(rows[0][0], -1)] * (-len(rows) % world_size)][rank::world_size]
            self.batches += [mine[first : first + batch_size] for first in range(0, len(mine), batch_size)]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _with_faces(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows of which all have a face video where one has: a blank one, all -1, stands for none."""
    for name in ("face", "face_video"):
        shown = next((row[name] for row in rows if name in row), None)
        if shown is not None:
            rows = [row if name in row else {**row, name: torch.full_like(shown, -1.0)} for row in rows]
    return rows


def collate(rows: Sequence[Row] | MaceDanceError) -> Batch | MaceDanceError:
    """Batch of rows of one size, in their order; an error passes through.

    Raises:
        DataError: Rows whose tensors do not lie side by side: texts or pictures of several lengths.
    """
    if isinstance(rows, MaceDanceError):
        return rows
    batch: Batch = {"quarantined": [row["quarantined"] for row in rows if row["quarantined"] is not None]}
    rows = _with_faces(rows)
    for name, value in rows[0].items():
        if name == "quarantined":
            continue
        if name in _LISTS:
            batch[name] = [row[name] for row in rows]
        elif name == "position":
            batch[name] = torch.tensor([row[name] for row in rows], dtype=torch.int64)
        elif name in ("blank", "empty_text"):
            batch[name] = value.expand(len(rows), *value.shape)
        elif name in _SHARED:
            batch[name] = value
        elif all(name in row for row in rows):
            shapes = {tuple(row[name].shape) for row in rows}
            if len(shapes) > 1:
                return DataError(
                    f"{name} has shapes {sorted(shapes)} in one batch",
                    where=", ".join(row["keys"] for row in rows),
                    expected="one shape",
                    fix="encode the corpus again",
                )
            batch[name] = torch.stack([row[name] for row in rows])
    return batch
