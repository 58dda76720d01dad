"""`macedance evaluate motion`: golden values through the command, its files, and all that can be wrong with input."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch import keypoint_sources
from launch.evaluation import motion as evaluate_motion
from launch.evaluation import motion_inputs
from launch.main import main
from macedance.errors import DependencyError
from macedance.metrics.protocol import read_protocol
from macedance.motion.files import Motion, save_motion
from macedance.music.audio import write_audio
from macedance.rendering import VideoWriter
from macedance.vision.keypoints import KeypointRows, Progress, VideoKeypoints
from macedance.vision.video import Video

GOLDEN = Path(__file__).parents[1] / "golden"
QUICK = ("--resamples", "0", "--floor-draws", "0")
FPS = 30


def dance(seed: int, frames: int = 40) -> np.ndarray:
    """(T, 24, 3): a standing body whose joints sway, each at its own pace."""
    rng = np.random.default_rng(seed)
    rest = Motion(np.zeros((1, 24, 3)), np.array([[0, 1.0, 0]]), FPS).joint_positions()
    t = np.arange(frames)[:, None, None] / FPS
    return rest + 0.2 * np.sin(2 * np.pi * (rng.uniform(0.5, 2, (1, 24, 3)) * t + rng.uniform(0, 1, (1, 24, 3))))


def write_dances(folder: Path, count: int, *, seed: int = 0, **arrays: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        np.savez(folder / f"d{index}.npz", **{"joints": dance(seed + index), "fps": FPS, **arrays})
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three generated and four reference dances, of which three are pairs."""
    beats = np.arange(0.1, 1.3, 0.5)
    ours = write_dances(tmp_path / "ours", 3, seed=50, music_beats_s=beats, song="one")
    return ours, write_dances(tmp_path / "true", 4, music_beats_s=beats, song="one")


def evaluate(ours: Path, theirs: Path, *extra: str) -> int:
    return main(["evaluate", "motion", "--generated", str(ours), "--reference", str(theirs), *QUICK, *extra])


def refusal(ours: Path, theirs: Path, capsys: pytest.CaptureFixture[str], *extra: str) -> str:
    """The one line of a request that is refused, without a word on stdout."""
    capsys.readouterr()
    assert evaluate(ours, theirs, *extra) == 2
    told = capsys.readouterr()
    assert told.out == ""
    lines = [line for line in told.err.splitlines() if line.startswith("macedance evaluate: error:")]
    assert len(lines) == 1
    return lines[0]


def test_options_are_those_that_were_promised() -> None:
    """A change is a change of the command: it needs a line in the CHANGELOG."""
    options = {action.option_strings[-1]: action.required for action in evaluate_motion.build_parser()._actions}
    assert options == {
        "--help": False, "--generated": True, "--reference": True, "--music": False, "--preset": False, "--kind": False,
        "--fps": False, "--keypoints": False, "--match": False, "--max-clips": False, "--leave-out-bad": False,
        "--allow-small-n": False, "--resamples": False, "--floor-draws": False, "--seed": False, "--weights": False,
        "--device": False, "--out": False, "--json": False,
    }  # fmt: skip


def golden_folders(root: Path) -> tuple[Path, Path, Path, Path]:
    """The golden joints and keypoints as a user would have them, with their beats; generated first."""
    with np.load(GOLDEN / "motion_metrics" / "motions.npz", allow_pickle=False) as archive:
        data = {key: archive[key].astype(np.float64) for key in archive.files}
    made = []
    for kind, fps in (("joints", 30), ("keypoints", 16)):
        for which in ("generated", "gt"):
            folder = root / f"{which}_{kind}"
            folder.mkdir()
            for index, points in enumerate(data[f"{which}_{kind}"]):
                beats = data[f"{which}_beats_s"][index]
                arrays = {kind: points, "fps": fps, "music_beats_s": beats[np.isfinite(beats)]}
                np.savez(folder / f"{index:03d}.npz", **arrays)
            made.append(folder)
    return made[0], made[1], made[2], made[3]


