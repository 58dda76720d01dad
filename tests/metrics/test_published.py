"""The published numbers, and when a result of ours may stand beside them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from macedance.errors import ConfigError
from macedance.metrics.presets import JOINT_PRESETS, KEYPOINT_PRESETS
from macedance.metrics.protocol_result import ProtocolResult
from macedance.metrics.published import (
    Published,
    Section,
    check_dataset,
    ground_truth_agreement,
    ground_truth_tolerance,
    judge,
    published,
)
from macedance.report.metric_texts import PRESET_TEXTS

KNOWN = published()
SECTIONS = {section.id: section for section in KNOWN.sections}


FIVE = {"generated": {"min": 5.0, "median": 5.0, "max": 5.0}, "reference": {"min": 5.0, "median": 5.0, "max": 5.1}}


def printed(section: str, row: str) -> dict[str, str]:
    return dict(next(r.values for r in SECTIONS[section].rows if r.name == row))


def result(
    preset: str, values: dict[str, float | None], *, n: int | None = 500, fps: float = 16.0, **inputs: Any
) -> Any:
    entries = {key: {"value": value, "dims": 75} | ({} if n is None else {"n": n}) for key, value in values.items()}
    published_fps = {"mace2d": 16.0, "lodge_finedance": 30.0, "mace3d": 30.0, "bailando_aist": 60.0}.get(preset)
    return ProtocolResult(
        {preset: entries}, {},
        {"kind": "keypoints", "fps": {"generated": [fps], "reference": [fps]}, "seconds_per_clip": FIVE} | inputs,
        {preset: {"published_fps": published_fps}},
    )  # fmt: skip


# What the ground truth of MACE-Dance's Table 1 has under its own protocol.
MACE_REFERENCE = {"div_k_reference": 9.24, "div_g_reference": 5.31, "bas_reference": 0.526}
GOOD = result("mace2d", {"fid_k": 17.0, "fid_g": 0.9, "div_k": 9.0, "div_g": 5.0, "bas": 0.5, **MACE_REFERENCE})


def test_rows_are_as_printed() -> None:
    assert printed("mace-1-motion", "MACE-Dance") == {
        "fid_k": "16.46", "fid_g": "0.28", "div_k": "9.74", "div_g": "6.34", "bas": "0.523",
    }  # fmt: skip
    assert printed("mace-2-own", "Motion Expert")["frames_per_second"] == "770"
    assert printed("mace-2-copied", "Lodge")["fid_k"] == "50.00"
    assert printed("mace-3-fvd", "Appearance Expert") == {"fvd": "274.94"}
    assert printed("edmg-2", "EDMG")["bas"] == "0.41"
    assert printed("edge-pfc", "EDGE") == {"pfc": "1.5363"}
    systems = sum(len(section.rows) for section in KNOWN.sections)
    assert (len(KNOWN.sections), systems) == (25, 95)


def test_every_section_is_whole_and_explained() -> None:
    presets = {*JOINT_PRESETS, *KEYPOINT_PRESETS, *PRESET_TEXTS, "study"}
    for section in KNOWN.sections:
        assert section.source in KNOWN.sources
        assert section.dataset in KNOWN.datasets
        assert section.why
        assert section.n
        assert {section.preset, *section.presets.values()} - {None} <= presets
        assert set(section.columns) <= set(KNOWN.columns)
        names = [row.name for row in section.rows]
        assert section.ground_truth is None or section.ground_truth in names
        assert len(set(names)) == len(names)
        for row in section.rows:
            assert set(row.values) <= set(section.columns)
            assert row.values
            assert set(row.uncertain) <= set(row.values)
            assert row.source is None or row.source in KNOWN.sources
            assert all(float(value) >= 0 for value in row.values.values())
    assert len(SECTIONS) == len(KNOWN.sections)


def test_result_of_the_same_convention_data_and_ground_truth_is_comparable() -> None:
    verdict = judge(SECTIONS["mace-1-motion"], GOOD, "ma-data")
    assert (verdict.level, verdict.reasons) == ("yes", ())
    checks = ground_truth_agreement(SECTIONS["mace-1-motion"], GOOD)
    assert [(check.key, check.holds) for check in checks] == [("div_k", True), ("div_g", True), ("bas", True)]


@pytest.mark.parametrize(
    ("change", "dataset", "why"),
    [
        ({"seconds_per_clip": {"generated": {"min": 20.0, "median": 20.0, "max": 20.0}}}, "ma-data",
         "clips of 20 to 20 s, the published numbers are of 5 s"),
        ({}, None, "nobody said what it was measured on"),
        ({}, "finedance", "measured on finedance, not on ma-data"),
        ({"fps": 30.0}, "ma-data", "clips of 30 fps, the published numbers are of 16"),
        ({"values": {"fid_k": 17.0, **MACE_REFERENCE, "div_k_reference": 9.60}}, "ma-data",
         "our reference gives div_k 9.6, the table's ground truth is 9.24"),
    ],
)  # fmt: skip
def test_other_data_rate_or_reference_is_not_comparable(change: dict[str, Any], dataset: str | None, why: str) -> None:
    values = change.pop("values", {"fid_k": 17.0, **MACE_REFERENCE})
    verdict = judge(SECTIONS["mace-1-motion"], result("mace2d", values, **change), dataset)
    assert verdict.level == "no"
    assert any(why in reason for reason in verdict.reasons), verdict.reasons


VBENCH_TRUTH = {f"{key}_reference": float(value) for key, value in printed("mace-1-appearance", "Ground Truth").items()}
VBENCH_OURS = {key: float(value) for key, value in printed("mace-1-appearance", "MACE-Dance").items()}


def appearance(values: dict[str, float | None], fps: float = 16.0, **inputs: Any) -> Any:
    return judge(SECTIONS["mace-1-appearance"], result("vbench", values, fps=fps, n=200, **inputs), "ma-data")


def test_numbers_that_rise_with_an_unstated_frame_rate_are_never_more_than_with_caution() -> None:
    verdict = appearance({**VBENCH_OURS, **VBENCH_TRUTH}, fps=60.0)
    assert verdict.level == "with caution"
    assert verdict.reasons == (
        "numbers of vbench rise with the frame rate, which the paper does not state; ours are of 60",
    )
    mixed = replace(GOOD, presets={**GOOD.presets, "vbench": {"aesthetic_quality": {"value": 50.0, "n": 200}}})
    assert any("rise with the frame rate" in reason for reason in judge(SECTIONS["mace-5"], mixed, "ma-data").reasons)


def test_longer_clips_are_another_measurement_and_counts_of_clips_are_no_lengths() -> None:
    twenty = {"generated": {"min": 20.0, "median": 20.0, "max": 20.0}}
    verdict = appearance({**VBENCH_OURS, **VBENCH_TRUTH}, seconds_per_clip=twenty)
    assert verdict.level == "no"
    counted = {"generated": {"min": 5.0, "median": 5.0, "max": 5.0, "unknown": 40}}
    assert appearance({**VBENCH_OURS, **VBENCH_TRUTH}, seconds_per_clip=counted).level == "with caution"
    unsaid = judge(SECTIONS["mace-1-motion"], replace(GOOD, inputs={"fps": [16.0]}), "ma-data")
    assert unsaid.reasons == ("the result does not say how long its clips are; the published numbers are of 5 s",)
    unsaid = judge(SECTIONS["mace-1-motion"], replace(GOOD, inputs={"seconds_per_clip": FIVE}), "ma-data")
    assert unsaid.reasons == ("the result does not say the frame rate of its clips",)


def test_saturated_references_have_to_be_the_printed_ones_and_possible() -> None:
    near = {key: value + 0.04 for key, value in VBENCH_TRUTH.items()}
    assert appearance({**VBENCH_OURS, **near}).level == "with caution"
    for key, value in VBENCH_TRUTH.items():
        verdict = appearance({**VBENCH_OURS, **VBENCH_TRUTH, key: value + 0.2})
        assert verdict.level == "no", key
        assert f"our reference gives {key.removesuffix('_reference')}" in verdict.reasons[0]
    beyond = {key: value * 1.019 for key, value in VBENCH_TRUTH.items()}
    reasons = appearance({**VBENCH_OURS, **beyond}).reasons
    assert len(reasons) == 7
    assert "motion_smoothness_reference is 100.066 and cannot be more than 100" in reasons
    assert (
        "bas is 1.2 and cannot be more than 1"
        in judge(SECTIONS["mace-1-motion"], result("mace2d", {"bas": 1.2, **MACE_REFERENCE}), "ma-data").reasons
    )


@pytest.mark.parametrize(
    ("cell", "tolerance"),
    [("98.20", 0.05), ("9.24", 0.05), ("0.526", 0.005), ("0.201", 0.00402), ("0.51", 0.0102), ("3.7", 0.1)],
)
def test_a_printed_cell_allows_a_few_units_of_its_last_digit(cell: str, tolerance: float) -> None:
    assert ground_truth_tolerance(cell) == pytest.approx(tolerance)


def test_a_section_that_says_how_long_or_fast_its_clips_are_is_judged_by_it() -> None:
    words = {"five": 5.0}
    seen: dict[str, set[str]] = {"seconds": set(), "fps": set()}
    for section in KNOWN.sections:
        told = f"{section.title} {section.n} {section.why}".lower()
        for kind, pattern in (("seconds", r"clips of (\w+) seconds|(\w+)-second clips"), ("fps", r"at (\d+) fps")):
            for match in re.finditer(pattern, told):
                word = next(filter(None, match.groups()))
                assert getattr(section, kind) == words.get(word, word.isdigit() and float(word)), section.id
                seen[kind].add(section.id)
    of_ma_data = {section.id for section in KNOWN.sections if section.dataset == "ma-data"}
    assert seen["seconds"] == {*of_ma_data, "edge-pfc"}
    assert seen["fps"] == {"edge-pfc"}


def test_all_reasons_are_told_at_once() -> None:
    verdict = judge(SECTIONS["mace-1-motion"], result("mace2d", {"fid_k": 1.0, "bas_reference": 0.2}, fps=25.0), None)
    assert len(verdict.reasons) == 3


def test_missing_preset_and_tables_without_a_convention_are_not_comparable() -> None:
    assert judge(SECTIONS["mace-2-own"], GOOD, "finedance").reasons == (
        "not measured under the preset lodge_finedance or mace3d",
    )
    for section in KNOWN.sections:
        if section.status == "never":
            verdict = judge(section, GOOD, section.dataset)
            assert (verdict.level, verdict.reasons) == ("no", (section.why,))


@pytest.mark.parametrize(
    ("values", "options", "why"),
    [
        ({"fid_k": 17.0}, {}, "nothing of the table's ground truth could be reproduced"),
        ({"fid_k": None, "bas": 0.5, **MACE_REFERENCE}, {}, "fid_k has no value"),
        ({"fid_k": 17.0, **MACE_REFERENCE}, {"n": 40}, "fid_k is of 40 clips in 75 dimensions"),
        ({"fid_k": 17.0, **MACE_REFERENCE}, {"n": 90}, "Fréchet distances of 90 (fid_k) clips; published: 500"),
        ({"fid_k": 17.0, **MACE_REFERENCE}, {"n": None}, "fid_k does not say of how many clips"),
        ({"fid_k": 0.0, **MACE_REFERENCE}, {"n": 90}, "Fréchet distances of 90 (fid_k) clips"),
        ({"bas": 0.5, **MACE_REFERENCE}, {}, "not measured: fid_k, fid_g, div_k, div_g"),
    ],
)
def test_reservations_make_it_a_comparison_with_caution(
    values: dict[str, float | None], options: dict[str, Any], why: str
) -> None:
    verdict = judge(SECTIONS["mace-1-motion"], result("mace2d", values, **options), "ma-data")
    assert verdict.level == "with caution"
    assert any(why in reason for reason in verdict.reasons), verdict.reasons


def test_every_distance_is_held_against_the_number_of_clips() -> None:
    entries = {**GOOD.presets["mace2d"], "fid_g": {"value": 0.9, "n": 77, "dims": 33}}
    verdict = judge(SECTIONS["mace-1-motion"], replace(GOOD, presets={"mace2d": entries}), "ma-data")
    published_n = SECTIONS["mace-1-motion"].n
    assert verdict.reasons == (f"Fréchet distances of 77 (fid_g) clips; published: {published_n}",)
    bare = {key: {"value": entry["value"]} for key, entry in entries.items()}
    assert judge(SECTIONS["mace-1-motion"], replace(GOOD, presets={"mace2d": bare}), "ma-data").level == "with caution"


def test_result_without_any_value_is_not_comparable() -> None:
    verdict = judge(SECTIONS["mace-1-motion"], result("mace2d", {"fid_k": None, "bas": None}), "ma-data")
    assert (verdict.level, len(verdict.reasons)) == ("no", 2)


def test_unverified_table_is_never_more_than_with_caution() -> None:
    values = {"fid_k": 60.0, "div_k_reference": 9.94, "div_g_reference": 7.54, "bas_reference": 0.201}
    ours = result("lodge_finedance", {**values, "foot_skating_reference": 0.216}, fps=30.0)
    verdict = judge(SECTIONS["mace-2-copied"], ours, "finedance")
    assert verdict.level == "with caution"
    assert SECTIONS["mace-2-copied"].why in verdict.reasons


def test_lengths_count_where_the_number_depends_on_them() -> None:
    ours = result("bailando_aist", {"pfc": 1.4, "pfc_reference": 1.33}, fps=30.0)
    inputs = {**ours.inputs, "seconds_per_clip": {"generated": {"min": 5.0, "median": 5.0, "max": 5.0}}}
    assert judge(SECTIONS["edge-pfc"], replace(ours, inputs=inputs), "aist++").level == "with caution"
    inputs["seconds_per_clip"] = {"generated": {"min": 5.0, "median": 9.0, "max": 10.0}}
    verdict = judge(SECTIONS["edge-pfc"], replace(ours, inputs=inputs), "aist++")
    assert verdict.level == "no"
    assert "clips of 5 to 10 s" in verdict.reasons[0]


def test_uncertain_cells_are_no_ground_truth() -> None:
    section: Section = SECTIONS["edmg-2"]
    ours = result("bailando_aist", {"div_k": 1.0, "div_k_reference": 1.0, "bas_reference": 0.51}, fps=60.0)
    assert [check.key for check in ground_truth_agreement(section, ours)] == ["bas"]


def test_unknown_data_are_refused() -> None:
    assert check_dataset("aist++", KNOWN) == "aist++"
    with pytest.raises(ConfigError, match=r"unknown data set 'aist'.*finedance"):
        check_dataset("aist", KNOWN)


def test_columns_say_their_direction() -> None:
    known: Published = KNOWN
    assert known.columns["fid_k"].title == "FID_k ↓"
    assert known.columns["div_k"].title == "DIV_k"
    assert known.columns["psnr"].title == "PSNR (dB) ↑"
