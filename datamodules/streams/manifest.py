"""`manifest.json` of a corpus: what its shards hold, so that nothing is read on trust."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from macedance.errors import DataError
from macedance.motion.atomic import write_atomically

if TYPE_CHECKING:
    from macedance.motion.normalizer import MinMaxNormalizer

SCHEMA = 1
FORMAT = "macedance-motion-shards"
APPEARANCE_FORMAT = "macedance-appearance-shards"
FORMATS = (FORMAT, APPEARANCE_FORMAT)
MANIFEST_NAME = "manifest.json"
SPLITS = ("train", "val", "test")
MAKE_ONE = "write the corpus with `macedance data demo --out DIR` or `macedance data bvh --bvh DIR --out DIR`"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHARD_FILE = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9_-]+\.tar")


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
        format: What its samples are: motion with music, or videos of dancers (`APPEARANCE_FORMAT`), which have no
            representation, genres, normalisers and music.
        shapes: Of an appearance corpus: shard file -> (height, width, frames) of all of its clips, the frames being
            those of the shortest.
        details: Of an appearance corpus: what else its reader must know, as JSON holds it.
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
    format: str = FORMAT
    shapes: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
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
        from macedance.motion.normalizer import MinMaxNormalizer  # torch: not needed to say what a corpus holds

        motion, music = self.normalizer["motion"], self.normalizer["music"]
        return MinMaxNormalizer.from_dict(motion), MinMaxNormalizer.from_dict(music)

    def check_normalizers(self, where: str | Path) -> None:
        """Refuse a manifest whose normalisers cannot be used.

        Raises:
            DataError: They are missing or damaged, or the corpus holds no motion; `where` names the file.
        """
        if self.format != FORMAT:
            raise DataError("a corpus of videos, not of motion and music", where=where, expected=FORMAT, fix=MAKE_ONE)
        try:
            self.normalizers()
        except DataError as error:
            raise DataError(error.what, where=where, expected=error.expected, fix=error.fix) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _wrong_field(error, where) from error

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        motion = self.format == FORMAT
        head = {"representation": self.representation, "music_dim": self.music_dim}
        tail = {"normalizer": dict(self.normalizer)}
        if not motion:
            head, tail = {}, {"shapes": {k: list(v) for k, v in self.shapes.items()}, "details": dict(self.details)}
        return {
            "format": self.format,
            "schema": SCHEMA,
            "created_by": self.created_by,
            "seed": self.seed,
            "fps": self.fps,
            **head,
            "samples": self.num_samples,
            "frames": self.num_frames,
            **({"genres": list(self.genres)} if motion else {}),
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
            **tail,
        }

    def save(self, folder: Path) -> None:
        """Write `folder/manifest.json` through a temporary name."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        write_atomically(folder / MANIFEST_NAME, text.encode())


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
        raise no_manifest(path) from error
    manifest = parse_manifest(raw, path)
    manifest.check_normalizers(path)
    return manifest


def no_manifest(where: str | Path) -> DataError:
    """The error of a place that holds no corpus."""
    return DataError(
        "a shard set without manifest", where=where, expected=f"a folder with {MANIFEST_NAME}", fix=MAKE_ONE
    )


def parse_manifest(raw: bytes, where: str | Path) -> Manifest:
    """The manifest in a file's bytes; its normalisers are not looked into.

    Args:
        raw: Contents of `manifest.json`.
        where: The file, for messages.

    Raises:
        DataError: Not JSON, another schema, or a field of the wrong kind.
    """
    try:
        data = json.loads(raw)
    except ValueError as error:
        raise DataError(f"manifest is not JSON ({error})", where=where, expected="a manifest of schema 1") from error
    if not isinstance(data, dict) or data.get("format") not in FORMATS or data.get("schema") != SCHEMA:
        found = (data.get("format"), data.get("schema")) if isinstance(data, dict) else type(data).__name__
        raise DataError(
            f"manifest of another kind: format and schema are {found}",
            where=where,
            expected=f"{' or '.join(map(repr, FORMATS))} and {SCHEMA}",
            fix=MAKE_ONE,
        )
    try:
        return _parse(data, hashlib.sha256(raw).hexdigest())
    except DataError as error:
        raise DataError(error.what, where=where, expected=error.expected, fix=error.fix) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _wrong_field(error, where) from error


def _wrong_field(error: Exception, where: str | Path) -> DataError:
    return DataError(
        f"manifest lacks a field or holds the wrong kind of value: {type(error).__name__} {error}",
        where=where,
        expected="a manifest of schema 1",
        fix=MAKE_ONE,
    )


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
            if not _SHA256.fullmatch(shard.sha256):  # it names a file of the cache
                raise DataError(f"sha256 of {shard.file} is {shard.sha256[:80]!r}", expected="64 hex digits")
        if sum(shard.samples for shard in shards) != int(split["samples"]):
            raise DataError(f"samples of the shards of split {name!r} do not add up to {split['samples']}")
        splits[name] = SplitInfo(int(split["samples"]), int(split["frames"]), tuple(map(str, split["songs"])), shards)
    fps = float(data["fps"])
    if not fps > 0:
        raise DataError(f"fps is {fps}", expected="a positive number")
    motion = data["format"] == FORMAT
    return Manifest(
        fps=fps,
        representation=str(data["representation"]) if motion else "",
        genres=tuple(map(str, data["genres"])) if motion else (),
        splits=splits,
        absent_splits={str(name): str(why) for name, why in data["absent_splits"].items()},
        normalizer=dict(data["normalizer"]) if motion else {},
        created_by=str(data["created_by"]),
        seed=int(data["seed"]),
        notes=tuple(map(str, data["notes"])),
        music_dim=int(data["music_dim"]) if motion else 0,
        format=str(data["format"]),
        shapes={} if motion else _shapes(data["shapes"], splits),
        details={} if motion else dict(data["details"]),
        sha256=sha256,
    )


def _shapes(data: Mapping[str, Any], splits: Mapping[str, SplitInfo]) -> dict[str, tuple[int, int, int]]:
    """(height, width, frames) of the clips of every shard."""
    shapes = {}
    for shard in (shard for split in splits.values() for shard in split.shards):
        height, width, frames = (int(size) for size in data[shard.file])
        if min(height, width, frames) < 1:
            raise DataError(f"clips of {shard.file} have {frames} frames of {width} x {height} pixels")
        shapes[shard.file] = (height, width, frames)
    return shapes
