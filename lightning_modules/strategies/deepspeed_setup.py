"""DeepSpeed before its first use: present, on the right accelerator, its operators compiled once, and quiet."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_info

from macedance.errors import DependencyError
from macedance.music.cache import cache_root

_CHATTER = re.compile(r"\*\*\*\* You are using ZeRO with an untested optimizer|.*Setting ds_accelerator to")
_SHARED_MEMORY_OP = "deepspeed_shm_comm"


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
