"""From foreign skeletons to SMPL-24."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from synthetic_bvh import (
    ARMS,
    BIPED,
    MIXAMO,
    OURS,
    SMPLX,
    UNREAL,
    Foreign,
    dance,
    lowered_arms,
    random_axes,
    write_foreign,
)  # fmt: skip

from macedance.errors import DataError
from macedance.motion.bvh import read_bvh, write_bvh
from macedance.motion.files import Motion
from macedance.motion.joint_names import find_body, split_name
from macedance.motion.retarget import load_bvh_motion, retarget_to_smpl, source_facts
from macedance.motion.skeleton import OFFSETS_M, PARENTS, TOE_HEIGHT_M
from macedance.motion.source_pose import smallest_turn

LIMBS = {"thigh": (1, 4), "shin": (4, 7), "upper arm": (16, 18), "forearm": (18, 20), "hand": (20, 22)}
REAL = [
    "cmu_131/131_01", "cmu_131/131_02", "cmu_131/131_03", "animated_drawings/jesse_dance", "animated_drawings/dab",
    "animated_drawings/jumping", "animated_drawings/jumping_jacks", "animated_drawings/wave_hello",
    "animated_drawings/zombie",
]  # fmt: skip


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return (first * second).sum(-1) / norms


def retarget_text(tmp_path: Path, text: str, **options: object) -> Motion:
    path = tmp_path / "foreign.bvh"
    path.write_text(text)
    return retarget_to_smpl(read_bvh(path), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "skeleton",
    [
        Foreign(MIXAMO, "YXZ", 0.01),
        Foreign(UNREAL, "XYZ", 0.01, z_up=True),
        Foreign(SMPLX, "ZYX", 1.0),
        Foreign(BIPED, "ZXY", 0.0254, z_up=True, axes=lowered_arms(40)),
        Foreign(MIXAMO, "XZY", 0.0254 / 0.45, axes=lowered_arms(90)),
        Foreign(OURS, "YZX", 0.037, axes=lowered_arms(-20)),
    ],
    ids=["mixamo-cm", "unreal-zup", "smplx-metres", "biped-inch-apose", "cmu-unit-arms-down", "unknown-unit"],
)
def test_same_body_in_other_words_gives_the_same_dance(tmp_path: Path, skeleton: Foreign) -> None:
    motion = dance(24)
    back = retarget_text(tmp_path, write_foreign(motion, skeleton))
    assert back.num_frames == 24
    assert back.fps == 30.0
    assert np.abs(back.joint_positions() - motion.joint_positions()).max() < 2e-3


@pytest.mark.parametrize("seed", range(3))
def test_skeleton_whose_zero_pose_means_nothing(tmp_path: Path, seed: int) -> None:
    motion = dance(60, seed=seed)
    text = write_foreign(motion, Foreign(axes=random_axes(seed)))
    path = tmp_path / "foreign.bvh"
    path.write_text(text)
    assert not source_facts(read_bvh(path)).standing
    back, expected = retarget_text(tmp_path, text).joint_positions(), motion.joint_positions()
    for side in (0, 1):
        for start, end in LIMBS.values():
            a, b = start + side, end + side
            assert cosines(back[:, b] - back[:, a], expected[:, b] - expected[:, a]).min() > 0.999
    for left, right in ((1, 2), (16, 17)):
        assert cosines(back[:, left] - back[:, right], expected[:, left] - expected[:, right]).min() > 0.97
    # What cannot be known, how the trunk is bent when neutral, stays within a few centimetres.
    assert np.abs(back - expected).mean() < 0.03
    assert np.abs(back - expected).max() < 0.15


@pytest.mark.parametrize("twist", [0.0, 35.0, -50.0])
def test_elbows_and_knees_fix_the_twist_of_their_limb(tmp_path: Path, twist: float) -> None:
    """A rest pose with twisted arms and legs still gives SMPL's own twist: joints bend about SMPL's hinge axes."""
    motion = dance(40)
    axes = {}
    for side, joints in ARMS.items():
        about = np.array(OFFSETS_M[18 if side == "left" else 19])
        for joint in joints[:3]:
            axes[joint] = Rotation.from_rotvec(np.radians(twist) * about / np.linalg.norm(about)).as_matrix()
    for joint in (1, 2):
        about = np.array(OFFSETS_M[joint + 3])
        axes[joint] = Rotation.from_rotvec(np.radians(twist) * about / np.linalg.norm(about)).as_matrix()
    back = retarget_text(tmp_path, write_foreign(motion, Foreign(axes=axes)))
    both = [Rotation.from_rotvec(m.poses[:, [1, 2, 16, 17]].reshape(-1, 3)) for m in (back, motion)]
    assert np.degrees((both[0].inv() * both[1]).magnitude()).max() < 3.0


def test_facing_travel_and_size(tmp_path: Path) -> None:
    """A child half as tall, floating in a z-up file: same facing, same steps in proportion, feet on the floor."""
    motion = dance(30)
    floating = Motion(motion.poses, motion.trans + np.array([0.0, 0.4, 0.0]), motion.fps)
    back = retarget_text(tmp_path, write_foreign(floating, Foreign(z_up=True, unit_m=0.02)))
    np.testing.assert_allclose(back.trans, motion.trans, atol=2e-3)
    forward = [Rotation.from_rotvec(m.poses[:, 0]).apply([0, 0, 1]) for m in (back, motion)]
    assert cosines(forward[0], forward[1]).min() > 0.999
    lowest = back.joint_positions()[:, [10, 11], 1].min(axis=1)
    assert np.percentile(lowest, 1) == pytest.approx(TOE_HEIGHT_M, abs=1e-4)


def test_bone_lengths_are_smpl_s(tmp_path: Path) -> None:
    joints = retarget_text(tmp_path, write_foreign(dance(10), Foreign(axes=lowered_arms(60)))).joint_positions()
    for joint in range(1, 24):
        lengths = np.linalg.norm(joints[:, joint] - joints[:, PARENTS[joint]], axis=-1)
        np.testing.assert_allclose(lengths, np.linalg.norm(OFFSETS_M[joint]), atol=1e-5)


@pytest.mark.parametrize(
    "absent",
    [(10, 11), (13, 14), (22, 23), (12,), (15,), (12, 15), (3, 6), (3, 6, 9), (20, 21, 22, 23)],
    ids=["toes", "collars", "fingers", "neck", "head", "neck-head", "short spine", "no spine", "hands"],
)
def test_skeleton_with_fewer_joints_still_dances(tmp_path: Path, absent: tuple[int, ...]) -> None:
    motion = dance(12)
    names = {joint: name for joint, name in MIXAMO.items() if joint not in absent}
    back = retarget_text(tmp_path, flattened(motion, names)).joint_positions()
    expected = motion.joint_positions()
    for part, (start, end) in LIMBS.items():
        # The forearm of a skeleton without wrists ends in an End Site of no length: it keeps in line with the arm.
        if end in absent or start in absent:
            continue
        for side in (0, 1):
            a, b = start + side, end + side
            assert cosines(back[:, b] - back[:, a], expected[:, b] - expected[:, a]).min() > 0.999, part
    assert np.isfinite(back).all()


def flattened(motion: Motion, names: dict[int, str]) -> str:
    """The motion told by a skeleton without some joints: their children hang on the next joint above, by position."""
    joints = motion.joint_positions().astype(float)
    local = Rotation.from_rotvec(motion.poses.reshape(-1, 3)).as_matrix().reshape(-1, 24, 3, 3)
    world = np.empty_like(local)
    for joint, parent in enumerate(PARENTS):
        world[:, joint] = local[:, joint] if parent < 0 else world[:, parent] @ local[:, joint]

    def above(joint: int) -> int:
        parent = PARENTS[joint]
        while parent >= 0 and parent not in names:
            parent = PARENTS[parent]
        return parent

    rest = np.zeros((24, 3))
    for joint in range(1, 24):
        rest[joint] = rest[PARENTS[joint]] + OFFSETS_M[joint]
    columns: list[np.ndarray] = []

    def nest(joint: int) -> list[str]:
        parent = above(joint)
        turn = world[:, joint] if parent < 0 else np.swapaxes(world[:, parent], 1, 2) @ world[:, joint]
        place = joints[:, joint]
        if parent >= 0:
            place = (np.swapaxes(world[:, parent], 1, 2) @ (place - joints[:, parent])[..., None])[..., 0]
        columns.extend([100 * place, Rotation.from_matrix(turn).as_euler("ZXY", degrees=True)])
        offset = 100 * (rest[joint] - (rest[parent] if parent >= 0 else 0))
        lines = [f"{'JOINT' if parent >= 0 else 'ROOT'} {names[joint]}", "{", "OFFSET " + " ".join(map(str, offset)),
                 "CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation"]  # fmt: skip
        for child in names:
            if above(child) == joint:
                lines += nest(child)
        return [*lines, "}"]

    text = ["HIERARCHY", *nest(0), "MOTION", f"Frames: {len(joints)}", "Frame Time: 0.0333333"]
    rows = np.concatenate(columns, axis=1)
    return "\n".join([*text, *(" ".join(f"{v:.7f}" for v in row) for row in rows)])


def test_skeleton_without_feet_names_what_it_looked_for_and_what_there_is(tmp_path: Path) -> None:
    names = MIXAMO | {7: "LeftTip", 8: "RightTip", 10: "LeftEnd", 11: "RightEnd"}
    with pytest.raises(DataError, match="the skeleton has no feet") as caught:
        retarget_text(tmp_path, write_foreign(dance(3), Foreign(names)))
    message = str(caught.value)
    assert "left ankle, right ankle" in message
    assert "ankle, foot" in message
    assert "LeftTip" in message
    assert "\n" not in message
    mapping = {"left ankle": "LeftTip", "right ankle": "RightTip", "left toe": "LeftEnd", "right toe": "RightEnd"}
    motion = dance(3)
    back = retarget_text(tmp_path, write_foreign(motion, Foreign(names)), mapping=mapping)
    np.testing.assert_allclose(back.joint_positions(), motion.joint_positions(), atol=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"up": "w"}, "up axis 'w'"),
        ({"unit_m": 1.0}, "the legs would be 81.* m long"),
        ({"mapping": {"left flipper": "Hips"}}, "the joint mapping names 'left flipper'"),
        ({"mapping": {"left ankle": "Flipper"}}, "asks for 'Flipper'"),
    ],
)
def test_wrong_options_say_so(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        retarget_text(tmp_path, write_foreign(dance(2), Foreign()), **options)


def test_a_stick_without_arms_is_refused(tmp_path: Path) -> None:
    names = {joint: MIXAMO[joint] for joint in range(12)}
    with pytest.raises(DataError, match="lacks joints: none found for left shoulder, right shoulder"):
        retarget_text(tmp_path, write_foreign(dance(2), Foreign(names)))


@pytest.mark.parametrize(
    ("unit_m", "name"),
    [(1.0, "metres"), (0.01, "centimetres"), (0.0254 / 0.45, "CMU"), (0.001, "milli"), (0.2, "unknown")],
)
@pytest.mark.parametrize("z_up", [False, True])
def test_unit_and_up_axis_are_inferred_and_said(tmp_path: Path, unit_m: float, name: str, z_up: bool) -> None:
    path = tmp_path / "a.bvh"
    path.write_text(write_foreign(dance(5), Foreign(unit_m=unit_m, z_up=z_up)))
    facts = source_facts(read_bvh(path))
    assert name in facts.unit_name
    assert facts.unit_m == pytest.approx(unit_m, rel=1e-4)
    assert facts.leg_m == pytest.approx(0.813, abs=0.01)
    assert facts.up == ("z" if z_up else "y")
    assert facts.standing
    assert f"{facts.up}-up" in facts.sentence()
    assert name in facts.sentence()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mixamorig:LeftUpLeg", ("left", "upleg")), ("LHipJoint", ("left", "hipjoint")), ("lhand", ("left", "hand")),
        ("Bip01 R Thigh", ("right", "thigh")), ("thigh_l", ("left", "thigh")), ("Hip.R", ("right", "hip")),
        ("rShin", ("right", "shin")), ("J_Bip_L_UpperLeg", ("left", "upperleg")), ("root", (None, "root")),
        ("lowerback", (None, "lowerback")), ("LowerBack", (None, "lowerback")),
        ("rinshoulder", ("right", "inshoulder")),
        ("m_avg_L_Ankle", ("left", "ankle")), ("RThumb", ("right", "thumb")), ("CC_Base_R_Foot", ("right", "foot")),
        ("Neck1", (None, "neck1")), ("lCollar", ("left", "collar")), ("right_foot", ("right", "foot")),
    ],
)  # fmt: skip
def test_side_and_bare_name(name: str, expected: tuple[str | None, str]) -> None:
    assert split_name(name) == expected


def test_shoulder_means_collar_or_upper_arm_by_what_else_there_is() -> None:
    legs = ["LeftHip", "LeftKnee", "LeftAnkle", "RightHip", "RightKnee", "RightAnkle"]
    parents = [-1, 0, 1, 2, 0, 4, 5]
    arms = ["LeftShoulder", "LeftElbow", "RightShoulder", "RightElbow"]
    body = find_body(["Hips", *legs, *arms], [*parents, 0, 7, 0, 9], "x")
    assert body.limbs["shoulder", "left"] == 7
    assert ("collar", "left") not in body.limbs
    arms = ["LeftShoulder", "LeftArm", "LeftForeArm", "RightShoulder", "RightArm", "RightForeArm"]
    body = find_body(["Hips", *legs, *arms], [*parents, 0, 7, 8, 0, 10, 11], "x")
    assert (body.limbs["collar", "left"], body.limbs["shoulder", "left"], body.limbs["elbow", "left"]) == (7, 8, 9)


def test_smallest_turn_of_any_two_directions() -> None:
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(200, 3)), rng.normal(size=(200, 3))
    start[0], end[0] = [1, 0, 0], [-2, 0, 0]
    start[1], end[1] = [0, 3, 0], [0, 1, 0]
    turn = smallest_turn(start, end)
    moved = (turn @ start[..., None])[..., 0]
    assert cosines(moved, end).min() > 1 - 1e-9
    np.testing.assert_allclose(turn @ np.swapaxes(turn, 1, 2), np.broadcast_to(np.eye(3), turn.shape), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(turn), 1.0, atol=1e-9)
    angle = np.degrees(Rotation.from_matrix(turn).magnitude())
    np.testing.assert_allclose(angle, np.degrees(np.arccos(np.clip(cosines(start, end), -1, 1))), atol=1e-4)


def test_load_resamples_and_stands_on_the_floor(tmp_path: Path) -> None:
    motion = dance(121, fps=120.0)
    path = tmp_path / "a.bvh"
    write_bvh(path, motion)
    loaded = load_bvh_motion(path)
    assert (loaded.fps, loaded.num_frames, loaded.source) == (30.0, 31, "a.bvh")
    np.testing.assert_allclose(loaded.joint_positions(), motion.joint_positions()[::4], atol=2e-3)
    assert load_bvh_motion(path, fps=60.0).num_frames == 61


def test_a_single_frame_is_enough(tmp_path: Path) -> None:
    motion = dance(1)
    back = retarget_text(tmp_path, write_foreign(motion, Foreign(axes=random_axes(1))))
    assert back.num_frames == 1
    assert np.isfinite(back.joint_positions()).all()


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_real_mocap_points_its_limbs_where_the_source_does(shared_dir: Path, name: str) -> None:
    clip = read_bvh(shared_dir / "data" / "motion" / f"{name}.bvh")
    motion = retarget_to_smpl(clip)
    facts = source_facts(clip)
    joints = motion.joint_positions().astype(float)
    z_up = facts.up == "z"
    source = clip.world()[1][..., [0, 2, 1]] * [1, 1, -1] if z_up else clip.world()[1]
    limbs = find_body(clip.names, clip.parents, name).limbs
    parts = [("hip", "knee", 1, 4), ("knee", "ankle", 4, 7), ("shoulder", "elbow", 16, 18), ("elbow", "wrist", 18, 20),
             ("wrist", "hand", 20, 22)]  # fmt: skip
    for number, side in enumerate(("left", "right")):
        for part, following, start, end in parts:
            bone = source[:, limbs[following, side]] - source[:, limbs[part, side]]
            got = joints[:, end + number] - joints[:, start + number]
            assert cosines(got, bone).min() > 0.98, (side, part)
        foot = source[:, limbs["toe", side]] - source[:, limbs["ankle", side]]
        assert cosines(joints[:, 10 + number] - joints[:, 7 + number], foot).min() > 0.95
    for part, left, right in (("hip", 1, 2), ("shoulder", 16, 17)):
        line = source[:, limbs[part, "left"]] - source[:, limbs[part, "right"]]
        assert cosines(joints[:, left] - joints[:, right], line).min() > 0.97, part
    middle = [
        sum(p[:, limbs[part, side]] for side in ("left", "right")) for p in (source,) for part in ("shoulder", "hip")
    ]
    trunk = joints[:, [16, 17]].mean(1) - joints[:, [1, 2]].mean(1)
    assert cosines(trunk, middle[0] - middle[1]).min() > 0.95
    # Travel in proportion to the legs, feet on the floor, poses without pops.
    scale = 0.813 / (facts.leg_m / facts.unit_m)
    travel = joints[:, [1, 2]].mean(1) - joints[0, [1, 2]].mean(0)
    np.testing.assert_allclose(travel, 0.5 * scale * (middle[1] - middle[1][0]), atol=0.02)
    assert np.percentile(joints[:, [10, 11], 1].min(1), 1) == pytest.approx(TOE_HEIGHT_M, abs=1e-4)
    assert joints[..., 1].min() > -0.03
    assert np.linalg.norm(np.diff(joints, axis=0), axis=-1).max() * motion.fps < 16.0


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "unit", "up", "standing"),
    [
        ("cmu_131/131_02", "CMU", "y", True), ("animated_drawings/jesse_dance", "centimetres", "y", False),
        ("animated_drawings/jumping_jacks", "CMU", "y", True), ("animated_drawings/zombie", "unknown", "z", True),
    ],
)  # fmt: skip
def test_real_mocap_unit_and_axes(shared_dir: Path, name: str, unit: str, up: str, standing: bool) -> None:
    facts = source_facts(read_bvh(shared_dir / "data" / "motion" / f"{name}.bvh"))
    assert unit in facts.unit_name
    assert (facts.up, facts.standing) == (up, standing)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["cmu_131/131_01", "animated_drawings/jesse_dance", "animated_drawings/dab"])
def test_real_mocap_re_exported_matches_its_retargeted_joints(shared_dir: Path, tmp_path: Path, name: str) -> None:
    motion = load_bvh_motion(shared_dir / "data" / "motion" / f"{name}.bvh")
    write_bvh(tmp_path / "again.bvh", motion)
    again = load_bvh_motion(tmp_path / "again.bvh")
    assert np.abs(again.joint_positions() - motion.joint_positions()).max() < 1e-4
    turns = [Rotation.from_rotvec(m.poses.reshape(-1, 3)) for m in (motion, again)]
    # Limbs keep their twist up to the axis their knees and elbows bend about, which the file alone must tell.
    assert np.degrees(np.median((turns[0].inv() * turns[1]).magnitude())) < 2.0
    assert torch.from_numpy(again.poses).isfinite().all()
