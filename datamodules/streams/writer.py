"""The one writer of shard sets: whole corpora or nothing, the same bytes for the same clips.

Shapes: T frames, C channels.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

import macedance
from datamodules.streams.keys import check_key
from datamodules.streams.manifest import SPLITS, Manifest, ShardEntry, SplitInfo, load_manifest
from datamodules.streams.samples import (
    MUSIC_DIM,
    UNKNOWN_GENRE,
    ClipMeta,
    MotionSample,
    check_music,
    encode_members,
    genre_label,
)
from datamodules.streams.shard_file import ShardFile
from macedance.errors import DataError
from macedance.motion.files import Motion
from macedance.motion.normalizer import MinMaxNormalizer
from macedance.motion.representation import NAME, encode_motion


class _SplitWriter:
    """Shards of one split, one after another."""

    def __init__(self, folder: Path, clips_per_shard: int) -> None:
        self.folder, self.clips_per_shard = folder, clips_per_shard
        self.shards: list[ShardEntry] = []
        self.samples = self.frames = 0
        self.songs: dict[str, None] = {}
        self._file: ShardFile | None = None
        folder.mkdir()

    def add(self, sample: MotionSample) -> None:
        if self._file is None:
            self._file = ShardFile(self.folder, f"{len(self.shards):06d}.tar")
        self._file.add(sample.key, encode_members(sample))
        self.samples += 1
        self.frames += sample.motion.num_frames
        self.songs[sample.meta.song] = None
        if self._file.samples == self.clips_per_shard:
            self.close()

    def close(self) -> None:
        if self._file is not None:
            self.shards.append(self._file.finish())
            self._file = None

    def abandon(self) -> None:
        if self._file is not None:
            self._file.abandon()


class CorpusWriter:
    """Writes `DIR/{train,val,test}/*.tar`, `DIR/music/<song>.flac` and `DIR/manifest.json`.

    Everything is built in a hidden folder beside `out_dir` and renamed when complete: `out_dir` never holds half a
    corpus. Normalisers of motion and music are fitted on the train split as it streams by. Use as a context
    manager; an exception inside leaves nothing behind.

    Args:
        out_dir: Folder to make; it may exist only when empty.
        fps: Frames per second of every clip.
        seed: Seed that the corpus was made with; recorded.
        clips_per_shard: Samples of one tar file.
        split_by_song: Refuse a song whose clips lie in two splits.
        genres: Names in label order, where they are known beforehand; None lists those that occur, sorted.

    Raises:
        DataError: The folder holds something already or cannot be written; no training clip at the end.
    """

    def __init__(
        self,
        out_dir: str | Path,
        *,
        fps: float = 30.0,
        seed: int = 0,
        clips_per_shard: int = 32,
        split_by_song: bool = True,
        genres: Sequence[str] | None = None,
    ) -> None:
        self.out_dir = Path(out_dir).expanduser().absolute()
        self.fps, self.seed, self.clips_per_shard = float(fps), seed, clips_per_shard
        self.split_by_song = split_by_song
        self.genres = None if genres is None else tuple(genres)
        self.manifest: Manifest | None = None
        self._notes: list[str] = []
        self._absent: dict[str, str] = {}
        self._splits: dict[str, _SplitWriter] = {}
        self._keys: set[str] = set()
        self._genres: set[str | None] = set()
        self._song_splits: dict[str, str] = {}
        self._motion, self._music = MinMaxNormalizer(), MinMaxNormalizer()
        check_target(self.out_dir)
        self._work = self.out_dir.parent / f".{self.out_dir.name}.partial-{os.getpid()}-{secrets.token_hex(4)}"

    def __enter__(self) -> CorpusWriter:
        try:
            self.out_dir.parent.mkdir(parents=True, exist_ok=True)
            self._work.mkdir()
        except OSError as error:
            raise _unwritable(self.out_dir, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as fault:
            raise _unwritable(self.out_dir, fault) from fault
        finally:
            for split in self._splits.values():
                split.abandon()
            shutil.rmtree(self._work, ignore_errors=True)

    def add(self, split: str, key: str, motion: Motion, music_TC: np.ndarray, meta: ClipMeta) -> None:
        """Write one clip.

        Args:
            split: `train`, `val` or `test`.
            key: Unique over all splits, of [A-Za-z0-9_-].
            motion: The dance; its genre, source, licence and beats (seconds from the clip's start) are stored.
            music_TC: (T,35) float32 features, a row per frame.
            meta: Song, dancer, start in the song.

        Raises:
            DataError: A bad or repeated key, another fps, wrong lengths, a song in two splits, a full disk.
        """
        check_key(key)
        if split not in SPLITS:
            raise DataError(f"no split is called {split!r}", where=key, expected=f"one of {', '.join(SPLITS)}")
        if key in self._keys:
            raise DataError("two clips have one key", where=key, expected="unique keys")
        if abs(motion.fps - self.fps) > 1e-6:
            raise DataError(f"clip has {motion.fps} frames per second", where=key, expected=f"{self.fps}")
        if self.split_by_song and self._song_splits.setdefault(meta.song, split) != split:
            raise DataError(
                f"song {meta.song!r} is in {self._song_splits[meta.song]!r} already", where=key, expected="one split"
            )
        if self.genres is not None:
            genre_label(motion.genre, self.genres, key)
        music_TC = np.ascontiguousarray(music_TC, dtype=np.float32)
        check_music(music_TC, motion.num_frames, key)
        try:
            if split not in self._splits:
                self._splits[split] = _SplitWriter(self._work / split, self.clips_per_shard)
            self._splits[split].add(MotionSample(key, motion, music_TC, meta))
        except OSError as error:
            raise _unwritable(self.out_dir, error) from error
        self._keys.add(key)
        self._genres.add(motion.genre)
        if split == "train":
            poses, trans = torch.from_numpy(motion.poses), torch.from_numpy(motion.trans)
            self._motion.update(encode_motion(poses, trans, motion.fps))
            self._music.update(torch.from_numpy(music_TC))

    def music_path(self, song: str) -> Path:
        """Where to write a song's flac while the corpus is being built.

        Raises:
            DataError: The song's name cannot name a file.
        """
        check_key(song)
        folder = self._work / "music"
        folder.mkdir(exist_ok=True)
        return folder / f"{song}.flac"

    def note(self, text: str) -> None:
        """Record something that a reader of the manifest should know."""
        self._notes.append(text)

    def absent(self, split: str, reason: str) -> None:
        """Record why a split is empty."""
        self._absent[split] = reason

    def _genre_names(self) -> tuple[str, ...]:
        if self.genres is not None:
            return self.genres
        names = {genre for genre in self._genres if genre}
        if names and self._genres & {None, ""}:
            names.add(UNKNOWN_GENRE)
        return tuple(sorted(names))

    def _finish(self) -> None:
        if "train" not in self._splits:
            raise DataError("no training clips", where=self.out_dir, expected="at least one clip in split 'train'")
        for split in self._splits.values():
            split.close()
        ordered: Sequence[str] = [name for name in SPLITS if name in self._splits]
        manifest = Manifest(
            fps=self.fps,
            representation=NAME,
            genres=self._genre_names(),
            splits={
                name: SplitInfo(item.samples, item.frames, tuple(sorted(item.songs)), tuple(item.shards))
                for name, item in ((name, self._splits[name]) for name in ordered)
            },
            absent_splits={name: self._absent.get(name, "no clips") for name in SPLITS if name not in self._splits},
            normalizer={"motion": self._motion.to_dict(), "music": self._music.to_dict()},
            created_by=f"macedance {macedance.__version__}",
            seed=self.seed,
            notes=tuple(self._notes),
            music_dim=MUSIC_DIM,
        )
        manifest.save(self._work)
        check_target(self.out_dir)
        self._work.rename(self.out_dir)
        self.manifest = load_manifest(self.out_dir)


def check_target(out_dir: Path) -> None:
    """Refuse a target that holds something already.

    Raises:
        DataError: A file, or a folder that is not empty.
    """
    try:
        busy = out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir()))
    except OSError as error:
        raise _unwritable(out_dir, error) from error
    if busy:
        raise DataError(
            "the output folder exists and is not empty",
            where=out_dir,
            expected="a new or an empty folder",
            fix="choose another --out or remove it",
        )


def _unwritable(out_dir: Path, error: OSError) -> DataError:
    return DataError(
        f"the corpus cannot be written ({error.strerror or error})", where=out_dir, expected="a folder you may write"
    )
