"""Corpora of clips of dancers: the writer of their shards, and the toy corpus made by code."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import macedance
from datamodules.processes import in_order
from datamodules.streams.keys import check_key
from datamodules.streams.manifest import (
    APPEARANCE_FORMAT,
    MANIFEST_NAME,
    SPLITS,
    Manifest,
    ShardEntry,
    SplitInfo,
    no_manifest,
    parse_manifest,
)
from datamodules.streams.shard_file import ShardFile
from datamodules.streams.writer import check_target
from macedance.appearance_data.samples import ClipFacts, check_facts, raw_clip
from macedance.appearance_data.toy.corpus import PlannedDance, ToySettings, make_clips, plan_toy_corpus
from macedance.errors import DataError
from macedance.rendering.pose_parts import parts_read, parts_united

Progress = Callable[[int, int], None]
Shape = tuple[int, int, int]


class AppearanceWriter:
    """Writes `DIR/{train,val,test}/*.tar` and `DIR/manifest.json`; a shard holds clips of one picture size.

    Everything is built in a hidden folder beside `out_dir` and renamed when complete. Use as a context manager; an
    exception inside leaves nothing behind.

    Args:
        out_dir: Folder to make; it may exist only when empty.
        fps: Frames per second of every clip.
        seed: Seed that the corpus was made with; recorded.
        clips_per_shard: Clips of one tar file.
        split_by_song: Refuse a song or a person whose clips lie in two splits; clips without a name are let be.
        details: What else the manifest is to say; `pose_parts`, what the pose drawings show, is added where it is known
            of every clip.

    Raises:
        DataError: The folder holds something already or cannot be written; no training clip at the end.
    """

    def __init__(
        self,
        out_dir: str | Path,
        *,
        fps: float,
        seed: int = 0,
        clips_per_shard: int = 64,
        split_by_song: bool = True,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.out_dir = Path(out_dir).expanduser().absolute()
        self.fps, self.seed, self.clips_per_shard, self.split_by_song = float(fps), seed, clips_per_shard, split_by_song
        self.details = dict(details or {})
        self.manifest: Manifest | None = None
        self._notes: list[str] = []
        self._keys: set[str] = set()
        self._splits: dict[str, _Split] = {}
        self._owners: dict[tuple[str, str], str] = {}
        self._pose_parts: set[tuple[str, ...] | None] = set()
        check_target(self.out_dir)
        self._work = self.out_dir.parent / f".{self.out_dir.name}.partial-{os.getpid()}-{secrets.token_hex(4)}"

    def __enter__(self) -> AppearanceWriter:
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

    def add(self, split: str, key: str, facts: ClipFacts, members: Mapping[str, bytes]) -> None:
        """Write one clip.

        Args:
            split: `train`, `val` or `test`.
            key: Unique over all splits, of [A-Za-z0-9_-].
            facts: Its facts.
            members: Of `macedance.appearance_data.samples.raw_members`.

        Raises:
            DataError: A bad or repeated key, another fps, a song or person in two splits, members that are no clip, a
                full disk.
        """
        check_key(key)
        check_facts(facts, key)
        if split not in SPLITS:
            raise DataError(f"no split is called {split!r}", where=key, expected=f"one of {', '.join(SPLITS)}")
        if key in self._keys:
            raise DataError("two clips have one key", where=key, expected="unique keys")
        if abs(facts.fps - self.fps) > 1e-6:
            raise DataError(f"clip has {facts.fps} frames per second", where=key, expected=f"{self.fps}")
        for what, name in (("song", facts.song), ("person", facts.person)):
            if self.split_by_song and name and self._owners.setdefault((what, name), split) != split:
                raise DataError(
                    f"{what} {name!r} is in {self._owners[what, name]!r} already", where=key, expected="one split"
                )
        parts = raw_clip(members, key, key).pose_parts
        try:
            if split not in self._splits:
                self._splits[split] = _Split(self._work / split, self.clips_per_shard)
            self._splits[split].add(key, facts, members)
        except OSError as error:
            raise _unwritable(self.out_dir, error) from error
        self._keys.add(key)
        self._pose_parts.add(parts)

    def note(self, text: str) -> None:
        """Record something that a reader of the manifest should know."""
        self._notes.append(text)

    def _finish(self) -> None:
        if "train" not in self._splits:
            raise DataError("no training clips", where=self.out_dir, expected="at least one clip in split 'train'")
        for split in self._splits.values():
            split.close()
        infos = {name: self._splits[name].info() for name in SPLITS if name in self._splits}
        shapes = {file: shape for split in self._splits.values() for file, shape in split.shapes.items()}
        parts = parts_united(self._pose_parts)
        details = {**({} if parts is None else {"pose_parts": list(parts)}), **self.details}
        manifest = appearance_manifest(infos, shapes, self.fps, self.seed, tuple(self._notes), details)
        manifest.save(self._work)
        check_target(self.out_dir)
        self._work.rename(self.out_dir)
        self.manifest = load_appearance_manifest(self.out_dir)


class _Split:
    """Shards of one split: one open for each picture size."""

    def __init__(self, folder: Path, clips_per_shard: int) -> None:
        self.folder, self.clips_per_shard = folder, clips_per_shard
        self.shards: list[ShardEntry] = []
        self.shapes: dict[str, Shape] = {}
        self.frames = 0
        self.songs: dict[str, None] = {}
        self._open: dict[tuple[int, int], tuple[ShardFile, int]] = {}
        self._made = 0
        folder.mkdir()

    def add(self, key: str, facts: ClipFacts, members: Mapping[str, bytes]) -> None:
        size = facts.height, facts.width
        if size not in self._open:
            name = f"{facts.width}x{facts.height}-{self._made:06d}.tar"
            self._made += 1
            self._open[size] = (ShardFile(self.folder, name), facts.frames)
        file, shortest = self._open[size]
        file.add(key, members)
        self._open[size] = file, min(shortest, facts.frames)
        self.frames += facts.frames
        self.songs[facts.song] = None
        if file.samples == self.clips_per_shard:
            self._close(size)

    def _close(self, size: tuple[int, int]) -> None:
        file, shortest = self._open.pop(size)
        entry = file.finish()
        self.shards.append(entry)
        self.shapes[entry.file] = (*size, shortest)

    def close(self) -> None:
        for size in list(self._open):
            self._close(size)

    def info(self) -> SplitInfo:
        """The split's entry of the manifest."""
        samples = sum(shard.samples for shard in self.shards)
        return SplitInfo(samples, self.frames, tuple(sorted(self.songs)), tuple(self.shards))

    def abandon(self) -> None:
        for file, _ in self._open.values():
            file.abandon()


