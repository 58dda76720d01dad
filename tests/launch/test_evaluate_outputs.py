"""What the commands of ``macedance evaluate`` refuse of ``--json`` and ``--out`` before they do any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.main import main

# Folders and files that are not there: whatever reads them first has its own complaint.
PAIR = ("--generated", "nowhere", "--reference", "nowhere")
COMMANDS = {
    "motion": PAIR,
    "video": PAIR,
    "animation": PAIR,
    "cascade": PAIR,
    "leaderboard": ("nowhere.json", "--out", "board"),
    "study": ("--a", "nowhere", "--b", "nowhere", "--out", "study"),
    "weights": ("--download", "no such network"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_or_an_impossible_file_is_refused_before_the_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "file").write_text("kept")
    for target, told in (("results", "--json names a folder"), ("file/r.json", "is not a folder")):
        assert main(["evaluate", command, *COMMANDS[command], "--json", target]) == 2
        shown = capsys.readouterr()
        assert told in shown.err
        assert "nowhere" not in shown.err
        assert shown.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "results"]
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("command", ["motion", "video", "animation", "cascade", "leaderboard", "study"])
def test_a_page_where_a_file_is_is_refused_before_the_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    assert main(["evaluate", command, *COMMANDS[command], "--out", "file"]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"
