"""Whole corpora from their sources: the built-in one and folders of BVH mocap, through the one shard writer."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import macedance
from datamodules.processes import in_order
from datamodules.streams.keys import safe_key
from datamodules.streams.locks import exclusive
from datamodules.streams.manifest import MANIFEST_NAME, SCHEMA, Manifest
from datamodules.streams.order import keyed_bits
from datamodules.streams.samples import MUSIC_DIM, ClipMeta
from datamodules.streams.writer import CorpusWriter, check_target
from macedance.errors import ConfigError, DataError
from macedance.motion.files import Motion
from macedance.music.cache import cache_root

if TYPE_CHECKING:
    from macedance.demo.corpus import PlannedSong

Progress = Callable[[int, int], None]
FPS = 30.0
MAX_CLIP_S = 10.0
VAL_SHARE = TEST_SHARE = 0.1
_MAX_LISTED = 20
_LOG = logging.getLogger(__name__)


# ---------------------------------------------------------------- the built-in corpus
@dataclass(frozen=True)
class _RenderedSong:
    """One song of the built-in corpus with its clips, ready to be written."""

    planned: PlannedSong
    samples: np.ndarray
    sample_rate: int
    clips: list[tuple[str, Motion, np.ndarray, ClipMeta]]


def build_demo_corpus(
    out_dir: str | Path, num_clips: int = 400, seed: int = 0, workers: int = 2, progress: Progress | None = None
) -> Manifest:
    """Make the built-in corpus: songs and dances by code, with known beats.

    Args:
        out_dir: New or empty folder.
        num_clips: Clips of all splits together, at least 16.
        seed: The same seed gives the same bytes, whatever the number of workers.
        workers: Processes that make songs; 1 makes them in this one.
        progress: Called with (clips written, clips in all).

    Raises:
        ConfigError: Fewer than 16 clips, a negative seed.
        DataError: The folder is not empty or cannot be written.
    """
    from macedance.demo.corpus import plan_corpus
    from macedance.demo.songs import GENRES
    from macedance.music.audio import write_audio

    plan = plan_corpus(num_clips, seed)
    # All genres whatever the size: labels mean the same in every built-in corpus.
    with CorpusWriter(out_dir, fps=FPS, seed=seed, genres=GENRES) as writer:
        done = 0
        for song in in_order(_render_song, plan, workers):
            name = safe_key(song.planned.spec.name)
            write_audio(writer.music_path(name), song.samples, song.sample_rate)
            for key, motion, music_TC, meta in song.clips:
                writer.add(song.planned.split, key, motion, music_TC, meta)
                done += 1
                if progress is not None:
                    progress(done, num_clips)
    assert writer.manifest is not None
    return writer.manifest


def _render_song(planned: PlannedSong) -> _RenderedSong:
    """Make one song, its dances and its features: the features of the whole song, cut to each clip's rows."""
    from macedance.demo.corpus import make_clips
    from macedance.music.audio import Audio
    from macedance.music.features import music_features

    song, dances = make_clips(planned)
    features_TC = music_features(Audio(song.samples, song.sample_rate), FPS)
    name = safe_key(planned.spec.name)
    clips = []
    for clip, motion in dances:
        first = round(clip.start_s * FPS)
        rows_TC = _rows(features_TC, first, motion.num_frames)
        dance = replace(motion, genre=motion.genre or planned.spec.genre, song=name)
        clips.append((clip.key, dance, rows_TC, ClipMeta(name, f"dancer-{clip.dancer_seed}", first / FPS)))
    return _RenderedSong(planned, song.samples, song.sample_rate, clips)


def _rows(features_TC: np.ndarray, first: int, count: int) -> np.ndarray:
    """Rows [first, first + count), zero beyond the end."""
    rows_TC = features_TC[first : first + count]
    return np.concatenate([rows_TC, np.zeros((count - len(rows_TC), MUSIC_DIM), np.float32)])


