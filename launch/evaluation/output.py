"""How the commands of ``macedance evaluate`` hand their result over: terminal, JSON and page."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch.options import check_writable, say
from macedance.errors import ConfigError

if TYPE_CHECKING:
    from macedance.metrics.protocol_result import ProtocolResult
    from macedance.report.page import Page

#: Sentences that list clips are cut on the terminal where a file has them whole.
_MOST_CHARACTERS = 300


def check_outputs(json: str | None, out: str | None) -> None:
    """Refuse a JSON file or a page's folder that could not be written, before any work; makes nothing.

    Raises:
        ConfigError: A folder where the JSON is to be, a file that may not be written, or a folder that cannot be made.
    """
    if out:
        check_writable(Path(out))
    if json in (None, "-"):
        return
    path = Path(str(json))
    check_writable(path.parent)
    if path.is_dir():
        raise ConfigError("--json names a folder", where=path, expected="a file", fix=f"--json {path / 'result.json'}")
    if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
        raise ConfigError("--json names something that may not be written", where=path, expected="a file of yours")


def hand_over(
    result: ProtocolResult,
    *,
    json: str | None,
    out: str | None,
    title: str,
    subtitle: str,
    command: Sequence[str],
    before: Callable[[Page], None] | None = None,
    after: Callable[[Page], None] | None = None,
) -> None:
    """Print the table, say what is missing and what must be known, write the JSON and the page.

    Args:
        result: What was measured.
        json: ``-``: the JSON on stdout and the table on stderr; a file; None: no JSON.
        out: Folder of the page; None: no page.
        title: Title of the page.
        subtitle: One line under it.
        command: Words of the command behind ``macedance``, shown on the page.
        before: See write_protocol_page.
        after: See write_protocol_page.

    Raises:
        DataError: A file cannot be written.
    """
    from macedance.metrics.protocol_result import protocol_text, write_protocol
    from macedance.report.protocol_page import write_protocol_page
    from macedance.report.protocol_text import missing_values, noted, protocol_table

    if json == "-":
        say(protocol_table(result))
        sys.stdout.write(f"{protocol_text(result)}\n")
    else:
        print(protocol_table(result))
    for line in (*missing_values(result), *noted(result, most_characters=_MOST_CHARACTERS if json else None)):
        say(line)
    if json not in (None, "-"):
        write_protocol(str(json), result)
        say(f"result: {json}")
    if out:
        page = write_protocol_page(
            result,
            out,
            title=title,
            subtitle=subtitle,
            command=f"macedance {shlex.join(command)}",
            before=before,
            after=after,
        )
        say(f"page: {page}")
