"""The project's errors: each says what is wrong, where, what was expected and how to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class MaceDanceError(Exception):
    """Base of every error that a user may see.

    Args:
        what: What is wrong, one clause.
        where: The file, shard and key, config key or rank it was found at.
        expected: What was expected instead.
        fix: What the user can do.

    The message is one line: ``what; at WHERE; expected EXPECTED; fix: FIX``.
    """

    exit_code = 1
    #: Raised on every rank of a run alike: the first one says it.
    on_every_rank = False

    def __init__(
        self, what: str, *, where: str | Path | None = None, expected: str | None = None, fix: str | None = None
    ) -> None:
        self.what, self.where, self.expected, self.fix = what, where, expected, fix
        parts = [what]
        if where is not None:
            parts.append(f"at {where}")
        if expected is not None:
            parts.append(f"expected {expected}")
        if fix is not None:
            parts.append(f"fix: {fix}")
        super().__init__(" ".join("; ".join(parts).split()))

    def everywhere(self) -> Self:
        """The same error, marked as raised on every rank."""
        self.on_every_rank = True
        return self


class ConfigError(MaceDanceError):
    """A wrong flag, config key or value: the user's mistake, exit code 2."""

    exit_code = 2


class DataError(MaceDanceError):
    """A file, shard or sample that cannot be used: exit code 2."""

    exit_code = 2


class TransportError(DataError):
    """A server or a network that does not answer, for now: exit code 76 of `fit`, as of all that a restart may mend."""

    exit_code = 76


class CheckpointError(MaceDanceError):
    """A checkpoint that is missing, foreign, damaged or of another model: exit code 2."""

    exit_code = 2


class DependencyError(MaceDanceError):
    """An optional package that is missing or broken and that the request needs: exit code 2."""

    exit_code = 2


class NumericsError(MaceDanceError):
    """Non-finite numbers in training or sampling: exit code 1."""

    exit_code = 1
