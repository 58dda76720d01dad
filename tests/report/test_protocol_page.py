"""The page of an evaluation shows every number with what qualifies it, and what was left out."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from macedance.metrics.protocol_result import ProtocolResult, read_protocol
from macedance.report.metric_texts import METRIC_TEXTS, text_of
from macedance.report.page import Page, format_cell
from macedance.report.protocol_page import write_protocol_page
from macedance.report.protocol_text import missing_values, noted, protocol_table, shortened

GOLDEN = Path(__file__).parents[1] / "golden" / "motion_protocol.json"
NBSP = "\N{NO-BREAK SPACE}"


def rows_of(page: Path) -> list[list[str]]:
    """The cells of every row of every table."""
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"<tr>(.*?)</tr>", text, flags=re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, flags=re.DOTALL) for row in rows]
    return [[html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in row] for row in cells]


def text_in(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")))


def result_of(presets: dict[str, Any], **others: Any) -> ProtocolResult:
    return ProtocolResult(presets, others.pop("floor", {}), others.pop("inputs", {}), {}, **others)


def test_every_number_of_a_result_is_on_its_page(tmp_path: Path) -> None:
    result = read_protocol(GOLDEN)
    page = write_protocol_page(result, tmp_path, title="Golden", command="macedance evaluate motion --x")
    rows = {row[0].split(" ")[0]: row for row in reversed(rows_of(page)) if row}
    for key, entry in result.presets["clean"].items():
        if key.endswith(("_reference", "_shuffled")):
            continue
        cells = rows[key]
        if entry["value"] is not None:
            assert format_cell(float(entry["value"])) in cells, key
            low, high = (format_cell(float(end)) for end in entry["ci95"])
            assert f"{low}{NBSP}to{NBSP}{high}" in cells, key
        reference = result.presets["clean"].get(f"{key}_reference")
        if reference is not None:
            assert format_cell(float(reference["value"])) in cells, key
    assert rows["fid_g"][3] == f"33{NBSP}/{NBSP}70"
    assert format_cell(float(result.floor["clean"]["fid_g"]["value"])) in rows["fid_g"]
    shuffled = result.presets["clean"]["bas_shuffled"]["value"]
    assert any(cell.startswith(f"{format_cell(float(shuffled))} (ref.") for cell in rows["bas"])
    text = text_in(page)
    for part in ("bad.npz", "too short: 1 frame", "stranger", result.hash, "macedance evaluate motion --x"):
        assert part in text
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"clean.png", "lodge_finedance.png"}


def test_reasons_and_what_cannot_be_told_apart_are_said(tmp_path: Path) -> None:
    entries = {
        "fid_k": {"value": None, "n": 3, "n_reference": 9, "reason": "3 clips are fewer than the 72 features"},
        "fid_g": {"value": 5.0, "n": 40, "n_reference": 90, "dropped_dims": 2, "ci95": [4.0, 6.0]},
        "bas": {"value": 0.3, "n": 3, "left_out": 1, "reason": "no music beats", "ci95": [0.2, 0.4]},
        "bas_shuffled": {"value": 0.25, "n": 3},
        "foot_skating": {"value": 0.1, "n": 3, "feet_without_contact": 1},
    }
    floor = {"fid_g": {"value": 4.8, "sd": 0.3, "n": 40}, "fid_k": {"value": None, "reason": "samples of 4 clips"}}
    page = write_protocol_page(result_of({"clean": entries}, floor={"clean": floor}), tmp_path)
    remarks = {tuple(row) for row in rows_of(page) if len(row) == 2}
    assert ("fid_k", "3 clips are fewer than the 72 features") in remarks
    assert ("floor of fid_k", "samples of 4 clips") in remarks
    assert ("bas", "1 clip left out: no music beats") in remarks
    assert ("bas", "not above chance: other songs' beats give 0.25") in remarks
    assert ("fid_g", "2 feature dimensions do not vary in the reference and were dropped") in remarks
    assert any(key == "fid_g" and "not to be told from real dances" in remark for key, remark in remarks)
    assert ("foot_skating", "1 feet never touch the floor") in remarks
    # A floor of fewer clips is larger, and proves nothing.
    smaller = {"fid_g": {"value": 4.8, "sd": 0.3, "n": 20}}
    text = text_in(write_protocol_page(result_of({"clean": entries}, floor={"clean": smaller}), tmp_path))
    assert "not to be told from real dances" not in text
    better = {**entries, "bas": {"value": 0.5, "n": 3, "ci95": [0.4, 0.6]}}
    assert "not above chance" not in text_in(write_protocol_page(result_of({"clean": better}), tmp_path))


def test_a_frozen_video_s_flicker_stands_beside_its_motion(tmp_path: Path) -> None:
    vbench = {"temporal_flickering": {"value": 100.0, "n": 4}}
    honest = {"person_motion": {"value": 0.0, "n": 4}}
    text = text_in(write_protocol_page(result_of({"vbench": vbench, "honest": honest}), tmp_path))
    assert "Motion amplitude of the person in these videos: 0 body heights/s" in text
    whole = {"person_motion": {"value": 0.0, "n": 4, "note": "of the whole picture"}}
    text = text_in(write_protocol_page(result_of({"vbench": vbench, "honest": whole}), tmp_path))
    assert "in these videos: 0 (of the whole picture)" in text
    text = text_in(write_protocol_page(result_of({"vbench": vbench}), tmp_path))
    assert "was not measured" in text


def test_columns_and_parts_without_content_are_left_out(tmp_path: Path) -> None:
    page = write_protocol_page(result_of({"vbench": {"imaging_quality": {"value": 60.0, "n": 2}}}), tmp_path)
    assert rows_of(page)[0] == ["metric", "value", "clips", "what it is"]
    assert not (tmp_path / "plots").exists()
    assert "<img" not in page.read_text(encoding="utf-8")


def test_odd_clips_do_not_break_the_page(tmp_path: Path) -> None:
    """No value at all, one clip, equal values, infinities, names that look like markup, keys that nobody knows."""
    nan, inf = float("nan"), float("inf")
    evil = "<script>alert('x')</script>"
    values = {
        "bas": {"a": nan, "b": nan},
        "jerk": {"a": 3.0},
        "pfc": {evil: 1.0, "b": 1.0},
        "gap": {"a": -inf, "b": inf, "c": 2.0},
        "person_motion": {"a": 0.0, "b": 0.0},
    }
    entries = {key: {"value": None, "n": 0, "reason": evil} for key in values}
    result = result_of({"own": entries}, per_clip={"own": values}, inputs={"notes": {"own": [evil], "inputs": [evil]}})
    page = write_protocol_page(result, tmp_path)
    assert "<script" not in page.read_text(encoding="utf-8")
    assert text_in(page).count("alert('x')") >= 4
    extremes = {row[0]: row for row in rows_of(page) if len(row) == 4}
    assert extremes["pfc"][1] == f"1 · {evil}"
    assert "jerk" not in extremes
    assert (tmp_path / "plots" / "own.png").is_file()


def test_long_lists_of_clips_are_cut_where_the_json_has_them(tmp_path: Path) -> None:
    names = [f"clip{number:04d}" for number in range(400)]
    inputs = {
        "notes": {"clean": [f"400 clips are short: {', '.join(names)}"]},
        "left_out": {"generated": dict.fromkeys(names, "damaged")},
    }
    result = result_of({"clean": {"bas": {"value": 0.1, "n": 1}}}, inputs=inputs)
    text = text_in(write_protocol_page(result, tmp_path))
    assert "400 clips are short: clip0000" in text
    assert text.count("the JSON lists all") == 2
    assert "and 340 more" in text
    assert noted(result) == [f"clean: 400 clips are short: {', '.join(names)}"]
    assert len(noted(result, most_characters=100)[0]) < 140
    assert shortened("a b", 3) == "a b"


def test_others_add_their_parts(tmp_path: Path) -> None:
    result = result_of({"clean": {"bas": {"value": 0.1, "n": 1}}})

    def before(page: Page) -> None:
        page.add_text("ABOVE")

    def after(page: Page) -> None:
        page.add_text("BELOW")

    text = text_in(write_protocol_page(result, tmp_path, before=before, after=after))
    assert text.index("ABOVE") < text.index("Preset clean", text.index("ABOVE")) < text.index("BELOW")


def test_the_table_of_a_terminal_has_the_numbers_and_the_reasons() -> None:
    result = read_protocol(GOLDEN)
    table = protocol_table(result)
    lines = {line.split()[0]: line for line in reversed(table.splitlines()) if line}
    assert "14.31" in lines["fid_g"]
    assert "33/70" in lines["fid_g"]
    assert "0.1675" in lines["bas"]
    assert "bas_shuffled" not in lines
    assert max(map(len, table.splitlines())) <= 120
    missing = missing_values(result)
    assert missing[0].startswith("clean: no fid_k, floor of fid_k: 33 clips are fewer than the 72 features")
    shared = replace(result, inputs={"notes": {"a": ["one"], "b": ["one", "two"]}})
    assert noted(shared) == [
        "a, b: one",
        "b: two",
        "lodge_finedance fid_g: 2 feature dimensions do not vary in the reference, and this convention keeps them: a "
        "generated clip that does vary there makes the number as large as it likes (clean drops them)",
    ]


@pytest.mark.parametrize("key", sorted(METRIC_TEXTS))
def test_every_metric_is_explained_in_one_clause(key: str) -> None:
    text = METRIC_TEXTS[key]
    assert text.text
    assert not text.text.endswith(".")
    assert len(text.text) < 100


def test_an_extended_key_is_explained_by_what_it_extends() -> None:
    assert text_of("motion_smoothness_flow") == METRIC_TEXTS["motion_smoothness"]
    assert text_of("warp_error_person_x") == METRIC_TEXTS["warp_error_person"]
    assert text_of("nothing_known").text == ""


def test_units_are_those_of_what_was_judged(tmp_path: Path) -> None:
    entries = {"clean": {"jerk": {"value": 1.0, "n": 1}}}
    for kind, unit in (("joints", "m/s³"), ("keypoints", "torso lengths/s³")):
        result = result_of(entries, inputs={"kind": kind}, per_clip={"clean": {"jerk": {"a": 1.0}}})
        assert rows_of(write_protocol_page(result, tmp_path))[1][0] == f"jerk ≈ ({unit})"
