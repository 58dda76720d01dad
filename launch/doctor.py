"""``macedance doctor``: what is installed, what is broken, which parts that disables, and the fix."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from launch.options import Parser, add_json_option, emit_json

Status = Literal["ok", "absent", "broken"]

_CORE = ("numpy", "scipy", "librosa", "soundfile", "av", "pytorch_lightning", "webdataset", "torchmetrics", "peft",
         "diffusers", "safetensors", "rich", "tensorboard", "matplotlib", "jinja2", "yaml", "jsonargparse")  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One finding: ``disables`` and ``fix`` are empty where the part works."""

    name: str
    status: Status
    detail: str
    disables: str = ""
    fix: str = ""
    required: bool = False


def _import_error(module: str) -> str | None:
    """None when a fresh interpreter can import the module; otherwise the last line of its error."""
    run = subprocess.run(
        [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=180, check=False
    )
    if run.returncode == 0:
        return None
    lines = [line for line in run.stderr.strip().splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {run.returncode}"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown version"


def check_python() -> Check:
    """The interpreter."""
    fine = sys.version_info >= (3, 10)
    return Check(
        "python", "ok" if fine else "broken", platform.python_version(), "" if fine else "everything",
        "" if fine else "install Python 3.10 or newer", required=True,
    )  # fmt: skip


def check_torch() -> Check:
    """The torch build: CPU or CUDA, and whether a GPU answers."""
    error = _import_error("torch")
    if error:
        return Check("torch", "broken", error, "everything", "pip install torch -c constraints.txt", required=True)
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    gpus = torch.cuda.device_count()
    detail = f"{torch.__version__} ({build}), {gpus} GPU{'s' if gpus != 1 else ''}, {torch.get_num_threads()} threads"
    if torch.version.cuda and not gpus:
        return Check(
            "torch", "broken", detail, "training on a GPU", "check the driver with nvidia-smi, or install the CPU build"
        )
    return Check("torch", "ok", detail, required=True)


def check_core() -> Check:
    """The packages every part needs."""
    missing = [name for name in _CORE if importlib.util.find_spec(name) is None]
    if missing:
        return Check(
            "core packages", "absent", f"missing: {', '.join(missing)}", "everything",
            "pip install -c constraints.txt macedance", required=True,
        )  # fmt: skip
    error = _import_error("librosa, pytorch_lightning, torchmetrics, diffusers, peft")
    if error:
        return Check(
            "core packages", "broken", error, "training and music features",
            "pip install --force-reinstall -c constraints.txt macedance; a broken torchvision does this",
            required=True,
        )  # fmt: skip
    return Check("core packages", "ok", f"{len(_CORE)} packages import", required=True)


def check_torchvision() -> Check:
    """A torchvision that is installed and cannot be imported breaks torchmetrics, transformers and diffusers."""
    if importlib.util.find_spec("torchvision") is None:
        return Check("torchvision", "absent", "not installed, and not needed without a GPU")
    error = _import_error("torchvision")
    if error is None:
        return Check("torchvision", "ok", _version("torchvision"))
    return Check(
        "torchvision", "broken", error, "metrics, diffusers and transformers: they import it when it is there",
        "pip uninstall torchvision, or install the build that matches this torch",
    )  # fmt: skip


def check_mamba() -> Check:
    """mamba-ssm's kernels, which only a GPU can run."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return Check("mamba-ssm", "absent", "not installed; our own scan is used (on a GPU: slower)")
    error = _import_error("mamba_ssm.ops.selective_scan_interface")
    if error:
        return Check(
            "mamba-ssm", "broken", error, "the fast scan on GPUs (our own scan is used instead)",
            "pip uninstall mamba-ssm, or rebuild it for this torch: pip install --no-build-isolation mamba-ssm",
        )  # fmt: skip
    import torch

    if not torch.cuda.is_available():
        return Check("mamba-ssm", "ok", f"{_version('mamba-ssm')}, idle: there is no GPU")
    run = subprocess.run([sys.executable, "-c", _MAMBA_PROBE], capture_output=True, text=True, timeout=300, check=False)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        return Check(
            "mamba-ssm", "broken", f"its kernel does not run: {last}", "the fast scan on GPUs",
            "rebuild it for this GPU and torch: pip install --no-build-isolation --force-reinstall mamba-ssm",
        )  # fmt: skip
    return Check("mamba-ssm", "ok", f"{_version('mamba-ssm')}, its kernel runs")


_MAMBA_PROBE = """
import torch
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
u = torch.randn(1, 8, 4, device="cuda"); d = torch.rand_like(u); a = -torch.rand(8, 2, device="cuda")
b = torch.randn(1, 2, 4, device="cuda"); assert torch.isfinite(selective_scan_fn(u, d, a, b, b)).all()
"""


def check_opengl() -> Check:
    """An OpenGL context without a display; the software rasteriser does not need one."""
    from macedance.rendering.opengl import gl_report

    report = gl_report()
    if report.available:
        return Check("OpenGL (EGL)", "ok", report.renderer)
    return Check(
        "OpenGL (EGL)", "absent", report.reason, "nothing: videos are drawn by the software rasteriser",
        "pip install moderngl; apt-get install libegl1 libegl-mesa0",
    )  # fmt: skip


def check_codecs() -> Check:
    """The h264 and aac encoders of PyAV."""
    from macedance.rendering.probe import codec_report

    report = codec_report()
    if not report.available:
        return Check(
            "video codecs", "broken", report.reason, "mp4 files",
            "pip install --force-reinstall av (its wheels carry the encoders)", required=True,
        )  # fmt: skip
    return Check("video codecs", "ok", f"PyAV {_version('av')}: {report.h264}, {report.aac}")


def check_deepspeed() -> Check:
    """DeepSpeed and what its first start compiles with: a C++ compiler and Python's headers."""
    if importlib.util.find_spec("deepspeed") is None:
        return Check("DeepSpeed", "absent", "not installed", "ZeRO on clusters", "pip install 'macedance[cluster]'")
    compiler = next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    problems, fixes = [], []
    if compiler is None:
        problems.append("no C++ compiler")
        fixes.append("apt-get install g++")
    if not header.exists():
        problems.append(f"no Python headers ({header})")
        fixes.append("apt-get install python3-dev")
    if importlib.util.find_spec("ninja") is None and shutil.which("ninja") is None:
        problems.append("no ninja")
        fixes.append("pip install ninja")
    if problems:
        return Check("DeepSpeed", "broken", "; ".join(problems), "its first start compiles its ops", "; ".join(fixes))
    return Check("DeepSpeed", "ok", f"{_version('deepspeed')}, {compiler}, {header}")


def check_cache() -> Check:
    """The cache folder."""
    from launch.options import writable_folder
    from macedance.errors import ConfigError
    from macedance.music.cache import cache_root

    folder = cache_root()
    try:
        writable_folder(folder)
    except ConfigError as error:
        return Check(
            "cache folder", "broken", str(error), "cached features and the built-in corpus",
            "set MACEDANCE_CACHE to a folder that you may write to", required=True,
        )  # fmt: skip
    return Check("cache folder", "ok", str(folder))


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python, check_torch, check_core, check_torchvision, check_mamba, check_opengl, check_codecs, check_deepspeed,
    check_cache,
)  # fmt: skip


def run_checks() -> list[Check]:
    """All findings; a check that itself fails is a finding."""
    findings = []
    for check in CHECKS:
        try:
            findings.append(check())
        except Exception as error:  # a doctor must not die of what it finds
            name = check.__name__.removeprefix("check_")
            findings.append(Check(name, "broken", f"{type(error).__name__}: {error}", "unknown", "report this"))
    return findings


def main(arguments: Sequence[str]) -> int:
    """Run the verb: exit code 1 when a required part is missing or broken."""
    parser = Parser(prog="macedance doctor", description="What is installed, what is broken, and the fix.")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    findings = run_checks()
    ready = not any(f.required and f.status != "ok" for f in findings)
    if options.json:
        emit_json(options.json, {"ready": ready, "checks": [asdict(f) for f in findings]})
    if options.json != "-":
        for finding in findings:
            print(f"{finding.status:<7} {finding.name:<15} {finding.detail}")
            if finding.disables:
                print(f"{'':<24}disables: {finding.disables}")
            if finding.fix:
                print(f"{'':<24}fix: {finding.fix}")
        print("ready" if ready else "not ready: mend what is marked absent or broken above")
    return 0 if ready else 1
