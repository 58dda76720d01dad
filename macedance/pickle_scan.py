"""Looks into torch files without loading them, for the classes and functions that their pickles would ask for.

DeepSpeed unpickles its own files with everything allowed. Before it may, every pickle in them is read opcode by opcode
here; a file that names anything but tensors, plain containers and DeepSpeed's few record classes is refused.
"""

from __future__ import annotations

import io
import pickletools
import tarfile
from pathlib import Path
from typing import IO, Any

from macedance.errors import CheckpointError
from macedance.safe_pickle import LEGACY_MAGIC, STORAGE_DTYPES, ZIP_MAGIC
from macedance.zip_layout import LayoutError, archive_parts

#: What DeepSpeed 0.19 and Lightning 2.6 store, found by saving stages 1 to 3 in float32 and bfloat16.
ALLOWED: frozenset[str] = frozenset(
    {
        "builtins.set",
        "collections.OrderedDict",
        "torch.Size",
        "torch.Tensor",
        "torch.device",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch._tensor._rebuild_from_type_v2",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
        "deepspeed.utils.tensor_fragment.fragment_address",
        *(f"torch.{name}" for name in STORAGE_DTYPES),
        *(f"torch.storage.{name}" for name in STORAGE_DTYPES),
        *(
            f"torch.{name}"
            for name in (
                "float64",
                "float32",
                "float16",
                "bfloat16",
                "int64",
                "int32",
                "int16",
                "int8",
                "uint8",
                "bool",
            )
        ),
    }
)

_TEXT = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_PUT, _GET = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}
#: Opcodes that reach for code in ways that no torch file uses.
_REFUSED = {"INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"}


def scan_torch_file(path: Path) -> None:
    """Refuse a torch file unless its pickles name only what is in :data:`ALLOWED`.

    Raises:
        CheckpointError: They name something else, or cannot be followed, or the file is damaged; the file and the name
            are said.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(ZIP_MAGIC))
            file.seek(0)
            names = _names_in_zip(file) if magic == ZIP_MAGIC else _names_in_legacy(file)
    except (_UnreadableError, LayoutError) as error:
        raise _refusal(path, str(error)) from error
    except (OSError, ValueError, EOFError, IndexError, KeyError) as error:
        raise _refusal(path, f"damaged, or no torch file ({error})") from error
    foreign = sorted(names - ALLOWED)
    if foreign:
        raise _refusal(path, f"it asks for {', '.join(foreign[:3])}")


def _refusal(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"refused: {path.name} could run code when it is loaded: {why}",
        where=path,
        expected="a file that this program's own training wrote",
    )


class _UnreadableError(Exception):
    """A pickle whose names cannot be told for sure."""


def _names_in_zip(file: IO[bytes]) -> set[str]:
    # Not by Python's zipfile, which finds its way through archives that torch would read otherwise.
    parts = archive_parts(file)
    roots = {part.name.partition("/")[0] for part in parts}
    pickles = [part for part in parts if part.name.lower().endswith(".pkl")]
    if len(roots) != 1 or [part.name.partition("/")[2] for part in pickles] != ["data.pkl"]:
        raise _UnreadableError("the archive does not hold exactly one pickle")
    file.seek(pickles[0].start)
    names, rest = _names_of(io.BytesIO(file.read(pickles[0].size)))
    if rest:
        raise _UnreadableError("there is more behind the pickle")
    return names


def _names_in_legacy(file: IO[bytes]) -> set[str]:
    """The older format: five pickles (mark, version, system, content, storage names), then the numbers."""
    if tarfile.is_tarfile(file):  # torch would take it for the oldest format, whatever else it may be
        raise _UnreadableError("a tar archive")
    file.seek(0)
    start, names = file.tell(), set()
    first = next(iter(pickletools.genops(file)), None)  # PROTO
    file.seek(start)
    if first is None or first[0].name != "PROTO":
        raise _UnreadableError("no pickle")
    for number in range(5):
        begin = file.tell()
        found, _ = _names_of(file)
        names |= found
        if number == 0:
            end = file.tell()
            file.seek(begin)
            mark = file.read(end - begin)
            numbers = [argument for _, argument, _ in pickletools.genops(mark) if isinstance(argument, int)]
            if found or LEGACY_MAGIC not in numbers:
                raise _UnreadableError("not a torch file")
    return names


def _names_of(file: IO[bytes]) -> tuple[set[str], bytes]:
    """Every global that one pickle names; the file then stands behind it. Also a byte of what follows."""
    names: set[str] = set()
    memo: dict[int, str | None] = {}
    recent: list[str | None] = [None, None]
    for opcode, argument, _ in pickletools.genops(file):
        kind = opcode.name
        if kind == "FRAME":  # leaves the stack alone
            continue
        if kind in _REFUSED:
            raise _UnreadableError(f"the opcode {kind}")
        if kind in _PUT:
            memo[len(memo) if kind == "MEMOIZE" else int(str(argument))] = recent[-1]
            continue
        if kind == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            names.add(f"{module}.{name}")
        elif kind == "STACK_GLOBAL":
            if None in recent:
                raise _UnreadableError("a name that is put together while loading")
            names.add(f"{recent[0]}.{recent[1]}")
        recent = [recent[1], _text_pushed(kind, argument, memo)]
    position = file.tell()
    rest = file.read(1)
    file.seek(position)
    return names, rest


def _text_pushed(kind: str, argument: Any, memo: dict[int, str | None]) -> str | None:
    """The text that an opcode leaves on top of the stack; None where it leaves anything else."""
    if kind in _TEXT and isinstance(argument, str):
        return argument
    if kind in _GET:
        return memo.get(int(argument))
    return None
