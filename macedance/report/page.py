"""HTML pages: headings, text, tables, pictures and videos in one self-contained file beside its media.

The page needs no script and no network; everything that is shown as text is escaped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from macedance.errors import DataError
from macedance.motion.atomic import write_atomically

#: What a table cell or a fact may hold: a bool is shown as met or missed, None as a dash.
Cell = str | int | float | bool | None


#: Media types of the videos that browsers play, by file ending.
_VIDEO_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime"}


@dataclass(frozen=True)
class _Block:
    """One element of a page; ``kind`` names the template's macro and ``data`` its content."""

    kind: Literal["heading", "text", "table", "facts", "code", "media"]
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Media:
    """A picture or a video; its file is resolved when the page is written."""

    tag: Literal["img", "video"]
    path: Path
    caption: str
    alt: str = ""
    poster: Path | None = None


def format_cell(value: Cell) -> str:
    """A number with four significant digits, a whole number with thousands separated, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "met" if value else "missed"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        if value.is_integer() and abs(value) < 1e6:
            return f"{value:.0f}"
        if abs(value) >= 1000:
            return f"{value:,.0f}"
        return f"{value:.4g}"
    return value


class Page:
    """A report, built from top to bottom and written at the end.

    Args:
        title: Title of the page.
        subtitle: One line under it.

    Videos added in a row stand side by side where the window is wide enough.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self._title, self._subtitle = title, subtitle
        self._blocks: list[_Block] = []

    def add_heading(self, text: str, level: int = 2) -> None:
        """A heading of level 2 or 3; those of level 2 are listed at the top of the page."""
        level = min(max(level, 2), 3)
        anchor = f"part-{sum(block.kind == 'heading' for block in self._blocks) + 1}"
        self._blocks.append(_Block("heading", {"text": text, "level": level, "anchor": anchor}))

    def add_text(self, text: str) -> None:
        """Paragraphs, separated by empty lines."""
        paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
        self._blocks.append(_Block("text", {"paragraphs": [part for part in paragraphs if part]}))

    def add_code(self, text: str) -> None:
        """Text as it is, in a fixed-width font: a command or a configuration."""
        self._blocks.append(_Block("code", {"text": text.strip("\n")}))

    def add_facts(self, facts: Mapping[str, Cell]) -> None:
        """Labelled values at a glance: large numbers side by side."""
        self._blocks.append(_Block("facts", {"facts": [(k, _cell(v)) for k, v in facts.items()]}))

    def add_table(self, header: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = "") -> None:
        """A table; True and False become marks for met and missed.

        Raises:
            ValueError: a row whose length is not the header's.
        """
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"a row of {len(row)} cells under {len(header)} columns: {list(row)}")
        cells = [[_cell(value) for value in row] for row in rows]
        self._blocks.append(_Block("table", {"header": list(header), "rows": cells, "caption": caption}))

    def add_image(self, path: Path | str, caption: str = "", alt: str = "") -> None:
        """A picture file (PNG or SVG)."""
        self._add_media(_Media("img", Path(path), caption, alt or caption))

    def add_video(self, path: Path | str, caption: str = "", poster: Path | str | None = None) -> None:
        """An mp4, webm or mov with controls; ``poster`` is shown until it plays."""
        self._add_media(_Media("video", Path(path), caption, poster=None if poster is None else Path(poster)))

    def _add_media(self, media: _Media) -> None:
        last = self._blocks[-1] if self._blocks else None
        if last is not None and last.kind == "media" and last.data["items"][-1].tag == media.tag:
            last.data["items"].append(media)
        else:
            self._blocks.append(_Block("media", {"items": [media]}))

    def html(self, folder: Path | str) -> str:
        """The page as it reads in ``folder``: media are addressed relative to it.

        Raises:
            DataError: a picture or video that is not there.
        """
        from jinja2 import Environment, StrictUndefined

        folder = Path(folder).resolve()
        blocks = [self._resolved(block, folder) for block in self._blocks]
        room = files("macedance.report")
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        template = environment.from_string(room.joinpath("page.html.j2").read_text(encoding="utf-8"))
        contents = [block.data for block in blocks if block.kind == "heading" and block.data["level"] == 2]
        return template.render(
            title=self._title,
            subtitle=self._subtitle,
            contents=contents if len(contents) > 2 else [],
            blocks=blocks,
            style=room.joinpath("page.css").read_text(encoding="utf-8"),
        )

    @staticmethod
    def _resolved(block: _Block, folder: Path) -> _Block:
        if block.kind != "media":
            return block
        items = [
            {
                "tag": media.tag,
                "source": _relative(media.path, folder),
                "type": _VIDEO_TYPES.get(media.path.suffix.lower(), "video/mp4"),
                "caption": media.caption,
                "alt": media.alt,
                "poster": None if media.poster is None else _relative(media.poster, folder),
            }
            for media in block.data["items"]
        ]
        return _Block("media", {"items": items})

    def write(self, path: Path | str) -> Path:
        """Write the page; it appears whole or not at all. Returns its path.

        Raises:
            DataError: a picture or video that is not there, or a folder that cannot be written.
        """
        path = Path(path)
        # Bytes of a file name that are not UTF-8 are shown escaped.
        write_atomically(path, self.html(path.parent).encode("utf-8", "backslashreplace"))
        return path


def _cell(value: Cell) -> dict[str, str]:
    kind = "text" if isinstance(value, str) else "mark" if isinstance(value, bool) else "number"
    return {"text": format_cell(value), "kind": kind}


def _relative(path: Path, folder: Path) -> str:
    """The URL of a file, relative to the page's folder."""
    path = path.resolve()
    if not path.is_file():
        raise DataError("a file that the report shows is not there", where=path)
    return quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))
