"""The offline source on real renderings: its keypoints are the projected joints, and the 2-D protocol agrees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from macedance.demo.corpus import make_clips, plan_corpus
from macedance.metrics.keypoint_clips import keypoint_clip, keypoints_of_folder
from macedance.metrics.keypoints import KeypointClip
from macedance.metrics.presets import CLEAN_KEYPOINTS
from macedance.metrics.protocol import evaluate_protocol
from macedance.rendering.motion_to_video import MeshDancer
from macedance.rendering.video import VideoWriter
from macedance.vision.blazepose import BlazePoseKeypoints, LiteRTNetwork
from macedance.vision.blazepose_detector import BlazePoseDetector
from macedance.vision.blazepose_landmarks import BlazePoseLandmarker
from macedance.vision.blazepose_weights import DETECTION, LANDMARKS

GOLDEN = Path(__file__).parents[1] / "golden" / "blazepose"
SIDE, FRAMES = 160, 75


@pytest.mark.parametrize("name", ["whole", "cut"])
def test_landmarks_are_those_of_the_original(name: str, blazepose_folder: Path) -> None:
    """The original's own landmarks of two pictures; OpenCV's releases interpolate crops a little differently."""
    import cv2

    picture = cv2.cvtColor(cv2.imread(str(GOLDEN / f"{name}.png")), cv2.COLOR_BGR2RGB)
    expected = np.array(json.loads((GOLDEN / "landmarks.json").read_text())["landmarks"][name])
    (person,) = BlazePoseDetector(LiteRTNetwork(blazepose_folder / DETECTION))(picture)
    found = BlazePoseLandmarker(LiteRTNetwork(blazepose_folder / LANDMARKS))(picture, person.roi)
    away = np.linalg.norm(found.points[:33] - expected[:, :2], axis=1)
    assert away.max() < 1.0  # pixels, of a square of 250
    assert np.median(away) < 0.15
    np.testing.assert_allclose(found.visibility[:33], expected[:, 2], atol=0.05)


@pytest.fixture(scope="module")
def dances(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[KeypointClip]]:
    """Four dances of the built-in corpus as videos, and where their joints are in the pictures."""
    folder = tmp_path_factory.mktemp("dances")
    projected = []
    for song in plan_corpus(48, seed=3)[:4]:
        planned, motion = make_clips(song)[1][0]
        motion = motion.slice(0, FRAMES)
        dancer = MeshDancer(SIDE, SIDE, samples=1, backend="software")
        video = dancer.render(motion, dancer.reference_image(motion))
        with VideoWriter(folder / f"{planned.key}.mp4", video.fps, SIDE, SIDE) as writer:
            for frame in video.frames():
                writer.add(frame)
        beats = motion.music_beats_s
        projected.append(
            KeypointClip(dancer.driving_keypoints(motion), video.fps, None, beats, planned.key, song.spec.name)
        )
    return folder, sorted(projected, key=lambda clip: clip.name)


def test_keypoints_of_rendered_dances_are_the_projected_joints(
    dances: tuple[Path, list[KeypointClip]], blazepose_folder: Path, tmp_path: Path
) -> None:
    folder, projected = dances
    source = BlazePoseKeypoints.from_folder(blazepose_folder)
    read = keypoints_of_folder(folder, source, cache=tmp_path)
    assert [clip.name for clip in read.clips] == [clip.name for clip in projected]
    for found, truth in zip(read.found, projected, strict=True):
        body, joints = found.keypoints[:, 5:, :2], truth.keypoints[:, 5:, :2]
        for axis in range(2):
            assert np.corrcoef(body[..., axis].ravel(), joints[..., axis].ravel())[0, 1] > 0.98
        # Motion alone: without the place that each joint has on a body.
        moved, joints_moved = body - body.mean(axis=0), joints - joints.mean(axis=0)
        assert np.corrcoef(moved.ravel(), joints_moved.ravel())[0, 1] > 0.95
        torso = np.linalg.norm(joints[:, :2].mean(axis=1) - joints[:, 6:8].mean(axis=1), axis=-1)
        assert np.median(np.linalg.norm(body - joints, axis=-1)) < 0.08 * np.median(torso)
        assert not found.missing.any()
        assert (found.persons == 1).all()

    # The 2-D protocol on what was found, and on what is there.
    heard = [
        replace(keypoint_clip(one), music_beats_s=truth.music_beats_s, song=truth.song)
        for one, truth in zip(read.found, projected, strict=True)
    ]
    settings = {"allow_small_n": True, "resamples": 0, "floor_draws": 0}
    numbers = evaluate_protocol(heard, projected, **settings).presets["clean"]  # type: ignore[arg-type]
    for key, tolerance in (("bas", 0.1), ("bas_motion", 0.1), ("minima_rate", 0.3)):
        assert numbers[key]["value"] == pytest.approx(numbers[f"{key}_reference"]["value"], abs=tolerance), key
    ours, theirs = features(heard), features(projected)
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.98
    # Every dance is nearest to itself, by far.
    away = np.linalg.norm(ours[:, None] - theirs[None], axis=-1)
    others = np.where(np.eye(len(away), dtype=bool), np.inf, away).min(axis=1)
    assert (np.diag(away) < 0.5 * others).all()


def features(clips: list[KeypointClip]) -> np.ndarray:
    """Energies of ``clean``'s kinetic features (clips, 17 x 2), their roots: speeds.

    The third of each keypoint, its acceleration, is a shaking source's own.
    """
    rows = [
        CLEAN_KEYPOINTS.measure(torch.from_numpy(CLEAN_KEYPOINTS.points(clip))[None], clip.fps).kinetic[0]
        for clip in clips
    ]
    return torch.stack(rows).reshape(len(clips), 17, 3)[..., :2].sqrt().flatten(1).numpy()
