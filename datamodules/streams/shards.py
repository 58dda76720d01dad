"""One split of a corpus, on this machine or on a server: opened, checked, indexed. Imports no torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from urllib.parse import unquote, urlsplit

from datamodules.streams.index import MAX_LISTED, ShardIndex, assemble, building, index_rows
from datamodules.streams.index_file import Identity, cache_places
from datamodules.streams.manifest import (
    MAKE_ONE,
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    SplitInfo,
    file_sha256,
    no_manifest,
    parse_manifest,
)
from datamodules.streams.remote import RemoteFolder
from datamodules.streams.scan import scan_shard
from datamodules.streams.shard_cache import CachedShard, ShardCache
from datamodules.streams.transport import MissingFile, RefusedFile, is_url, parent_url, shown
from macedance.errors import DataError, TransportError
from macedance.motion.atomic import write_atomically
from macedance.music.cache import cache_root

DEFAULT_CACHE_GB = 64.0
_THREADS = 16  # requests to a server at a time


def default_cache() -> ShardCache:
    """Where remote shards are kept unless the config says otherwise."""
    return ShardCache(cache_root() / "shards", int(DEFAULT_CACHE_GB * 1e9))


@dataclass(frozen=True)
class ShardSet:
    """One split of a corpus.

    Args:
        folder: The corpus folder that holds `manifest.json`, on this machine or on a server.
        split: Split name, a key of `manifest.splits`.
        manifest: The parsed manifest.
    """

    folder: Path | RemoteFolder
    split: str
    manifest: Manifest

    @property
    def is_remote(self) -> bool:
        """Whether the shards are on a server."""
        return not isinstance(self.folder, Path)

    @property
    def info(self) -> SplitInfo:
        """The split's entry of the manifest."""
        return self.manifest.splits[self.split]

    @property
    def files(self) -> list[Path]:
        """Paths of the shards in the manifest's order; of a corpus on this machine only."""
        assert isinstance(self.folder, Path)
        return [self.folder / shard.file for shard in self.info.shards]

    @property
    def shards(self) -> list[Path | CachedShard]:
        """The shards in the manifest's order, as a reader opens them."""
        folder = self.folder
        return [folder / s.file if isinstance(folder, Path) else folder.shard(s) for s in self.info.shards]

    def check_files(self, *, verify: bool = False) -> None:
        """Compare every shard with the manifest.

        Args:
            verify: Also read every byte and compare sha256; remote shards are compared whenever they are fetched.

        Raises:
            DataError: Some shard is missing or differs; one error lists all of them.
        """
        self._refuse(self._faults(verify))

    def index(self, *, verify: bool = False) -> ShardIndex:
        """Where every sample lies; finds everything wrong that can be found without reading the samples.

        Args:
            verify: As `check_files`.

        Raises:
            DataError: Some shard is missing, truncated, damaged, or holds another number of samples than the
                manifest says; one error lists all of them.
        """
        faults = self._faults(verify) if isinstance(self.folder, Path) else self._faults_once(self._index_place)
        entries = [entry for entry in self.info.shards if entry.file not in faults]
        folder, found = self.folder, dict[ShardEntry, DataError]()
        if isinstance(folder, Path):
            beside = (folder / entries[0].file).parent if entries else folder
            places = cache_places(str(beside.resolve()), beside, cache_root() / "index")
            known = index_rows(
                {entry: _local_identity(entry, folder) for entry in entries},
                lambda entry: scan_shard(folder / entry.file),
                places,
                found,
            )
        else:
            places = [self._index_place]
            known = index_rows(
                {entry: Identity(Path(entry.file).name, entry.bytes, -1, entry.sha256) for entry in entries},
                folder.scan,
                places,
                found,
                fetch=lambda: folder.published_index(self.split),
                threads=_THREADS,
            )
        faults |= {entry.file: error.what for entry, error in found.items()}
        for entry, rows in known.items():
            if len(rows) != entry.samples:
                faults[entry.file] = f"holds {len(rows)} samples, not {entry.samples}"
        self._refuse(faults)
        return assemble([str(shard) for shard in self.shards], list(known.values()))

    @property
    def _index_place(self) -> Path:
        """Where the index of a remote split is kept."""
        return cache_places(f"{self.folder}/{self.split}", None, cache_root() / "index")[-1]

    def _faults_once(self, place: Path) -> dict[str, str]:
        """As `_faults`, of a remote split: the first process of this machine asks, once for each manifest.

        Nothing is believed for it: whatever is fetched is compared with the manifest's sha256.
        """
        mark, wanted = place.with_suffix(".checked"), self.manifest.sha256
        with building(place):
            with suppress(OSError):
                if wanted and mark.read_text(encoding="utf-8") == wanted:
                    self._check_room()
                    return {}
            faults = self._faults(verify=False)
            if not faults:
                with suppress(DataError):  # it costs asking again
                    write_atomically(mark, wanted.encode())
            return faults

    def _check_room(self) -> None:
        """Refuse a cache that the largest shard does not fit into."""
        if not isinstance(self.folder, Path):
            self.folder.cache.check_room(max((entry.bytes for entry in self.info.shards), default=0))

    def _faults(self, verify: bool) -> dict[str, str]:
        """What is wrong with each shard, seen from outside."""
        folder, entries = self.folder, self.info.shards
        if isinstance(folder, Path):
            found = [_local_fault(entry, folder / entry.file, verify) for entry in entries]
        else:
            self._check_room()
            with ThreadPoolExecutor(_THREADS) as pool:
                found = list(pool.map(folder.fault, entries))
        return {entry.file: fault for entry, fault in zip(entries, found, strict=True) if fault is not None}

    def _refuse(self, faults: dict[str, str]) -> None:
        if not faults:
            return
        listed = [f"{file} {faults[file]}" for file in sorted(faults)[:MAX_LISTED]]
        more = "" if len(faults) <= MAX_LISTED else f", and {len(faults) - MAX_LISTED} more"
        raise DataError(
            f"{len(faults)} of {len(self.info.shards)} shards cannot be used: " + ", ".join(listed) + more,
            where=str(self.folder),
            expected="the files as manifest.json lists them",
            fix="copy the corpus again or make it anew",
        )

    def music_file(self, song: str) -> Path | None:
        """The song's file in the corpus, fetched first where that is on a server; None where the corpus has none."""
        if not isinstance(self.folder, Path):
            return self.folder.music_file(song)
        found = sorted((self.folder / "music").glob(f"{escape(song)}.*"))
        return next((path for path in found if path.stem == song), None)


