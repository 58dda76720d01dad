"""A model is driven by the parts of a person that its training drew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny_appearance as tiny

from macedance.errors import CheckpointError
from macedance.motion.files import Motion
from macedance.pipelines.appearance_config import AppearanceModelConfig
from macedance.pipelines.motion_to_video import MotionToVideo
from macedance.rendering.mesh_driver import MeshDriver
from macedance.rendering.pose_parts import TOES, parts_drawn
from macedance.rendering.projector import PoseProjector


@pytest.fixture(scope="module")
def motion() -> Motion:
    poses = 0.2 * np.random.default_rng(0).standard_normal((4, 24, 3)).astype(np.float32)
    return Motion(poses=poses, trans=np.tile(np.array([0, 0.9, 0], np.float32), (4, 1)), fps=15.0)


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any, Any]:
    return tiny.make_expert(size=(96, 64))


@pytest.mark.parametrize(
    ("trained", "drawn"),
    [
        (None, ("body", "feet", "hands")),
        (("body", "feet", "hands"), ("body", "feet", "hands")),
        (("body", "feet"), ("body", "feet")),
        (("body", "hands"), ("body", "hands")),
        (("body",), ("body",)),
    ],
)
def test_driving_draws_no_more_than_training_did(
    motion: Motion, parts: tuple[Any, Any, Any], trained: Any, drawn: tuple[str, ...]
) -> None:
    network, encoders, config = parts
    model = MotionToVideo(network, encoders, replace(config, pose_parts=trained))
    points = model.points(motion)
    hands = [hand for hand in (points.left_hand, points.right_hand) if hand is not None]
    assert parts_drawn(np.concatenate([points.body, *hands], axis=1)) == drawn
    expected = PoseProjector(64, 96, config.fps, hands="hands" in drawn, feet="feet" in drawn).render(motion)
    assert np.array_equal(model.drive(motion).frames(), expected.frames())
    whole = PoseProjector(64, 96, config.fps).render(motion).frames()
    assert np.array_equal(model.drive(motion).frames(), whole) == (len(drawn) == 3)
    assert model.settings["pose_parts"] == (None if trained is None else list(trained))


def test_toes_are_left_out_and_nothing_else_moves(motion: Motion) -> None:
    whole, without = (PoseProjector(64, 96, 15.0, feet=feet).keypoints(motion) for feet in (True, False))
    assert whole.body[:, TOES, 2].all()
    assert not without.body[:, TOES, 2].any()
    others = [row for row in range(20) if row not in TOES]
    assert np.array_equal(whole.body[:, others], without.body[:, others])
    assert np.array_equal(whole.body[..., :2], without.body[..., :2])
    assert np.array_equal(whole.left_hand, without.left_hand)  # type: ignore[arg-type]


def test_another_driver_draws_bodies(motion: Motion, parts: tuple[Any, Any, Any]) -> None:
    network, encoders, config = parts
    model = MotionToVideo(network, encoders, replace(config, pose_parts=("body",)), driver=MeshDriver)
    assert len(model.drive(motion).frames()) == 4


def test_a_model_folder_keeps_it(parts: tuple[Any, Any, Any]) -> None:
    config = replace(parts[2], pose_parts=("body", "hands"))
    content = config.to_dict()
    assert content["pose_parts"] == ["body", "hands"]
    assert AppearanceModelConfig.from_dict(content, "here").pose_parts == ("body", "hands")
    assert AppearanceModelConfig.from_dict({**content, "pose_parts": None}, "here").pose_parts is None
    del content["pose_parts"]
    assert AppearanceModelConfig.from_dict(content, "here").pose_parts is None
    with pytest.raises(CheckpointError, match=r"configuration is damaged.*tail"):
        AppearanceModelConfig.from_dict({**content, "pose_parts": ["tail"]}, "here")
