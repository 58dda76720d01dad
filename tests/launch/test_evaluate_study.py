"""`macedance evaluate study`: from two folders of videos to a page, and from the raters' files to numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.evaluation.study import main
from macedance.errors import ConfigError, DataError
from macedance.metrics.protocol_result import ProtocolResult, read_protocol, write_protocol
from macedance.metrics.study_files import COLUMNS, StudyKey, Trial, read_key, write_key
from macedance.rendering.video import VideoWriter

Chooser = Callable[[Trial, str, str], str]


def write_videos(folder: Path, names: list[str], value: int) -> Path:
    folder.mkdir()
    for name in names:
        with VideoWriter(folder / f"{name}.mp4", 15, 64, 64) as video:
            for frame in range(4):
                video.add(np.full((64, 64, 3), value + frame, dtype=np.uint8))
    return folder


def write_answers(path: Path, key: StudyKey, rater: str, choose: Chooser) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for order, trial in enumerate(key.trials, start=1):
            sides = (trial.a, trial.b) if order % 2 else (trial.b, trial.a)
            for question in key.questions:
                writer.writerow(
                    [key.study, rater, trial.trial, question, *sides, choose(trial, question, sides[0]), 9.5, order]
                )
    return path


def write_metrics(path: Path, values: dict[str, float], preset: str = "clean") -> Path:
    per_clip = {preset: {"bas": values, "bas_reference": dict.fromkeys(values, 0.2)}}
    result = ProtocolResult({preset: {"bas": {"value": 0.3, "n": len(values)}}}, {}, {"kind": "joints"}, {})
    write_protocol(path, ProtocolResult(result.presets, {}, result.inputs, {}, per_clip=per_clip))
    return path


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, StudyKey]:
    """A study as it is found when the answers come: nothing but its key."""
    trials = tuple(Trial(f"p{i}", f"clip{i}", f"f{i}", f"g{i}") for i in range(6))
    trials += (Trial("p6", "clip2", "f2", "g2", repeat=True),)
    names = {"a": "ours", "b": "theirs"}
    key = StudyKey("cafe01", 0, names, {"a": "A", "b": "B"}, ("ds", "gm"), trials, ("identity is judged",))
    write_key(tmp_path / "study" / "key.json", key)
    return tmp_path / "study", key


def test_two_folders_become_a_page_and_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (write_videos(tmp_path / name, ["x", "y"], value) for name, value in (("ours", 20), ("theirs", 90)))
    out = tmp_path / "study"
    arguments = ["--a", str(a), "--b", str(b), "--out", str(out), "--questions", "mace", "--json"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    assert content["pairs"] == 2
    assert content["questions"] == ["ds", "dq", "dc", "pq", "tc", "ic"]
    assert Path(content["page"]).is_file()
    key = read_key(content["key"])
    assert key.names == {"a": "ours", "b": "theirs"}
    assert "mind: 2 pairs have no sound" in printed.err
    assert "keep this from them" in printed.err


def test_unmatched_and_broken_videos_are_all_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_videos(tmp_path / "a", ["x", "y", "z"], 20), write_videos(tmp_path / "b", ["x", "w"], 90)
    out = ["--out", str(tmp_path / "out")]
    with pytest.raises(DataError, match=r"unmatched names: 2 only .*: y, z; 1 only .*: w"):
        main(["--a", str(a), "--b", str(b), *out])
    (b / "y.mp4").write_bytes(b"no video")
    (b / "w.mp4").unlink()
    (a / "z.mp4").unlink()
    with pytest.raises(DataError, match=r"y\.mp4"):
        main(["--a", str(a), "--b", str(b), *out])
    assert not (tmp_path / "out").exists()
    assert main(["--a", str(a), "--b", str(b), *out, "--leave-out-bad"]) == 0
    assert "left out of --b: y.mp4" in capsys.readouterr().err
    assert [trial.clip for trial in read_key(tmp_path / "out" / "key.json").trials] == ["x"]


def test_answers_become_win_rates_correlations_and_a_page(
    study: tuple[Path, StudyKey], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, key = study
    number = {trial.clip: int(trial.clip[-1]) for trial in key.trials}

    def ours_where_it_is_better(trial: Trial, question: str, left: str) -> str:
        return "tie" if question == "gm" else trial.a if number[trial.clip] >= 2 else trial.b

    files = [write_answers(tmp_path / f"{i}.csv", key, f"r{i}", ours_where_it_is_better) for i in range(8)]
    clips = [f"clip{i}" for i in range(6)]
    a = write_metrics(tmp_path / "a.json", {clip: 0.1 * index for index, clip in enumerate(clips)})
    b = write_metrics(tmp_path / "b.json", dict.fromkeys(clips, 0.15))
    arguments = ["--out", str(out), "--answers", *map(str, files), "--results-a", str(a), "--results-b", str(b)]
    assert main([*arguments, "--resamples", "200", "--json", str(tmp_path / "o.json")]) == 0
    result = read_protocol(out / "results" / "study.json")
    assert json.loads((tmp_path / "o.json").read_text())["hash"] == result.hash
    rate = result.presets["study"]["ds"]
    assert rate["value"] == pytest.approx(4 / 6)
    assert (rate["n"], rate["raters"], rate["clips"], rate["krippendorff_alpha"]) == (48, 8, 6, 1.0)
    assert rate["p_value"] == pytest.approx(2 / 256)
    assert result.presets["study"]["gm"]["ties"] == 48
    assert result.presets["study"]["self_agreement"]["value"] == 1.0
    found = result.presets["study_correlations"]["ds~clean.bas"]
    assert (found["value"] > 0.8, found["agreement"]) == (True, 1.0)
    assert "gm~clean.bas" in result.presets["study_correlations"]
    assert result.presets["study_correlations"]["gm~clean.bas"]["reason"]
    assert set(result.presets["study_correlations"]) == {"ds~clean.bas", "gm~clean.bas"}
    page = (out / "results" / "index.html").read_text()
    for text in ("ours or theirs?", "Dance Synchronization", "clean.bas", "Identity is judged.", "preferences.png"):
        assert text in page, text
    assert "ours 0.667 (0.667 to 0.667), 48 answers of 8 raters" in capsys.readouterr().err


def test_files_handed_in_twice_count_once_and_unfinished_raters_are_named(
    study: tuple[Path, StudyKey], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, key = study
    first = write_answers(tmp_path / "1.csv", key, "r1", lambda trial, *_: trial.a)
    second = write_answers(tmp_path / "2.csv", key, "r2", lambda trial, *_: trial.b)
    short = second.read_text().splitlines(keepends=True)[:4]
    second.write_text("".join(short))
    assert main(["--out", str(out), "--answers", str(first), str(first), str(second)]) == 0
    told = capsys.readouterr().err
    assert "14 answers were handed in more than once and count once" in told
    assert "1 of 2 raters did not answer everything: r2 (3 of 14)" in told
    assert read_protocol(out / "results" / "study.json").presets["study"]["ds"]["n"] == 6 + 2


def test_every_bad_line_is_named_at_once(study: tuple[Path, StudyKey], tmp_path: Path) -> None:
    out, key = study
    good = write_answers(tmp_path / "good.csv", key, "r1", lambda trial, *_: trial.a)
    lines = good.read_text().splitlines()
    bad: list[Any] = [
        ("study", lines[1].replace("cafe01", "beef02"), "an answer to study 'beef02'"),
        ("pair", lines[1].replace(",p0,", ",p99,"), "there is no pair 'p99'"),
        ("question", lines[1].replace(",ds,", ",xx,"), "there is no question 'xx'"),
        ("choice", lines[1].replace(",f0,9.5", ",f9,9.5"), "the sides or the choice are not those of pair p0"),
        ("seconds", lines[1].replace("9.5", "long"), "'long' seconds"),
        ("never", lines[1].replace("9.5", "nan"), "'nan' seconds"),
        ("endless", lines[1].replace("9.5", "inf"), "'inf' seconds"),
        ("back", lines[1].replace("9.5", "-5"), "'-5' seconds"),
        ("twice", lines[1].replace(",f0,9.5", ",g0,9.5"), "rater r1 answered ds of p0 twice and differently"),
    ]
    files = [good]
    for name, line, _ in bad:
        path = tmp_path / f"{name}.csv"
        path.write_text(f"{lines[0]}\n{line}\n")
        files.append(path)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    files += [tmp_path / "other.csv", tmp_path / "missing.csv"]
    with pytest.raises(DataError, match="11 lines or files of answers cannot be used") as caught:
        main(["--out", str(out), "--answers", *map(str, files)])
    for name, _, why in bad:
        assert f"{name}.csv line 2: {why}" in str(caught.value)
    assert "other.csv: no column study" in str(caught.value)
    assert "missing.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "nothing to do"),
        (["--a", "x"], "--a and --b are the two sides"),
        (["--a", "x", "--b", "y", "--answers", "z"], "a study is made with --a and --b, and read with --answers"),
        (["--answers", "z", "--results-a", "r"], "--results-a and --results-b are compared"),
        (["--a", "x", "--b", "y", "--max-clips", "0"], "--max-clips is 0"),
        (["--a", "x", "--b", "y", "--repeats", "-1"], "--repeats is -1"),
    ],
)
def test_requests_that_make_no_sense_are_refused(tmp_path: Path, arguments: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        main(["--out", str(tmp_path), *arguments])


def test_missing_key_and_results_without_clips_are_refused(study: tuple[Path, StudyKey], tmp_path: Path) -> None:
    out, key = study
    answers = str(write_answers(tmp_path / "1.csv", key, "r1", lambda trial, *_: trial.a))
    with pytest.raises(DataError, match="the key of the study cannot be read"):
        main(["--out", str(tmp_path / "nowhere"), "--answers", answers])
    empty = tmp_path / "empty.json"
    write_protocol(empty, ProtocolResult({"clean": {}}, {}, {"kind": "joints"}, {}))
    with pytest.raises(DataError, match="hold no values of single clips"):
        main(["--out", str(out), "--answers", answers, "--results-a", str(empty), "--results-b", str(empty)])
