"""A checkpoint is a folder: its manifest, the proof that it is whole, and which one of a run is the newest good one.

``RUN/checkpoints/step-00000100.ckpt/manifest.json`` lists every other file with its size and sha256, and guards itself.
A folder appears under that name only when it is complete; while it is written it is ``.step-00000100.ckpt.tmp``, and
one that is being replaced is ``.step-00000100.ckpt.old``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from macedance.errors import CheckpointError
from macedance.pickle_scan import scan_torch_file
from macedance.pipelines.checkpoint_fragments import assemble_fragments

__all__ = [
    "CheckpointManifest",
    "FileEntry",
    "assemble_fragments",
    "clean_leftovers",
    "describe_file",
    "find_checkpoint",
    "fsync_folder",
    "list_checkpoints",
    "newest_verified",
    "read_manifest",
    "scan_pickles",
    "verify",
    "write_manifest",
]

FORMAT = "macedance-checkpoint"
SCHEMA = 1
MANIFEST_FILE = "manifest.json"
STATE_FILE = "state.ckpt"
MODEL_FILE = "model.json"
LAST_LINK = "last.ckpt"
#: Most threads that hash files at a time.
_HASH_THREADS = 4
#: What a kill while the manifest was noted in left in checkpoints of earlier versions.
_OLD_TEMPORARY = f".{MANIFEST_FILE}.tmp"
_NAME = re.compile(r"step-(\d{8,})\.ckpt")
_LEFTOVER = re.compile(r"\.(\.?step-\d{8,}(?:\.ranks-\d+)?\.ckpt)\.(tmp|old)")
_LEFT_NOTE = re.compile(rf"\.{{1,2}}step-\d{{8,}}[\w.-]*\.{re.escape(MANIFEST_FILE)}\.tmp")
#: With a dot: no name that a user gives a copy of his own.
_RESHAPED = re.compile(r"\.step-\d{8,}\.ranks-\d+\.ckpt")


@dataclass(frozen=True)
class FileEntry:
    """Size and sha256 of one file of a checkpoint."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class CheckpointManifest:
    """What ``manifest.json`` says.

    Attributes:
        step: Optimizer steps done.
        position: Global samples consumed.
        world_size: Ranks that wrote it.
        strategy: ``single``, ``ddp``, ``zero1``, ``zero2``, ``zero3`` or ``zero3_offload``.
        validation_due: The validation of this step was still to come.
        config_sha256: Of the run's ``config.yaml``.
        data_manifest_sha256: Identity of the corpus.
        normalizer_sha256: Of the model's normalisers.
        code_version: Of the program that wrote it.
        files: Every other file by its name relative to the folder, with ``/``.
        accumulate_grad_batches: Micro-batches of an optimizer step of one rank.
        sequence: Counts the checkpoints that were saved in this folder's place: the newest has the highest, also where
            a run went on from an older one.
        ended: The run ended here, its last validation included.
        epoch: Data epochs completed, where the data module counts them.
    """

    step: int
    position: int
    world_size: int
    strategy: str
    validation_due: bool
    config_sha256: str
    data_manifest_sha256: str
    normalizer_sha256: str
    code_version: str
    files: dict[str, FileEntry] = field(default_factory=dict)
    accumulate_grad_batches: int = 1
    sequence: int = 0
    ended: bool = False
    epoch: int | None = None

    @property
    def validation_missing(self) -> bool:
        """Whether the validation of this step was never done."""
        return self.validation_due and not self.ended

    @property
    def sharded(self) -> bool:
        """Whether every rank holds a part only (ZeRO)."""
        return self.strategy.startswith("zero")

    @property
    def total_bytes(self) -> int:
        """Size of all files but the manifest."""
        return sum(entry.bytes for entry in self.files.values())

    def to_text(self) -> str:
        """The one text that this manifest is written as."""
        content = {"format": FORMAT, "schema": SCHEMA, **asdict(self)}
        return _guarded_text(content)


