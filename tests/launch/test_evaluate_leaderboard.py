"""`macedance evaluate leaderboard`: our results beside every published row, comparable or not and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.evaluation.leaderboard import main
from macedance.errors import ConfigError, DataError
from macedance.metrics.protocol_result import ProtocolResult, write_protocol
from macedance.metrics.published import published
from macedance.report.leaderboard_entrants import find_entrants

TRUTH = {"div_k_reference": 9.24, "div_g_reference": 5.31, "bas_reference": 0.526}


def write_result(path: Path, preset: str = "mace2d", shift: float = 0.0, **entries: Any) -> Path:
    rng = np.random.default_rng(0)
    values = {"fid_k": 17.0, "fid_g": 0.9, "div_k": 9.0, "div_g": 5.0, "bas": 0.5, **TRUTH}
    presets = {preset: {key: {"value": value, "n": 200, "dims": 75, "ci95": [value - 0.1, value + 0.1]}
                        for key, value in values.items()} | entries}  # fmt: skip
    clips = {f"c{i}": float(value) for i, value in enumerate(rng.uniform(0.3, 0.6, 20))}
    floor = {preset: {"fid_k": {"value": 2.1, "n": 100, "n_reference": 200}}}
    per_clip = {preset: {"bas": {name: value + shift for name, value in clips.items()}, "bas_reference": clips}}
    inputs = {
        "kind": "keypoints", "fps": {"generated": [16.0], "reference": [16.0]}, "clips": {"generated": 200},
        "seconds_per_clip": {"generated": {"min": 5.0, "median": 5.0, "max": 5.0}},
    }  # fmt: skip
    write_protocol(path, ProtocolResult(presets, floor, inputs, {preset: {"published_fps": 16.0}}, per_clip=per_clip))
    return path


def test_page_and_markdown_hold_every_published_row_and_ours(tmp_path: Path) -> None:
    ours, half = write_result(tmp_path / "ours.json"), write_result(tmp_path / "half.json", shift=-0.1)
    out = tmp_path / "board"
    arguments = [
        f"ours={ours}",
        f"less={half}",
        "--dataset",
        "ma-data",
        "--out",
        str(out),
        "--json",
        str(out / "b.json"),
    ]
    assert main(arguments) == 0
    page, markdown = ((out / name).read_text() for name in ("index.html", "leaderboard.md"))
    for section in published().sections:
        for row in section.rows:
            name = row.name.replace("->", "-&gt;")
            assert f'<td class="text">{name}</td>' in page, row.name
            cells = [row.values.get(key, "") + ("?" if key in row.uncertain else "") for key in section.columns]
            assert f"| {row.name} | {' | '.join(cells)} |" in markdown
    assert "**ours** | 17 [16.9, 17.1] (n 200)" in markdown
    content = json.loads((out / "b.json").read_text())
    tables = {table["id"]: table for table in content["tables"]}
    assert tables["mace-1-motion"]["verdicts"]["ours"]["level"] == "yes"
    assert tables["mace-2-own"]["verdicts"]["ours"]["level"] == "no"
    assert content["measured_alike"] == [["ours", "less"]]
    assert [row["name"] for row in tables["mace-1-motion"]["rows"] if row["origin"] == "ours"] == ["ours", "less"]
    assert {"clips-mace2d.png", "table-mace-1-motion.png"} <= {path.name for path in (out / "plots").iterdir()}
    # Clip by clip, ours is 0.1 better.
    assert "ours − less" in page
    assert '<td class="number">0.1</td>' in page


def test_every_reason_against_is_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tmp_path / "ours.json", bas={"value": None, "n": 0, "reason": "no music beats within the clip"})
    assert main([str(tmp_path / "ours.json"), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "nobody said what it was measured on: --dataset ma-data" in page
    assert "no music beats within the clip" in page
    assert "no value (n 0)" in page
    assert "ours: of 25 published tables 0 are comparable, 0 with caution" in capsys.readouterr().err


def test_names_and_reasons_are_no_html(tmp_path: Path) -> None:
    path = write_result(tmp_path / "r.json", bas={"value": None, "n": 0, "reason": "<img src=x onerror=alert(1)>"})
    assert main([f"<script>a&b</script>={path}", "--out", str(tmp_path / "out")]) == 0
    for name in ("leaderboard.md", "index.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "&lt;script>a&amp;b&lt;/script>" in text or "&lt;script&gt;a&amp;b&lt;/script&gt;" in text
        assert "<script" not in text
        assert "<img src=x" not in text


def test_folder_gives_all_results_and_passes_over_other_json(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    write_result(folder / "motion.json")
    write_result(folder / "other.json", preset="mace3d")
    (folder / "settings.json").write_text('{"a": 1}')
    found = find_entrants([str(folder)], [], published())
    assert [entrant.label for entrant in found.entrants] == ["motion", "other"]
    assert any("settings.json was passed over" in remark for remark in found.remarks)


def test_of_a_run_the_newest_result_counts(tmp_path: Path) -> None:
    run = tmp_path / "my_run"
    for step in (5, 10, 100):
        write_result(run / "protocol" / f"step-{step:08d}.json")
    write_result(run / "protocol" / "appearance-step-00000100.json", preset="vbench")
    found = find_entrants([str(run)], [], published())
    assert [(entrant.label, entrant.path.name) for entrant in found.entrants] == [
        ("my_run", "appearance-step-00000100.json"), ("my_run", "step-00000100.json"),
    ]  # fmt: skip
    assert "the newest of 3 results of a run, of step 100" in found.remarks[0]


def test_equal_names_are_told_apart_or_refused(tmp_path: Path) -> None:
    a, b = write_result(tmp_path / "a" / "motion.json"), write_result(tmp_path / "b" / "motion.json")
    found = find_entrants([str(a), str(b)], ["a/motion=ma-data"], published())
    assert [(entrant.label, entrant.dataset) for entrant in found.entrants] == [
        ("a/motion", "ma-data"), ("b/motion", None),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"several results of one name and preset: ours \(mace2d\)"):
        find_entrants([f"ours={a}", f"ours={b}"], [], published())


def test_mistakes_are_one_clear_error(tmp_path: Path) -> None:
    good = write_result(tmp_path / "good.json")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "worse.json").write_text('{"schema": 9, "presets": {}, "inputs": {}}')
    (tmp_path / "empty").mkdir()
    out = str(tmp_path / "out")
    with pytest.raises(DataError, match=r"2 of 3 files cannot be used: .*bad\.json.*worse\.json"):
        main([str(good), str(tmp_path / "bad.json"), str(tmp_path / "worse.json"), "--out", out])
    with pytest.raises(DataError, match="no results in"):
        main([str(tmp_path / "empty"), "--out", out])
    with pytest.raises(DataError, match="no such file or folder"):
        main([str(tmp_path / "nowhere"), "--out", out])
    with pytest.raises(ConfigError, match="unknown data set 'moon'"):
        main([str(good), "--dataset", "moon", "--out", out])
    with pytest.raises(ConfigError, match="there is no result 'them'"):
        main([str(good), "--dataset", "them=ma-data", "--out", out])
    assert not Path(out).exists()
