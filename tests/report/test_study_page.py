"""The raters' page: blind, seeded, whole; its script's own logic runs under node where that is installed."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from macedance.errors import ConfigError, DataError
from macedance.metrics.study import EDMG_QUESTIONS, QUESTION_SETS
from macedance.metrics.study_files import COLUMNS, read_key
from macedance.music.audio import write_audio
from macedance.rendering.video import VideoWriter
from macedance.report.study_media import copy_image, probe_format
from macedance.report.study_page import StudyRequest, make_study
from macedance.vision.video import Video

SCRIPT = Path(__file__).parents[2] / "macedance" / "report" / "study.js"


def write_video(path: Path, value: int, *, frames: int = 6, fps: float = 15, music: Path | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps, 64, 64, music=music) as video:
        for frame in range(frames):
            video.add(np.full((64, 64, 3), value + frame, dtype=np.uint8))
    return path


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("song") / "song.wav"
    write_audio(path, np.zeros(22050, dtype=np.float32), 22050)
    return path


@pytest.fixture(scope="module")
def request_of_seven(tmp_path_factory: pytest.TempPathFactory, song: Path) -> StudyRequest:
    root = tmp_path_factory.mktemp("systems")
    sides: list[dict[str, Path]] = [
        {f"dance{i}": write_video(root / name / f"dance{i}.mp4", value + 8 * i, music=song) for i in range(7)}
        for name, value in (("secretone", 20), ("secrettwo", 120))
    ]
    names = {"a": "secretone", "b": "secrettwo"}
    folders = {"a": str(root / "secretone"), "b": str(root / "secrettwo")}
    return StudyRequest(*sides, names, folders, QUESTION_SETS["all"])


def page_data(out: Path) -> dict[str, Any]:
    html = (out / "page" / "index.html").read_text()
    return json.loads(html.split('id="study">')[1].split("</script>")[0])


def test_nothing_in_the_page_tells_whose_a_video_is(tmp_path: Path, request_of_seven: StudyRequest) -> None:
    key = make_study(request_of_seven, tmp_path)
    text = b"".join(path.read_bytes() for path in (tmp_path / "page").rglob("*") if path.is_file())
    for secret in (b"secretone", b"secrettwo", b"dance0", str(tmp_path).encode(), b"Lavf"):
        assert secret not in text, secret
    trials = page_data(tmp_path)["trials"]
    firsts = {trial.trial: trial for trial in key.trials}
    assert all(set(trial["files"]) == {firsts[trial["trial"]].a, firsts[trial["trial"]].b} for trial in trials)
    first_is_a = [trial["files"][0] == firsts[trial["trial"]].a for trial in trials if trial["again"] is None]
    assert 0 < sum(first_is_a) < len(first_is_a)
    assert {path.stem for path in (tmp_path / "page" / "media").iterdir()} == {
        name for trial in key.trials for name in (trial.a, trial.b)
    }


def test_copies_hold_the_same_pictures_and_sound(tmp_path: Path, request_of_seven: StudyRequest) -> None:
    key = make_study(replace(request_of_seven, max_clips=1), tmp_path)
    trial = key.trials[0]
    for side, name in ((request_of_seven.a, trial.a), (request_of_seven.b, trial.b)):
        copy = tmp_path / "page" / "media" / f"{name}.mp4"
        np.testing.assert_array_equal(Video.open(copy).frames(), Video.open(side[trial.clip]).frames())
        assert probe_format(copy).sound


def test_same_seed_same_study_other_seed_other_names(tmp_path: Path, request_of_seven: StudyRequest) -> None:
    asked = replace(request_of_seven, max_clips=3)
    first, again = make_study(asked, tmp_path / "1"), make_study(asked, tmp_path / "2")
    assert (first, page_data(tmp_path / "1")) == (again, page_data(tmp_path / "2"))
    other = make_study(replace(asked, seed=1), tmp_path / "3")
    assert other.study != first.study
    assert {trial.a for trial in other.trials}.isdisjoint(trial.a for trial in first.trials)
    assert read_key(tmp_path / "1" / "key.json") == first
    make_study(asked, tmp_path / "1")
    with pytest.raises(ConfigError, match="is already here"):
        make_study(replace(asked, seed=1), tmp_path / "1")


def test_a_tenth_is_shown_twice_and_not_more_than_a_third(tmp_path: Path, request_of_seven: StudyRequest) -> None:
    key = make_study(request_of_seven, tmp_path / "seven")
    repeated = [trial for trial in key.trials if trial.repeat]
    assert len(key.trials) == 8
    assert len(repeated) == 1
    first = next(trial for trial in key.trials if trial.clip == repeated[0].clip)
    assert (first.a, first.b) == (repeated[0].a, repeated[0].b)
    assert not any(t.repeat for t in make_study(replace(request_of_seven, max_clips=3), tmp_path / "three").trials)
    with pytest.raises(ConfigError, match="3 repeated pairs of 7"):
        make_study(replace(request_of_seven, repeats=3), tmp_path / "more")


def test_what_may_unblind_raters_is_said(tmp_path: Path, song: Path) -> None:
    a = {"x": write_video(tmp_path / "a" / "x.mp4", 10, music=song), "y": write_video(tmp_path / "a" / "y.mp4", 10)}
    b = {
        "x": write_video(tmp_path / "b" / "x.mp4", 90, fps=30),
        "y": write_video(tmp_path / "b" / "y.mp4", 90, frames=30),
    }
    request = StudyRequest(a, b, {"a": "a", "b": "b"}, {"a": "a", "b": "b"}, QUESTION_SETS["all"])
    remarks = " ".join(make_study(request, tmp_path / "out").remarks)
    for what in ("by the frame rate of 1 pairs: x", "by the sound of 1 pairs: x", "by the length of 1 pairs: y",
                 "1 pairs have no sound", "--reference-images"):  # fmt: skip
        assert what in remarks, what


def test_songs_and_pictures_stand_beside_the_pair_and_all_missing_ones_are_named(
    tmp_path: Path, request_of_seven: StudyRequest, song: Path
) -> None:
    songs, pictures = tmp_path / "songs", tmp_path / "pictures"
    songs.mkdir()
    pictures.mkdir()
    for clip in request_of_seven.a:
        shutil.copy(song, songs / f"{clip}.wav")
        Image.new("RGB", (8, 8), (200, 10, 10)).save(pictures / f"{clip}.jpg")
    asked = replace(request_of_seven, songs=songs, references=pictures, max_clips=2)
    key = make_study(asked, tmp_path / "out")
    assert key.remarks == ()
    media = tmp_path / "out" / "page" / "media"
    for trial in page_data(tmp_path / "out")["trials"]:
        assert (media / trial["song"]).read_bytes() == song.read_bytes()
        assert Image.open(media / trial["reference"]).getpixel((4, 4))[0] > 180
    assert not probe_format(media / f"{key.trials[0].a}.mp4").sound
    (songs / "dance0.wav").unlink()
    (songs / "dance3.wav").unlink()
    with pytest.raises(DataError, match="2 clips have no songs: dance0, dance3"):
        make_study(replace(asked, max_clips=None), tmp_path / "other")


def test_pictures_lose_what_cameras_write(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8))
    exif = picture.getexif()
    exif[0x010E] = "made by secretone"
    picture.save(tmp_path / "in.jpg", exif=exif)
    copy_image(tmp_path / "in.jpg", tmp_path / "out.png")
    assert b"secretone" in (tmp_path / "in.jpg").read_bytes()
    assert b"secretone" not in (tmp_path / "out.png").read_bytes()


def node(code: str) -> Any:
    """What node prints as JSON for an expression in the page's script."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed: the page's script was not run")
    text = f"const page = require({json.dumps(str(SCRIPT))}); console.log(JSON.stringify({code}));"
    done = subprocess.run([program, "-e", text], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def small_study(pairs: int = 9, repeats: int = 2) -> dict[str, Any]:
    trials = [{"trial": f"p{i}", "files": [f"x{i}", f"y{i}"], "again": None} for i in range(pairs)]
    trials += [{"trial": f"r{i}", "files": [f"x{i}", f"y{i}"], "again": f"p{i}"} for i in range(repeats)]
    return {"study": "s", "seed": 0, "questions": [{"key": "ds"}, {"key": "dq"}], "trials": trials}


def test_each_rater_has_an_order_and_sides_of_their_own_balanced_and_kept() -> None:
    study = json.dumps(small_study())
    plans = node(f"['r1', 'r1', 'r2', 'r3'].map((rater) => page.plan({study}, rater))")
    assert plans[0] == plans[1]
    assert len({json.dumps(plan) for plan in plans}) == 3
    for plan in plans:
        assert sorted(pair["trial"] for pair in plan) == [*sorted(f"p{i}" for i in range(9)), "r0", "r1"]
        firsts, again = plan[:9], plan[9:]
        assert sum(pair["left"].startswith("y") for pair in firsts) == 4
        assert all({pair["left"], pair["right"]} == set(pair["files"]) for pair in plan)
        for pair in again:
            position, shown = next((i, p) for i, p in enumerate(firsts) if p["trial"] == pair["again"])
            assert position < 5
            assert (pair["left"], pair["right"]) == (shown["right"], shown["left"])


def test_over_raters_each_system_is_as_often_left() -> None:
    study = json.dumps(small_study(8, 0))
    plans = node(f"Array.from({{length: 200}}, (_, i) => page.plan({study}, 'rater' + i))")
    left = np.array(
        [[next(p for p in plan if p["trial"] == f"p{i}")["left"] == f"x{i}" for i in range(8)] for plan in plans]
    )
    assert (left.sum(axis=1) == 4).all()
    assert np.abs(left.mean(axis=0) - 0.5).max() < 0.13
    position = np.array([[p["trial"] for p in plan].index("p0") for plan in plans])
    assert abs(position.mean() - 3.5) < 0.6


def test_answers_are_written_as_the_reader_expects() -> None:
    study = json.dumps(small_study(2, 0))
    given = json.dumps({"p0": {"ds": {"side": "left", "seconds": 3.5}, "dq": {"side": "tie", "seconds": 4}}})
    pairs, text, complete = node(
        f"(() => {{ const study = {study}; const pairs = page.plan(study, 'a,\"b'); const given = {given};"
        "const complete = pairs.map((pair) => Boolean(page.isComplete(study, given, pair)));"
        "return [pairs, page.answersCsv(study, 'a,\"b', pairs, given), complete]; })()"
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == COLUMNS
    shown = next(pair for pair in pairs if pair["trial"] == "p0")
    assert [(row["question"], row["choice"]) for row in rows] == [("ds", shown["left"]), ("dq", "tie")]
    assert {row["rater"] for row in rows} == {'a,"b'}
    assert [pair["trial"] == "p0" for pair in pairs] == complete


def test_page_escapes_what_it_is_given(tmp_path: Path, request_of_seven: StudyRequest) -> None:
    question = replace(EDMG_QUESTIONS[0], text="</script><b>which?")
    asked = replace(request_of_seven, questions=(question,), max_clips=1, title="<i>study")
    make_study(asked, tmp_path)
    html = (tmp_path / "page" / "index.html").read_text()
    assert "<i>study" not in html
    assert "</script><b>" not in html
    assert page_data(tmp_path)["questions"] == [{"key": "gm", "text": "</script><b>which?"}]