def _guarded_text(content: Mapping[str, Any]) -> str:
    """JSON in one way of writing, with the sha256 of the rest."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1, sort_keys=True) + "\n"


# ---------------------------------------------------------------- reading and proving
def read_manifest(folder: str | Path) -> CheckpointManifest:
    """The manifest of a checkpoint folder, itself intact; the other files are not looked at.

    Raises:
        CheckpointError: Missing, damaged, of another program or of a newer one.
    """
    path = Path(folder) / MANIFEST_FILE
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except FileNotFoundError as error:
        raise CheckpointError("the checkpoint has no manifest.json", where=folder, expected=_EXPECTED) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's manifest is damaged: {error}", where=path) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError("not the manifest of a checkpoint of this program", where=path, expected=_EXPECTED)
    if content.get("schema") != SCHEMA:
        raise CheckpointError(
            f"the checkpoint's schema is {content.get('schema')!r}",
            where=path,
            expected=str(SCHEMA),
            fix="read it with the version of macedance that wrote it",
        )
    # Written in one way only: whatever differs by a byte was not written by us.
    if _guarded_text({key: value for key, value in content.items() if key != "sha256"}) != text:
        raise CheckpointError("the checkpoint's manifest is damaged: its own sha256 does not fit", where=path)
    return _from_content(content, path)


_EXPECTED = "a folder step-<n>.ckpt of `macedance fit`"


def _from_content(content: Mapping[str, Any], path: Path) -> CheckpointManifest:
    names = {f.name for f in fields(CheckpointManifest)}
    try:
        values = {name: value for name, value in content.items() if name in names}
        values["files"] = {
            str(name): FileEntry(int(entry["bytes"]), str(entry["sha256"])) for name, entry in content["files"].items()
        }
        return CheckpointManifest(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the checkpoint's manifest is damaged: {error!r}", where=path) from error


def write_manifest(folder: Path, manifest: CheckpointManifest) -> None:
    """Write the manifest whole or not at all, and force it to the disk.

    Raises:
        OSError: It cannot be written.
    """
    # Beside the folder: one that is killed here leaves no file in a checkpoint that is whole.
    temporary = folder.with_name(f".{folder.name}.{MANIFEST_FILE}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(manifest.to_text())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / MANIFEST_FILE)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    fsync_folder(folder)


def describe_file(path: Path, *, sync: bool = False) -> FileEntry:
    """Size and sha256 of a file; with `sync` it is forced to the disk first.

    Raises:
        OSError: It cannot be read or synced.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return FileEntry(size, digest.hexdigest())


class HashingFile:
    """A file that is hashed while it is written, from its beginning to its end.

    Args:
        path: The file; what it held is gone.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._file, self._digest, self._size = path.open("wb"), hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        """Append bytes."""
        written = self._file.write(data)
        self._digest.update(data)
        self._size += written
        return written

    def flush(self) -> None:
        """Hand to the system what is still kept back."""
        self._file.flush()

    def close(self) -> FileEntry:
        """Force it to the disk and close it; its size and sha256."""
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        return FileEntry(self._size, self._digest.hexdigest())

    def __enter__(self) -> HashingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def save_hashed(content: Any, path: Path) -> FileEntry:
    """``torch.save`` to the disk; size and sha256 of what was written, without reading it back.

    Raises:
        OSError: It cannot be written.
    """
    import torch

    with HashingFile(path) as file:
        torch.save(content, file)  # type: ignore[arg-type]
        return file.close()


def verify(folder: str | Path, hashed: Callable[[str], bool] | None = None) -> CheckpointManifest:
    """Prove that a checkpoint is whole: every file of the manifest with its size and sha256, and no other file.

    Args:
        folder: The checkpoint.
        hashed: Whether a file of this name is compared by its sha256 too; None: all are.

    Raises:
        CheckpointError: It is not; the file and what is wrong with it are named.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    found = set(files_in(folder)) - {MANIFEST_FILE}
    for kind, names in (
        ("lacks", manifest.files.keys() - found),
        ("has the unknown file", found - set(manifest.files)),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"the checkpoint {kind} {min(names)}{more}", where=folder)
    for name, entry in manifest.files.items():
        size = (folder / name).stat().st_size
        if size != entry.bytes:
            raise CheckpointError(
                f"the checkpoint is damaged: {name} has {size} bytes", where=folder, expected=f"{entry.bytes} bytes"
            )
    chosen = [name for name in manifest.files if hashed is None or hashed(name)]
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        for name, entry in zip(chosen, pool.map(lambda n: _described(folder, n), chosen), strict=True):
            if entry != manifest.files[name]:
                raise CheckpointError(
                    f"the checkpoint is damaged: {name} has the sha256 {entry.sha256[:12]}..",
                    where=folder,
                    expected=f"{manifest.files[name].sha256[:12]}..",
                )
    return manifest


def _described(folder: Path, name: str) -> FileEntry:
    try:
        return describe_file(folder / name)
    except OSError as error:
        raise CheckpointError(f"cannot read {name} of the checkpoint: {error.strerror}", where=folder) from error


def files_in(folder: Path) -> list[str]:
    """Names of all files under a folder, with ``/``, in order; a link or anything else that is no file is refused.

    Raises:
        CheckpointError: There is something else than files and folders.
    """
    names = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise CheckpointError(f"the checkpoint holds {path.name}, which is no ordinary file", where=folder)
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != _OLD_TEMPORARY:
            names.append(name)
    return names


def scan_pickles(folder: str | Path) -> None:
    """Prove that loading the checkpoint's own files runs nothing: every pickle in every ``.pt`` file names only
    tensors, containers and the few classes that DeepSpeed stores.

    Raises:
        CheckpointError: A file asks for anything else, or cannot be read; it is refused by name.
    """
    folder = Path(folder)
    for name in files_in(folder):
        if name.endswith(".pt"):
            scan_torch_file(folder / name)


