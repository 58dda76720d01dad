"""Reading and writing of BVH files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from synthetic_bvh import OURS, Foreign, dance, write_foreign

from macedance.errors import DataError
from macedance.motion.bvh import read_bvh, write_bvh, zxy_angles
from macedance.motion.retarget import retarget_to_smpl
from macedance.motion.skeleton import JOINT_NAMES, PARENTS

SMALL = """HIERARCHY
ROOT Hips
{{
  OFFSET 1 2 3
  CHANNELS 6 Xposition Yposition Zposition {first}
  JOINT Left Arm
  {{
    OFFSET 0 10 0
    CHANNELS {second}
    End Site
    {{
      OFFSET 0 0 5
    }}
  }}
}}
MOTION
Frames: 2
Frame Time: 0.04
{row}
{row}
"""


def small(tmp_path: Path, first: str = "Zrotation Xrotation Yrotation", second: str = "3 Xrotation Yrotation Zrotation",
          row: str = "7 8 9 10 20 30 40 50 60") -> Path:  # fmt: skip
    path = tmp_path / "small.bvh"
    path.write_text(SMALL.format(first=first, second=second, row=row))
    return path


@pytest.mark.parametrize("order", ["ZXY", "XYZ", "ZYX", "YXZ", "YZX", "XZY"])
def test_world_positions_any_rotation_order(tmp_path: Path, order: str) -> None:
    clip = read_bvh(small(tmp_path, first=" ".join(f"{axis}rotation" for axis in order)))
    assert clip.names == ("Hips", "Left Arm")
    assert clip.parents == (-1, 0)
    assert clip.fps == 25.0
    rotations, positions = clip.world()
    hips = Rotation.from_euler(order, [10, 20, 30], degrees=True).as_matrix()
    arm = hips @ Rotation.from_euler("XYZ", [40, 50, 60], degrees=True).as_matrix()
    np.testing.assert_allclose(rotations[1], [hips, arm], atol=1e-12)
    # The position channels of the root replace its offset.
    np.testing.assert_allclose(positions[1], [[7, 8, 9], np.array([7, 8, 9]) + hips @ [0, 10, 0]], atol=1e-9)
    np.testing.assert_allclose(clip.tips[1], [0, 0, 5])


def test_rotation_before_position_channels(tmp_path: Path) -> None:
    text = small(tmp_path).read_text()
    text = text.replace(
        "6 Xposition Yposition Zposition Zrotation Xrotation Yrotation",
        "6 Zrotation Zposition Xrotation Xposition Yrotation Yposition",
    ).replace("7 8 9 10 20 30", "10 9 20 7 30 8")
    path = tmp_path / "mixed.bvh"
    path.write_text(text)
    expected, got = read_bvh(small(tmp_path)).world(), read_bvh(path).world()
    np.testing.assert_allclose(got[0], expected[0])
    np.testing.assert_allclose(got[1], expected[1])


@pytest.mark.parametrize(("moved", "local"), [("0 9 0", [0, 9, 0]), ("0.5 0 0", [0.5, 10, 0])])
def test_positions_below_the_root_replace_or_add(tmp_path: Path, moved: str, local: list[float]) -> None:
    path = small(tmp_path, second="6 Xposition Yposition Zposition Zrotation Xrotation Yrotation",
                 row=f"0 0 0 0 0 0 {moved} 0 0 0")  # fmt: skip
    np.testing.assert_allclose(read_bvh(path).world()[1][0, 1], local, atol=1e-12)


def test_one_rotation_channel_and_a_joint_without_channels(tmp_path: Path) -> None:
    clip = read_bvh(small(tmp_path, second="1 Yrotation", row="0 0 0 0 0 0 90"))
    np.testing.assert_allclose(clip.rotations_TJ33[0, 1] @ [0, 0, 1], [1, 0, 0], atol=1e-12)
    clip = read_bvh(small(tmp_path, second="0", row="0 0 0 0 0 0"))
    np.testing.assert_allclose(clip.rotations_TJ33[0, 1], np.eye(3))


def test_layout_of_the_text_does_not_matter(tmp_path: Path) -> None:
    plain = small(tmp_path)
    text = (
        plain.read_text()
        .replace("\n{", " {")
        .replace(" ", " \t ")
        .replace("\n", "\r\n")
        .replace("rotation", "ROTATION")
    )
    text = text.replace("Frame \t Time: \t 0.04", "Frame Time:\t0.04").replace("HIERARCHY", "\ufeff\r\nhierarchy")
    other = tmp_path / "other.bvh"
    other.write_bytes(text.replace("\ufeff\r\n", "\ufeff").encode("utf-8"))
    expected, got = read_bvh(plain), read_bvh(other)
    assert got.names == expected.names
    assert got.fps == expected.fps
    np.testing.assert_array_equal(got.world()[1], expected.world()[1])


@pytest.mark.parametrize(
    ("text", "fps"),
    [("0.0333333", 30.0), (".0333", 30.0), (".0083333", 120.0), ("0.010000", 100.0), ("4.1666667e-2", 24.0),
     ("0.008342", 1 / 0.008342), ("0.03", 1 / 0.03)],
)  # fmt: skip
def test_frame_rate_of_a_cut_off_frame_time(tmp_path: Path, text: str, fps: float) -> None:
    path = small(tmp_path)
    path.write_text(path.read_text().replace("Frame Time: 0.04", f"Frame Time: {text}"))
    assert read_bvh(path).fps == pytest.approx(fps, rel=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HIERARCHY", "SKELETON", "not a BVH file"),
        ("MOTION", "MOTIONS", "no MOTION section"),
        ("Frames: 2", "Frames: 0", "zero frames"),
        ("Frames: 2", "Frames: many", "number of frames is 'many'"),
        ("Frames: 2", "Frames: 3", "has 2 frames; at .*small.bvh; expected 3"),
        ("Frames: 2", "Frames: 1", "longer than stated"),
        ("Frame Time: 0.04", "Frame Time: 0", "frame time is '0'"),
        ("Frame Time: 0.04", "Frame Time: -0.04", "frame time is '-0.04'"),
        ("Frame Time: 0.04", "Frame Time: nan", "frame time is 'nan'"),
        ("Frame Time: 0.04", "", "no 'Frames:' and 'Frame Time:'"),
        ("7 8 9 10 20 30 40 50 60", "7 8 9 10 20 30 40 50", r"a frame has 8 numbers; at .*line 19; expected 9"),
        ("7 8 9", "7 NaN 9", "frame 0 holds 'NaN'"),
        ("7 8 9", "7 eight 9", "frame 0 holds 'eight'"),
        ("7 8 9", "7 1e999 9", "frame 0 holds '1e999'"),
        ("7 8 9", "7 1e60 9", "frame 0 holds '1e60'"),
        ("OFFSET 0 10 0", "OFFSET 0 ten 0", r"an OFFSET is 'ten'; at .*line 8"),
        ("    OFFSET 0 10 0\n", "", "joint 'Left Arm' has no OFFSET"),
        ("Xposition", "Wposition", "channel 'wposition'"),
        ("JOINT", "BONE", "'BONE' in the skeleton"),
        ("  }\n}\nMOTION", "  }\nMOTION", "not closed"),
        ("}\nMOTION", "}\nROOT Second\n{\nOFFSET 0 0 0\n}\nMOTION", "a ROOT where none may stand"),
    ],
)
def test_bad_file_says_what_and_where(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = small(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message) as caught:
        read_bvh(path)
    assert "small.bvh" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_cut_in_the_middle_of_a_frame(tmp_path: Path) -> None:
    path = small(tmp_path)
    path.write_text(path.read_text()[:-6])
    with pytest.raises(DataError, match="the last frame is cut off: it has 7 numbers"):
        read_bvh(path)


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02" * 50, b"HIERARCHY", b"HIERARCHY\nROOT"])
def test_anything_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.bvh"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_bvh(path)
    with pytest.raises(DataError, match="cannot read"):
        read_bvh(tmp_path / "absent.bvh")


def test_a_skeleton_as_deep_as_a_hostile_file_makes_it(tmp_path: Path) -> None:
    depth = 3000
    lines = ["HIERARCHY", "ROOT a", "{", "OFFSET 0 0 0", "CHANNELS 1 Xrotation"]
    for number in range(depth):
        lines += [f"JOINT j{number}", "{", "OFFSET 0 1 0"]
    lines += ["}"] * (depth + 1) + ["MOTION", "Frames: 1", "Frame Time: 0.1", "0"]
    path = tmp_path / "deep.bvh"
    path.write_text("\n".join(lines))
    assert read_bvh(path).world()[1][0, -1, 1] == depth


def test_written_file_holds_the_joints(tmp_path: Path) -> None:
    motion = dance(fps=29.97)
    path = tmp_path / "new" / "dance.bvh"
    write_bvh(path, motion)
    clip = read_bvh(path)
    assert clip.fps == pytest.approx(29.97, rel=1e-9)
    assert set(clip.names) == set(JOINT_NAMES)
    order = [clip.names.index(name) for name in JOINT_NAMES]
    parents = [clip.parents[i] for i in order]
    assert [clip.names[p] if p >= 0 else None for p in parents] == [JOINT_NAMES[p] if p >= 0 else None for p in PARENTS]
    np.testing.assert_allclose(clip.world()[1][:, order], motion.joint_positions(), atol=5e-6)
    # Every leaf has an End Site, or other programs cannot draw its bone.
    assert {clip.names[joint] for joint in clip.tips} == {"ltoes", "rtoes", "head", "lhand", "rhand"}
    text = path.read_text()
    write_bvh(path, motion)
    assert path.read_text() == text


def test_write_read_retarget_gives_the_same_joints_and_poses(tmp_path: Path) -> None:
    motion = dance()
    write_bvh(tmp_path / "dance.bvh", motion)
    back = retarget_to_smpl(read_bvh(tmp_path / "dance.bvh"))
    assert back.fps == 30.0
    assert np.abs(back.joint_positions() - motion.joint_positions()).max() < 1e-4


def test_independently_written_file_reads_the_same(tmp_path: Path) -> None:
    motion = dance(20)
    ours, other = tmp_path / "ours.bvh", tmp_path / "other.bvh"
    write_bvh(ours, motion)
    other.write_text(write_foreign(motion, Foreign(names=OURS, order="ZXY", unit_m=1.0)))
    np.testing.assert_allclose(read_bvh(ours).world()[0], read_bvh(other).world()[0], atol=1e-6)


def test_angles_are_continuous_and_exact_through_gimbal_lock() -> None:
    turn = np.linspace(0, 4 * np.pi, 200)
    matrices = Rotation.from_euler("ZXY", np.stack([turn, np.sin(turn) * 1.8, 0.5 * turn], axis=1)).as_matrix()
    angles = zxy_angles(matrices[:, None])[:, 0]
    again = Rotation.from_euler("ZXY", angles).as_matrix()
    np.testing.assert_allclose(again, matrices, atol=1e-9)
    assert np.abs(np.diff(angles, axis=0)).max() < 0.2
    locked = Rotation.from_euler("ZXY", [0.3, np.pi / 2, 0.4]).as_matrix()[None, None]
    np.testing.assert_allclose(
        Rotation.from_euler("ZXY", zxy_angles(locked)[0, 0]).as_matrix(), locked[0, 0], atol=1e-7
    )


def test_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write"):
        write_bvh(tmp_path / "file" / "dance.bvh", dance(2))
    (tmp_path / "taken.bvh").mkdir()
    with pytest.raises(DataError, match="cannot write"):
        write_bvh(tmp_path / "taken.bvh", dance(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken.bvh"]
