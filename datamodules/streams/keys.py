"""Names of samples: webdataset splits a member's name at its first dot, and nothing may leave the folder."""

from __future__ import annotations

import re

from macedance.errors import DataError

MAX_KEY_LENGTH = 80  # key and suffix stay within the 100 bytes of a plain tar header
_KEY = re.compile(r"[A-Za-z0-9_-]+")


def safe_key(text: str) -> str:
    """A key made of any text: `/` becomes `__`, other foreign characters `-`, at most 80 characters."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text.replace("\\", "/").replace("/", "__"))[:MAX_KEY_LENGTH]


def check_key(key: str) -> None:
    """Refuse a key that webdataset would split or that leaves the folder.

    Raises:
        DataError: Other characters than [A-Za-z0-9_-], empty, or longer than 80.
    """
    if not _KEY.fullmatch(key) or len(key) > MAX_KEY_LENGTH:
        raise DataError(
            f"key {key[:100]!r} cannot name a sample",
            expected=f"1 to {MAX_KEY_LENGTH} characters of A-Z a-z 0-9 _ -",
            fix=f"for instance {safe_key(key) or 'clip-0'!r}",
        )
