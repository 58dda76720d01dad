"""`macedance evaluate video`: numbers, reasons, the page, and all that can be wrong with input."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_judges

from launch import keypoint_sources
from launch.evaluation import video as evaluate_video
from launch.main import main
from macedance.metrics.protocol_result import read_protocol
from macedance.rendering import VideoWriter
from macedance.vision.keypoints import KeypointRows, Progress, VideoKeypoints
from macedance.vision.video import Video

QUICK = ("--resamples", "20")
SIDE = 64


def dancer(frames: int, *, speed: float = 1.0, seed: int = 0) -> np.ndarray:
    """(T, 64, 64, 3): a textured block that moves to and fro over a textured floor."""
    generator = np.random.default_rng(seed)
    floor = np.kron(generator.integers(60, 120, (16, 16, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    block = np.kron(generator.integers(120, 255, (10, 5, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    pictures = np.repeat(floor[None], frames, axis=0)
    for t in range(frames):
        x = 22 + round(14 * np.sin(speed * t / 4))
        pictures[t, 12:52, x : x + 20] = block
    return pictures


def write_video(path: Path, pictures: np.ndarray, fps: float = 25.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps, pictures.shape[2], pictures.shape[1], quality=5) as writer:
        for picture in pictures:
            writer.add(picture)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two videos that move and one that is frozen."""
    write_video(tmp_path / "ours" / "a.mp4", dancer(12))
    write_video(tmp_path / "ours" / "b.mp4", dancer(16, speed=2.0, seed=1))
    write_video(tmp_path / "ours" / "frozen.mp4", dancer(12, speed=0.0))
    return tmp_path / "ours"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_judges.write_all(tmp_path_factory.mktemp("judges"))


class BlockKeypoints:
    """Finds the block: a source of keypoints that needs no weights."""

    name, layout = "block", "coco_17"
    weights: dict[str, str] = {"block": "a" * 64}
    settings: dict[str, float | int | str] = {}

    def __call__(self, video: Video, progress: Progress | None = None) -> VideoKeypoints:
        rows = KeypointRows(17)
        for picture in video.frames():
            columns = np.flatnonzero(picture[30].max(axis=-1) > 125)
            left = float(columns[0]) if len(columns) else 20.0
            box = np.array([left, 12.0, left + 20.0, 52.0])
            rows.add(body(left), box, 1)
        return rows.of(video, self.layout)


def body(left: float) -> np.ndarray:
    """(17, 3): a standing body in the block."""
    x = left + np.array([10, 11, 9, 12, 8, 15, 5, 17, 3, 18, 2, 13, 7, 13, 7, 13, 7], dtype=np.float64)
    y = np.array([15, 14, 14, 15, 15, 20, 20, 26, 26, 32, 32, 34, 34, 42, 42, 50, 50], dtype=np.float64)
    return np.stack([x, y, np.ones(17)], axis=1)


