"""How the commands of ``macedance evaluate`` hand their result over: terminal, JSON and page."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch.options import check_writable, say

if TYPE_CHECKING:
    from macedance.metrics.protocol_result import ProtocolResult
    from macedance.report.page import Page

#: Sentences that list clips are cut on the terminal where a file has them whole.
_MOST_CHARACTERS = 300


def check_outputs(json: str | None, out: str | None) -> None:
    """Raise ConfigError when the JSON file or the page's folder could not be written; makes nothing."""
    if out:
        check_writable(Path(out))
    if json not in (None, "-"):
        check_writable(Path(str(json)).parent)


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
