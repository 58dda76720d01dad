"""`macedance data encode`: a corpus of videos as a corpus of latents, shard by shard, resumable and shared out.

Every shard of the source becomes one shard of the same name, written whole or not at all, with a note of what it holds.
The manifest is written once all shards are there, by whichever process ends last.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.appearance_clips import AppearanceSamples
from datamodules.appearance_corpora import appearance_manifest, manifest_parts, not_appearance
from datamodules.streams.locks import exclusive
from datamodules.streams.manifest import APPEARANCE_FORMAT, MANIFEST_NAME, Manifest, ShardEntry, SplitInfo
from datamodules.streams.shard_file import ShardFile
from datamodules.streams.shards import ShardSet, open_shards
from datamodules.streams.writer import check_target
from macedance.appearance_data.encoding import (
    PixelWindow,
    encode_blank,
    encode_empty_text,
    encode_windows,
    encoded_info,
    pixel_windows,
)
from macedance.appearance_data.latents import EMPTY_TEXT_NAME, ENCODED_NAME, EncodedInfo, blank_name
from macedance.appearance_data.samples import RawClip
from macedance.appearance_data.windows import (
    ALL_COVERING,
    MAX_UPSCALE,
    Bucket,
    nearest_bucket,
    why_no_bucket,
    window_starts,
)
from macedance.errors import ConfigError, DataError, TransportError
from macedance.models.appearance_expert.encoders import AppearanceEncoders
from macedance.motion.atomic import write_atomically
from macedance.rendering.pose_parts import parts_united

_NOTES = ".encoding"
_LOCK = ".encoding.lock"
_MAX_SAID = 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class EncodeSettings:
    """How a corpus is encoded.

    Args:
        frames: Of a window; longer clips give several, which may overlap (`window_starts`).
        known_frames: Frames at a window's beginning that its `known` shows.
        buckets: Sizes to bring the clips to; empty: their own.
        precision: Of the tensors, `bfloat16` or `float32`.
        batch: Windows that are encoded together.
        max_references: At most so many references of a window; None: all.
        max_faulty: Clips that cannot be read before the run fails.
        windows: At most so many windows of a clip, evenly spread; None: as few as cover it.
        max_upscale: Clips that would have to be enlarged by more are left out.
        part: Which part of how many, (0, 1) for all.

    Raises:
        ConfigError: A number out of range.
    """

    frames: int
    known_frames: int = 1
    buckets: tuple[Bucket, ...] = ()
    precision: str = "bfloat16"
    batch: int = 1
    max_references: int | None = None
    max_faulty: int = 16
    part: tuple[int, int] = (0, 1)
    windows: int | None = None
    max_upscale: float = MAX_UPSCALE

    def __post_init__(self) -> None:
        references = 1 if self.max_references is None else self.max_references
        for name, value, least in (
            ("frames", self.frames, 1), ("known-frames", self.known_frames, 0), ("batch", self.batch, 1),
            ("max-references", references, 1), ("max-faulty", self.max_faulty, 0),
            ("windows", 1 if self.windows is None else self.windows, 1),
        ):  # fmt: skip
            if value < least:
                raise ConfigError(f"--{name} is {value}", expected=f"{least} or more")
        if not 0 < self.max_upscale < math.inf:
            raise ConfigError(f"--max-upscale is {self.max_upscale}", expected="a number above 0")
        number, count = self.part
        if not 0 <= number < count:
            raise ConfigError(f"part {number + 1} of {count}", where="--part", expected="I/N with I from 1 to N")


@dataclass
class EncodeReport:
    """What a run did.

    Attributes:
        shards: Source shards of this run's part; ``done_before`` of them were there already.
        done_before: See there.
        samples: Windows in this part's shards.
        left_out: Clips of this part that gave none, by name, with the reason.
        missing: Shards of the whole corpus that are not encoded yet; 0: the corpus is complete.
        info: How the latents were made.
        pose_parts: What the pose drawings show, of POSE_PARTS; None: it is not known.
    """

    info: EncodedInfo
    shards: int = 0
    done_before: int = 0
    samples: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    pose_parts: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Task:
    """One shard of the source."""

    split: str
    number: int
    entry: ShardEntry
    shape: tuple[int, int, int]

    @property
    def name(self) -> str:
        """Of the file, which the encoded shard has too."""
        return Path(self.entry.file).name


def encode_corpus(
    shards: str | Path,
    out_dir: str | Path,
    encoders: AppearanceEncoders,
    settings: EncodeSettings,
    progress: Progress | None = None,
) -> EncodeReport:
    """Encode a corpus, or this run's part of it; what is there already is left as it is.

    Args:
        shards: The corpus of videos, a path or URL; all of its splits are encoded.
        out_dir: Folder of the latents: new, empty, or begun by an earlier run of the same request.
        encoders: On the device to compute on.
        settings: See there.
        progress: Called with (clips read, clips of this part).

    Raises:
        DataError: No such corpus, one of latents, a folder of something else, too many faulty clips, a full disk.
        ConfigError: Sizes that do not come out even.
    """
    source = open_shards(shards, check=False)
    if source.manifest.format != APPEARANCE_FORMAT or "encoded" in source.manifest.details:
        if source.manifest.format == APPEARANCE_FORMAT:
            raise DataError("the corpus holds latents already", where=str(source.folder), expected="a corpus of videos")
        raise not_appearance(str(source.folder))
    out = Path(out_dir).expanduser().absolute()
    tasks = _tasks(source.manifest)
    buckets = _buckets(tasks, settings)
    info = encoded_info(
        encoders,
        settings.frames,
        settings.known_frames,
        sorted(set(buckets.values()), key=str),
        settings.precision,
        settings.windows,
        settings.max_upscale,
    )
    _claim(out, info, source.manifest)
    _write_blanks(out, encoders, info, set(buckets.values()))
    number, count = settings.part
    mine = tasks[number::count]
    report = EncodeReport(info, shards=len(mine))
    faulty = 0
    notes = []
    done, total = 0, sum(task.entry.samples for task in mine)
    samples: dict[str, AppearanceSamples] = {}
    for task in mine:
        note = _note(out, task)
        if note is None:
            if task.split not in samples:
                split = ShardSet(source.folder, task.split, source.manifest)
                samples[task.split] = AppearanceSamples(split, None, cache_mb=0)
            clips = _Clips(samples[task.split], task, progress, done, total)
            note = _encode_shard(out, clips, encoders, info, buckets.get(task.shape[:2]), settings)
        else:
            report.done_before += 1
            if progress is not None:
                progress(done + task.entry.samples, total)
        done += task.entry.samples
        notes.append(note)
        report.samples += 0 if note["entry"] is None else int(note["entry"]["samples"])
        report.left_out |= note["left_out"]
        faulty += len(note["faulty"])
        if faulty > settings.max_faulty:
            last = list(note["faulty"])[-1]
            raise DataError(
                f"{faulty} clips cannot be read, the last is {last}: {note['left_out'][last]}",
                where=out / _NOTES,
                expected=f"at most {settings.max_faulty}, which is --max-faulty",
                fix="mend the clips, or raise --max-faulty",
            )
    report.pose_parts = _pose_parts(source.manifest, notes)
    report.missing = _finish(out, source.manifest, tasks, info)
    return report


def _tasks(manifest: Manifest) -> list[_Task]:
    return [
        _Task(split, number, entry, manifest.shapes[entry.file])
        for split, its in manifest.splits.items()
        for number, entry in enumerate(its.shards)
    ]


def _buckets(tasks: Sequence[_Task], settings: EncodeSettings) -> dict[tuple[int, int], Bucket]:
    """The bucket of each picture size; sizes that belong to none are not in it."""
    found = {}
    for height, width in {task.shape[:2] for task in tasks}:
        own = Bucket(height, width)
        bucket = nearest_bucket(height, width, settings.buckets, settings.max_upscale) if settings.buckets else own
        if bucket is not None:
            found[height, width] = bucket
    if not found:
        raise ConfigError(
            f"no clip fits into a bucket: {why_no_bucket(settings.max_upscale)}",
            where="--size",
            expected="sizes like the corpus's",
        )
    return found


def _claim(out: Path, info: EncodedInfo, source: Manifest) -> None:
    """Begin the folder, or see that it was begun by the same request.

    Raises:
        DataError: It holds something else, or cannot be written.
    """
    claim = {**info.to_dict(), "source_sha256": source.sha256}
    path = out / ENCODED_NAME
    with _locked(out):
        if path.is_file():
            try:
                before = json.loads(path.read_bytes())
            except (OSError, ValueError) as error:
                raise DataError(f"it cannot be told what the folder holds ({error})", where=path) from error
            asked, begun = _whole(claim), _whole(before) if isinstance(before, dict) else {}
            if isinstance(before, dict) and "compute_dtype" not in before:  # an earlier version's, which did not say
                begun["compute_dtype"] = asked["compute_dtype"]
            if begun != asked:
                other = sorted(key for key in asked if begun.get(key) != asked[key])
                raise DataError(
                    f"the folder holds latents that were made otherwise: {', '.join(other)} differ",
                    where=out,
                    expected="the same corpus, model and options as in the run that began it",
                    fix="choose another --out or remove it",
                )
            return
        leftover = [entry for entry in out.iterdir() if entry.name != _LOCK]
        if leftover:
            check_target(out)
        write_atomically(path, (json.dumps(claim, indent=1) + "\n").encode())


def _whole(claim: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder was begun with; of what an earlier version did not say, the default."""
    computed = {name: dtype for name, dtype in dict(claim.get("compute_dtype") or {}).items() if dtype != "float32"}
    defaults = {"windows": ALL_COVERING, "max_upscale": MAX_UPSCALE}
    return {**defaults, **claim, "compute_dtype": computed}


