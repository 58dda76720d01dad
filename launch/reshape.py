"""A sharded checkpoint cut anew for another number of ranks: again a checkpoint, proven whole, beside the first."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from macedance.errors import CheckpointError, ConfigError
from macedance.pipelines.checkpoint_folder import (
    MANIFEST_FILE,
    CheckpointManifest,
    describe_file,
    files_in,
    fsync_folder,
    scan_pickles,
    verify,
    write_manifest,
)

_ZERO_FOLDER = "checkpoint"


def needs_reshape(manifest: CheckpointManifest, ranks: int) -> bool:
    """Whether a checkpoint must be cut anew before `ranks` ranks can load it."""
    return manifest.sharded and manifest.world_size != ranks


def reshape(folder: str | Path, out: str | Path, ranks: int) -> Path:
    """Write a checkpoint that `ranks` ranks load; one that any number can load is copied.

    Weights, averages, optimizer state and everything else are the same numbers; only the random states of the ranks,
    which dropout draws from, have no counterpart and are left out.

    Args:
        folder: The checkpoint; it is verified, and stays as it is.
        out: The folder to write; it must not exist.
        ranks: 1 or more.

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
    manifest = verify(folder)
    scan_pickles(folder)
    stage = out.with_name(f".{out.name}.tmp")
    try:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        if needs_reshape(manifest, ranks):
            _write_cut(folder, stage, ranks)
            manifest = replace(manifest, world_size=ranks)
        else:
            shutil.copytree(folder, stage, dirs_exist_ok=True)
        entries = {name: describe_file(stage / name, sync=True) for name in files_in(stage) if name != MANIFEST_FILE}
        write_manifest(stage, replace(manifest, files=entries))
        os.replace(stage, out)
        fsync_folder(out.parent)
    except OSError as error:
        raise ConfigError(
            f"cannot write the checkpoint: {error.strerror or error}", where=out, fix="free some space or name another"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return out


def _write_cut(folder: Path, stage: Path, ranks: int) -> None:
    from lightning_modules.strategies.zero_files import reshard

    for name in files_in(folder):
        own = name.startswith((f"{_ZERO_FOLDER}/", "rank-")) or name == MANIFEST_FILE
        if not own:
            shutil.copyfile(folder / name, stage / name)
    (stage / _ZERO_FOLDER).mkdir()
    reshard(folder / _ZERO_FOLDER, stage / _ZERO_FOLDER, ranks)


def reshape_for_resume(folder: Path, checkpoints: Path, ranks: int) -> tuple[Path, str]:
    """Cut a checkpoint for a start on another number of ranks, in a folder of its own that the next save removes.

    Args:
        folder: The checkpoint; it stays.
        checkpoints: The run's folder of checkpoints.
        ranks: Of this start.

    Returns:
        The folder to load, and what to tell the user.

    Raises:
        CheckpointError: As :func:`reshape`.
    """
    out = checkpoints / f"{folder.name.removesuffix('.ckpt')}.ranks-{ranks}.ckpt"
    then = verify(folder).world_size
    try:
        found = verify(out)
        if found.world_size == ranks and found.sequence == verify(folder).sequence:
            return out, f"{out.name}, cut for {ranks} ranks at an earlier start, is used"
    except CheckpointError:
        pass
    shutil.rmtree(out, ignore_errors=True)
    reshape(folder, out, ranks)
    return out, f"{folder.name} is of {then} ranks: cut for {ranks} in {out.name}, the original stays"