@pytest.fixture
def block_source(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {**keypoint_sources.KEYPOINT_SOURCES, "blazepose": lambda weights, device: BlockKeypoints()}
    monkeypatch.setattr(keypoint_sources, "KEYPOINT_SOURCES", sources)


def evaluate(ours: Path, *extra: str) -> int:
    return main(["evaluate", "video", "--generated", str(ours), *QUICK, *extra])


def refusal(capsys: pytest.CaptureFixture[str], ours: Path, *extra: str) -> str:
    """The one line of a request that is refused, without a word on stdout."""
    capsys.readouterr()
    assert evaluate(ours, *extra) == 2
    told = capsys.readouterr()
    assert told.out == ""
    lines = [line for line in told.err.splitlines() if line.startswith("macedance evaluate: error:")]
    assert len(lines) == 1
    return lines[0]


def test_options_are_those_that_were_promised() -> None:
    """A change is a change of the command: it needs a line in the CHANGELOG."""
    options = {action.option_strings[-1]: action.required for action in evaluate_video.build_parser()._actions}
    assert options == {
        "--help": False, "--generated": True, "--reference": False, "--preset": False, "--keypoints": False,
        "--reference-images": False, "--driving": False, "--amt": False, "--amt-scale": False, "--averaging": False,
        "--match": False, "--allow-mixed": False, "--max-clips": False, "--leave-out-bad": False, "--resamples": False,
        "--seed": False, "--weights": False, "--device": False, "--out": False, "--json": False,
    }  # fmt: skip


def test_without_weights_numbers_are_null_with_a_reason_and_that_is_said(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = str(tmp_path / "no-weights")
    assert (
        evaluate(videos, "--weights", empty, "--json", str(tmp_path / "r.json"), "--out", str(tmp_path / "page")) == 0
    )
    told = capsys.readouterr().err
    content = json.loads((tmp_path / "r.json").read_text())
    assert set(content) == {"schema", "presets", "floor", "inputs", "weights", "hash", "conventions", "per_clip"}
    vbench = content["presets"]["vbench"]
    assert [key for key, entry in vbench.items() if entry["value"] is not None] == ["temporal_flickering"]
    for key in ("imaging_quality", "aesthetic_quality", "subject_consistency", "background_consistency"):
        assert "--download" in vbench[key]["reason"]
        assert f"no {key}:" in told
    assert "CC BY-NC" in vbench["motion_smoothness"]["reason"]
    assert "no motion_smoothness: not available" in told
    assert not Path(empty).exists(), "nothing is downloaded or made"
    assert content["inputs"]["kind"] == "video"
    assert content["weights"] == {}


def test_a_frozen_video_has_a_hundred_and_the_page_says_that_nothing_moves(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (videos / f"{name}.mp4").unlink()
    out = tmp_path / "page"
    assert evaluate(videos, "--out", str(out), "--json", str(tmp_path / "r.json"), "--keypoints", "none") == 0
    result = read_protocol(tmp_path / "r.json")
    assert result.presets["vbench"]["temporal_flickering"]["value"] == pytest.approx(100.0, abs=0.02)
    assert result.presets["honest"]["person_motion"]["value"] == pytest.approx(0.0, abs=1e-3)
    page = re.sub(r"\s+", " ", (out / "index.html").read_text())
    shown = re.search(r"Motion amplitude of the person in these videos: (\S+) ", page)
    assert shown is not None
    assert 0 <= float(shown[1]) < 1e-3
    assert "1 of 1 videos stand still" in page
    assert "<video" in page
    assert (out / "plots" / "vbench.png").is_file()
    assert "stand still" in capsys.readouterr().err


def test_a_frozen_video_among_others_is_named(videos: Path, tmp_path: Path) -> None:
    assert evaluate(videos, "--json", str(tmp_path / "r.json"), "--keypoints", "none") == 0
    result = read_protocol(tmp_path / "r.json")
    motion = result.per_clip["honest"]["person_motion"]
    assert motion["frozen"] < 1e-3 < 0.05 < min(motion["a"], motion["b"])
    assert any("1 of 3 videos stand still" in note and "frozen" in note for note in result.inputs["notes"]["vbench"])


@pytest.mark.usefixtures("block_source")
def test_every_dimension_that_has_weights_beside_the_reference(
    videos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, name in enumerate(("a", "b", "other")):
        write_video(tmp_path / "true" / f"{name}.mp4", dancer(12, seed=index))
    code = evaluate(
        videos, "--reference", str(tmp_path / "true"), "--weights", str(weights), "--amt", str(weights / "checkout"),
        "--keypoints", "blazepose", "--json", str(tmp_path / "r.json"), "--out", str(tmp_path / "page"),
    )  # fmt: skip
    assert code == 0
    result = read_protocol(tmp_path / "r.json")
    vbench, honest = result.presets["vbench"], result.presets["honest"]
    for key in ("aesthetic_quality", "subject_consistency", "background_consistency", "motion_smoothness"):
        assert vbench[key]["n"] == vbench[f"{key}_reference"]["n"] == 3
        assert len(vbench[key]["ci95"]) == 2
    assert vbench["imaging_quality"]["value"] is None
    assert "imaging_quality_reference" not in vbench
    for key in ("person_motion", "warp_error_person", "person_identity"):
        assert honest[key]["value"] is not None, key
    assert "--driving" in honest["pck_05"]["reason"]
    assert set(result.weights) >= {"dino_vitb16", "clip_vit_b32", "clip_vit_l14", "aesthetic_head", "amt_s", "block"}
    assert result.inputs["unmatched"] == {"generated": ["frozen"], "reference": ["other"]}
    page = (tmp_path / "page" / "index.html").read_text()
    assert "subject_consistency" in page
    assert str(result.hash) in page
    assert "vbench" in capsys.readouterr().out


@pytest.mark.usefixtures("block_source")
def test_driving_keypoints_and_reference_images_are_used(videos: Path, weights: Path, tmp_path: Path) -> None:
    from PIL import Image

    (videos / "frozen.mp4").unlink()
    driving, images = tmp_path / "driving", tmp_path / "images"
    driving.mkdir()
    images.mkdir()
    for name in ("a", "b"):
        found = BlockKeypoints()(Video.open(videos / f"{name}.mp4")).keypoints
        found[..., 0] += 8.0 * (name == "b")
        np.savez(driving / f"{name}.npz", keypoints=found, fps=25.0)
        Image.fromarray(Video.open(videos / f"{name}.mp4").frames()[0]).save(images / f"{name}.png")
    chosen = ("--keypoints", "blazepose", "--weights", str(weights), "--driving", str(driving))
    assert evaluate(videos, *chosen, "--reference-images", str(images), "--json", str(tmp_path / "r.json")) == 0
    result = read_protocol(tmp_path / "r.json")
    assert result.per_clip["honest"]["pck_10"]["a"] == 1.0
    assert result.per_clip["honest"]["pck_10"]["b"] == 0.0
    assert result.presets["honest"]["person_identity"]["n"] == 2
    assert result.conventions["honest"]["person_identity"]["identity_reference"] == "reference image"


def test_the_json_alone_is_printed(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(videos, "--preset", "vbench", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content["presets"]) == ["vbench"]
    assert "was not measured" not in content["inputs"]["notes"]["vbench"]


def test_videos_are_drawn_by_the_seed_pairs_together(videos: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "frozen", "other"):
        write_video(tmp_path / "true" / f"{name}.mp4", dancer(8))
    drawn = []
    for seed in ("0", "1"):
        assert evaluate(videos, "--reference", str(tmp_path / "true"), "--max-clips", "2", "--seed", seed,
                        "--preset", "vbench", "--json", str(tmp_path / f"{seed}.json")) == 0  # fmt: skip
        result = read_protocol(tmp_path / f"{seed}.json")
        clips = [set(result.per_clip["vbench"][f"temporal_flickering{end}"]) for end in ("", "_reference")]
        assert clips[0] == clips[1]
        assert len(clips[0]) == 2
        assert any("2 of 3 generated videos were drawn" in note for note in result.inputs["notes"]["inputs"])
        drawn.append(clips[0])
    assert drawn[0] != drawn[1]


def test_mixed_formats_are_refused_and_listed(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(videos / "slow.mp4", dancer(6), fps=15.0)
    write_video(videos / "wide.mp4", np.zeros((6, 32, 64, 3), dtype=np.uint8))
    line = refusal(capsys, videos)
    assert "15 fps 64x64: slow" in line
    assert "25 fps 64x32: wide" in line
    assert "--allow-mixed" in line
    assert evaluate(videos, "--allow-mixed", "--preset", "vbench", "--json", str(tmp_path / "r.json")) == 0
    result = read_protocol(tmp_path / "r.json")
    assert any("mixed as asked" in note for note in result.inputs["notes"]["inputs"])
    assert result.inputs["fps"]["generated"] == [15.0, 25.0]


def test_bad_files_are_all_named(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (videos / "a.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "notes.txt").write_text("hello")
    line = refusal(capsys, videos)
    assert "cut.mp4" in line
    assert "empty.mp4" in line
    assert evaluate(videos, "--leave-out-bad", "--preset", "vbench", "--json", str(tmp_path / "r.json")) == 0
    told = capsys.readouterr().err
    result = read_protocol(tmp_path / "r.json")
    assert set(result.inputs["left_out"]["generated"]) == {"cut.mp4", "empty.mp4"}
    assert "left out of the generated videos: cut.mp4" in told
    assert any("notes.txt" in note for note in result.inputs["notes"]["inputs"])
    assert result.presets["vbench"]["temporal_flickering"]["n"] == 3


def break_off(path: Path) -> None:
    """Spoil the second half of the pictures: the file opens, and says all of its frames."""
    whole = path.read_bytes()
    start = whole.index(b"mdat") + 4
    size = int.from_bytes(whole[start - 8 : start - 4], "big") - 8
    middle = start + size // 2
    path.write_bytes(whole[:middle] + bytes(start + size - middle) + whole[start + size :])


def test_videos_that_break_off_in_the_middle_are_all_named_or_left_out(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (videos / "frozen.mp4").rename(videos / "c.mp4")
    write_video(videos / "c.mp4", dancer(12, seed=2))
    for name in ("x", "y"):
        write_video(tmp_path / "true" / f"{name}.mp4", dancer(12))
    for path in (videos / "a.mp4", videos / "c.mp4", tmp_path / "true" / "x.mp4"):
        break_off(path)
        assert Video.open(path).num_frames == 12
    chosen = ("--reference", str(tmp_path / "true"), "--preset", "vbench")
    line = refusal(capsys, videos, *chosen)
    assert "3 of 5 videos cannot be judged" in line
    assert all(f"{name}: the video cannot be decoded" in line for name in ("d a.mp4", "d c.mp4", "e x.mp4"))
    out = tmp_path / "page"
    assert evaluate(videos, *chosen, "--leave-out-bad", "--json", str(tmp_path / "r.json"), "--out", str(out)) == 0
    result = read_protocol(tmp_path / "r.json")
    left_out = result.inputs["left_out"]
    assert {which: set(files) for which, files in left_out.items()} == {
        "generated": {"a.mp4", "c.mp4"}, "reference": {"x.mp4"},
    }  # fmt: skip
    assert result.inputs["clips"] == {"generated": 1, "reference": 1}
    assert list(result.per_clip["vbench"]["temporal_flickering"]) == ["b"]
    assert result.presets["vbench"]["temporal_flickering"]["n"] == 1
    assert "left out of the generated videos: a.mp4: the video cannot be decoded" in capsys.readouterr().err
    assert (out / "index.html").read_text().count("<video") == 1
    break_off(videos / "b.mp4")
    assert "4 of 5 videos cannot be judged" in refusal(capsys, videos, *chosen, "--leave-out-bad")


def test_a_name_that_is_not_utf_8_loses_nothing(videos: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (videos / "a.mp4").rename(videos / f"{name}.mp4")
    break_off(videos / "b.mp4")
    (videos / "b.mp4").rename(videos / f"b{name}.mp4")
    out, chosen = tmp_path / "page", ("--preset", "vbench", "--leave-out-bad")
    assert evaluate(videos, *chosen, "--json", str(tmp_path / "r.json"), "--out", str(out)) == 0
    result = read_protocol(tmp_path / "r.json")
    assert set(result.per_clip["vbench"]["temporal_flickering"]) == {name, "frozen"}
    assert set(result.inputs["left_out"]["generated"]) == {f"b{name}.mp4"}
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "ours/caf%E9.mp4" in page
    assert r"caf\udce9" in page


def test_a_video_of_one_frame_is_counted_and_not_averaged(videos: Path, tmp_path: Path) -> None:
    write_video(videos / "one.mp4", dancer(1))
    assert evaluate(videos, "--json", str(tmp_path / "r.json"), "--keypoints", "none") == 0
    result = read_protocol(tmp_path / "r.json")
    for preset, key in (("vbench", "temporal_flickering"), ("honest", "person_motion")):
        entry = result.presets[preset][key]
        assert (entry["n"], entry["n_undefined"]) == (3, 1)
        assert entry["reason"]
        assert np.isnan(result.per_clip[preset][key]["one"])


@pytest.mark.usefixtures("block_source")
def test_unmatched_names_are_all_listed(
    videos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "true" / "a.mp4", dancer(4))
    write_video(tmp_path / "true" / "z.mp4", dancer(4))
    line = refusal(capsys, videos, "--reference", str(tmp_path / "true"), "--match")
    assert "b, frozen" in line
    assert "z" in line
    (tmp_path / "images").mkdir()
    line = refusal(capsys, videos, "--reference-images", str(tmp_path / "images"), "--keypoints", "blazepose")
    assert all(f"{name}: none" in line for name in ("a", "b", "frozen"))
    (tmp_path / "driving").mkdir()
    for name, frames, fps in (("a", 12, 25.0), ("b", 5, 25.0), ("frozen", 12, 25.0)):
        np.savez(tmp_path / "driving" / f"{name}.npz", keypoints=np.repeat(body(9.0)[None], frames, 0), fps=fps)
    line = refusal(capsys, videos, "--driving", str(tmp_path / "driving"), "--keypoints", "blazepose")
    assert "b: 5 frames, the video 16" in line
    assert "a:" not in line.replace("data:", "")


def test_an_empty_folder_and_impossible_options_are_one_line(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert "no videos" in refusal(capsys, tmp_path / "empty")
    assert "no such folder" in refusal(capsys, tmp_path / "missing")
    both = refusal(capsys, tmp_path / "empty", "--reference", str(tmp_path / "missing"))
    assert "no videos" in both
    assert "no such folder" in both
    wrong: dict[tuple[str, ...], str] = {
        ("--preset", "vbanch"): "vbanch",
        ("--max-clips", "0"): "--max-clips",
        ("--resamples", "-1"): "--resamples",
        ("--amt-scale", "2"): "--amt-scale",
        ("--match",): "--match without --reference",
        ("--preset", "vbench", "--driving", "x"): "honest",
        ("--driving", "x", "--keypoints", "none"): "--driving needs keypoints",
        ("--keypoints", "blazepose", "--weights", str(tmp_path / "none")): "--download blazepose",
        ("--device", "nowhere"): "nowhere",
    }
    for options, word in wrong.items():
        assert word in refusal(capsys, videos, *options), options


def test_weights_that_are_not_the_published_ones_are_refused(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "weights" / "musiq_spaq"
    folder.mkdir(parents=True)
    (folder / "musiq_spaq_ckpt-358bb6af.pth").write_bytes(b"something else")
    assert "not the published file" in refusal(capsys, videos, "--weights", str(tmp_path / "weights"))


def test_help_shows_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate_video.main(["--help"])
    assert ended.value.code == 0
    text: Any = capsys.readouterr().out
    assert "--reference-images" in text
    assert "macedance evaluate video --generated" in text
