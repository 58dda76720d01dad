"""`macedance evaluate cascade`: small dances through the mannequin, and all that can be wrong with input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from launch import keypoint_sources
from launch.evaluation.cascade_inputs import read_pictures
from launch.main import main
from macedance.errors import DataError, DependencyError
from macedance.metrics.protocol_result import read_protocol
from macedance.motion.files import Motion, save_motion
from macedance.rendering import MeshDancer, VideoWriter, save_png
from macedance.vision.keypoints import VideoKeypoints
from macedance.vision.video import Video

SIDE = 64
QUICK = (
    "--keypoints", "none", "--no-vbench", "--resamples", "50", "--size", str(SIDE), "--renderer-option", "samples=1",
    "--renderer-option", "backend=software",
)  # fmt: skip
Refused = Callable[..., str]


def dance(seed: int, frames: int = 8, fps: float = 30.0) -> Motion:
    time_s = np.arange(frames) / fps
    poses = np.zeros((frames, 24, 3))
    poses[:, 16, 2] = -0.9 + 0.6 * np.sin(2 * np.pi * time_s + seed)
    poses[:, 1, 0] = -0.3 - 0.2 * np.sin(2 * np.pi * time_s + 2 * seed)
    return Motion(poses, np.tile([0.0, 0.95, 0.0], (frames, 1)), fps, genre="house").grounded()


class CropDancer(MeshDancer):
    """A renderer of a user's own, found by its path."""


class Spots:
    """Finds a keypoint of every kind at the middle of every picture."""

    name, layout = "spots", "coco_17"

    def __init__(self) -> None:
        self.weights, self.settings = {"spots": "1" * 64}, {}

    def __call__(self, video: Video, progress: object = None) -> VideoKeypoints:
        frames = sum(len(chunk) for chunk in video.chunks())
        box = np.tile([16.0, 8.0, 48.0, 56.0], (frames, 1))
        points = np.tile([32.0, 32.0, 1.0], (frames, 17, 1))
        return VideoKeypoints(points, video.fps, video.name, box, np.ones(frames), width=SIDE, height=SIDE)


class NoDancer:
    """Draws nothing."""

    def __init__(self, **options: object) -> None:
        self.options = options


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for index in range(3):
        save_motion(tmp_path / "true" / f"d{index}.npz", dance(index))
        save_motion(tmp_path / "ours" / f"d{index}.npz", dance(index + 7))
    return tmp_path / "ours", tmp_path / "true"


def evaluate(ours: Path, theirs: Path, *extra: str) -> int:
    return main(["evaluate", "cascade", "--generated", str(ours), "--reference", str(theirs), *QUICK, *extra])


