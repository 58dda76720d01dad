"""What the demos share: the folder that each of them replaces, and how long its parts take."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch.options import say, writable_folder
from macedance.errors import ConfigError

#: Tells a folder that a demo made.
_MARKER = ".macedance-demo"


@dataclass
class Clock:
    """Seconds that each part took."""

    parts: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        """The part that has just ended."""
        now = time.perf_counter()
        self.parts[name] = self.parts.get(name, 0.0) + now - self._last
        self._last = now


def clear_demo(out: Path, parts: Sequence[str]) -> None:
    """Make the folder, or remove what an earlier demo made in it; anybody else's folder is left alone.

    Args:
        out: The folder.
        parts: Names of files and folders that a demo makes.

    Raises:
        ConfigError: The folder holds something and no demo made it.
    """
    marker = out / _MARKER
    if out.is_dir() and any(out.iterdir()) and not marker.exists():
        raise ConfigError(
            "the output folder holds something that no demo made",
            where=out,
            expected="a new or empty folder, or one of an earlier demo",
            fix="name another folder with --out",
        )
    writable_folder(out)
    marker.write_text("made by `macedance demo`, which replaces what it made here\n", encoding="utf-8")
    for part in parts:
        path = out / part
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def tell_result(table: str, clock: Clock, files: Sequence[Path], *, quiet: bool) -> None:
    """The end of a demo: its bounds, the time of its parts, what it made.

    Args:
        table: Of the bounds.
        clock: Of the parts.
        files: What it made.
        quiet: Standard output is for JSON.
    """
    from macedance.report.progress import format_seconds

    tell = say if quiet else print
    tell(table)
    say("time: " + ", ".join(f"{name} {format_seconds(value)}" for name, value in clock.parts.items()))
    say(f"in all {format_seconds(sum(clock.parts.values()))}")
    for path in files:
        tell(str(path))
