from __future__ import annotations

import logging
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from rendering_dances import standing

from macedance.errors import ConfigError, DataError, DependencyError
from macedance.motion.files import Motion
from macedance.rendering import MannequinBody, Outfit, Stage, dance_frames, gl_report, opengl, rasteriser
from macedance.rendering.camera import follow_camera
from macedance.rendering.opengl import GlReport
from macedance.rendering.rasteriser import make_rasteriser

SIDE = 160
OUTFIT = Outfit(top=(0.9, 0.1, 0.1), trousers=(0.1, 0.1, 0.9), shoes=(1.0, 1.0, 1.0), skin=(0.1, 0.9, 0.1))
#: Stage with nothing but a plain floor, so that what is dark on it is shadow.
PLAIN = Stage(floor_light=(0.8, 0.8, 0.8), floor_dark=(0.8, 0.8, 0.8), spot=0.0, vignette=0.0)


def picture(motion: Motion | np.ndarray, backend: str, **options: object) -> np.ndarray:
    options = {"body": MannequinBody(OUTFIT), "stage": PLAIN, "width": SIDE, "height": SIDE, **options}
    return next(dance_frames(motion, 30.0, backend=backend, **options)).astype(int)  # type: ignore[arg-type]


def at(image: np.ndarray, motion: Motion, point: np.ndarray) -> np.ndarray:
    """Colour of the picture where a world point is."""
    view = follow_camera(motion.joint_positions(), 30.0, SIDE, SIDE).view(0)
    (x, y), _ = view.project(point, SIDE, SIDE)
    return image[int(y), int(x)]


