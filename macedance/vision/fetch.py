"""Fetching pretrained networks, only when a user asks for one by name: each file whole, checked, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from tempfile import mkdtemp

from macedance.errors import DataError, TransportError
from macedance.motion.atomic import write_atomically
from macedance.vision.weights import (
    PINS,
    KnownWeights,
    check_hashes,
    check_pins,
    file_sha256,
    missing_files,
    weights_folder,
)

#: Told (bytes read, bytes in all or 0).
Told = Callable[[int, int], None]
_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 60.0


def fetch(known: KnownWeights, root: str | Path | None = None, progress: Told | None = None) -> Path:
    """Fetch a network into its folder, and pin the hashes of what came.

    Args:
        known: The network.
        root: See ``weights_root``.
        progress: Told (bytes read, bytes in all) of a file, 0 where its size is not stated.

    Returns:
        The folder.

    Raises:
        TransportError: The server does not answer, refuses, or breaks off.
        CheckpointError: A file is not the published one, or not the one pinned before; what was there stays.
        DataError: The folder cannot be written.
    """
    folder = weights_folder(known.name, root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = Path(mkdtemp(prefix=f".{known.name}-", dir=folder.parent))
    except OSError as error:
        raise DataError(f"the folder cannot be written ({error.strerror})", where=folder) from error
    try:
        _fetch_into(known, taken, progress)
        check_hashes(known, taken)
        found = {path.name: file_sha256(path) for path in sorted(taken.iterdir()) if path.is_file()}
        check_pins(known, folder, found)
        for name in found:
            os.replace(taken / name, folder / name)
        write_atomically(folder / PINS, f"{json.dumps(found, indent=2)}\n".encode())
    finally:
        shutil.rmtree(taken, ignore_errors=True)
    missing = missing_files(known.name, root)
    if missing:
        raise TransportError(f"{known.source} does not hold {', '.join(missing)}", where=folder)
    return folder


def verify(known: KnownWeights, root: str | Path | None = None) -> str:
    """How sure one can be of a network that is there.

    Returns:
        ``published``; ``published, first digits`` where its publisher states no more of the hash; ``pinned``: what came
        first; ``not pinned``: put there by hand.

    Raises:
        CheckpointError: A file is neither the published one nor the one pinned.
    """
    folder = weights_folder(known.name, root)
    check_hashes(known, folder)
    pinned = check_pins(known, folder)
    if known.sha256:
        whole = all(len(digits) == 64 for digits in known.sha256.values())
        return "published" if whole else "published, first digits"
    return "pinned" if pinned else "not pinned"


def _fetch_into(known: KnownWeights, taken: Path, progress: Told | None) -> None:
    if known.name == "blazepose":
        from macedance.vision.blazepose_weights import fetch_blazepose

        fetch_blazepose(taken)
    elif known.is_hub:
        _fetch_hub(known, taken)
    else:
        _fetch_file(known.source, taken / known.source.rsplit("/", 1)[1], progress)


def _fetch_hub(known: KnownWeights, taken: Path) -> None:
    """The files of a hub's model that its folder needs, safetensors rather than a pickle where there are both."""
    from huggingface_hub import hf_hub_download, list_repo_files

    try:
        there = set(list_repo_files(known.source))
        for entry in known.files:
            names = [name for name in entry.split("|") if name in there]
            if not names:
                raise TransportError(f"the hub's {known.source} does not hold {entry}")
            hf_hub_download(known.source, names[0], local_dir=taken)
    except (OSError, ValueError, HTTPException) as error:
        raise TransportError(
            f"the hub does not give {known.source} ({_first_line(error)})",
            fix="try again, or copy the files there by hand; HF_ENDPOINT names another hub",
        ) from error
    except Exception as error:
        # Clients of the hub raise kinds of their own: httpx's, requests', the hub's.
        if type(error).__module__.split(".")[0] in ("httpx", "requests", "huggingface_hub"):
            raise TransportError(f"the hub does not give {known.source} ({_first_line(error)})") from error
        raise


def _fetch_file(address: str, path: Path, progress: Told | None) -> None:
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer, path.open("wb") as file:
            total, done = int(answer.headers.get("Content-Length") or 0), 0
            while block := answer.read(_BLOCK_BYTES):
                file.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, total)
    except (urllib.error.URLError, OSError, HTTPException) as error:
        raise TransportError(f"{address} cannot be fetched ({_first_line(error)})", fix="try again") from error
    if total and done != total:
        raise TransportError(f"{address} broke off after {done} of {total} bytes", fix="try again")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