@pytest.fixture
def refused(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> Refused:
    def run(*extra: str) -> str:
        capsys.readouterr()
        assert evaluate(*folders, *extra) == 2
        said = capsys.readouterr()
        assert said.out == ""
        return said.err.strip().splitlines()[-1]

    return run


def test_json_page_and_videos_of_all_arms(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page"
    options = ("--perturbations", "foot_slide", "--levels", "1", "3", "--gate", "person_motion<0.5")
    assert evaluate(*folders, *options, "--json", str(tmp_path / "c.json"), "--out", str(out)) == 0
    said = capsys.readouterr()
    assert "gap (95% interval)" in said.out
    assert "person_motion < +0.5: undecided: 3 pairs" in said.out
    assert "no arm video_keypoints: MeshDancer is driven by motion in space" in said.err
    assert "--keypoints none" in said.err
    result = read_protocol(tmp_path / "c.json")
    assert result.inputs["kind"] == "cascade"
    assert result.inputs["resolution"] == [SIDE, SIDE]
    assert result.inputs["clips"] == {
        "generated": 3,
        "reference": 3,
        "arms": {
            "ground_truth": 3, "real": 0, "video_keypoints": 0, "generated": 3, "foot_slide_1": 3, "foot_slide_3": 3,
        },
    }  # fmt: skip
    slides = [result.presets[f"gap_foot_slide_{n}"]["motion_foot_skating"]["value"] for n in (1, 3)]
    assert 0 < slides[0] < slides[1]
    assert result.presets["generated"]["motion_distance"]["value"] > 0
    assert result.presets["generated"]["pck_10"]["value"] is None
    page = (out / "index.html").read_text()
    for arm in ("ground_truth", "generated", "foot_slide_3"):
        assert f'src="arms/{arm}/d0.mp4"' in page
    assert (out / "plots" / "dose_response.png").is_file()
    assert len(list((out / "arms").rglob("*.mp4"))) == 4 * 3
    assert "Dose and response" in page
    # Twice the same: seeded, and judged from equal files whether or not they are kept.
    again = ("--json", str(tmp_path / "again.json"))
    assert evaluate(*folders, *options, *again) == 0
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "c.json").read_bytes()


def test_own_renderer_pictures_and_true_videos(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by = MeshDancer(SIDE, SIDE, backend="software", samples=1)
    picture = by.reference_image(replace(dance(0), genre="krump"))
    for index in range(3):
        save_png(picture, tmp_path / "people" / f"d{index}.png")
        write_video(tmp_path / "videos" / f"d{index}.mp4", by.render(dance(index), picture))
    options = (
        "--renderer", f"{__name__}.CropDancer", "--renderer-option", f"width={SIDE}", "--renderer-option",
        f"height={SIDE}", "--reference-images", str(tmp_path / "people"), "--videos", str(tmp_path / "videos"),
        "--perturbations", "none", "--out", str(tmp_path / "page"),
    )  # fmt: skip
    assert evaluate(*folders, *options, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["conventions"]["cascade"]["renderer"] == "CropDancer"
    assert result["conventions"]["cascade"]["levels"] == [1, 2, 3]
    # The true videos were drawn from the true motion with the same picture: the renderer loses nothing against them.
    real, truth = (result["presets"][arm]["person_motion"]["value"] for arm in ("real", "ground_truth"))
    assert real == pytest.approx(truth, rel=1e-6)
    shown = Video.open(tmp_path / "page" / "arms" / "generated" / "d1.mp4").frames()[0]
    np.testing.assert_allclose(shown[2, 2], picture[2, 2], atol=12)
    own = MeshDancer(SIDE, SIDE, backend="software", samples=1)
    expected = own.render(dance(8), picture).frames()[0].astype(int)
    assert np.abs(shown.astype(int) - expected).mean() < 3.0
    assert "videos/d0.mp4" in (tmp_path / "page" / "index.html").read_text()


def test_one_picture_for_all_and_pictures_by_name(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 72, 3)).astype(np.uint8)
    save_png(picture, tmp_path / "a.png")
    found = read_pictures(tmp_path / "a.png", ["x", "y"])
    assert list(found) == ["x", "y"]
    np.testing.assert_array_equal(found["y"], picture)
    np.testing.assert_array_equal(read_pictures(tmp_path, ["a"])["a"], picture)
    # As a person sees them: turned as a camera says, which a reader of plain pixels does not.
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "b.png", exif=turned)
    assert read_pictures(tmp_path, ["b"])["b"].shape == (72, 64, 3)
    save_png(picture, tmp_path / "b.jpg")
    with pytest.raises(DataError, match=r"b: b.jpg and b.png"):
        read_pictures(tmp_path, ["b"])


def test_what_was_not_used_is_said_and_the_pictures_are_in_the_hash(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by = MeshDancer(SIDE, SIDE, backend="software", samples=1)
    for genre, folder in (("krump", "krump"), ("house", "house")):
        for index in range(3):
            picture = by.reference_image(replace(dance(0), genre=genre))
            save_png(picture, tmp_path / folder / f"d{index}.png")
    (tmp_path / "krump" / "z.png").write_bytes((tmp_path / "krump" / "d0.png").read_bytes())
    videos = some_video(tmp_path / "videos")
    (videos / "list.txt").write_text("d0")
    (folders[0] / "readme.md").write_text("dances")
    for index in range(3):
        write_video(videos / f"d{index}.mp4", Video.from_frames(np.zeros((8, SIDE, SIDE, 3), np.uint8), 30.0))

    def told(*extra: str) -> tuple[dict[str, Any], list[str]]:
        assert evaluate(*folders, "--perturbations", "none", "--json", *extra) == 0
        result = json.loads(capsys.readouterr().out)
        return result, result["inputs"]["notes"].get("cascade", [])

    _, notes = told("--reference-images", str(tmp_path / "krump"), "--videos", str(videos), "--max-clips", "2")
    for words in (
        "files of the generated folder that are no motions: readme.md",
        "2 clips, drawn by the seed 0",
        "files of the true videos' folder that are no videos: list.txt",
        "true videos are of no clip that is compared: ",
        "reference images of the 2 clips are those of the folder krump; of no clip: ",
    ):
        assert any(words in note for note in notes), words
    assert any("z.png" in note for note in notes)
    assert any(note.endswith(", z") for note in notes)
    given = [told("--reference-images", str(tmp_path / which))[0] for which in ("krump", "house")]
    own, notes = told()
    images = [one["conventions"]["cascade"]["reference_images"] for one in (*given, own)]
    assert [one["given"] for one in images] == [3, 3, 0]
    assert images[2]["sha256"] is None
    assert len({one["hash"] for one in (*given, own)}) == 3


def test_the_best_source_of_keypoints_is_that_of_other_commands(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ViTPose where it is, BlazePose where it is not; one choice for commands and callbacks."""

    def lacking(weights: object, device: str) -> Any:
        raise DependencyError("no weights of it")

    monkeypatch.setattr(keypoint_sources, "KEYPOINT_SOURCES", {"blazepose": lacking, "vitpose": lambda w, d: Spots()})
    quick = [option for option in QUICK if option not in ("--keypoints", "none")]
    command = ["evaluate", "cascade", "--generated", str(folders[0]), "--reference", str(folders[1]), *quick]
    assert main([*command, "--perturbations", "none", "--max-clips", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["weights"] == {"spots": "1" * 64}
    assert result["presets"]["ground_truth"]["missing"]["value"] == 0.0
    assert main([*command, "--keypoints", "blazepose"]) == 2
    assert "no weights of it" in capsys.readouterr().err


def test_clips_of_other_lengths_and_rates_are_brought_together_and_named(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(3):
        save_motion(folders[0] / f"d{index}.npz", dance(index, frames=12 if index == 1 else 16, fps=60.0))
    options = ("--perturbations", "none", "--max-clips", "2", "--json")
    assert evaluate(*folders, *options) == 0
    result = json.loads(capsys.readouterr().out)
    notes = result["inputs"]["notes"].get("cascade", [])
    assert result["inputs"]["clips"]["reference"] == 2
    drawn = set(result["per_clip"]["generated"]["person_motion"])
    assert len(drawn) == 2
    assert ("d1" in drawn) == any("d1 (0.20 and 0.27 s)" in note for note in notes)


def test_bad_input_is_one_line_that_names_everything(
    folders: tuple[Path, Path], refused: Refused, tmp_path: Path
) -> None:
    ours, theirs = folders
    assert "3 clips have no true video: d0, d1, d2" in refused("--videos", str(some_video(tmp_path / "other")))
    assert "unknown" in refused("--perturbations", "noise", "typo")
    assert "--levels 4" in refused("--levels", "1", "4")
    assert "KEY>LIMIT" in refused("--gate", "pck")
    assert "--seed is -1" in refused("--seed", "-1")
    assert "no renderer 'nowhere.Dancer'" in refused("--renderer", "nowhere.Dancer")
    assert "is no renderer" in refused("--renderer", f"{__name__}.NoDancer")
    assert "cannot be made of these options" in refused("--renderer-option", "wings=2")
    assert "KEY=VALUE" in refused("--renderer-option", "wings")
    assert "width of 65" in refused("--size", "65")
    assert "no such file or folder" in refused("--reference-images", str(tmp_path / "nowhere"))
    (tmp_path / "d0.png").write_text("no picture")
    (tmp_path / "d2.png").write_text("no picture")
    said = refused("--reference-images", str(tmp_path))
    assert "3 of 3 names" in said
    assert "d0: the file is no picture; d1: none; d2: the file is no picture" in said
    assert "the file is no picture" in refused("--reference-images", str(tmp_path / "d0.png"))
    (ours / "d0.npz").rename(ours / "e0.npz")
    (theirs / "d2.npz").unlink()
    said = refused()
    assert "2 only among the generated: d2, e0" in said
    assert "1 only among the reference: d0" in said
    bad = dance(0)
    np.savez(ours / "d1.npz", poses=np.where(bad.poses < -0.1, np.nan, bad.poses), trans=bad.trans, fps=30.0)
    assert "d1.npz" in refused()
    np.savez(ours / "d1.npz", joints=np.zeros((8, 17, 3)), fps=30.0)
    assert "17" in refused()
    for file in ours.iterdir():
        np.savez(file, keypoints=np.ones((8, 17, 3)), fps=30.0)
    assert "keypoints, which have no depth" in refused()


def test_bad_files_can_be_left_out_with_their_partners(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (folders[0] / "d2.npz").write_bytes(b"nothing")
    assert evaluate(*folders, "--perturbations", "none", "--leave-out-bad", "--json") == 0
    said = capsys.readouterr()
    left_out = json.loads(said.out)["inputs"]["left_out"]
    assert "not an .npz" in left_out["generated"]["d2.npz"]
    assert left_out["reference"] == {"d2": "its generated clip was left out"}
    assert "left out of reference: d2" in said.err


def write_video(path: Path, video: Video) -> None:
    with VideoWriter(path, video.fps, video.width, video.height, quality=18) as writer:
        for picture in video.pictures():
            writer.add(picture)


def some_video(folder: Path) -> Path:
    write_video(folder / "z.mp4", Video.from_frames(np.zeros((3, SIDE, SIDE, 3), np.uint8), 30.0))
    return folder
