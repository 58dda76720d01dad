"""BlazePose's two networks, taken out of the package on PyPI that carries them; the package is never installed.

The package pins an old protobuf and another OpenCV, and its code is not needed: a wheel is a zip archive, and two
members of it are the networks (Apache-2.0). Both are pinned by their sha256.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from macedance.errors import CheckpointError, DependencyError, TransportError
from macedance.motion.atomic import write_atomically

DETECTION, LANDMARKS = "pose_detection.tflite", "pose_landmark_full.tflite"
REQUIREMENT = "mediapipe==0.10.14"
#: File -> its sha256.
SHA256: Mapping[str, str] = MappingProxyType(
    {
        DETECTION: "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
        LANDMARKS: "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    }
)
_MEMBERS = {
    DETECTION: f"mediapipe/modules/pose_detection/{DETECTION}",
    LANDMARKS: f"mediapipe/modules/pose_landmark/{LANDMARKS}",
}
#: Any platform's wheel carries the same networks: the machine at hand need not be one that the package supports.
_PLATFORM = (
    "--python-version", "3.11", "--implementation", "cp", "--platform", "manylinux_2_17_x86_64",
    "--platform", "manylinux2014_x86_64",
)  # fmt: skip
_MAX_BYTES = 64 << 20


def fetch_blazepose(folder: str | Path, *, timeout_s: float = 600.0) -> None:
    """Fetch the package (36 MB) with pip into a temporary folder and put the two networks into ``folder``.

    Raises:
        DependencyError: This Python has no pip.
        TransportError: pip cannot fetch the package; says pip's last line.
        CheckpointError: The package holds other files than the known ones.
    """
    with tempfile.TemporaryDirectory(prefix="macedance-") as taken:
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary=:all:", *_PLATFORM, "--dest", taken, REQUIREMENT,
        ]  # fmt: skip
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TransportError(f"pip does not fetch {REQUIREMENT} ({error})", fix="try again") from error
        if run.returncode:
            raise _refused_by_pip(run.stderr)
        wheels = sorted(Path(taken).glob("*.whl"))
        if not wheels:
            raise TransportError(f"pip fetched no wheel of {REQUIREMENT}", fix="try again")
        extract_blazepose(wheels[0], folder)


def extract_blazepose(wheel: str | Path, folder: str | Path) -> None:
    """Put the two networks out of a wheel into ``folder``; both are checked before either is written.

    Raises:
        CheckpointError: The wheel is damaged, lacks a network or holds another one.
    """
    found: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, member in _MEMBERS.items():
                if archive.getinfo(member).file_size > _MAX_BYTES:
                    raise CheckpointError(f"{member} is too large to be the network", where=wheel)
                found[name] = archive.read(member)
    except KeyError as error:
        raise CheckpointError(f"lacks a network: {error.args[0]}", where=wheel, expected=REQUIREMENT) from error
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:
        raise CheckpointError(f"no readable wheel ({error})", where=wheel, expected=REQUIREMENT) from error
    for name, content in found.items():
        digest = hashlib.sha256(content).hexdigest()
        if digest != SHA256[name]:
            raise CheckpointError(
                f"{_MEMBERS[name]} is another file: its sha256 is {digest}",
                where=wheel,
                expected=f"{SHA256[name]} of {REQUIREMENT}",
            )
    for name, content in found.items():
        write_atomically(Path(folder) / name, content)


def _refused_by_pip(told: str) -> TransportError | DependencyError:
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    if lines and "No module named pip" in lines[-1]:
        return DependencyError(
            f"this Python has no pip to fetch {REQUIREMENT} with",
            fix="`python -m ensurepip`, or fetch the wheel elsewhere and copy its two .tflite files",
        )
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["it says nothing"]
    return TransportError(
        f"pip cannot fetch {REQUIREMENT} ({errors[-1].removeprefix('ERROR: ')})",
        fix="try again with a network or an index that has it",
    )
