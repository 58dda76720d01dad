"""The corpora that a data module trains on: one or several, opened, checked and seen as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_info

from datamodules.streams.dataset import MotionSamples, Samples, UnitedSamples
from datamodules.streams.manifest import MANIFEST_NAME
from datamodules.streams.remote import RemoteFolder
from datamodules.streams.shard_cache import ShardCache
from datamodules.streams.shards import ShardSet, open_shards
from datamodules.streams.transport import is_url
from datamodules.streams.united import unite
from macedance.errors import ConfigError, DataError


class CorpusSources:
    """The training splits of one or several corpora, and what they hold out.

    Args:
        paths: Corpora or split folders, paths or URLs.
        fps: Frames per second that the model is made for.
        cache: Where remote shards are kept.
        cache_mb: Memory for decoded clips of each process, shared by the sources.
        verify: Compare every shard's sha256 before the start.
        val_shards: Another corpus or split for validation; None takes the `val` splits of the same corpora.

    Raises:
        DataError: No corpus, damaged or missing shards.
        ConfigError: Another frame rate.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        fps: float,
        cache: ShardCache,
        cache_mb: float,
        verify: bool = False,
        val_shards: str | None = None,
    ) -> None:
        self._fps, self._cache, self._verify, self._val_shards = fps, cache, verify, val_shards
        self._cache_mb = cache_mb / len(paths)
        opened = [self._opened(path) for path in paths]
        self.manifest = unite([shards.manifest for shards in opened], [str(shards.folder) for shards in opened])
        self.parts = [self._samples(shards) for shards in opened]
        self.train: Samples = _united(self.parts)
        self._held_out: dict[str, Samples | None] = {}

    def _opened(self, path: str | Path, split: str | None = None) -> ShardSet:
        shards = open_shards(path, split=split, check=False, cache=self._cache)
        shards.manifest.check_normalizers(f"{shards.folder}/{MANIFEST_NAME}")
        if abs(shards.manifest.fps - self._fps) > 1e-6:
            raise ConfigError(
                f"data.fps is {self._fps} and the corpus has {shards.manifest.fps} frames per second",
                where=str(shards.folder),
                fix="set data.fps to the corpus's or make the corpus anew",
            )
        return shards

    def _samples(self, shards: ShardSet) -> MotionSamples:
        return MotionSamples(shards, cache_mb=self._cache_mb, verify=self._verify)

    def split(self, name: str) -> Samples | None:
        """Samples of a split of all corpora; None, said once, where none has it."""
        if name not in self._held_out:
            if name == "val" and self._val_shards is not None:
                self._held_out[name] = self._samples(self._opened_val(self._val_shards))
            else:
                parts = [part for part in (self._part(of, name) for of in self.parts) if part is not None]
                self._held_out[name] = _united(parts) if parts else None
        return self._held_out[name]

    def _part(self, of: MotionSamples, name: str) -> MotionSamples | None:
        """A split of one corpus; None, said, where it has none."""
        shards = of.shards
        if name == shards.split:
            return of
        if name in shards.manifest.splits:
            return self._samples(ShardSet(shards.folder, name, shards.manifest))
        reason = shards.manifest.absent_splits.get(name, "the manifest does not name it")
        consequence = "; validation is skipped" if name == "val" and len(self.parts) == 1 else ""
        rank_zero_info(f"the corpus {shards.folder} has no {name!r} split ({reason}){consequence}")
        return None

    def _opened_val(self, path: str) -> ShardSet:
        """The `val` split of a corpus, or the split that the path names."""
        if not is_url(path):
            whole = (Path(path).expanduser() / MANIFEST_NAME).is_file()
            return self._opened(path, "val" if whole else None)
        shards = self._opened(path)
        names_split = isinstance(shards.folder, RemoteFolder) and shards.folder.url != path
        return shards if names_split else self._opened(path, "val")

    def music_file(self, song: str) -> Path | None:
        """The song's file in the corpora; None where none brings it, or where several bring one of that name."""
        found = []
        for part in self.parts:
            try:
                path = part.shards.music_file(song)
            except DataError as error:
                rank_zero_info(f"no music for {song}: {error}")
                continue
            if path is not None:
                found.append(path)
        if len(found) > 1:
            rank_zero_info(f"{len(found)} corpora of the mixture have a song called {song}: none of them is played")
        return found[0] if len(found) == 1 else None


def _united(parts: Sequence[MotionSamples]) -> Samples:
    return parts[0] if len(parts) == 1 else UnitedSamples(parts)
