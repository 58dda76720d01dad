"""Every command of the README runs, at its smallest size, unless the line above it says why not."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_RUN = "# not run by the tests:"
#: What makes a command small. Later options win over the README's.
SMALLEST = {
    "demo": ["--smoke"],
    "generate": ["--seconds", "2", "--steps", "2", "--formats", "npz,bvh,mp4", "--size", "64"],
    "fit": ["--config", "debug/mace_motion_cpu"],
    "evaluate cascade": [
        "--max-clips", "1", "--max-seconds", "1", "--size", "96", "--perturbations", "jitter", "--levels", "1",
    ],
}  # fmt: skip


def smallest(words: list[str]) -> list[str]:
    """What makes this command small, by its verb or by its verb and what follows."""
    return SMALLEST.get(" ".join(words[1:3]), SMALLEST.get(words[1], []))


def commands(language: str = "bash") -> list[tuple[str, str | None]]:
    """(command, reason not to run it) of every line of every block."""
    found: list[tuple[str, str | None]] = []
    for block in re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S):
        reason = None
        for line in block.strip().splitlines():
            if line.startswith(NOT_RUN):
                reason = line.removeprefix(NOT_RUN).strip()
            elif line.strip():
                assert not line.startswith("#"), f"a comment that is no reason: {line}"
                found.append((line, reason))
                reason = None
    return found


def test_every_command_has_a_runner_or_a_reason() -> None:
    listed = commands()
    assert len(listed) >= 10
    for command, reason in listed:
        assert reason or command.startswith("macedance "), command
        assert reason is None or len(reason) > 10, command


def test_verbs_and_options_of_the_readme_exist() -> None:
    from launch.main import VERBS

    for command, _ in commands():
        words = shlex.split(command)
        if words[0] != "macedance":
            continue
        assert words[1] in VERBS, command
        usage = subprocess.run(
            [sys.executable, "-m", "launch.main", *words[1:3], "--help"]
            if words[1] in ("data", "evaluate")
            else [sys.executable, "-m", "launch.main", words[1], "--help"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        for option in (w for w in words if w.startswith("--")):
            assert option in usage, f"{command}: {option}"


@pytest.mark.slow
def test_the_readme_runs_from_top_to_bottom(tmp_path: Path) -> None:
    from macedance.music.audio import write_audio

    environment = {**os.environ, "MACEDANCE_CACHE": str(tmp_path / "cache"), "MACEDANCE_QUIET": "1"}
    rate = 22050
    beat = np.sin(2 * np.pi * 220 * np.arange(rate * 4) / rate) * (np.arange(rate * 4) % (rate // 2) < 2000)
    write_audio(tmp_path / "song.flac", (0.5 * beat).astype(np.float32), rate)
    for command, reason in commands():
        if reason is not None:
            continue
        words = shlex.split(command.replace("song.mp3", "song.flac").replace("--clips 400", "--clips 16"))
        arguments = [*words[1:], *smallest(words)]
        run = subprocess.run(
            [sys.executable, "-m", "launch.main", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert run.returncode == 0, f"{command}\n{run.stdout[-1500:]}\n{run.stderr[-3000:]}"
    for made in (
        "outputs/demo/index.html",
        "outputs/demo/metrics.json",
        "outputs/dance/song-1.npz",
        "outputs/first/metrics.csv",
        "outputs/first_dance/song-0.bvh",
        "data/demo/manifest.json",
    ):
        assert (tmp_path / made).exists(), made
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S):
        run = subprocess.run(
            [sys.executable, "-c", block.replace("song.mp3", "song.flac")],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr[-2000:]
        assert "24, 3" in run.stdout