# ---------------------------------------------------------------- the checkpoints of a run
def checkpoint_name(step: int) -> str:
    """Name of the folder of a step."""
    return f"step-{step:08d}.ckpt"


def step_of(folder: Path) -> int | None:
    """The step that a folder's name says; None where it is no checkpoint's name."""
    match = _NAME.fullmatch(folder.name)
    return int(match.group(1)) if match else None


def list_checkpoints(run_dir: str | Path) -> list[Path]:
    """The checkpoint folders of a run, damaged ones too, by step."""
    folder = Path(run_dir) / "checkpoints"
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if step_of(path) is not None and path.is_dir() and not path.is_symlink()]
    return sorted(found, key=lambda path: step_of(path) or 0)


def by_age(folders: Iterable[Path]) -> list[Path]:
    """Checkpoint folders from the first saved to the last; those whose manifest cannot be read are sorted by step."""
    known = {folder: _sequence(folder) for folder in folders}
    ordered = sorted(known, key=lambda f: step_of(f) or 0)
    sequence = -1
    keys: dict[Path, int] = {}
    for folder in ordered:
        found = known[folder]
        sequence = max(sequence, -1 if found is None else found)
        keys[folder] = sequence if found is None else found
    return sorted(ordered, key=lambda f: (keys[f], known[f] is None, step_of(f) or 0))


def _sequence(folder: Path) -> int | None:
    try:
        return read_manifest(folder).sequence
    except CheckpointError:
        return None


def newest_verified(run_dir: str | Path, hashed: Callable[[str], bool] | None = None) -> tuple[Path | None, list[str]]:
    """The last saved checkpoint of a run that verifies; `hashed` as of :func:`verify`.

    Returns:
        The folder, or None where none does, and one warning for every newer one that does not.
    """
    warnings: list[str] = []
    for folder in reversed(by_age(list_checkpoints(run_dir))):
        try:
            manifest = verify(folder, hashed)
            if manifest.step != step_of(folder):
                raise CheckpointError(f"the folder holds step {manifest.step}", where=folder)
            return folder, warnings
        except CheckpointError as error:
            warnings.append(f"{folder.name} is not used: {error.what}")
    return None, warnings


def find_checkpoint(path: str | Path, hashed: Callable[[str], bool] | None = None) -> Path:
    """The checkpoint that a path names: itself, or the newest good one of a run directory.

    Args:
        path: The checkpoint or run directory.
        hashed: Which files of a run's checkpoints are compared by their sha256, by name; None: all.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(
            "there is no such checkpoint", where=path, expected="a folder step-<n>.ckpt, last.ckpt or a run directory"
        )
    if path.is_dir() and not (path / MANIFEST_FILE).exists() and (path / "checkpoints").is_dir():
        newest, faults = newest_verified(path, hashed)
        if newest is None:
            raise CheckpointError("the run has no usable checkpoint" + "".join(f"; {f}" for f in faults), where=path)
        return newest
    return path.resolve() if path.is_dir() else path


def next_sequence(run_dir: str | Path) -> int:
    """The number of the next checkpoint to be saved in a run."""
    known = [_sequence(folder) for folder in list_checkpoints(run_dir)]
    return 1 + max((number for number in known if number is not None), default=0)


def reshaped_name(folder: Path, ranks: int) -> str:
    """Name of a start's own copy of a checkpoint, cut for another number of ranks."""
    return f".{folder.name.removesuffix('.ckpt')}.ranks-{ranks}.ckpt"


def reshaped_copies(run_dir: str | Path) -> list[Path]:
    """Copies of a run's checkpoints that starts on another number of ranks cut for themselves; not a user's own."""
    folder = Path(run_dir) / "checkpoints"
    return sorted(path for path in folder.iterdir() if _RESHAPED.fullmatch(path.name)) if folder.is_dir() else []


def clean_leftovers(run_dir: str | Path) -> list[str]:
    """Remove what a killed save left behind, and bring back a checkpoint that it was just replacing.

    Call it only where no other process may be saving.

    Returns:
        What was done, one line each.
    """
    folder = Path(run_dir) / "checkpoints"
    done = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if _LEFT_NOTE.fullmatch(path.name):
            path.unlink(missing_ok=True)
            continue
        match = _LEFTOVER.fullmatch(path.name)
        if match is None:
            continue
        target = folder / match.group(1)
        if match.group(2) == "old" and not target.exists():
            os.replace(path, target)
            done.append(f"{target.name} was being replaced: it is put back")
        else:
            shutil.rmtree(path, ignore_errors=True)
            done.append(f"{target.name} was half written: it is removed")
    return done


def fsync_file(path: Path) -> None:
    """Force a file that was written to the disk.

    Raises:
        OSError: It cannot be.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Force a folder's list of names to the disk; where folders cannot be opened, nothing."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems do not know it
        pass
    finally:
        os.close(handle)
