"""The pose drawing equals Wan-Animate's own, pixel by pixel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from macedance.errors import DataError
from macedance.rendering.pose_drawing import BODY_20, MIN_CONFIDENCE, PoseKeypoints, draw_pose, stick_width

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "pose_drawing"


def golden_cases() -> list[dict[str, Any]]:
    return json.loads((GOLDEN / "keypoints.json").read_text(encoding="utf-8"))


def drawn(case: dict[str, Any]) -> np.ndarray:
    hands = {f"{side}_hand_K3": np.array(case[f"{side}_hand"]) for side in ("left", "right")}
    return draw_pose(np.array(case["body"]), case["height"], case["width"], **hands)


@pytest.mark.parametrize("number", range(3))
def test_the_drawing_is_pixel_equal_to_the_published_one(number: int) -> None:
    case = golden_cases()[number]
    expected = cv2.imread(str(GOLDEN / case["file"]))[..., ::-1]
    assert np.array_equal(drawn(case), expected)


def test_points_below_the_threshold_are_left_out_with_their_limbs() -> None:
    case = golden_cases()[0]
    body = np.array(case["body"])
    whole = draw_pose(body, case["height"], case["width"])
    body[BODY_20.index("lknee"), 2] = MIN_CONFIDENCE - 0.01
    partial = draw_pose(body, case["height"], case["width"])
    assert (partial.any(-1) < whole.any(-1)).any()
    x, y = body[BODY_20.index("lknee"), :2].astype(int)
    assert whole[y, x].any()
    assert not partial[y, x].any()


@pytest.mark.parametrize("shift", [(-10_000.0, 0.0), (1e9, 1e9), (0.0, -300.0)])
def test_a_dancer_outside_the_picture_is_drawn_as_far_as_they_reach_into_it(shift: tuple[float, float]) -> None:
    case = golden_cases()[1]
    body = np.array(case["body"])
    body[:, :2] += shift
    picture = draw_pose(body, case["height"], case["width"])
    inside = ((body[:, :2] >= 0) & (body[:, :2] < (case["width"], case["height"]))).all(axis=1)
    assert picture.any() == inside.any()


def test_limbs_are_wider_in_larger_pictures() -> None:
    assert [stick_width(h, w) for h, w in ((128, 128), (480, 832), (720, 1280), (1080, 1920))] == [1, 1, 2, 4]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="body has shape"):
        PoseKeypoints(np.zeros((4, 17, 3)))
    with pytest.raises(DataError, match="left_hand has shape"):
        PoseKeypoints(np.zeros((4, 20, 3)), left_hand=np.zeros((3, 21, 3)))
