"""One tar file being written: hashed on its way to the disk, under its name only when it is whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import webdataset as wds

from datamodules.streams.manifest import ShardEntry
from macedance.errors import DataError


class _HashingFile:
    """A file that knows the sha256 and length of what was written to it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.digest, self.bytes = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    def close(self) -> None:
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


class ShardFile:
    """Writes one shard; the same samples give the same bytes on any day and machine.

    Args:
        folder: The split's folder; the shard is called `<its name>/<name>` in the manifest.
        name: File name, `*.tar`.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path, self._temporary = folder / name, folder / f".{name}.{os.getpid()}.part"
        self.samples = 0
        self._keys: set[str] = set()
        self._file = _HashingFile(self._temporary)
        # Fixed owner, mode and time: the same clips give the same sha256 on any day and machine.
        self._tar = wds.TarWriter(
            self._file, user="macedance", group="macedance", mode=0o644, mtime=0, encoder=False, compress=False
        )

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append a sample: member suffix -> bytes.

        Raises:
            DataError: The shard has a sample of this key: readers would take both for one.
        """
        if key in self._keys:
            raise DataError("two samples of a shard have one key", where=f"{self._path}: {key}", expected="unique keys")
        self._keys.add(key)
        self._tar.write({"__key__": key, **members})
        self.samples += 1

    def finish(self) -> ShardEntry:
        """Close the shard, give it its name and say what it is."""
        self._tar.close()
        self._file.close()
        self._temporary.replace(self._path)
        name = f"{self._path.parent.name}/{self._path.name}"
        return ShardEntry(name, self.samples, self._file.bytes, self._file.digest.hexdigest())

    def abandon(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):
            self._tar.close()
        with suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)
