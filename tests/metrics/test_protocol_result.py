"""The one JSON of an evaluation: its schema, its notes and its hash."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import random_clips, random_keypoint_clips

from macedance.errors import ConfigError, DataError
from macedance.metrics.presets import BAILANDO_AIST, CLEAN_KEYPOINTS, MACE2D, MEGADANCE
from macedance.metrics.protocol import (
    ProtocolResult,
    clip_labels,
    evaluate_protocol,
    preset_notes,
    read_protocol,
    write_protocol,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "motion_protocol.json"


def small_result() -> ProtocolResult:
    generated, reference = random_clips(33, seed=3, songs=4, frames=40), random_clips(70, seed=4, songs=7, frames=50)
    generated[0] = replace(generated[0], name="stranger", music_beats_s=None, song=None)
    return evaluate_protocol(
        generated, reference, presets=("clean", "lodge_finedance"), resamples=40, floor_draws=3,
        left_out={"generated": {"bad.npz": "too short: 1 frame"}},
    )  # fmt: skip


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_same(found[index], value, f"{where}[{index}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-7), where
    else:
        assert found == expected, where


def test_the_file_is_the_golden_one(tmp_path: Path) -> None:
    """To accept a change of the schema, run with MACEDANCE_WRITE_GOLDEN=1 and read the difference."""
    result = small_result()
    write_protocol(tmp_path / "out" / "result.json", result)
    if os.environ.get("MACEDANCE_WRITE_GOLDEN"):
        write_protocol(GOLDEN, result)
    found = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert_same(found, json.loads(GOLDEN.read_text(encoding="utf-8")))


def test_the_golden_file_has_what_the_protocol_promises() -> None:
    content = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert list(content) == ["schema", "presets", "floor", "inputs", "weights", "hash", "conventions", "per_clip"]
    assert content["schema"] == 1
    keys = ["fid_k", "fid_g", "div_k", "div_g", "bas", "bas_motion", "bas_shuffled", "foot_skating", "pfc", "pbc"]
    keys.append("jerk")
    for name, entries in content["presets"].items():
        for key in [*keys, *(f"{key}_reference" for key in keys[2:])]:
            entry = entries[key]
            assert "n" in entry, (name, key)
            assert ("reason" in entry) if entry["value"] is None else (len(entry["ci95"]) == 2), (name, key)
        assert entries["fid_g"]["n_reference"] == 70
        assert set(content["floor"][name]) == {"fid_k", "fid_g"}
        assert content["floor"][name]["fid_g"]["n"] == 33
        assert content["floor"][name]["fid_k"]["value"] is None
    # Dimensions that do not vary: clean drops them, a published convention divides by almost nothing and is told on.
    assert content["presets"]["clean"]["fid_g"]["dropped_dims"] == 3
    assert "dead_dims" not in content["presets"]["clean"]["fid_g"]
    assert content["presets"]["lodge_finedance"]["fid_g"]["dead_dims"] == 2
    assert len(content["hash"]) == 64


def test_hash_tells_how_was_measured_not_what_came_out() -> None:
    generated, reference = random_clips(4), random_clips(6, seed=1)
    options: dict[str, Any] = {"resamples": 0, "floor_draws": 0}
    base = evaluate_protocol(generated, reference, **options)
    other = evaluate_protocol(random_clips(4, seed=9), reference, **options)
    assert base.presets != other.presets
    assert base.hash == other.hash
    assert "ci95" not in base.presets["clean"]["jerk"]
    assert base.floor == {"clean": {}}
    changes = (
        evaluate_protocol(generated[:3], reference, **options),
        evaluate_protocol(generated, reference, presets=("mace3d",), **options),
        evaluate_protocol([replace(c, fps=60.0) for c in generated], reference, **options),
        evaluate_protocol(generated, reference, resolution=(640, 480), **options),
        evaluate_protocol(generated, reference, resamples=10, floor_draws=0),
        replace(base, weights={"classifier": "ab" * 32}),
    )
    assert len({base.hash, *(change.hash for change in changes)}) == 7


def test_notes_name_every_clip_that_is_not_as_published() -> None:
    generated = random_keypoint_clips(3, frames=70)
    reference = [replace(c, fps=25.0) for c in random_keypoint_clips(3, frames=70)]
    generated[1] = replace(generated[1], keypoints=generated[1].keypoints[:20], name="stub")
    hidden = generated[2].keypoints.copy()
    hidden[5, 10, 2] = 0.0
    generated[2] = replace(generated[2], keypoints=hidden)
    assert preset_notes(MACE2D, generated, reference) == [
        "1 of 3 generated clips are shorter than the published 64 frames and were left out: stub",
        "2 of 3 generated clips are longer and were cut to their first 64 frames",
        "reference clips have 25 fps, the convention was published for 16: its constants were applied to the frames "
        "as they are",
        "3 of 3 reference clips are longer and were cut to their first 64 frames",
        "1 generated clips have no reference clip of their name and were judged by beats of their own: stub",
    ]
    assert preset_notes(CLEAN_KEYPOINTS, generated, reference) == [
        f"1 of {160 * 17} keypoints of the generated clips are below a confidence of 0.3 and were filled in",
        "generated clips have 16 fps, the reference 25",
    ]
    joints = random_clips(2)
    notes = preset_notes(BAILANDO_AIST, joints, joints)
    assert "were used whole: 0-0, 0-1" in notes[1]
    assert "30 fps, the convention was published for 60" in notes[0]
    long = random_clips(1, frames=1300)
    assert "1 of 1 generated clips are longer and were cut to their first 1200 frames" in preset_notes(
        BAILANDO_AIST, long, long
    )
    assert not any("reference clips are longer" in note for note in preset_notes(BAILANDO_AIST, long, long))
    assert preset_notes(MEGADANCE, long, long)[0].endswith("were cut to windows of 1024 frames every 512")


def test_mace2d_hears_the_reference_s_music_and_clean_the_own() -> None:
    clips = random_keypoint_clips(8)
    off = [replace(c, music_beats_s=np.array([0.01])) for c in clips]
    result = evaluate_protocol(off, clips, presets=("mace2d", "clean"), resamples=0, floor_draws=0).presets
    assert result["mace2d"]["bas"]["value"] == result["mace2d"]["bas_reference"]["value"]
    assert result["clean"]["bas"]["value"] != result["clean"]["bas_reference"]["value"]
    silent = [replace(c, music_beats_s=None) for c in clips]
    heard = evaluate_protocol(silent, clips, resamples=0, floor_draws=0).presets["clean"]
    assert heard["bas"]["value"] == heard["bas_reference"]["value"]


def test_impossible_requests_are_refused() -> None:
    clips = random_clips(2)
    with pytest.raises(DataError, match="0 generated and 2 reference clips"):
        evaluate_protocol([], clips)
    with pytest.raises(ConfigError, match="preset nice: unknown"):
        evaluate_protocol(clips, clips, presets=("nice",))
    with pytest.raises(DataError, match="cannot read keypoints"):
        evaluate_protocol(clips, random_keypoint_clips(2))


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    result = small_result()
    write_protocol(tmp_path / "r.json", result)
    again = read_protocol(tmp_path / "r.json")
    assert again.hash == result.hash
    assert again.presets == result.presets
    assert again.inputs == result.inputs
    first, second = (one.per_clip["clean"]["bas"] for one in (result, again))
    np.testing.assert_array_equal(list(first.values()), list(second.values()))
    assert np.isnan(second["stranger"])
    assert '"stranger": null' in (tmp_path / "r.json").read_text(encoding="utf-8")


def test_means_of_the_clips_values_are_the_values() -> None:
    result = small_result()
    for preset in ("clean", "lodge_finedance"):
        for key, values in result.per_clip[preset].items():
            # LODGE's skating is the mean of the feet's means, and not that of the clips.
            if not (preset == "lodge_finedance" and key.startswith("foot_skating")):
                expected = result.presets[preset][key]["value"]
                assert np.nanmean(list(values.values())) == pytest.approx(expected), (preset, key)
            assert len(values) == (70 if key.endswith("_reference") else 33)


def test_windows_of_a_clip_are_one_value_and_clips_left_out_have_none() -> None:
    clips = random_clips(3, frames=40)
    long = random_clips(1, seed=7, frames=1600)
    values = evaluate_protocol([*clips, *long], clips, presets=("megadance",), resamples=0, floor_draws=0).per_clip
    assert set(values["megadance"]["jerk"]) == {"0-0", "0-1", "0-2", "7-0"}
    points = random_keypoint_clips(3)
    stub = replace(points[0], keypoints=points[0].keypoints[:20], name="stub", music_beats_s=None)
    shorter = evaluate_protocol([*points, stub], points, presets=("mace2d",), resamples=0, floor_draws=0)
    assert np.isnan(shorter.per_clip["mace2d"]["bas"]["stub"])
    assert np.isfinite(shorter.per_clip["mace2d"]["bas"]["0-0"])


def test_clips_without_a_name_of_their_own_are_numbered() -> None:
    clips = random_clips(4)
    names = ["", "a", "a", "b"]
    assert clip_labels([replace(c, name=n) for c, n in zip(clips, names, strict=True)]) == ["clip#0", "a#1", "a#2", "b"]


def test_results_of_other_presets_and_keys_become_one() -> None:
    inputs = {"kind": "video", "fps": [16.0], "settings": {"seed": 0}, "notes": {"vbench": ["one"]}}
    first = ProtocolResult(
        {"vbench": {"imaging_quality": {"value": 60.0, "n": 2}}}, {}, inputs, {"vbench": {"aggregate": "video"}},
        {"musiq": "a"}, {"vbench": {"imaging_quality": {"x": 50.0, "y": 70.0}}},
    )  # fmt: skip
    second = ProtocolResult(
        {"vbench": {"subject_consistency": {"value": 90, "n": 2}}, "honest": {"person_motion": {"value": 0.2, "n": 2}}},
        {}, inputs | {"settings": {"seed": 0, "scale": 2}, "notes": {"vbench": ["one", "two"], "honest": ["three"]}},
        {"honest": {}}, {"dino": "b"}, {"honest": {"person_motion": {"x": 0.1, "y": float("nan")}}},
    )  # fmt: skip
    both = first.merge(second)
    assert list(both.presets["vbench"]) == ["imaging_quality", "subject_consistency"]
    assert list(both.presets) == ["vbench", "honest"]
    assert both.inputs["settings"] == {"seed": 0, "scale": 2}
    assert both.inputs["notes"] == {"vbench": ["one", "two"], "honest": ["three"]}
    assert both.weights == {"musiq": "a", "dino": "b"}
    assert set(both.per_clip) == {"vbench", "honest"}
    assert first.presets.keys() == {"vbench"}
    assert both.with_notes({"inputs": ["four"]}).inputs["notes"]["inputs"] == ["four"]


def test_results_that_contradict_each_other_are_not_merged() -> None:
    base = ProtocolResult(
        {"clean": {"bas": {"value": 0.5, "n": 3}}}, {}, {"fps": [30.0], "kind": "joints"},
        {"clean": {"width": 1}}, {"m": "a"},
    )  # fmt: skip
    others = {
        "presets.clean.bas": replace(base, presets={"clean": {"bas": {"value": 0.6, "n": 3}}}),
        "inputs.fps": replace(base, inputs={"fps": [60.0], "kind": "joints"}),
        "conventions.clean.width": replace(base, conventions={"clean": {"width": 2}}),
        "weights.m": replace(base, weights={"m": "b"}),
    }
    for where, other in others.items():
        with pytest.raises(ConfigError, match=f"differ in {where};"):
            base.merge(other)
    assert base.merge(base) == base


def with_entry(entry: str) -> str:
    return f'{{"schema": 1, "presets": {{"clean": {{"bas": {entry}}}}}, "inputs": {{}}}}'


def test_names_of_files_that_are_not_utf_8_come_back_as_they_were(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    result = ProtocolResult(
        {"vbench": {"imaging_quality": {"value": 60.0, "n": 1}}}, {},
        {"kind": "video", "left_out": {"generated": {name + ".mp4": "broken"}}, "notes": {"vbench": [f"see {name}"]}},
        {},
        per_clip={"vbench": {"imaging_quality": {name: 60.0, "ñ": 1.0}}},
    )  # fmt: skip
    write_protocol(tmp_path / "r.json", result)
    assert "ñ" in (tmp_path / "r.json").read_text(encoding="utf-8")
    again = read_protocol(tmp_path / "r.json")
    assert again == result
    assert again.hash == result.hash


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "damaged JSON"),
        ("[]", "not the result of an evaluation"),
        ('{"bas": 1}', "not the result of an evaluation"),
        ('{"schema": 2, "presets": {}, "inputs": {}}', "schema 2"),
        ('{"schema": 1, "presets": {"clean": {"bas": 0.5}}, "inputs": {}}', r"damaged result: presets\.clean\.bas"),
        (
            '{"schema": 1, "presets": {"clean": {"bas": {"value": "high"}}}, "inputs": {}}',
            r"damaged result: presets\.clean\.bas",
        ),
        ('{"schema": 1, "presets": {"clean": {}}, "inputs": {}, "weights": []}', "damaged result: weights"),
        (with_entry('{"value": NaN}'), r"damaged result: presets\.clean\.bas"),
        (with_entry('{"value": 1, "n": "ten"}'), r"damaged result: presets\.clean\.bas"),
        (with_entry('{"value": 1, "n": 4.5}'), r"damaged result: presets\.clean\.bas"),
        (with_entry('{"value": 1, "n": 4, "dims": [3]}'), r"damaged result: presets\.clean\.bas"),
        (with_entry('{"value": 1, "ci95": [1]}'), r"damaged result: presets\.clean\.bas"),
        (with_entry('{"value": 1, "ci95": "wide"}'), r"damaged result: presets\.clean\.bas"),
        (with_entry('{"value": 1, "ci95": [1, null]}'), r"damaged result: presets\.clean\.bas"),
        (with_entry('{"value": null, "reason": 3}'), r"damaged result: presets\.clean\.bas"),
        ('{"schema": 1, "presets": {}, "inputs": {}, "floor": {"a": {"b": 1}}}', r"damaged result: floor\.a\.b"),
        ('{"schema": 1, "presets": {}, "inputs": {"notes": ["x"]}}', r"damaged result: inputs\.notes"),
        ('{"schema": 1, "presets": {}, "inputs": {"notes": {"a": "x"}}}', r"damaged result: inputs\.notes"),
        ('{"schema": 1, "presets": {}, "inputs": {}, "conventions": {"a": 1}}', r"damaged result: conventions\.a"),
        (
            '{"schema": 1, "presets": {"a": {}}, "inputs": {}, "per_clip": {"a": {"b": [1]}}}',
            r"damaged .*per_clip\.a\.b",
        ),
        (
            '{"schema": 1, "presets": {}, "inputs": {}, "per_clip": {"a": {"b": {"c": "d"}}}}',
            r"damaged .*per_clip\.a\.b",
        ),
    ],
)
def test_files_that_are_no_result_are_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=told):
        read_protocol(tmp_path / "r.json")
    with pytest.raises(DataError, match="cannot read"):
        read_protocol(tmp_path / "gone.json")