def _locked(out: Path) -> Any:
    try:
        return exclusive(out / _LOCK)
    except OSError as error:
        raise DataError(f"the folder cannot be written ({error.strerror})", where=out) from error


def _write_blanks(out: Path, encoders: AppearanceEncoders, info: EncodedInfo, buckets: set[Bucket]) -> None:
    for bucket in buckets:
        path = out / blank_name(bucket.height, bucket.width, info.frames)
        if not path.is_file():
            write_atomically(path, encode_blank(encoders, bucket, info))
    if not (out / EMPTY_TEXT_NAME).is_file():
        write_atomically(out / EMPTY_TEXT_NAME, encode_empty_text(encoders, info))


def _note_path(out: Path, task: _Task) -> Path:
    return out / _NOTES / f"{task.split}-{Path(task.name).stem}.json"


def _note(out: Path, task: _Task) -> dict[str, Any] | None:
    """What is known of a shard that is encoded already; None where it must be encoded."""
    try:
        note: dict[str, Any] = json.loads(_note_path(out, task).read_bytes())
        if note["source"] != task.entry.sha256:
            return None
        entry = note["entry"]
        if entry is not None and (out / entry["file"]).stat().st_size != entry["bytes"]:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return note


class _Clips:
    """The clips of one shard, one after the other; a clip that cannot be read is its error."""

    def __init__(
        self, samples: AppearanceSamples, task: _Task, progress: Progress | None, done: int, total: int
    ) -> None:
        self._samples, self.task = samples, task
        self._progress, self._done, self._total = progress, done, total

    def __iter__(self) -> Iterator[tuple[str, RawClip | DataError]]:
        starts = self._samples.index.starts_S1
        first, stop = int(starts[self.task.number]), int(starts[self.task.number + 1])
        for number in range(first, stop):
            key = self._samples.index.key(number)
            try:
                clip = self._samples[number]
                assert isinstance(clip, RawClip)  # opened without latents
                yield key, clip
            except TransportError:
                raise
            except DataError as error:
                yield key, error
            if self._progress is not None:
                self._progress(self._done + number - first + 1, self._total)


