"""DeepSpeed before its first use: present, on the right accelerator, its operators compiled once, and quiet."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import re
import stat
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_info

from macedance.errors import ConfigError, DependencyError
from macedance.music.cache import cache_root

_CHATTER = re.compile(r"\*\*\*\* You are using ZeRO with an untested optimizer|.*Setting ds_accelerator to")
_SHARED_MEMORY_OP = "deepspeed_shm_comm"
_TORCH_LOCK = "lock"  # the file that torch makes in an operator's folder while it compiles it
_STALE_S = 600.0


def require_deepspeed() -> None:
    """Make sure that DeepSpeed can be imported.

    Raises:
        DependencyError: It is not installed.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise DependencyError(
            "DeepSpeed is not installed",
            where="trainer.strategy",
            expected="deepspeed, which the ZeRO strategies need",
            fix="pip install 'macedance[cluster]', or train with --config strategies/ddp",
        )


def prepare_environment(device_type: str | None) -> None:
    """Say where compiled operators are kept and which accelerator DeepSpeed is to use.

    Args:
        device_type: ``cpu``, ``cuda``, or None while that is still unknown.
    """
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(cache_root() / "torch_extensions"))
    if device_type == "cpu" or (device_type is None and not _sees_gpu()):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        _switch_to_cpu()


def _sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _switch_to_cpu() -> None:
    """Training on the CPU of a machine with a GPU: DeepSpeed may have picked the GPU when it was imported."""
    module: Any = sys.modules.get("deepspeed.accelerator.real_accelerator")
    if module is None or module.ds_accelerator is None or module.ds_accelerator.device_name() == "cpu":
        return
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    with quiet_deepspeed():
        module.set_accelerator(CPU_Accelerator())


class _NoChatter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or not _CHATTER.match(record.getMessage())


@contextlib.contextmanager
def quiet_deepspeed() -> Iterator[None]:
    """Keep DeepSpeed's prints off stdout, which holds results; its warnings and errors go to stderr."""
    logger = logging.getLogger("DeepSpeed")
    for handler in logger.handlers:
        # Only plain ones: a test runner hangs its own, derived kinds on every logger.
        if type(handler) is logging.StreamHandler and handler.stream is not sys.stderr:
            handler.setStream(sys.stderr)
        if not any(isinstance(f, _NoChatter) for f in handler.filters):
            handler.addFilter(_NoChatter())
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    except BaseException:
        sys.stderr.write(printed.getvalue())
        raise


def prepare_operators() -> None:
    """Make the folder of compiled operators usable: ours alone, and without what killed processes left behind.

    A process killed while it compiles leaves torch's lock file, for which every later start would wait for ever. One
    beside which nothing compiles on this machine is removed when it is ten minutes old: until then another machine may
    be at work in a shared folder.

    Raises:
        ConfigError: Others may write to the folder.
    """
    folder = Path(os.environ["TORCH_EXTENSIONS_DIR"]).expanduser().absolute()
    _make_own(folder)
    with _only_process(folder):
        for lock in sorted(folder.rglob(_TORCH_LOCK)):
            waiting = False
            while (age_s := _age_s(lock)) is not None and not _compiles(lock.parent):
                if age_s >= _STALE_S:
                    lock.unlink(missing_ok=True)
                    rank_zero_info(f"removed the lock of a process that was killed while compiling: {lock}")
                elif not waiting:
                    waiting = True
                    rank_zero_info(f"waiting, {_STALE_S - age_s:.0f} s at most, for whoever compiles behind {lock}")
                else:
                    time.sleep(1.0)


def _age_s(file: Path) -> float | None:
    """Seconds since a file was made; None where it is gone."""
    try:
        return time.time() - file.stat().st_mtime
    except OSError:
        return None


def _compiles(folder: Path) -> bool:
    """Whether a process that we can see works in an operator's folder, as torch's compilers do."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(process / "cwd")) == folder.resolve():
                return True
    return False


def _make_own(folder: Path) -> None:
    """Make a folder of code; where it lies below one that everybody may write, such as /tmp, it must be ours alone.

    Raises:
        ConfigError: It is not: others could have put code there under a name that can be guessed.
    """
    open_to_all = False
    for part in reversed([folder, *folder.parents]):
        try:
            part.mkdir(mode=0o700, exist_ok=True)
            found = part.lstat()
        except OSError as error:
            raise ConfigError(f"cannot make the folder of compiled operators: {error.strerror}", where=part) from error
        if open_to_all:
            if found.st_uid not in (0, os.getuid()) or found.st_mode & 0o022 or stat.S_ISLNK(found.st_mode):
                raise ConfigError(
                    "compiled operators would be loaded from a folder that others may write to",
                    where=part,
                    expected="a folder of yours, mode 0700",
                    fix="chmod 700 it if it is yours, or name another one with TORCH_EXTENSIONS_DIR or MACEDANCE_CACHE",
                )
            open_to_all = bool(found.st_mode & 0o077)  # else nobody else comes further
        open_to_all = open_to_all or bool(stat.S_ISDIR(found.st_mode) and found.st_mode & 0o002)


def ignore_deprecations() -> None:
    """Pass over what DeepSpeed calls by its old name in torch: it would be said at every step."""
    warnings.filterwarnings("ignore", message=r".*torch\.distributed\.\w+` is deprecated", category=FutureWarning)


def compile_operators() -> None:
    """Compile, once per cache folder, what DeepSpeed needs to talk between ranks on a CPU.

    One process of a machine compiles while the others wait. A process killed while compiling leaves torch's own lock
    file, for which the next one would wait for ever: under our lock, which the system gives back, it is removed.

    Raises:
        DependencyError: There is no compiler.
    """
    from deepspeed.comm.torch import build_shm_op

    folder = Path(os.environ["TORCH_EXTENSIONS_DIR"])
    with _only_process(folder):
        built = list(folder.rglob(f"{_SHARED_MEMORY_OP}.so"))
        if not built:
            rank_zero_info(f"compiling DeepSpeed's CPU communication, once, about a minute; kept in {folder}")
        for lock in folder.rglob(f"{_SHARED_MEMORY_OP}/lock"):
            lock.unlink(missing_ok=True)
        try:
            with quiet_deepspeed():
                build_shm_op()
        except (RuntimeError, OSError, ImportError) as error:
            raise DependencyError(
                f"DeepSpeed's CPU communication cannot be compiled: {str(error).splitlines()[0]}",
                expected="a C++ compiler and Python's headers",
                fix="install g++ and python3-dev, or train with --config strategies/ddp",
            ) from error


@contextlib.contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, where the system has such locks."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / ".macedance.lock").open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
