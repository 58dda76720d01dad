"""Motion in memory and on disk, and what bad files say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from macedance.errors import DataError
from macedance.motion.files import JointClip, Motion, load_joints, load_motion, save_motion
from macedance.motion.rotations import matrix_from_axis_angle
from macedance.motion.skeleton import TOE_HEIGHT_M


def smooth_motion(frames: int = 60, fps: float = 30.0, **labels: Any) -> Motion:
    t = np.arange(frames)[:, None, None] / fps
    rng = np.random.default_rng(0)
    phase, amount = rng.uniform(0, 6, (1, 24, 3)), rng.uniform(0.1, 0.8, (1, 24, 3))
    trans = np.concatenate([np.sin(t[:, 0]), 0.9 + 0.1 * np.cos(3 * t[:, 0]), t[:, 0]], axis=1)
    return Motion(poses=amount * np.sin(2 * t + phase), trans=trans, fps=fps, **labels)


def arrays_of(motion: Motion) -> dict[str, Any]:
    return {"poses": motion.poses, "trans": motion.trans, "fps": motion.fps}


def test_file_round_trip_keeps_everything(tmp_path: Path) -> None:
    motion = smooth_motion(genre="house", source="made up", licence="CC0", song="s1", music_beats_s=[0.5, 1.0])
    motion = Motion(**{**vars(motion), "joints": motion.joint_positions()})
    save_motion(tmp_path / "deep" / "dance.npz", motion)
    again = load_motion(tmp_path / "deep" / "dance.npz")
    for name, value in vars(motion).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(again, name), value)
        else:
            assert getattr(again, name) == value
    assert os.listdir(tmp_path / "deep") == ["dance.npz"]


def test_optional_values_stay_absent(tmp_path: Path) -> None:
    save_motion(tmp_path / "a.npz", smooth_motion())
    assert set(np.load(tmp_path / "a.npz").files) == {"poses", "trans", "fps"}
    again = load_motion(tmp_path / "a.npz")
    assert (again.genre, again.joints, again.music_beats_s) == (None, None, None)


def test_arrays_are_converted_and_durations_follow() -> None:
    motion = Motion(np.zeros((45, 24, 3), np.float64), np.zeros((45, 3), int), 30, music_beats_s=[1, 0])
    assert motion.poses.dtype == motion.trans.dtype == np.float32
    assert (motion.num_frames, motion.duration_s) == (45, 1.5)
    np.testing.assert_array_equal(motion.music_beats_s, [0.0, 1.0])


def test_slice_shifts_the_beats() -> None:
    motion = smooth_motion(90, music_beats_s=[0.2, 1.0, 1.5, 2.0, 2.9])
    part = motion.slice(30, 60)
    np.testing.assert_array_equal(part.poses, motion.poses[30:60])
    np.testing.assert_allclose(part.music_beats_s, [0.0, 0.5])
    for start, stop in ((-1, 5), (5, 5), (0, 91)):
        with pytest.raises(DataError, match="slice"):
            motion.slice(start, stop)


@pytest.mark.parametrize(("fps", "frames"), [(60.0, 119), (15.0, 30), (24.0, 48), (30.0, 60), (7.3, 15)])
def test_resampling_stands_at_the_right_instants(fps: float, frames: int) -> None:
    coarse = smooth_motion(60, 30.0)
    again = coarse.resampled(fps)
    assert (again.num_frames, again.fps) == (frames, fps)
    exact = smooth_motion(frames, fps)
    # Interpolation of a 2 rad/s sine sampled at 30 fps errs by about 1e-3.
    turned, expected = (matrix_from_axis_angle(torch.from_numpy(m.poses)) for m in (again, exact))
    assert (turned - expected).abs().max() < 2e-3
    assert np.abs(again.trans - exact.trans).max() < 2e-3


def test_resampling_takes_the_short_way_round() -> None:
    poses = np.zeros((2, 24, 3))
    poses[:, 0, 1] = [3.0, -3.0]  # 0.28 rad apart through pi, 6 rad through 0
    middle = Motion(poses, np.zeros((2, 3)), 1.0).resampled(2.0).poses[1, 0]
    assert abs(abs(middle[1]) - np.pi) < 1e-5


def test_resampling_up_and_down_returns_the_frames() -> None:
    motion = smooth_motion(30)
    again = motion.resampled(60.0).resampled(30.0)
    np.testing.assert_allclose(again.joint_positions(), motion.joint_positions(), atol=1e-5)
    assert Motion(np.zeros((1, 24, 3)), np.zeros((1, 3)), 30).resampled(60).num_frames == 1


def test_grounded_motion_stands_on_its_toes() -> None:
    motion = smooth_motion(200)
    grounded = Motion(**{**vars(motion), "joints": motion.joint_positions()}).grounded()
    lowest = grounded.joint_positions()[:, [10, 11], 1].min(axis=1)
    assert np.percentile(lowest, 1) == pytest.approx(TOE_HEIGHT_M, abs=1e-5)
    np.testing.assert_allclose(grounded.joints, grounded.joint_positions(), atol=1e-6)
    np.testing.assert_array_equal(grounded.trans[:, [0, 2]], motion.trans[:, [0, 2]])


def test_load_joints_prefers_joints_and_falls_back_to_kinematics(tmp_path: Path) -> None:
    motion = smooth_motion(genre="house", music_beats_s=[0.5], song="s")
    save_motion(tmp_path / "a.npz", motion)
    clip = load_joints(tmp_path / "a.npz")
    np.testing.assert_array_equal(clip.joints, motion.joint_positions())
    assert (clip.name, clip.genre, clip.song, clip.fps) == ("a", "house", "s", 30.0)
    own = np.ones((5, 24, 3))
    np.savez(tmp_path / "b.npz", joints=own, fps=60, genre="krump")
    clip = load_joints(tmp_path / "b.npz")
    np.testing.assert_array_equal(clip.joints, own)
    assert (clip.fps, clip.genre, clip.music_beats_s) == (60.0, "krump", None)
    np.savez(tmp_path / "c.npz", **arrays_of(motion), joints=np.zeros((60, 24, 3)))
    assert not load_joints(tmp_path / "c.npz").joints.any()


class Hostile:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("hostile-code-ran",)


BAD_ARRAYS: list[tuple[dict[str, Any], str]] = [
    ({"trans": None}, "lacks trans; it holds fps, poses"),
    ({"fps": None}, "lacks fps"),
    ({"poses": None, "trans": None}, "lacks"),
    ({"fps": 0}, "fps is 0"),
    ({"fps": -30.0}, "fps is -30"),
    ({"fps": np.nan}, "fps is nan"),
    ({"fps": np.zeros(2)}, "one number"),
    ({"fps": "thirty"}, "one number"),
    ({"poses": np.zeros((60, 72))}, r"poses has shape \(60, 72\)"),
    ({"poses": np.zeros((60, 17, 3))}, r"poses has shape \(60, 17, 3\)"),
    ({"trans": np.zeros((59, 3))}, "trans has 59 frames"),
    ({"poses": np.zeros((0, 24, 3)), "trans": np.zeros((0, 3))}, "no frame"),
    ({"poses": np.full((60, 24, 3), np.nan)}, "60 of 60 frames"),
    ({"trans": np.full((60, 3), np.inf)}, "infinite"),
    ({"poses": np.full((60, 24, 3), "a")}, "poses holds"),
    ({"joints": np.zeros((60, 17, 3))}, "joints has shape"),
    ({"music_beats_s": np.zeros((2, 2))}, "music_beats_s"),
    ({"music_beats_s": np.array([np.nan])}, "music_beats_s"),
    ({"genre": 3}, "label"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ARRAYS)
def test_bad_contents_are_named_with_the_file(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = {k: v for k, v in (arrays_of(smooth_motion()) | change).items() if v is not None}
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load_motion(path)
    assert "bad.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_objects_are_refused_and_do_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = arrays_of(smooth_motion()) | {"genre": np.array([Hostile()], dtype=object)}
    np.savez("hostile.npz", **arrays)
    for read in (load_motion, load_joints):
        with pytest.raises(DataError, match="pickled objects"):
            read("hostile.npz")
    assert not Path("hostile-code-ran").exists()


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    save_motion(tmp_path / "good.npz", smooth_motion())
    content = (tmp_path / "good.npz").read_bytes()
    damaged = bytearray(content)
    damaged[200:400] = bytes(200)
    cases = {
        "missing.npz": None,
        "empty.npz": b"",
        "text.npz": b"hello",
        "cut.npz": content[: len(content) // 2],
        "damaged.npz": bytes(damaged),
    }
    for name, data in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        for read in (load_motion, load_joints):
            with pytest.raises(DataError, match=name):
                read(tmp_path / name)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(DataError, match="not an"):
        load_motion(tmp_path / "array.npy")
    with pytest.raises(DataError, match="no such motion"):
        load_motion(tmp_path)


def test_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        save_motion(tmp_path / "file" / "dance.npz", smooth_motion())


def test_joint_clip_validates_as_motion_does() -> None:
    with pytest.raises(DataError, match="joints has shape"):
        JointClip(np.zeros((5, 17, 3)), 30.0)
    with pytest.raises(DataError, match="fps"):
        JointClip(np.zeros((5, 24, 3)), 0.0)
    clip = JointClip.from_motion(smooth_motion(song="s"), name="n")
    assert (clip.name, clip.song, clip.joints.shape) == ("n", "s", (60, 24, 3))
