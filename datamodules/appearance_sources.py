"""The corpora of clips of dancers that a data module trains on: opened, checked, sorted into buckets, seen as one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn

from datamodules.appearance_clips import AppearanceSamples, Clips, Size
from datamodules.appearance_corpora import manifest_parts, not_appearance
from datamodules.streams.manifest import APPEARANCE_FORMAT, MANIFEST_NAME
from datamodules.streams.remote import RemoteFolder
from datamodules.streams.shard_cache import ShardCache
from datamodules.streams.shards import ShardSet, open_shards
from datamodules.streams.transport import MissingFile, is_url
from datamodules.streams.united import unite
from macedance.appearance_data.latents import EMPTY_TEXT_NAME, EncodedInfo, blank_name, load_tensors
from macedance.appearance_data.windows import MAX_UPSCALE, Bucket, nearest_bucket, why_no_bucket
from macedance.errors import ConfigError, DataError
from macedance.rendering.pose_parts import parts_united


class AppearanceSources:
    """The training splits of one or several corpora, and what they hold out.

    Args:
        paths: Corpora or split folders, paths or URLs.
        fps: Frames per second that the model is made for; None takes the first corpus's.
        frames: Frames of a window; None takes what the corpora's latents have.
        buckets: Sizes to train at; empty takes the clips' own.
        cache: Where remote shards are kept.
        cache_mb: Memory for the clips that were read last, of each process, shared by the sources.
        verify: Compare every shard's sha256 before the start.
        val_shards: Another corpus or split for validation; None takes the `val` splits of the same corpora.
        max_upscale: Videos that would have to be enlarged by more belong to no bucket.

    Raises:
        DataError: No corpus, one of another kind, damaged or missing shards, latents whose making is not told.
        ConfigError: Another frame rate or length, or corpora that do not go together.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        fps: float | None,
        frames: int | None,
        buckets: Sequence[Bucket],
        cache: ShardCache,
        cache_mb: float = 256.0,
        verify: bool = False,
        val_shards: str | None = None,
        max_upscale: float = MAX_UPSCALE,
    ) -> None:
        self._max_upscale = max_upscale
        self._cache, self._verify, self._val_shards, self._wanted = cache, verify, val_shards, tuple(buckets)
        self._cache_mb = cache_mb / len(paths)
        opened = [self._opened(path) for path in paths]
        first = opened[0].manifest
        self.fps = first.fps if fps is None else fps
        infos = [self._info(shards) for shards in opened]
        self.info = infos[0]
        for shards, info in zip(opened, infos, strict=True):
            self._check(shards, info)
        if self.info is not None:
            if frames is not None and frames != self.info.frames:
                raise ConfigError(
                    f"data.frames is {frames} and the latents are of clips of {self.info.frames} frames",
                    where=str(opened[0].folder),
                    fix=f"set data.frames to {self.info.frames}, or encode the corpus again",
                )
            frames = self.info.frames
        elif frames is None:
            raise ConfigError("data.frames is not given", where="data.frames", expected="the frames of a window")
        self.frames = frames
        self.pose_parts = parts_united(manifest_parts(shards.manifest, str(shards.folder)) for shards in opened)
        self.manifest = unite([shards.manifest for shards in opened], [str(shards.folder) for shards in opened])
        self._parts = [self._samples(shards) for shards in opened]
        self.train = self._clips(self._parts)
        self._held_out: dict[str, Clips | None] = {}

    def _opened(self, path: str | Path, split: str | None = None) -> ShardSet:
        shards = open_shards(path, split=split, check=False, cache=self._cache)
        if shards.manifest.format != APPEARANCE_FORMAT:
            raise not_appearance(f"{shards.folder}/{MANIFEST_NAME}")
        return shards

    @staticmethod
    def _info(shards: ShardSet) -> EncodedInfo | None:
        """How the latents of a corpus were made; None: it holds videos."""
        encoded = shards.manifest.details.get("encoded")
        return None if encoded is None else EncodedInfo.from_dict(encoded, f"{shards.folder}/{MANIFEST_NAME}")

    def _check(self, shards: ShardSet, info: EncodedInfo | None) -> None:
        """Refuse a corpus that does not go together with the first one."""
        if abs(shards.manifest.fps - self.fps) > 1e-6:
            raise ConfigError(
                f"the corpus has {shards.manifest.fps} frames per second, the model is made for {self.fps}",
                where=str(shards.folder),
                fix="make the corpus anew at that rate, or set data.fps",
            )
        if (info is None) != (self.info is None):
            raise ConfigError(
                "one source of the mixture holds latents and another videos",
                where=str(shards.folder),
                fix="encode both with `macedance data encode`",
            )
        if info is not None and self.info is not None and info.made_by != self.info.made_by:
            raise ConfigError(
                "the sources' latents were made by different encoders, or of windows of different lengths",
                where=str(shards.folder),
                fix="encode both with the same model and options",
            )

    def _samples(self, shards: ShardSet) -> AppearanceSamples:
        return AppearanceSamples(shards, self._info(shards), cache_mb=self._cache_mb, verify=self._verify)

    def _clips(self, parts: Sequence[AppearanceSamples]) -> Clips:
        sizes = [self._sizes(part) for part in parts]
        return Clips(parts, sizes)

    def _sizes(self, part: AppearanceSamples) -> list[Size | None]:
        """The size that each shard's clips are trained at; an error names all shards whose clips are too short."""
        sizes: list[Size | None] = []
        short, homeless = [], []
        for entry, (height, width, frames) in zip(part.shards.info.shards, part.shapes, strict=True):
            own = Bucket(height, width)
            if self.info is not None and self._wanted:
                bucket = own if any((b.height, b.width) == (height, width) for b in self._wanted) else None
            else:
                bucket = nearest_bucket(height, width, self._wanted, self._max_upscale) if self._wanted else own
            length = self.frames if bucket is None or bucket.frames is None else bucket.frames
            if bucket is None:
                homeless.append(f"{entry.file} ({width} x {height})")
                sizes.append(None)
                continue
            if self.info is None and frames < length:
                short.append(f"{entry.file} ({frames})")
            sizes.append(Size(bucket.height, bucket.width, length))
        if short:
            raise DataError(
                f"clips are shorter than a window of {self.frames} frames: {', '.join(short[:20])}",
                where=str(part.shards.folder),
                fix="set data.frames lower, or leave such clips out of the corpus",
            )
        if homeless:
            lost = sum(e.samples for e, size in zip(part.shards.info.shards, sizes, strict=True) if size is None)
            why = why_no_bucket(self._max_upscale) if self.info is None else "there are no latents of that size"
            named = ", ".join(homeless[:20])
            rank_zero_warn(
                f"{lost} clips of {part.shards.folder} belong to no bucket and are left out: {named} ({why})"
            )
        return sizes

    def split(self, name: str) -> Clips | None:
        """Clips of a split of all corpora; None, said once, where none has it."""
        if name not in self._held_out:
            if name == "val" and self._val_shards is not None:
                self._held_out[name] = self._clips([self._opened_val(self._val_shards)])
            else:
                parts = [part for part in (self._part(of, name) for of in self._parts) if part is not None]
                self._held_out[name] = self._clips(parts) if parts else None
        return self._held_out[name]

    def _part(self, of: AppearanceSamples, name: str) -> AppearanceSamples | None:
        shards = of.shards
        if name == shards.split:
            return of
        if name in shards.manifest.splits:
            return self._samples(ShardSet(shards.folder, name, shards.manifest))
        reason = shards.manifest.absent_splits.get(name, "the manifest does not name it")
        consequence = "; validation is skipped" if name == "val" and len(self._parts) == 1 else ""
        rank_zero_info(f"the corpus {shards.folder} has no {name!r} split ({reason}){consequence}")
        return None

    def _opened_val(self, path: str) -> AppearanceSamples:
        """The `val` split of a corpus, or the split that the path names."""
        whole = is_url(path) or (Path(path).expanduser() / MANIFEST_NAME).is_file()
        shards = self._opened(path, "val" if whole else None)
        self._check(shards, self._info(shards))
        return self._samples(shards)

    def blank(self, size: Size) -> torch.Tensor:
        """Latents (z, t, h, w) of a clip of which nothing is known.

        Raises:
            DataError: The corpus lacks them.
        """
        name = blank_name(size.height, size.width, size.frames)
        assert self.info is not None  # only latents have a blank
        error: DataError | None = None
        for part in self._parts:
            folder = part.shards.folder
            try:
                data = _read(folder, name)
                blank = load_tensors(data, f"{folder}/{name}")["blank"]
            except (OSError, KeyError, DataError) as fault:
                error = error or DataError(
                    f"the corpus lacks the latents of an unknown clip ({fault})",
                    where=f"{folder}/{name}",
                    fix="encode the corpus again with `macedance data encode`",
                )
                continue
            if tuple(blank.shape) != self.info.shape(size.height, size.width):
                raise DataError(f"blank has shape {tuple(blank.shape)}", where=f"{folder}/{name}")
            return blank
        assert error is not None  # there is at least one source
        raise error

    @cached_property
    def empty_text(self) -> torch.Tensor | None:
        """Embedding (N, D) of the empty prompt; None for videos, and for latents of before it was kept (said once).

        Raises:
            DataError: It cannot be read.
        """
        if self.info is None:
            return None
        for part in self._parts:
            folder = part.shards.folder
            where = f"{folder}/{EMPTY_TEXT_NAME}"
            try:
                data = _read(folder, EMPTY_TEXT_NAME)
            except (FileNotFoundError, MissingFile):
                continue
            except OSError as error:
                raise DataError(f"it cannot be read ({error.strerror})", where=where) from error
            text = load_tensors(data, where).get("text")
            if text is None or text.ndim != 2:
                raise DataError("it holds no embedding of the empty prompt", where=where, fix="remove it, encode again")
            return text
        rank_zero_warn(
            f"the corpus {self._parts[0].shards.folder} has no {EMPTY_TEXT_NAME}: where a prompt is dropped, training "
            "shows zeros in its place; `macedance data encode` with the same options adds the file"
        )
        return None


def _read(folder: Path | RemoteFolder, name: str) -> bytes:
    """A whole file of a corpus that lies beside its shards."""
    return (folder / name).read_bytes() if isinstance(folder, Path) else folder.read(name)
