"""Person motion and warp error: what a still, a trembling or a panned video gets."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch

from macedance.metrics.appearance.temporal import TemporalFlickering
from macedance.metrics.honest.person_motion import (
    WHOLE_FRAME_NOTE,
    VideoMotion,
    camera_path,
    person_motion,
)
from macedance.metrics.videos import score_videos
from macedance.vision.video import Video

SIDE = 128
BOX = np.array([34.0, 24.0, 94.0, 104.0])
BOX_HEIGHT = BOX[3] - BOX[1]


class Boxes:
    """A stand-in for a detector: boxes that the test knows."""

    name = "known boxes"
    weights = {"known": "1" * 64}

    def __init__(self, box: np.ndarray = BOX, missing: tuple[int, ...] = ()) -> None:
        self.box, self.missing = box, missing

    def boxes(self, video: Video) -> np.ndarray:
        found = np.tile(self.box, (video.num_frames or 0, 1))
        found[list(self.missing)] = np.nan
        return found


def texture(height: int, width: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(20, 236, (height // 5 + 2, width // 5 + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


WORLD, DANCER = texture(200, 400, 1), texture(80, 60, 2)


def scene(
    frames: int = 10,
    *,
    pan_px: int = 0,
    dancer: Callable[[int], tuple[int, int]] = lambda t: (0, 0),
    noise: float = 0.0,
) -> np.ndarray:
    """Frames (T, 128, 128, 3): a textured dancer in BOX, moved by ``dancer`` (right, down), before a panned world."""
    rng = np.random.default_rng(3)
    pictures = []
    for t in range(frames):
        picture = WORLD[30 : 30 + SIDE, 20 + pan_px * t : 20 + pan_px * t + SIDE].copy()
        right, down = dancer(t)
        left, top = 34 + right, 24 + down
        picture[top : top + 80, left : left + 60] = DANCER
        pictures.append(np.clip(picture + noise * rng.standard_normal(picture.shape), 0, 255).astype(np.uint8))
    return np.stack(pictures)


def sway(t: int) -> tuple[int, int]:
    """Two pixels a frame, to and fro."""
    return (2 * (t % 2), 0)


def boxes(frames: np.ndarray, box: np.ndarray = BOX) -> np.ndarray:
    return np.tile(box, (len(frames), 1))


def scored(metric: VideoMotion, *videos: np.ndarray, fps: float = 30.0) -> dict[str, dict[str, object]]:
    score_videos([metric], [Video.from_frames(frames, fps, str(n)) for n, frames in enumerate(videos)])
    return metric.compute()


def test_a_frozen_video_flickers_not_at_all_and_moves_not_at_all() -> None:
    frozen = Video.from_frames(scene(1).repeat(6, axis=0), 30.0, "frozen")
    flicker, motion = TemporalFlickering(), VideoMotion(Boxes())
    score_videos([flicker, motion], [frozen])
    assert flicker.compute()["temporal_flickering"]["value"] == 100.0
    found = motion.compute()
    assert found["person_motion"]["value"] == 0.0
    assert found["warp_error"]["value"] == 0.0
    assert found["warp_valid"]["value"] == 1.0


def test_motion_is_in_body_heights_per_second() -> None:
    moving = scene(dancer=lambda t: (2 * t, 0))
    found = person_motion(moving, 30.0, boxes(moving) + np.arange(len(moving))[:, None] * (2, 0, 2, 0))
    assert found == pytest.approx(2 * 30 / BOX_HEIGHT, rel=0.15)
    assert person_motion(moving, 15.0, boxes(moving)) == pytest.approx(found / 2, rel=0.15)


def test_motion_hardly_depends_on_the_frame_rate_and_the_size() -> None:
    slow = scene(21, dancer=lambda t: (t, 0))
    every_second = slow[::2]
    tracked = boxes(slow) + np.arange(len(slow))[:, None] * (1, 0, 1, 0)
    assert person_motion(slow, 60.0, tracked) == pytest.approx(person_motion(every_second, 30.0, tracked[::2]))
    large = np.stack([cv2.resize(frame, (256, 256), interpolation=cv2.INTER_CUBIC) for frame in slow])
    assert person_motion(large, 30.0, 2 * tracked) == pytest.approx(person_motion(slow, 30.0, tracked), rel=0.1)


def test_a_panning_camera_does_not_make_a_person_move() -> None:
    # The dancer stands in the world: they drift through the picture as everything else does.
    panned = scene(6, pan_px=3, dancer=lambda t: (-3 * t, 0))
    followed = boxes(panned) - np.arange(6)[:, None] * (3, 0, 3, 0)
    assert person_motion(panned, 30.0, followed) < 0.05
    walking = scene(6, pan_px=3)
    assert person_motion(walking, 30.0, boxes(walking)) == pytest.approx(3 * 30 / BOX_HEIGHT, rel=0.2), "stays in sight"
    assert np.allclose(camera_path(panned, 30.0, followed), (-3, 0), atol=0.3)
    assert camera_path(panned, 30.0).shape == (5, 2)


def test_without_a_detector_the_whole_picture_moves_and_the_result_says_so() -> None:
    moving = scene(dancer=sway)
    whole = scored(VideoMotion(warp=False), moving)["person_motion"]
    inside = scored(VideoMotion(Boxes(), warp=False), moving)["person_motion"]
    assert whole["note"] == WHOLE_FRAME_NOTE
    assert "note" not in inside
    assert whole["value"] < 0.7 * inside["value"]
    assert VideoMotion().settings["person"] == "whole picture"
    assert VideoMotion(Boxes()).settings["person"] == "known boxes"
    assert VideoMotion(Boxes()).weights == Boxes.weights


def test_frames_without_the_person_do_not_count_and_videos_without_them_are_counted() -> None:
    found = scored(VideoMotion(Boxes(missing=(0, 1, 2))), scene(dancer=sway))
    assert found["person_motion"]["n_frames"] == 6
    assert found["warp_error"]["n_frames"] == 9
    nobody = scored(VideoMotion(Boxes(missing=tuple(range(10)))), scene(dancer=sway))
    assert nobody["person_motion"]["value"] is None
    assert nobody["person_motion"]["n_undefined"] == 1
    assert nobody["person_motion"]["reason"] == "no pair of pictures with a person in it"
    assert nobody["warp_error"]["value"] is not None
    one = scored(VideoMotion(), scene(1))
    assert one["person_motion"]["reason"] == "no pair of pictures"


def test_flicker_is_a_warp_error_and_motion_is_not() -> None:
    steady, trembling = scene(dancer=sway), scene(dancer=sway, noise=12.0)
    moved, flickering = (scored(VideoMotion(Boxes()), frames) for frames in (steady, trembling))
    assert moved["warp_error"]["value"] < 1.5 < 3.0 < flickering["warp_error"]["value"]
    assert moved["person_motion"]["value"] > 0.5
    assert 0.8 < moved["warp_valid"]["value"] <= 1.0


def test_person_and_background_are_told_apart() -> None:
    frames = scene(8)
    melting = frames.copy()
    rng = np.random.default_rng(5)
    melting[:, 30:100, 40:90] = rng.integers(0, 255, (8, 70, 50, 3), dtype=np.uint8)
    found = scored(VideoMotion(Boxes()), melting)
    assert found["warp_error_background"]["value"] < 2.0
    assert found["warp_error_person"]["value"] > 5 * found["warp_error_background"]["value"]
    undivided = scored(VideoMotion(), melting)
    assert undivided["warp_error_person"]["value"] is None
    assert undivided["warp_error_person"]["reason"] == "no person detector"


def test_values_are_each_videos_own_whatever_the_portions() -> None:
    clips = [scene(40, dancer=sway), scene(7)]
    metric = VideoMotion(Boxes(), warp=False)
    scored(metric, *clips)
    found = metric.per_video()["person_motion"]
    assert found[0] == pytest.approx(person_motion(clips[0], 30.0, boxes(clips[0])))
    assert found[1] == 0.0
    tensor = VideoMotion(warp=False)
    tensor.update(torch.from_numpy(clips[0]).permute(0, 3, 1, 2), 7)
    assert tensor.per_video()["person_motion"][7] == pytest.approx(person_motion(clips[0], 30.0))