def test_golden_values_of_the_published_conventions_come_out_of_the_command(tmp_path: Path) -> None:
    ours, theirs, our_points, their_points = golden_folders(tmp_path)
    names = ("bailando_aist", "lodge_finedance", "megadance", "mace3d")
    assert evaluate(ours, theirs, "--match", "--preset", *names, "--json", str(tmp_path / "3d.json")) == 0
    assert evaluate(our_points, their_points, "--preset", "mace2d", "--json", str(tmp_path / "2d.json")) == 0
    found = {**read_protocol(tmp_path / "3d.json").presets, **read_protocol(tmp_path / "2d.json").presets}
    golden = json.loads((GOLDEN / "motion_metrics" / "golden.json").read_text(encoding="utf-8"))
    compared = 0
    for preset in (*names, "mace2d"):
        for key, value in golden[preset].items():
            ours_key = f"{key.removesuffix('_gt')}_reference" if key.endswith("_gt") else key
            ours_key = {"bas_generated": "bas", "bas_reference": "bas_reference"}.get(ours_key, ours_key)
            if isinstance(value, float) and ours_key in found[preset]:
                assert found[preset][ours_key]["value"] == pytest.approx(value, rel=1e-3), (preset, key)
                compared += 1
    assert compared >= 30
    assert found["lodge_finedance"]["foot_skating"]["value"] == pytest.approx(
        golden["fsr_lodge"]["generated"], rel=1e-3
    )
    assert found["megadance"]["pfc"]["value"] == pytest.approx(golden["pfc_y_up"]["generated"], rel=1e-3)
    # The golden beats of the joints' clips.
    assert found["megadance"]["bas"]["value"] == pytest.approx(golden["bas_music_to_motion"]["generated"], rel=1e-3)


