"""A sharded checkpoint cut anew for another number of ranks: again a checkpoint, proven whole, beside the first."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from macedance.errors import CheckpointError, ConfigError
from macedance.pipelines.checkpoint_folder import (
    CheckpointManifest,
    FileEntry,
    fsync_file,
    fsync_folder,
    reshaped_name,
    scan_pickles,
    verify,
    write_manifest,
)

_ZERO_FOLDER = "checkpoint"


def needs_reshape(manifest: CheckpointManifest, ranks: int) -> bool:
    """Whether a checkpoint must be cut anew before `ranks` ranks can load it."""
    return manifest.sharded and manifest.world_size != ranks


def reshape(folder: str | Path, out: str | Path, ranks: int, verified: CheckpointManifest | None = None) -> Path:
    """Write a checkpoint that `ranks` ranks load; one that any number can load is copied.

    Weights, averages, optimizer state and everything else are the same numbers; only the random states of the ranks,
    which dropout draws from, have no counterpart and are left out.

    Args:
        folder: The checkpoint; it is verified, and stays as it is.
        out: The folder to write; it must not exist.
        ranks: 1 or more.
        verified: Its manifest, where it was verified just before.

    Returns:
        The new folder.

    Raises:
        ConfigError: `ranks` below 1, or `out` exists or cannot be written.
        CheckpointError: The checkpoint is damaged, or laid out in a way that is not known.
        DependencyError: DeepSpeed is not installed.
    """
    folder, out = Path(folder), Path(out)
    if ranks < 1:
        raise ConfigError(f"{ranks} ranks", expected="1 or more")
    if out.exists():
        raise ConfigError("the output folder exists", where=out, fix="name another one, or remove it")
    manifest = verify(folder) if verified is None else verified
    scan_pickles(folder)
    stage = out.with_name(f".{out.name}.tmp")
    cut = needs_reshape(manifest, ranks)
    try:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        entries = _copied(folder, stage, manifest, without_own=cut)
        if cut:
            entries |= _cut(folder, stage, ranks)
            manifest = replace(manifest, world_size=ranks)
        for place in (p for p in stage.rglob("*") if p.is_dir()):
            fsync_folder(place)
        write_manifest(stage, replace(manifest, files=dict(sorted(entries.items()))))
        os.replace(stage, out)
        fsync_folder(out.parent)
    except OSError as error:
        raise ConfigError(
            f"cannot write the checkpoint: {error.strerror or error}", where=out, fix="free some space or name another"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return out


def _copied(folder: Path, stage: Path, manifest: CheckpointManifest, *, without_own: bool) -> dict[str, FileEntry]:
    """Copy what does not depend on the number of ranks, or everything; what the files are is known already."""
    entries = {}
    for name, entry in manifest.files.items():
        if without_own and name.startswith((f"{_ZERO_FOLDER}/", "rank-")):
            continue
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, stage / name)
        fsync_file(stage / name)
        entries[name] = entry
    return entries


def _cut(folder: Path, stage: Path, ranks: int) -> dict[str, FileEntry]:
    from lightning_modules.strategies.zero_files import reshard

    (stage / _ZERO_FOLDER).mkdir()
    written = reshard(folder / _ZERO_FOLDER, stage / _ZERO_FOLDER, ranks)
    return {f"{_ZERO_FOLDER}/{name}": entry for name, entry in written.items()}


def reshape_for_resume(
    folder: Path, checkpoints: Path, ranks: int, verified: CheckpointManifest | None = None
) -> tuple[Path, str]:
    """Cut a checkpoint for a start on another number of ranks, in a folder of its own that the next save removes.

    Args:
        folder: The checkpoint; it stays.
        checkpoints: The run's folder of checkpoints.
        ranks: Of this start.
        verified: The checkpoint's manifest, where it was verified just before.

    Returns:
        The folder to load, and what to tell the user.

    Raises:
        CheckpointError: As :func:`reshape`.
    """
    out = checkpoints / reshaped_name(folder, ranks)
    manifest = verify(folder) if verified is None else verified
    try:
        found = verify(out)
        if (found.world_size, found.sequence, found.step) == (ranks, manifest.sequence, manifest.step):
            return out, f"{out.name}, cut for {ranks} ranks at an earlier start, is used"
    except CheckpointError:
        pass
    shutil.rmtree(out, ignore_errors=True)
    reshape(folder, out, ranks, manifest)
    return out, f"{folder.name} is of {manifest.world_size} ranks: cut for {ranks} in {out.name}, the original stays"