def _local_identity(entry: ShardEntry, folder: Path) -> Identity:
    stat = (folder / entry.file).stat()
    return Identity(Path(entry.file).name, stat.st_size, stat.st_mtime_ns, entry.sha256)


def _local_fault(entry: ShardEntry, path: Path, verify: bool) -> str | None:
    """What is wrong with a shard on this machine, or None."""
    try:
        size = path.stat().st_size
    except OSError:
        return "is missing"
    if size != entry.bytes:
        return f"has {size} bytes, not {entry.bytes}"
    if verify and file_sha256(path) != entry.sha256:
        return "has another sha256"
    return None


def open_shards(
    path: str | Path,
    *,
    split: str | None = None,
    verify: bool = False,
    check: bool = True,
    cache: ShardCache | None = None,
) -> ShardSet:
    """Find a split of a corpus and check its files against the manifest.

    Args:
        path: The corpus folder, or one split's folder in it: a path or a URL of http(s), s3, gs...
        split: Split of the corpus; None means `train` for a corpus folder and that split for a split's folder.
        verify: Also compare every shard's sha256 (reads every byte).
        check: Look into the normalisers and compare the shards with the manifest, which `ShardSet.index` does too.
        cache: Where remote shards are kept; None takes `default_cache()`.

    Raises:
        DataError: No manifest, split absent, shards missing or changed (all listed in one error).
        DependencyError: The package that reads this kind of URL is not installed.
    """
    text = str(path)
    if isinstance(path, str) and is_url(text) and not text.lower().startswith("file://"):
        shards = _open_remote(text, split, cache or default_cache())
    else:
        local = unquote(urlsplit(text).path) if text.lower().startswith("file://") else text
        shards = _open_local(Path(local).expanduser(), split)
    if shards.split not in shards.manifest.splits:
        reason = shards.manifest.absent_splits.get(shards.split, "the manifest does not name it")
        raise DataError(
            f"the corpus has no {shards.split!r} split ({reason})",
            where=str(shards.folder),
            expected=f"one of {sorted(shards.manifest.splits)}",
        )
    if check:
        shards.manifest.check_normalizers(f"{shards.folder}/{MANIFEST_NAME}")
        shards.check_files(verify=verify)
    return shards


def _open_local(folder: Path, split: str | None) -> ShardSet:
    if not folder.is_dir():
        raise DataError(
            "no such folder of shards", where=folder, expected="a corpus or one of its splits", fix=MAKE_ONE
        )
    if not (folder / MANIFEST_NAME).is_file() and (folder.resolve().parent / MANIFEST_NAME).is_file():
        folder, split = folder.resolve().parent, split or folder.resolve().name
    path = folder / MANIFEST_NAME
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise no_manifest(path) from error
    return ShardSet(folder, split or "train", parse_manifest(raw, path))


def _open_remote(url: str, split: str | None, cache: ShardCache) -> ShardSet:
    folder = RemoteFolder(url, cache)
    try:
        raw = folder.read(MANIFEST_NAME)
    except (MissingFile, RefusedFile) as absent:
        above, name = parent_url(url)
        folder, split = RemoteFolder(above, cache), split or name
        try:
            raw = folder.read(MANIFEST_NAME)
        except TransportError:
            raise
        except DataError:
            if isinstance(absent, RefusedFile):
                raise absent from None
            raise no_manifest(shown(url)) from absent
    return ShardSet(folder, split or "train", parse_manifest(raw, f"{folder}/{MANIFEST_NAME}"))