def _encode_shard(
    out: Path,
    clips: _Clips,
    encoders: AppearanceEncoders,
    info: EncodedInfo,
    bucket: Bucket | None,
    settings: EncodeSettings,
) -> dict[str, Any]:
    """Encode one shard, write it with its note, and give the note."""
    task = clips.task
    left_out: dict[str, str] = {}
    faulty: list[str] = []
    songs: dict[str, None] = {}
    parts: set[tuple[str, ...] | None] = set()
    waiting: list[PixelWindow] = []
    (out / task.split).mkdir(parents=True, exist_ok=True)
    file = ShardFile(out / task.split, task.name)

    def write() -> None:
        for window, members in zip(waiting, encode_windows(encoders, waiting, info), strict=True):
            file.add(window.key, members)
        waiting.clear()

    try:
        for key, clip in clips:
            try:
                if isinstance(clip, DataError):
                    raise clip
                windows = _windows(clip, bucket, info, settings, left_out)
            except TransportError:
                raise
            except DataError as error:
                left_out[key] = error.what
                faulty.append(key)
                continue
            if windows:
                parts.add(clip.pose_parts)
            for window in windows:
                songs[clip.facts.song] = None
                waiting.append(window)
                if len(waiting) == settings.batch:
                    write()
        if waiting:
            write()
        entry = file.finish() if file.samples else None
        if entry is None:
            file.abandon()
    except BaseException:
        file.abandon()
        raise
    note = {
        "source": task.entry.sha256,
        "entry": None if entry is None else vars(entry),
        "shape": None if bucket is None else [bucket.height, bucket.width, info.frames],
        "songs": sorted(songs),
        "pose_parts": parts_united(parts),
        "left_out": left_out,
        "faulty": faulty,
    }
    write_atomically(_note_path(out, task), (json.dumps(note) + "\n").encode())
    return note