def appearance_manifest(
    splits: Mapping[str, SplitInfo],
    shapes: Mapping[str, Shape],
    fps: float,
    seed: int,
    notes: Sequence[str] = (),
    details: Mapping[str, Any] | None = None,
    absent: Mapping[str, str] | None = None,
) -> Manifest:
    """The manifest of a corpus of clips of dancers."""
    why = absent or {}
    return Manifest(
        fps=fps,
        representation="",
        genres=(),
        splits=splits,
        absent_splits={name: why.get(name, "no clips") for name in SPLITS if name not in splits},
        normalizer={},
        created_by=f"macedance {macedance.__version__}",
        seed=seed,
        notes=tuple(notes),
        music_dim=0,
        format=APPEARANCE_FORMAT,
        shapes=shapes,
        details=dict(details or {}),
    )


def load_appearance_manifest(folder: str | Path) -> Manifest:
    """The manifest of a corpus of clips of dancers.

    Raises:
        DataError: None, not a manifest, or a corpus of another kind.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise no_manifest(path) from error
    manifest = parse_manifest(raw, path)
    if manifest.format != APPEARANCE_FORMAT:
        raise not_appearance(path)
    return manifest


def manifest_parts(manifest: Manifest, where: str | Path) -> tuple[str, ...] | None:
    """What the pose drawings of a corpus show, of POSE_PARTS; None: the manifest does not say.

    Raises:
        DataError: It says something else.
    """
    try:
        return parts_read(manifest.details.get("pose_parts"))
    except ValueError as error:
        raise DataError(str(error), where=f"{where}/{MANIFEST_NAME}") from error


def not_appearance(where: str | Path) -> DataError:
    """The error of a corpus that holds no videos."""
    return DataError(
        "a corpus of motion and music, not of videos",
        where=where,
        expected=APPEARANCE_FORMAT,
        fix="write it with `macedance data appearance-demo --out DIR`",
    )


def _unwritable(out_dir: Path, error: OSError) -> DataError:
    return DataError(
        f"the corpus cannot be written ({error.strerror or error})", where=out_dir, expected="a folder you may write"
    )


# ---------------------------------------------------------------- the toy corpus
def build_toy_corpus(
    out_dir: str | Path, settings: ToySettings | None = None, workers: int = 1, progress: Progress | None = None
) -> Manifest:
    """Make the toy corpus: people of many builds and clothes who dance before textured rooms, drawn by code.

    Args:
        out_dir: New or empty folder.
        settings: Sizes, counts, domain and seed.
        workers: Processes that draw; the bytes do not depend on them.
        progress: Called with (clips written, clips in all).

    Raises:
        DataError: The folder is not empty or cannot be written.
    """
    settings = settings or ToySettings()
    plan = plan_toy_corpus(settings)
    total, done = sum(dance.clips for dance in plan), 0
    details = {"domain": "shifted" if settings.shifted else "toy", "clip_frames": settings.frames}
    with AppearanceWriter(out_dir, fps=settings.fps, seed=settings.seed, details=details) as writer:
        for dance, clips in zip(plan, in_order(partial(_make, settings=settings), plan, workers), strict=True):
            for key, facts, members in clips:
                writer.add(dance.split, key, facts, members)
                done += 1
                if progress is not None:
                    progress(done, total)
    assert writer.manifest is not None
    return writer.manifest


_Clips = list[tuple[str, ClipFacts, dict[str, bytes]]]


def _make(dance: PlannedDance, settings: ToySettings) -> _Clips:
    return list(make_clips(dance, settings))
