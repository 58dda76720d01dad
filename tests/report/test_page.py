from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from macedance.errors import DataError
from macedance.rendering import VideoWriter, save_png
from macedance.report.page import Page, format_cell

VOID = {"meta", "img", "source", "br", "hr"}


class Reader(HTMLParser):
    """Checks that tags are balanced, and collects tags, their attributes and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "out" / "a b"
    folder.mkdir(parents=True)
    picture = np.full((64, 64, 3), 120, np.uint8)
    save_png(picture, folder / "still & life.png")
    with VideoWriter(folder / "dance #1.mp4", 10, 64, 64) as writer:
        writer.add(picture)
    return folder


def test_videos_are_labelled_by_what_they_are(tmp_path: Path) -> None:
    page = Page("Players")
    for name in ("a.mp4", "b.webm", "c.MOV"):
        (tmp_path / name).write_bytes(b"pictures")
        page.add_video(tmp_path / name)
    sources = Reader(page.html(tmp_path)).all("source")
    assert [(source["src"], source["type"]) for source in sources] == [
        ("a.mp4", "video/mp4"), ("b.webm", "video/webm"), ("c.MOV", "video/quicktime"),
    ]  # fmt: skip


def test_page_shows_everything_that_was_added(media: Path) -> None:
    page = Page("Demo", "in ten minutes")
    page.add_facts({"clips": 1234, "score": 0.71234, "genre": "house"})
    for name in ("One", "Two", "Three"):
        page.add_heading(name)
    page.add_text("First paragraph\nof two lines.\n\nSecond.")
    page.add_table(["metric", "value", "met"], [["bas", 0.7, True], ["jerk", None, False]], "the bounds")
    page.add_video(media / "dance #1.mp4", "a dance", poster=media / "still & life.png")
    page.add_video(media / "dance #1.mp4", "again")
    page.add_image(media / "still & life.png", "a curve")
    page.add_code("macedance demo\n  --out x")
    read = Reader(page.write(media.parent / "index.html").read_text(encoding="utf-8"))
    for text in (
        "Demo",
        "in ten minutes",
        "1,234",
        "0.7123",
        "house",
        "First paragraph of two lines.",
        "the bounds",
        "a dance",
    ):
        assert text in read.text
    assert "macedance demo\n  --out x" in read.text
    assert [len(read.all(tag)) for tag in ("video", "img", "table", "th", "td", "h2", "pre")] == [2, 1, 1, 3, 6, 3, 1]
    assert {"✓ met", "✗ missed"} <= {part.strip() for part in re.findall(r"[✓✗] \w+", read.text)}
    anchors = {attributes["id"] for attributes in read.all("h2")}
    assert {str(link["href"])[1:] for link in read.all("a") if str(link["href"]).startswith("#")} == anchors
    assert all("controls" in video for video in read.all("video"))


def test_media_are_found_from_the_page_by_relative_address(media: Path) -> None:
    page = Page("Demo")
    page.add_video(media / "dance #1.mp4")
    page.add_image(media / "still & life.png")
    for place in (media.parent / "index.html", media / "deep" / "er" / "page.html"):
        read = Reader(page.write(place).read_text(encoding="utf-8"))
        sources = [str(tag["src"]) for name in ("source", "img") for tag in read.all(name)]
        assert len(sources) == 2
        for source in sources:
            assert not source.startswith(("/", "file:", "http"))
            assert (place.parent / unquote(source)).is_file()


def test_text_is_escaped_everywhere(media: Path) -> None:
    evil = "<script>alert('x')</script>&\"'"
    page = Page(evil, evil)
    page.add_facts({evil: evil})
    page.add_heading(evil)
    page.add_text(evil)
    page.add_code(evil)
    page.add_table([evil], [[evil]], evil)
    page.add_video(media / "dance #1.mp4", evil)
    page.add_image(media / "still & life.png", evil, alt=evil)
    read = Reader(page.html(media))
    assert not read.all("script")
    assert read.text.count(evil) >= 10
    assert read.all("img")[0]["alt"] == evil


def test_page_needs_nothing_from_elsewhere() -> None:
    page = Page("Demo")
    page.add_heading("Part")
    html = page.html(Path("."))
    assert "<script" not in html
    assert "http" not in html
    assert "@import" not in html
    assert not Reader(html).all("link")
    assert "prefers-color-scheme: dark" in html


def test_missing_media_and_unwritable_folders_are_named(tmp_path: Path) -> None:
    page = Page("Demo")
    page.add_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"gone\.png"):
        page.write(tmp_path / "index.html")
    assert not (tmp_path / "index.html").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        Page("Demo").write(tmp_path / "file" / "index.html")


def test_ragged_table_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="2 cells under 1"):
        Page("Demo").add_table(["one"], [["a", "b"]])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (True, "met"), (False, "missed"), (12, "12"), (66_680_983, "66,680,983"), (0.123456, "0.1235"),
        (40.0, "40"), (1532.4, "1,532"), (1e-7, "1e-07"), (float("nan"), "nan"), ("as it is", "as it is"),
    ],
)  # fmt: skip
def test_cells_are_formatted(value: str | float | None, text: str) -> None:
    assert format_cell(value) == text
