"""Progress with an estimate of the time left: a bar on a terminal, a line now and then in a log, nothing when quiet."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

#: Seconds between two lines where there is no terminal to draw a bar on.
_LINE_INTERVAL_S = 15.0


def is_quiet() -> bool:
    """Whether the user turned progress off: ``MACEDANCE_QUIET=1``."""
    return os.environ.get("MACEDANCE_QUIET", "") not in ("", "0")


def format_seconds(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    whole = max(round(seconds), 0)
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


class Progress:
    """A task of known length, written to stderr.

    Args:
        description: What is being done, two or three words.
        total: Number of units.

    Use as a context manager and call :meth:`update` with the units done so far.
    """

    def __init__(self, description: str, total: int) -> None:
        self.description, self.total = description, max(int(total), 1)
        self._start = self._last_line = time.monotonic()
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        self._start = self._last_line = time.monotonic()
        if not is_quiet() and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description:<18}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.description, total=self.total, note="")
        return self

    def update(self, done: int, note: str = "") -> None:
        """Say that ``done`` of the units are finished."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if is_quiet() or (now - self._last_line < _LINE_INTERVAL_S and done < self.total):
            return
        self._last_line = now
        elapsed = now - self._start
        left = elapsed / done * (self.total - done) if done else 0.0
        line = (
            f"{self.description}: {done}/{self.total}, {format_seconds(elapsed)} gone, "
            f"about {format_seconds(left)} left"
        )
        print(f"{line}, {note}" if note else line, file=sys.stderr, flush=True)

    def __call__(self, done: int, total: int | None = None) -> None:
        """The form that the library's functions call: units done and their total."""
        if total is not None and total != self.total:
            self.total = total
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, total=total)
        self.update(done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