def test_json_alone_is_stdout_and_everything_else_stderr(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(*folders, "--json") == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    golden = json.loads((GOLDEN / "motion_protocol.json").read_text(encoding="utf-8"))
    assert list(result) == list(golden)
    assert set(result["inputs"]) == set(golden["inputs"])
    assert set(result["presets"]["clean"]) == set(golden["presets"]["clean"])
    assert result["inputs"]["kind"] == "joints"
    assert result["inputs"]["clips"] == {"generated": 3, "reference": 4}
    assert result["inputs"]["unmatched"] == {"generated": [], "reference": ["d3"]}
    assert "foot_skating" in told.err
    assert "no fid_k: 3 clips are fewer than the 72 features" in told.err


def test_files_and_page_are_written_and_hold_the_same_numbers(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "page", tmp_path / "deep" / "result.json"
    extra = ("--preset", "clean", "mace3d", "--allow-small-n", "--json", str(file), "--out", str(out))
    assert evaluate(*folders, *extra) == 0
    told = capsys.readouterr()
    assert told.out.startswith("clean")
    assert str(file) in told.err
    result = read_protocol(file)
    assert list(result.presets) == ["clean", "mace3d"]
    assert result.presets["clean"]["fid_k"]["value"] is not None
    assert set(result.per_clip["clean"]["jerk"]) == {"d0", "d1", "d2"}
    jerk = np.mean(list(result.per_clip["clean"]["jerk"].values()))
    assert result.presets["clean"]["jerk"]["value"] == pytest.approx(jerk)
    html = (out / "index.html").read_text(encoding="utf-8")
    assert f"{result.presets['clean']['pfc']['value']:.4g}" in html
    assert "bone_length_variation" in html
    assert {path.name for path in (out / "plots").iterdir()} == {"clean.png", "mace3d.png"}


def test_every_bad_file_of_both_folders_is_named_at_once(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = folders
    nan = dance(9)
    nan[7, 3] = np.nan
    np.savez(ours / "nan.npz", joints=nan, fps=FPS)
    np.savez(ours / "seventeen.npz", joints=dance(9)[:, :17], fps=FPS)
    np.savez(theirs / "single.npz", joints=dance(9)[:1], fps=FPS)
    (theirs / "damaged.npz").write_bytes((theirs / "d0.npz").read_bytes()[:400])
    line = refusal(ours, theirs, capsys)
    for part in (
        "nan.npz (joints has NaN or infinite numbers in 1 of 40 frames, first in frame 7",
        "seventeen.npz (joints has shape (40, 17, 3); expected (T, 24, 3)",
        "single.npz (too short: 1 frame",
        "damaged.npz",
        str(ours),
        str(theirs),
    ):
        assert part in line
    file = tmp_path / "r.json"
    assert evaluate(ours, theirs, "--leave-out-bad", "--json", str(file), "--out", str(tmp_path / "page")) == 0
    told = capsys.readouterr().err
    left_out = read_protocol(file).inputs["left_out"]
    assert set(left_out["generated"]) == {"nan.npz", "seventeen.npz"}
    assert set(left_out["reference"]) == {"single.npz", "damaged.npz"}
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    for name in ("nan.npz", "seventeen.npz", "single.npz", "damaged.npz"):
        assert name in told
        assert name in page


def mixed_rates(ours: Path, theirs: Path) -> None:
    np.savez(ours / "fast.npz", joints=dance(1), fps=60)


def no_clips(ours: Path, theirs: Path) -> None:
    for path in theirs.iterdir():
        path.unlink()


def no_folder(ours: Path, theirs: Path) -> None:
    no_clips(ours, ours)
    ours.rmdir()


def both_kinds(ours: Path, theirs: Path) -> None:
    for path in theirs.iterdir():
        np.savez(path, keypoints=np.ones((40, 17, 3)), fps=FPS)


def twins(ours: Path, theirs: Path) -> None:
    (ours / "d0.pkl").write_bytes(pickle.dumps({"full_pose": dance(0)}))


def rateless(ours: Path, theirs: Path) -> None:
    for path in ours.iterdir():
        path.unlink()
    (ours / "d0.json").write_text(json.dumps({"keypoints": np.ones((40, 25, 3)).tolist()}))


def videos_alone(ours: Path, theirs: Path) -> None:
    for path in ours.iterdir():
        path.rename(path.with_suffix(".mp4"))


@pytest.mark.parametrize(
    ("spoil", "extra", "told"),
    [
        (mixed_rates, (), "mixed frame rates: 30 fps in 3 clips, but 60 fps: fast"),
        (no_clips, (), "no clips"),
        (no_folder, (), "no such folder"),
        (both_kinds, (), "holds joints and"),
        (twins, (), "several files of one name: d0.npz, d0.pkl"),
        (rateless, (), "the file does not say its frame rate"),
        (videos_alone, (), "3 videos and no clips"),
        (videos_alone, (), "--keypoints blazepose"),
        (None, ("--match",), "unmatched names: 1 only among the reference: d3"),
        (None, ("--preset", "clean", "nice"), "--preset nice: unknown"),
        (None, ("--preset", "mace2d"), "preset mace2d: the clips hold joints"),
        (None, ("--max-clips", "0"), "--max-clips is 0"),
        (None, ("--resamples", "-1"), "--resamples is -1"),
        (None, ("--fps", "0"), "--fps is 0"),
        (None, ("--music", "nowhere"), "no such folder; at nowhere"),
        (None, ("--kind", "joints", "--keypoints", "blazepose"), "--keypoints finds no joints"),
        (None, ("--json", "/dev/null/x.json"), "cannot write"),
        (None, ("--presets", "clean"), "unrecognized arguments: --presets"),
    ],
)
def test_bad_requests_are_refused_in_one_line(
    folders: tuple[Path, Path],
    spoil: Callable[[Path, Path], None] | None,
    extra: tuple[str, ...],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if spoil is not None:
        spoil(*folders)
    assert told in refusal(*folders, capsys, *extra)


def test_clips_shorter_than_the_window_are_counted_and_named(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(*folders, "--preset", "lodge_finedance", "--out", str(tmp_path / "page")) == 0
    told = capsys.readouterr().err
    note = "3 of 3 generated clips are shorter than the published 1024 frames and were used whole: d0, d1, d2"
    assert note in told
    assert note in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")


def test_max_clips_draws_pairs_by_the_seed(folders: tuple[Path, Path], tmp_path: Path) -> None:
    chosen = {}
    for seed in range(4):
        file = tmp_path / f"{seed}.json"
        assert evaluate(*folders, "--max-clips", "2", "--seed", str(seed), "--json", str(file)) == 0
        result = read_protocol(file)
        assert result.inputs["clips"] == {"generated": 2, "reference": 2}
        assert not any(result.inputs["unmatched"].values())
        assert "2 were drawn by the seed" in result.inputs["notes"]["inputs"][0]
        chosen[seed] = tuple(result.per_clip["clean"]["jerk"])
    assert len(set(chosen.values())) > 1


def write_song(path: Path, *, period_s: float, seconds: float = 6.0, rate: int = 22050) -> None:
    t = np.arange(round(seconds * rate)) / rate
    write_audio(path, (0.5 * np.sin(2 * np.pi * 880 * t) * (t % period_s < 0.04)).astype(np.float32), rate)


def test_music_gives_beats_by_the_names_of_songs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """AIST++'s files name their music, generated ones their song and a number; clips with beats keep them."""
    ours, theirs, music = tmp_path / "ours", tmp_path / "true", tmp_path / "music"
    for folder in (ours, theirs, music):
        folder.mkdir()
    rng = np.random.default_rng(0)
    for index, song in enumerate(("mBR0", "mPO1")):
        poses = {"smpl_poses": rng.normal(0, 0.1, (240, 72)), "smpl_trans": rng.normal(0, 9, (240, 3))}
        content = pickle.dumps({**poses, "smpl_scaling": np.array([93.8])})
        (theirs / f"gBR_sBM_cAll_d0{index}_{song}_ch01.pkl").write_bytes(content)
        write_song(music / f"{song}.wav", period_s=0.5 if index else 0.6)
        save_motion(ours / f"{song}-3.npz", Motion(rng.normal(0, 0.1, (120, 24, 3)), rng.normal(0, 1, (120, 3)), 30))
    known = Motion(np.zeros((40, 24, 3)), np.zeros((40, 3)), 30, music_beats_s=np.array([0.5, 1.0]), song="own")
    save_motion(ours / "known.npz", known)
    save_motion(ours / "lost.npz", Motion(np.zeros((40, 24, 3)), np.zeros((40, 3)), 30))
    file = tmp_path / "r.json"
    assert evaluate(ours, theirs, "--music", str(music), "--json", str(file)) == 0
    inputs = read_protocol(file).inputs
    # Tracked and known beats are not the same measurement: the settings, and so the hash, tell them apart.
    assert inputs["settings"]["tracked_beats_fps"] == 30
    assert inputs["fps"] == {"generated": [30.0], "reference": [60.0]}
    assert inputs["with_music"] == {"generated": 3, "reference": 2}
    told = capsys.readouterr().err
    assert "1 generated clips have no beats and no song of their name: lost" in told
    assert "1 generated clips brought beats of their own" in told
    assert "2 reference clips were judged by beats that librosa tracked" in told
    for path in music.iterdir():
        path.rename(music / f"other_{path.name}")
    (ours / "known.npz").unlink()
    assert "none of 2 songs belongs to any of the clips" in refusal(ours, theirs, capsys, "--music", str(music))


@dataclass
class Swaying:
    """A source of keypoints that finds a dancer wherever the picture is not black."""

    name: str = "swaying"
    layout: str = "coco_17"

    def __post_init__(self) -> None:
        self.weights = {"swaying": "ab" * 32}
        self.settings: dict[str, float | int | str] = {"threshold": 0.5}

    def __call__(self, video: Video, progress: Progress | None = None) -> VideoKeypoints:
        rows, number = KeypointRows(17), 0
        body = np.stack([np.linspace(20, 44, 17), np.linspace(8, 56, 17), np.full(17, 0.9)], axis=-1)
        for frames in video.chunks():
            for frame in frames:
                if frame.max() < 30:
                    rows.add_nobody()
                else:
                    sway = np.array([3 * np.sin(0.4 * number + frame.mean()), 0, 0])
                    rows.add(body + sway, np.array([10, 5, 50, 60]), 1)
                number += 1
            if progress is not None:
                progress(len(frames))
        return rows.of(video, self.layout)


def write_video(path: Path, frames: int, *, grey: int = 120, black: int = 0, fps: int = 16) -> None:
    with VideoWriter(path, fps, 64, 64) as writer:
        for index in range(frames):
            writer.add(np.full((64, 64, 3), 0 if index < black else grey, np.uint8))


def test_videos_are_judged_by_keypoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(motion_inputs, "keypoint_source", lambda *_: Swaying())
    ours, theirs = tmp_path / "ours", tmp_path / "true"
    for folder in (ours, theirs):
        folder.mkdir()
        for index in range(3):
            write_video(folder / f"v{index}.mp4", 20, grey=90 + 30 * index, black=4 if index == 1 else 0)
    # A sidecar of settings is no clip.
    (ours / "settings.json").write_text("{}")
    file = tmp_path / "r.json"
    assert evaluate(ours, theirs, "--keypoints", "blazepose", "--json", str(file), "--match") == 0
    result = read_protocol(file)
    assert result.inputs["kind"] == "keypoints"
    assert result.inputs["resolution"] == [64, 64]
    assert result.weights == {"swaying": "ab" * 32}
    assert result.inputs["settings"]["keypoints"] == {"source": "swaying", "threshold": 0.5}
    assert result.presets["clean"]["jerk"]["n"] == 3
    assert "4 of 60 frames: v1 (4)" in capsys.readouterr().err
    # One frame, nobody to be seen, no video at all: named, and left out only when that is asked for.
    write_video(ours / "still.mp4", 1)
    write_video(ours / "empty.mp4", 20, black=20)
    (ours / "torn.mp4").write_bytes((ours / "v0.mp4").read_bytes()[:300])
    line = refusal(ours, theirs, capsys, "--keypoints", "blazepose")
    assert "torn.mp4" in line
    (ours / "torn.mp4").unlink()
    line = refusal(ours, theirs, capsys, "--keypoints", "blazepose")
    assert "still.mp4 (too short: 1 frame" in line
    assert "empty.mp4 (nobody was found" in line
    (ours / "torn.mp4").write_bytes((ours / "v0.mp4").read_bytes()[:300])
    assert evaluate(ours, theirs, "--keypoints", "blazepose", "--leave-out-bad", "--json", str(file)) == 0
    assert set(read_protocol(file).inputs["left_out"]["generated"]) == {"still.mp4", "empty.mp4", "torn.mp4"}
    write_video(theirs / "quick.mp4", 20, fps=25)
    assert "mixed frame rates" in refusal(ours, theirs, capsys, "--keypoints", "blazepose", "--leave-out-bad")


@pytest.mark.parametrize("name", list(keypoint_sources.KEYPOINT_SOURCES))
def test_absent_weights_are_named_with_the_way_to_get_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=r"no weights of .*evaluate weights --download"):
        keypoint_sources.keypoint_source(name, str(tmp_path), "cpu")
