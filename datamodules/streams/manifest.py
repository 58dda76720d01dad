"""`manifest.json` of a corpus: what its shards hold, so that nothing is read on trust."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from macedance.errors import DataError
from macedance.motion.normalizer import MinMaxNormalizer

SCHEMA = 1
FORMAT = "macedance-motion-shards"
MANIFEST_NAME = "manifest.json"
SPLITS = ("train", "val", "test")
MAKE_ONE = "write the corpus with `macedance data demo --out DIR` or `macedance data bvh --bvh DIR --out DIR`"

_SHARD_FILE = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9_-]+\.tar")
_MAX_LISTED = 20


@dataclass(frozen=True)
class ShardEntry:
    """One tar file: `file` relative to the corpus folder, its samples, bytes and sha256 (hex)."""

    file: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitInfo:
    """One split: samples, frames in total, the songs that it was cut from and its shards in writing order."""

    samples: int
    frames: int
    songs: tuple[str, ...]
    shards: tuple[ShardEntry, ...]


@dataclass(frozen=True)
class Manifest:
    """Contents of `manifest.json`, schema 1.

    Args:
        fps: Frames per second of every clip.
        representation: Name of the 151-d representation that the motion normaliser was fitted on.
        genres: Names in label order; empty when no clip has a genre.
        splits: Split name -> its shards.
        absent_splits: Split name -> why it is empty.
        normalizer: `{"motion": dict, "music": dict}` of `MinMaxNormalizer.to_dict`, fitted on the train split.
        created_by: Program and version that wrote the corpus.
        seed: Seed that it was made with.
        notes: What a reader should know: merged, padded or counted things.
        music_dim: Channels of `music.npy`.
        sha256: Hash of the file's bytes; not stored in the file.
    """

    fps: float
    representation: str
    genres: tuple[str, ...]
    splits: Mapping[str, SplitInfo]
    absent_splits: Mapping[str, str]
    normalizer: Mapping[str, Any]
    created_by: str
    seed: int
    notes: tuple[str, ...] = ()
    music_dim: int = 35
    sha256: str = field(default="", compare=False)

    @property
    def num_samples(self) -> int:
        """Samples of all splits."""
        return sum(split.samples for split in self.splits.values())

    @property
    def num_frames(self) -> int:
        """Frames of all splits."""
        return sum(split.frames for split in self.splits.values())

    def normalizers(self) -> tuple[MinMaxNormalizer, MinMaxNormalizer]:
        """New normalisers of motion (151 channels) and music (35 channels)."""
        return MinMaxNormalizer.from_dict(self.normalizer["motion"]), MinMaxNormalizer.from_dict(
            self.normalizer["music"]
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "format": FORMAT,
            "schema": SCHEMA,
            "created_by": self.created_by,
            "seed": self.seed,
            "fps": self.fps,
            "representation": self.representation,
            "music_dim": self.music_dim,
            "samples": self.num_samples,
            "frames": self.num_frames,
            "genres": list(self.genres),
            "splits": {
                name: {
                    "samples": split.samples,
                    "frames": split.frames,
                    "songs": list(split.songs),
                    "shards": [vars(shard) for shard in split.shards],
                }
                for name, split in self.splits.items()
            },
            "absent_splits": dict(self.absent_splits),
            "notes": list(self.notes),
            "normalizer": dict(self.normalizer),
        }

    def save(self, folder: Path) -> None:
        """Write `folder/manifest.json` through a temporary name."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        temporary = folder / f".{MANIFEST_NAME}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / MANIFEST_NAME)


@dataclass(frozen=True)
class ShardSet:
    """One split of a corpus on disk.

    Args:
        folder: The corpus folder that holds `manifest.json`.
        split: Split name, a key of `manifest.splits`.
        manifest: The parsed manifest.
    """

    folder: Path
    split: str
    manifest: Manifest

    @property
    def info(self) -> SplitInfo:
        """The split's entry of the manifest."""
        return self.manifest.splits[self.split]

    @property
    def files(self) -> list[Path]:
        """Paths of the shards, in the manifest's order."""
        return [self.folder / shard.file for shard in self.info.shards]

    def check_files(self, *, verify: bool = False) -> None:
        """Compare every shard with the manifest.

        Args:
            verify: Also read every byte and compare sha256.

        Raises:
            DataError: Some shard is missing or differs; one error lists all of them.
        """
        faults = []
        for shard, path in zip(self.info.shards, self.files, strict=True):
            fault = _shard_fault(shard, path, verify)
            if fault is not None:
                faults.append(fault)
        if faults:
            more = "" if len(faults) <= _MAX_LISTED else f", and {len(faults) - _MAX_LISTED} more"
            raise DataError(
                f"{len(faults)} of {len(self.info.shards)} shards cannot be used: "
                + ", ".join(faults[:_MAX_LISTED])
                + more,
                where=self.folder,
                expected="the files as manifest.json lists them",
                fix="copy the corpus again or make it anew",
            )