def test_dancer_is_drawn_where_the_joints_are(backend: str) -> None:
    motion = standing()
    image, joints = picture(motion, backend), motion.joint_positions()[0]
    assert image.shape == (SIDE, SIDE, 3)
    assert at(image, motion, joints[6]).argmax() == 0  # shirt
    assert at(image, motion, joints[4]).argmax() == 2  # trousers
    assert at(image, motion, 0.5 * (joints[18] + joints[20])).argmax() == 1  # bare forearms
    assert np.ptp(at(image, motion, joints[10])) < 40  # white shoes
    assert at(image, motion, joints[10]).min() > 150
    # Nobody is beside the dancer, and the limbs form one body.
    assert np.ptp(image[: SIDE // 3, : SIDE // 12], axis=1).max() < 25
    body = (np.ptp(image, axis=-1) > 60).any(axis=1)
    assert body[body.argmax() : SIDE - body[::-1].argmax()].mean() > 0.85


def test_shadow_lies_under_the_feet_and_falls_behind(backend: str) -> None:
    motion = standing()
    image = picture(motion, backend, stage=PLAIN)
    bare = picture(motion, backend, stage=replace(PLAIN, shadow=0.0, contact=0.0))
    darker = (bare - image).sum(axis=-1)
    feet = motion.joint_positions()[0, [10, 11]].mean(axis=0) * (1, 0, 1)
    between, far = feet, feet + np.array([-1.2, 0.0, 0.5])
    view = follow_camera(motion.joint_positions(), 30.0, SIDE, SIDE).view(0)
    columns, rows = view.project(np.stack([between, far]), SIDE, SIDE)[0].astype(int).T
    assert darker[rows[0], columns[0]] > 60
    assert darker[rows[1], columns[1]] == 0
    assert (darker > 60).mean() > 0.01
    # The light stands in front on the left: the shadow falls to the right.
    assert np.nonzero(darker > 60)[1].mean() > columns[0]


def test_shadow_leaves_the_feet_in_a_jump(backend: str) -> None:
    low = standing()
    high = Motion(low.poses, low.trans + np.float32([0.0, 0.6, 0.0]), 30.0)
    shades = []
    for motion in (low, high):
        shaded, bare = (
            picture(motion, backend, stage=replace(PLAIN, contact=contact, shadow=0.0)) for contact in (0.5, 0.0)
        )
        shades.append(int((bare - shaded).sum()))
    assert shades[0] > 1000
    assert shades[1] == 0


def test_nearer_parts_hide_farther_ones(backend: str) -> None:
    greens = []
    for angle in (-1.45, 1.45):  # both arms stretched to the front, then to the back
        poses = np.zeros((1, 24, 3), np.float32)
        poses[:, 16, 1], poses[:, 17, 1] = angle, -angle
        motion = Motion(poses, standing().trans, 30.0)
        image = picture(motion, backend)
        elbow = motion.joint_positions()[0, 18]
        greens.append(int((image[..., 1] > image[..., [0, 2]].max(axis=-1) + 30).sum()))
        if angle < 0:
            assert at(image, motion, elbow + np.array([0.0, 0.0, 0.1])).argmax() == 1
    assert greens[1] < 0.75 * greens[0]


def test_edges_are_smoothed(backend: str) -> None:
    shots = (picture(standing(), backend, samples=1), picture(standing(), backend, samples=2))
    # The legs: dark red against a bright floor, so that every step without smoothing is a large one.
    jagged, smooth = (np.abs(np.diff(shot[80:130, :, 0], axis=1)) for shot in shots)
    assert (smooth > 125).sum() < 0.7 * (jagged > 125).sum()


def test_same_input_gives_the_same_bits(backend: str, dance: Motion) -> None:
    first, second = (
        list(dance_frames(dance.slice(0, 3), 30.0, backend=backend, width=SIDE, height=SIDE)) for _ in "ab"
    )
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[0], first[2])


def test_both_rasterisers_draw_nearly_the_same_picture(dance: Motion) -> None:
    if not gl_report().available:
        pytest.skip(f"no EGL context can be made: {gl_report().reason}")
    for width, height in ((160, 160), (120, 200)):
        ours, theirs = (
            np.stack(list(dance_frames(dance.slice(0, 8), 30.0, backend=name, width=width, height=height))).astype(int)
            for name in ("software", "egl")
        )
        difference = np.abs(ours - theirs).max(axis=-1)
        assert difference.mean() < 1.0
        assert (difference > 40).mean() < 0.01


def test_body_outside_the_picture_is_no_error(backend: str) -> None:
    body, stage = MannequinBody(), Stage()
    joints = standing().joint_positions()
    draw = make_rasteriser(backend, body, stage, SIDE, SIDE)  # type: ignore[arg-type]
    from macedance.rendering.body import posed_meshes
    from macedance.rendering.frames import as_dance
    from macedance.rendering.shadow import ShadowMapper

    view = follow_camera(joints, 30.0, SIDE, SIDE).view(0)
    vertices, normals = next(posed_meshes(body, as_dance(joints)))
    shadows = ShadowMapper(body.faces_F3, stage)
    empty = draw.draw(shadows.scene(vertices + np.float32([30, 0, 0]), normals, view), view)
    behind = draw.draw(shadows.scene(vertices + np.float32([0, 0, 30]), normals, view), view)
    draw.close()
    for image in (empty, behind):
        assert (np.ptp(image.astype(int), axis=-1) < 60).all()


def test_auto_falls_back_to_software_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    body, stage = MannequinBody(), Stage()
    reports = [
        GlReport(False, "", "libEGL is not there"),
        GlReport(True, "llvmpipe (LLVM 15)", ""),
        GlReport(True, "A graphics card", ""),
    ]

    def broken(*_: object, **__: object) -> None:
        raise DependencyError("the driver gave up")

    monkeypatch.setattr(rasteriser, "OpenGlRasteriser", broken)
    for report, reason in zip(reports, ("libEGL is not there", "llvmpipe", "the driver gave up"), strict=True):
        caplog.clear()
        monkeypatch.setattr(rasteriser, "gl_report", lambda report=report: report)
        with caplog.at_level(logging.INFO, logger="macedance"):
            made = make_rasteriser("auto", body, stage, SIDE, SIDE)
        assert made.name == "software"
        assert reason in caplog.text


def test_auto_takes_opengl_on_a_graphics_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasteriser, "gl_report", lambda: GlReport(True, "A graphics card", ""))
    monkeypatch.setattr(rasteriser, "OpenGlRasteriser", lambda *_, **__: "drawn by the card")
    assert make_rasteriser("auto", MannequinBody(), Stage(), SIDE, SIDE) == "drawn by the card"


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (subprocess.CompletedProcess([], -11, "", ""), "signal 11"),
        (subprocess.CompletedProcess([], 1, "", "Traceback\nException: cannot open libEGL"), "cannot open libEGL"),
        (subprocess.TimeoutExpired("python", 1.0), "longer than"),
        (OSError("no more processes"), "no more processes"),
    ],
)
def test_gl_report_survives_a_driver_that_crashes_or_hangs(
    monkeypatch: pytest.MonkeyPatch, outcome: object, reason: str
) -> None:
    def run(*_: object, **__: object) -> object:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(opengl.subprocess, "run", run)
    report = opengl.gl_report.__wrapped__(1.0)
    assert not report.available
    assert reason in report.reason


def test_unknown_backend_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="software"):
        dance_frames(standing(), 30.0, backend="vulkan")  # type: ignore[arg-type]


def test_joints_that_cannot_be_drawn_are_refused() -> None:
    joints = standing(4).joint_positions().copy()
    with pytest.raises(DataError, match="without frames"):
        dance_frames(joints[:0], 30.0)
    with pytest.raises(DataError, match="shape"):
        dance_frames(joints[:, :22], 30.0)
    joints[2, 5, 1] = np.nan
    with pytest.raises(DataError, match="frame 2"):
        dance_frames(joints, 30.0)
