"""The preset ``honest``: what it holds with and without weights, and pose adherence as one of its metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from macedance.errors import DataError
from macedance.metrics.honest.driven import KeptKeypoints, PoseAdherence
from macedance.metrics.honest.person_motion import WHOLE_FRAME_NOTE
from macedance.metrics.honest.preset import (
    HONEST_KEYS,
    NO_DRIVING,
    OWN_REFERENCE_NOTE,
    honest_preset,
    stillness_notes,
)
from macedance.metrics.video_protocol import evaluate_videos
from macedance.metrics.videos import score_videos
from macedance.rendering.video import VideoWriter
from macedance.vision.keypoints import Progress, VideoKeypoints
from macedance.vision.networks import Networks
from macedance.vision.video import Video

FRAMES = 8


def keypoints(seed: int = 0, frames: int = FRAMES) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = rng.uniform(10, 54, (1, 17, 2)) + np.cumsum(rng.standard_normal((frames, 1, 2)), axis=0)
    return np.concatenate([points, np.ones((frames, 17, 1))], axis=-1).astype(np.float32)


class Known:
    """A source that knows where the keypoints are, and counts how often it was asked."""

    name, layout = "known", "coco_17"
    weights = {"known": "5" * 64}
    settings: dict[str, float | int | str] = {"version": 1}

    def __init__(self, points: np.ndarray) -> None:
        self.points, self.calls = points, 0

    def __call__(self, video: Video, progress: Progress | None = None) -> VideoKeypoints:
        self.calls += 1
        low, high = self.points[..., :2].min(axis=1), self.points[..., :2].max(axis=1)
        boxes = np.concatenate([low, high], axis=1)
        return VideoKeypoints(self.points, video.fps, video.name, boxes, np.ones(len(boxes)), self.layout)


class Constant:
    name, fingerprint = "constant", "6" * 64

    def to(self, device: torch.device | str) -> Constant:
        return self

    def __call__(self, frames: Tensor) -> Tensor:
        return torch.ones(len(frames), 4)


def clip(name: str = "clip", frames: int = FRAMES) -> Video:
    rng = np.random.default_rng(4)
    return Video.from_frames(rng.integers(0, 255, (frames, 64, 64, 3), dtype=np.uint8), 10.0, name)


def test_without_weights_every_key_is_there_with_its_reason(tmp_path: Path) -> None:
    result = evaluate_videos([honest_preset(Networks(tmp_path), no_keypoints="no detector here")], [clip()])
    entries = result.presets["honest"]
    assert tuple(entries) == HONEST_KEYS
    assert entries["person_motion"]["note"] == WHOLE_FRAME_NOTE
    assert entries["person_motion"]["value"] > 0
    assert entries["person_identity_p10"]["reason"] == "no detector here"
    assert "macedance evaluate weights --download yunet" in entries["face_drift"]["reason"]
    assert entries["jitter_ratio"]["reason"] == NO_DRIVING
    assert all(entries[key]["value"] is None for key in HONEST_KEYS[5:])
    assert WHOLE_FRAME_NOTE in result.inputs["notes"]["honest"][0]


def test_whoever_finds_the_dancer_identity_needs_dino(tmp_path: Path) -> None:
    preset = honest_preset(Networks(tmp_path), boxes=KeptKeypoints(Known(keypoints())))
    assert "dino_vitb16" in preset.unavailable["person_identity"]
    assert preset.unavailable["oks"] == NO_DRIVING
    assert not preset.notes
    driven = honest_preset(Networks(tmp_path), no_keypoints="no keypoints here", driving={"clip": keypoints()})
    assert driven.unavailable["oks"] == "no keypoints here"


def test_one_look_at_a_video_serves_all_metrics(tmp_path: Path) -> None:
    source, networks = Known(keypoints()), Networks(tmp_path)
    networks._loaded["dino_vitb16"] = Constant()
    preset = honest_preset(networks, keypoints=KeptKeypoints(source), driving={"clip": keypoints()})
    entries = evaluate_videos([preset], [clip()]).presets["honest"]
    assert source.calls == 1
    assert entries["pck_05"]["value"] == 1.0
    assert entries["oks"]["value"] == pytest.approx(1.0)
    assert entries["missing"]["value"] == 0.0
    assert entries["person_identity"]["value"] == pytest.approx(1.0)
    assert entries["warp_error_person"]["value"] > 0
    assert "note" not in entries["person_motion"]
    assert list(preset.notes) == [OWN_REFERENCE_NOTE]
    assert preset.weights == {"known": "5" * 64, "constant": "6" * 64}
    assert preset.conventions["pck_05"]["keypoints"] == "known"


def test_videos_that_stand_still_are_named(tmp_path: Path) -> None:
    frozen = Video.from_frames(clip().frames()[:1].repeat(6, axis=0), 10.0, "frozen")
    (sentence,) = stillness_notes(evaluate_videos([honest_preset(Networks(tmp_path))], [clip(), frozen]))
    assert "1 of 2 videos stand still" in sentence
    assert sentence.endswith(": frozen")


def test_adherence_is_averaged_over_videos_and_kept_for_each() -> None:
    off = keypoints()
    off[..., 0] += 500
    metric = PoseAdherence(Known(keypoints()), {"right": keypoints(), "wrong": off})
    score_videos([metric], [clip("right"), clip("wrong")])
    assert metric.per_video()["pck_10"] == {0: 1.0, 1: 0.0}
    assert metric.compute()["pck_10"]["value"] == 0.5


def test_a_video_that_cannot_be_compared_is_named() -> None:
    metric = PoseAdherence(Known(keypoints()), {"clip": keypoints(frames=5)})
    with pytest.raises(DataError, match="5 frames of driving keypoints, 8 of detected ones; at clip"):
        score_videos([metric], [clip()])
    with pytest.raises(DataError, match="no driving keypoints of 'other'"):
        score_videos([metric], [clip("other")])


def test_keypoints_of_a_file_are_kept_between_runs(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 10.0, 64, 64) as writer:
        for frame in clip().frames():
            writer.add(frame)
    source = Known(keypoints())
    for _ in range(2):
        found = KeptKeypoints(source, cache=tmp_path / "cache").boxes(Video.open(tmp_path / "clip.mp4"))
    assert found.shape == (FRAMES, 4)
    assert source.calls == 1