def _shard_fault(shard: ShardEntry, path: Path, verify: bool) -> str | None:
    """What is wrong with one shard, or None."""
    try:
        size = path.stat().st_size
    except OSError:
        return f"{shard.file} is missing"
    if size != shard.bytes:
        return f"{shard.file} has {size} bytes, not {shard.bytes}"
    if verify and file_sha256(path) != shard.sha256:
        return f"{shard.file} has another sha256"
    return None


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_manifest(path: str | Path) -> Manifest:
    """Read `manifest.json`.

    Args:
        path: The file itself or the corpus folder.

    Raises:
        DataError: Missing, not JSON, another schema, or a field of the wrong kind.
    """
    path = Path(path)
    if path.is_dir():
        path = path / MANIFEST_NAME
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            "a shard set without manifest", where=path, expected=f"a folder with {MANIFEST_NAME}", fix=MAKE_ONE
        ) from error
    try:
        data = json.loads(raw)
    except ValueError as error:
        raise DataError(f"manifest is not JSON ({error})", where=path, expected="a manifest of schema 1") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("schema") != SCHEMA:
        found = (data.get("format"), data.get("schema")) if isinstance(data, dict) else type(data).__name__
        raise DataError(
            f"manifest of another kind: format and schema are {found}",
            where=path,
            expected=f"{FORMAT!r} and {SCHEMA}",
            fix=MAKE_ONE,
        )
    try:
        manifest = _parse(data, hashlib.sha256(raw).hexdigest())
        manifest.normalizers()
    except DataError as error:
        raise DataError(error.what, where=path, expected=error.expected, fix=error.fix) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"manifest lacks a field or holds the wrong kind of value: {type(error).__name__} {error}",
            where=path,
            expected="a manifest of schema 1",
            fix=MAKE_ONE,
        ) from error
    return manifest


def _parse(data: dict[str, Any], sha256: str) -> Manifest:
    """Manifest of a JSON object of schema 1."""
    splits = {}
    for name, split in data["splits"].items():
        shards = tuple(
            ShardEntry(str(item["file"]), int(item["samples"]), int(item["bytes"]), str(item["sha256"]))
            for item in split["shards"]
        )
        for shard in shards:
            if not _SHARD_FILE.fullmatch(shard.file):
                raise DataError(f"shard name {shard.file!r} leaves the corpus folder", expected="SPLIT/NAME.tar")
        if sum(shard.samples for shard in shards) != int(split["samples"]):
            raise DataError(f"samples of the shards of split {name!r} do not add up to {split['samples']}")
        splits[name] = SplitInfo(int(split["samples"]), int(split["frames"]), tuple(map(str, split["songs"])), shards)
    fps = float(data["fps"])
    if not fps > 0:
        raise DataError(f"fps is {fps}", expected="a positive number")
    return Manifest(
        fps=fps,
        representation=str(data["representation"]),
        genres=tuple(map(str, data["genres"])),
        splits=splits,
        absent_splits={str(name): str(why) for name, why in data["absent_splits"].items()},
        normalizer=dict(data["normalizer"]),
        created_by=str(data["created_by"]),
        seed=int(data["seed"]),
        notes=tuple(map(str, data["notes"])),
        music_dim=int(data["music_dim"]),
        sha256=sha256,
    )


def open_shards(path: str | Path, *, split: str | None = None, verify: bool = False) -> ShardSet:
    """Find a split of a corpus and check its files against the manifest.

    Args:
        path: The corpus folder, or one split's folder in it.
        split: Split of the corpus; None means `train` for a corpus folder and that split for a split's folder.
        verify: Also compare every shard's sha256 (reads every byte).

    Raises:
        DataError: No manifest, split absent, shards missing or changed (all listed in one error).
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(
            "no such folder of shards", where=folder, expected="a corpus or one of its splits", fix=MAKE_ONE
        )
    if not (folder / MANIFEST_NAME).is_file() and (folder.resolve().parent / MANIFEST_NAME).is_file():
        folder, split = folder.resolve().parent, split or folder.resolve().name
    manifest = load_manifest(folder)
    split = split or "train"
    if split not in manifest.splits:
        reason = manifest.absent_splits.get(split, "the manifest does not name it")
        raise DataError(
            f"the corpus has no {split!r} split ({reason})", where=folder, expected=f"one of {sorted(manifest.splits)}"
        )
    shards = ShardSet(folder, split, manifest)
    shards.check_files(verify=verify)
    return shards