def _windows(
    clip: RawClip, bucket: Bucket | None, info: EncodedInfo, settings: EncodeSettings, left_out: dict[str, str]
) -> list[PixelWindow]:
    """The windows of a clip; one that gives none is left out with the reason."""
    if bucket is None:
        why = why_no_bucket(info.max_upscale)
        left_out[clip.key] = f"{clip.facts.width} x {clip.facts.height} pixels belong to no bucket: {why}"
        return []
    starts = window_starts(clip.facts.frames, info.frames, clip.facts.reference_frames, info.windows)
    if not starts:
        left_out[clip.key] = f"{clip.facts.frames} frames, fewer than a window of {info.frames}"
        return []
    return pixel_windows(clip, starts, bucket, info.frames, settings.max_references)


def _pose_parts(source: Manifest, notes: Iterable[Mapping[str, Any]]) -> tuple[str, ...] | None:
    """What the pose drawings show: as the corpus says, else as its clips showed that were encoded."""
    told = manifest_parts(source, "the corpus")
    if told is not None:
        return told
    return parts_united(note.get("pose_parts") for note in notes if note["entry"] is not None)


def _finish(out: Path, source: Manifest, tasks: Sequence[_Task], info: EncodedInfo) -> int:
    """Write the manifest once every shard is there; how many are missing."""
    with _locked(out):
        found = [(task, _note(out, task)) for task in tasks]
        missing = sum(note is None for _, note in found)
        if missing or (out / MANIFEST_NAME).is_file():
            return missing
        notes = {task: note for task, note in found if note is not None}
        splits = dict[str, SplitInfo]()
        shapes, left_out = dict[str, tuple[int, int, int]](), dict[str, str]()
        for split in source.splits:
            own = [note for task, note in notes.items() if task.split == split]
            written = [note for note in own if note["entry"] is not None]
            entries = tuple(ShardEntry(**note["entry"]) for note in written)
            samples = sum(entry.samples for entry in entries)
            songs = tuple(sorted({song for note in own for song in note["songs"]}))
            left_out |= {key: why for note in own for key, why in note["left_out"].items()}
            if entries:
                splits[split] = SplitInfo(samples, samples * info.frames, songs, entries)
                shapes |= {note["entry"]["file"]: _three(note["shape"]) for note in written}
        if "train" not in splits:
            raise DataError("no training clip gives a window", where=out, expected="clips of at least one window")
        said = [f"{key}: {why}" for key, why in left_out.items()]
        texts = list(source.notes)
        if said:
            more = f" and {len(said) - _MAX_SAID} more" if len(said) > _MAX_SAID else ""
            texts.append(f"{len(said)} clips give no window: {'; '.join(said[:_MAX_SAID])}{more}")
        details = {**source.details, "encoded": info.to_dict(), "source_sha256": source.sha256}
        parts = _pose_parts(source, notes.values())
        if parts is not None:
            details["pose_parts"] = list(parts)
        manifest = appearance_manifest(splits, shapes, source.fps, source.seed, texts, details, source.absent_splits)
        manifest.save(out)
    return 0


def _three(shape: Sequence[int]) -> tuple[int, int, int]:
    height, width, frames = (int(side) for side in shape)
    return height, width, frames
