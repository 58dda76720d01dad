"""Folders of clips: everything that is wrong is named and counted; published systems' files are read."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic import random_clips, random_joints, random_keypoints

from macedance.errors import DataError
from macedance.metrics.clips import match_clips, read_clip, read_clips, unmatched, with_music_of
from macedance.metrics.conventions import points_of
from macedance.metrics.keypoints import LAYOUTS, KeypointClip
from macedance.motion.files import Motion, save_motion
from macedance.motion.representation import to_z_up
from macedance.motion.rotations import matrix_from_axis_angle, rotation_6d_from_matrix
from macedance.motion.skeleton import PELVIS_REST_M


def write(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


def a_motion(frames: int = 20) -> Motion:
    rng = np.random.default_rng(0)
    return Motion(rng.normal(0, 0.4, (frames, 24, 3)), rng.normal(0, 1, (frames, 3)), 30.0)


def test_npz_of_three_kinds_are_read(tmp_path: Path) -> None:
    save_motion(tmp_path / "a.npz", a_motion())
    write(tmp_path / "b.npz", joints=random_joints(0, 20), fps=30, music_beats_s=[0.5, 0.1], song="s", genre="g")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "settings.json").write_text("{}")
    folder = read_clips(tmp_path)
    assert [clip.name for clip in folder.clips] == ["a", "b"]
    assert (folder.kind, folder.left_out, folder.ignored) == ("joints", {}, ["notes.txt", "settings.json"])
    np.testing.assert_allclose(points_of(folder.clips[0]), a_motion().joint_positions(), atol=1e-6)
    assert folder.clips[1].music_beats_s is not None
    assert (folder.clips[1].music_beats_s.tolist(), folder.clips[1].song) == ([0.1, 0.5], "s")
    points = random_keypoints(0)
    write(tmp_path / "k.npz", keypoints=points, joints=random_joints(0, 20), fps=30, layout="coco_17_plus_8", axes="yx")
    assert read_clip(tmp_path / "k.npz").fps == 30
    clip = read_clip(tmp_path / "k.npz", kind="keypoints")
    assert isinstance(clip, KeypointClip)
    assert (clip.layout, clip.axes) == (LAYOUTS["coco_17_plus_8"], "yx")


def test_every_file_that_cannot_be_used_is_named_with_its_reason(tmp_path: Path) -> None:
    good = random_joints(0, 20)
    write(tmp_path / "good.npz", joints=good, fps=30)
    nan = good.copy()
    nan[7, 3, 1] = np.nan
    write(tmp_path / "nan.npz", joints=nan, fps=30)
    write(tmp_path / "seventeen.npz", joints=good[:, :17], fps=30)
    write(tmp_path / "single.npz", joints=good[:1], fps=30)
    write(tmp_path / "timeless.npz", joints=good)
    write(tmp_path / "empty.npz", fps=30)
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:500])
    (tmp_path / "strange.pkl").write_bytes(pickle.dumps({"weights": np.zeros(3)}))
    with pytest.raises(DataError) as caught:
        read_clips(tmp_path)
    text = str(caught.value)
    assert "7 of 8 files cannot be used" in text
    for part in (
        "nan.npz (joints has NaN or infinite numbers in 1 of 20 frames, first in frame 7",
        "seventeen.npz (joints has shape (20, 17, 3); expected (T, 24, 3) numbers)",
        "single.npz (too short: 1 frame; expected at least 4)",
        "timeless.npz (lacks fps",
        "empty.npz (lacks joints",
        "damaged.npz (",
        "strange.pkl (holds weights; expected smpl_poses",
    ):
        assert part in text, part
    kept = read_clips(tmp_path, leave_out_bad=True)
    assert [clip.name for clip in kept.clips] == ["good"]
    assert sorted(kept.left_out) == [
        "damaged.npz", "empty.npz", "nan.npz", "seventeen.npz", "single.npz", "strange.pkl", "timeless.npz",
    ]  # fmt: skip


def test_folders_without_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_clips(tmp_path / "nowhere")
    (tmp_path / "video.mp4").touch()
    with pytest.raises(DataError, match=r"no clips; it holds video\.mp4"):
        read_clips(tmp_path)
    write(tmp_path / "bad.npz", joints=np.zeros((1, 24, 3)), fps=30)
    with pytest.raises(DataError, match="1 of 1 files"):
        read_clips(tmp_path, leave_out_bad=True)


def test_mixed_frame_rates_and_kinds_are_listed(tmp_path: Path) -> None:
    for name, fps in (("a", 30), ("b", 30), ("c", 60), ("d", 24), ("e", 60)):
        write(tmp_path / f"{name}.npz", joints=random_joints(0, 8), fps=fps)
    with pytest.raises(DataError, match="mixed frame rates: 30 fps in 2 clips, but 60 fps: c, e; 24 fps: d"):
        read_clips(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    write(other / "a.npz", keypoints=random_keypoints(0, 8), fps=30)
    write(other / "b.npz", keypoints=random_keypoints(0, 8)[:, :17], fps=30)
    write(other / "c.npz", joints=random_joints(0, 8), fps=30)
    with pytest.raises(DataError, match="mixed contents: 25 keypoints in 1 clips, but 17 keypoints: b; 24 joints: c"):
        read_clips(other)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.npz", joints=random_joints(0, 8), fps=30)
    (tmp_path / "a.pkl").touch()
    with pytest.raises(DataError, match=r"one name: a\.npz, a\.pkl"):
        read_clips(tmp_path)


def test_unmatched_names_are_all_listed() -> None:
    clips = random_clips(6)
    assert unmatched(clips[:4], clips[2:]) == (["0-0", "0-1"], ["0-4", "0-5"])
    with pytest.raises(DataError, match="2 only among the generated: 0-0, 0-1; 2 only among the reference: 0-4, 0-5"):
        match_clips(clips[:4], clips[2:])
    assert [(a.name, b.name) for a, b in match_clips(clips[1:3], clips[2:0:-1])] == [("0-1", "0-1"), ("0-2", "0-2")]


def test_music_is_taken_from_the_reference_of_the_same_name() -> None:
    reference = random_clips(3)
    silent = [replace(clip, music_beats_s=None, song=None) for clip in reference]
    own = replace(silent[1], music_beats_s=np.array([9.0]))
    heard = with_music_of([silent[0], own, replace(silent[2], name="x")], reference)
    np.testing.assert_array_equal(heard[0].music_beats_s, reference[0].music_beats_s)  # type: ignore[arg-type]
    assert heard[0].song == reference[0].song
    assert heard[1] is own
    assert heard[2].music_beats_s is None
    (replaced,) = with_music_of([own], reference, replace_own=True)
    np.testing.assert_array_equal(replaced.music_beats_s, reference[1].music_beats_s)  # type: ignore[arg-type]


def test_files_of_published_systems_give_the_joints_of_their_motion(tmp_path: Path) -> None:
    motion = a_motion()
    joints = motion.joint_positions()
    poses = motion.poses.reshape(-1, 72)
    lowered = motion.trans - np.array(PELVIS_REST_M, dtype=np.float32)

    def save(name: str, content: Any) -> Path:
        (tmp_path / name).write_bytes(pickle.dumps(content))
        return tmp_path / name

    pickles = {
        "aist.pkl": ({"smpl_poses": poses, "smpl_trans": lowered * 90, "smpl_scaling": np.array([90.0])}, 60.0),
        "mega.pkl": ({"smpl_poses": poses, "smpl_trans": lowered}, 30.0),
        "edge.pkl": (
            {"smpl_poses": poses, "smpl_trans": lowered, "full_pose": to_z_up(torch.from_numpy(joints)).numpy()},
            30.0,
        ),
    }
    for name, (content, fps) in pickles.items():
        clip = read_clip(save(name, content))
        assert (clip.fps, clip.name) == (fps, Path(name).stem)
        np.testing.assert_allclose(points_of(clip), joints, atol=2e-5, err_msg=name)
    slices = save("mace.pkl", {"pos": motion.trans, "q": poses})
    with pytest.raises(DataError, match="does not say its frame rate"):
        read_clip(slices)
    np.testing.assert_allclose(points_of(read_clip(slices, fps=30)), joints, atol=2e-5)

    sixes = rotation_6d_from_matrix(matrix_from_axis_angle(torch.from_numpy(motion.poses[:, :22]))).reshape(20, -1)
    body = np.concatenate([lowered, sixes.numpy()], axis=1)
    contacts, hands = np.zeros((20, 4)), np.zeros((20, 30 * 6))
    flat = {
        "lodge": np.concatenate([contacts, body], axis=1),
        "lodge_hands": np.concatenate([contacts, body, hands], axis=1),
        "finedance": np.concatenate([body, hands], axis=1),
    }
    for name, array in flat.items():
        np.save(tmp_path / f"{name}.npy", array)
        still = motion.poses.copy()
        still[:, 22:] = 0
        np.testing.assert_allclose(points_of(read_clip(tmp_path / f"{name}.npy")), joints, atol=2e-5, err_msg=name)


def test_keypoints_of_the_released_protocol_come_with_y_first(tmp_path: Path) -> None:
    points = random_keypoints(0, 8)
    (tmp_path / "a.json").write_text(json.dumps({"keypoints": points[..., [1, 0, 2]].tolist()}))
    (folder,) = [read_clips(tmp_path, fps=16)]
    (clip,) = folder.clips
    assert isinstance(clip, KeypointClip)
    assert (clip.axes, clip.fps, folder.kind) == ("yx", 16.0, "keypoints")
    np.testing.assert_allclose(clip.keypoints[..., 1], points[..., 0], rtol=1e-6)
    for content, why in (
        ("{}", "lacks keypoints"),
        ("[", "damaged JSON"),
        ('{"keypoints": [[1], [1, 2]]}', "no array"),
    ):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(DataError, match=why):
            read_clips(tmp_path, fps=16)


def test_result_files_of_wrong_shapes_are_refused_by_name(tmp_path: Path) -> None:
    cases: dict[str, Any] = {
        "list.pkl": [1, 2],
        "short.pkl": {"smpl_poses": np.zeros((5, 72)), "smpl_trans": np.zeros((4, 3))},
        "wide.pkl": {"smpl_poses": np.zeros((5, 156)), "smpl_trans": np.zeros((5, 3))},
        "scale.pkl": {"smpl_poses": np.zeros((5, 72)), "smpl_trans": np.zeros((5, 3)), "smpl_scaling": [0.0]},
        "nan.pkl": {"full_pose": np.full((5, 24, 3), np.nan)},
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=name):
            read_clip(tmp_path / name)
    np.save(tmp_path / "flat.npy", np.zeros((5, 100)))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("flat.npy", "objects.npy"):
        with pytest.raises(DataError, match=name):
            read_clip(tmp_path / name)
    with pytest.raises(DataError, match="not a result file"):
        read_clip(tmp_path / "x.bvh")


def test_a_pickle_that_wants_to_run_something_does_not(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"full_pose": Evil()}))
    with pytest.raises(DataError):
        read_clip(tmp_path / "evil.pkl")
    assert not (tmp_path / "ran").exists()