def demo_corpus_cache_dir(num_clips: int = 400, seed: int = 0) -> Path:
    """Where the built-in corpus is kept; another folder for every version of the code that makes it."""
    library = Path(macedance.__file__).parent
    sources = [
        *sorted((library / "demo").glob("*.py")),
        *sorted((library / "music").glob("*.py")),
        *(library / "motion" / name for name in ("representation.py", "contacts.py", "skeleton.py", "normalizer.py")),
        Path(__file__),
    ]
    digest = hashlib.sha256(f"schema {SCHEMA}".encode())
    for source in sources:
        digest.update(source.read_bytes())
    return cache_root() / "corpora" / f"demo-{num_clips}clips-seed{seed}-{digest.hexdigest()[:12]}"


def cached_demo_corpus(num_clips: int = 400, seed: int = 0, workers: int = 2, progress: Progress | None = None) -> Path:
    """The built-in corpus from the cache folder, made there first where it is missing; says where.

    Several processes may ask at once: one makes it, the others wait.

    Raises:
        ConfigError: Fewer than 16 clips.
        DataError: The cache folder cannot be written.
    """
    folder = demo_corpus_cache_dir(num_clips, seed)
    if (folder / MANIFEST_NAME).is_file():
        return folder
    with _alone(folder):
        if (folder / MANIFEST_NAME).is_file():
            return folder
        _LOG.warning("making the built-in corpus of %d clips in %s (once)", num_clips, folder)
        build_demo_corpus(folder, num_clips, seed, workers, progress)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache folder."""
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(folder.parent / f".{folder.name}.lock"))
        except OSError as error:
            raise DataError(
                f"the cache folder cannot be written ({error.strerror})",
                where=folder.parent,
                fix="set MACEDANCE_CACHE to a folder you may write, or give --data.shards",
            ) from error
        yield


# ---------------------------------------------------------------- BVH mocap
def build_bvh_corpus(
    bvh_dir: str | Path,
    out_dir: str | Path,
    music: str | Path | None = None,
    *,
    fps: float = FPS,
    seed: int = 0,
    genre: str | None = None,
    max_clip_s: float = MAX_CLIP_S,
    progress: Progress | None = None,
) -> Manifest:
    """Make a corpus of a folder of BVH files, retargeted to SMPL-24 and cut into clips.

    A file longer than `max_clip_s` is cut into equal parts, so that no tail is left over. Splits are by file,
    drawn by the seed: about 80 / 10 / 10%; below 5 files all train and validation is empty, which is said.

    Args:
        bvh_dir: Folder that is searched with its subfolders.
        out_dir: New or empty folder.
        music: One piece of music that every file starts with at its first frame; None gives zero features.
        fps: Frames per second to resample to.
        seed: Seed of the split.
        genre: Genre of all files.
        max_clip_s: Longest clip, seconds.
        progress: Called with (files done, files in all).

    Raises:
        DataError: No BVH file; files that cannot be used, all in one error; a bad sound file; a bad target.
        ConfigError: `fps` or `max_clip_s` not above 0.
    """
    if not fps > 0 or not max_clip_s * fps >= 2:
        raise ConfigError(f"fps {fps} and clips of {max_clip_s} s", expected="at least two frames a clip")
    folder = Path(bvh_dir).expanduser()
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".bvh" and path.is_file())
    if not files:
        raise DataError("no .bvh file", where=folder, expected="a folder with motion capture in BVH")
    check_target(Path(out_dir).expanduser().absolute())
    names = _unique(safe_key(path.relative_to(folder).with_suffix("").as_posix()) for path in files)
    features_TC = _music_of(music, fps)
    motions = _load_all(files, folder, fps, progress)
    splits = split_files(len(files), seed)
    with CorpusWriter(out_dir, fps=fps, seed=seed, split_by_song=False) as writer:
        if music is not None:
            _copy_music(writer, Path(music))
        silent = 0
        for name, split, motion in zip(names, splits, motions, strict=True):
            song = name if music is None else safe_key(Path(music).stem)
            motion = replace(motion, genre=genre or motion.genre, song=song, source=motion.source or f"{name}.bvh")
            for number, (start, stop) in enumerate(even_cuts(motion.num_frames, round(max_clip_s * fps))):
                rows_TC = _rows(features_TC, start, stop - start)
                silent += max(0, stop - max(start, len(features_TC)))
                meta = ClipMeta(song=song, start_s=start / fps)
                writer.add(split, f"{name[:72]}_{number:04d}", motion.slice(start, stop), rows_TC, meta)
        _say_what_lacks(writer, splits, silent, music)
    assert writer.manifest is not None
    return writer.manifest


def _load_all(files: Sequence[Path], folder: Path, fps: float, progress: Progress | None) -> list[Motion]:
    """Every file as a motion on the floor at `fps`; one error names all that cannot be used."""

    from macedance.motion.retarget import load_bvh_motion

    motions, faults = [], []
    for done, path in enumerate(files, start=1):
        try:
            motion = load_bvh_motion(path, fps)
            if motion.num_frames < 2:
                raise DataError(f"{motion.num_frames} frame", expected="at least 2")
            motions.append(motion)
        except DataError as error:
            expected = f" (expected {error.expected})" if error.expected else ""
            faults.append(f"{path.relative_to(folder)}: {error.what}{expected}")
        if progress is not None:
            progress(done, len(files))
    if faults:
        more = "" if len(faults) <= _MAX_LISTED else f", and {len(faults) - _MAX_LISTED} more"
        raise DataError(
            f"{len(faults)} of {len(files)} BVH files cannot be used: " + ", ".join(faults[:_MAX_LISTED]) + more,
            where=folder,
            fix="mend them or move them out of the folder",
        )
    return motions


def _music_of(music: str | Path | None, fps: float) -> np.ndarray:
    """(T,35) features of the piece, or no rows."""
    if music is None:
        return np.zeros((0, MUSIC_DIM), np.float32)
    from macedance.music.features import music_features

    return music_features(Path(music), fps)


def _copy_music(writer: CorpusWriter, music: Path) -> None:
    """The piece as `music/<name>.flac` of the corpus."""
    from macedance.music.audio import load_audio, write_audio

    audio = load_audio(music)
    write_audio(writer.music_path(safe_key(music.stem)), audio.samples, audio.sample_rate)


def _say_what_lacks(writer: CorpusWriter, splits: Sequence[str], silent: int, music: str | Path | None) -> None:
    """Empty splits and silent frames: recorded in the manifest and said once."""
    reason = f"{len(splits)} files are too few to hold some out"
    empty = [name for name in ("val", "test") if name not in splits]
    for name in empty:
        writer.absent(name, reason)
    if empty:
        _LOG.warning("no %s split: %s; validation is skipped in training", " and no ".join(empty), reason)
    if music is None:
        writer.note("no music: all music features are zero")
    elif silent:
        note = f"{silent} frames lie beyond the end of {Path(music).name}: their music features are zero"
        writer.note(note)
        _LOG.warning("%s", note)


def even_cuts(frames: int, longest: int) -> list[tuple[int, int]]:
    """[start, stop) of equal parts (within one frame) of at most `longest` frames that cover all frames."""
    parts = -(-frames // longest)
    return list(pairwise(frames * part // parts for part in range(parts + 1)))


def split_files(count: int, seed: int) -> list[str]:
    """Split of each of `count` files: a tenth (rounded) validation, a tenth test, drawn by the seed."""
    num_val, num_test = int(count * VAL_SHARE + 0.5), int(count * TEST_SHARE + 0.5)
    splits = ["val"] * num_val + ["test"] * num_test + ["train"] * (count - num_val - num_test)
    places = np.argsort(keyed_bits(count, seed, 0xB51), kind="stable")
    drawn = [""] * count
    for place, split in zip(places, splits, strict=True):
        drawn[place] = split
    return drawn


def _unique(names: Iterable[str]) -> list[str]:
    """Names made different by a number where several files give the same one."""
    taken: dict[str, int] = {}
    unique = []
    for name in names:
        taken[name] = taken.get(name, 0) + 1
        unique.append(name if taken[name] == 1 else f"{name[:70]}-{taken[name]}")
    return unique
