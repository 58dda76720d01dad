"""Boxes of the dancer and crops of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest

from macedance.errors import DataError
from macedance.vision.crops import DetectedBoxes, box_of_frame, boxes_of, square_crop
from macedance.vision.video import Video


class Counting:
    name = "counting"
    weights = {"counting": "0" * 64}

    def __init__(self, people: Sequence[np.ndarray]) -> None:
        self.people, self.frames = people, 0

    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        found = list(self.people[self.frames : self.frames + len(frames)])
        self.frames += len(frames)
        return found


def video(frames: int = 3, name: str = "clip") -> Video:
    return Video.from_frames(np.zeros((frames, 40, 30, 3), np.uint8), 30.0, name)


def person(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top, right, bottom, 0.9]], dtype=np.float32)


def test_several_metrics_cost_one_detection_and_copies_share_it() -> None:
    detector = Counting([person(2, 2, 20, 38)] * 3)
    source, clip = DetectedBoxes(detector), video()
    first = source.boxes(clip)
    assert np.array_equal(copy.deepcopy(source).boxes(clip), first)
    assert detector.frames == 3
    assert source.weights == detector.weights


def test_a_reference_image_in_between_costs_no_second_detection() -> None:
    detector = Counting([person(2, 2, 20, 38)] * 9)
    source, clip, still = DetectedBoxes(detector), video(), video(1, "reference")
    for shown in (clip, still, clip):
        source.boxes(shown)
    assert detector.frames == 4


def test_boxes_are_kept_inside_the_picture_and_empty_ones_are_nobody() -> None:
    detector = Counting([person(-5, 2, 20, 99), np.zeros((0, 5), np.float32), person(29.9, 0, 40, 40)])
    found = boxes_of(DetectedBoxes(detector), video())
    assert found[0].tolist() == [0, 2, 20, 40]
    assert np.isnan(found[1:]).all()
    with pytest.raises(DataError, match="3 boxes for a video of more than 3 frames"):
        box_of_frame(found, 3)


def test_a_crop_is_square_and_grey_beside_the_person() -> None:
    grey = (124, 116, 104)
    picture = np.zeros((40, 30, 3), np.uint8)
    picture[10:30, 5:15] = 255
    inside = square_crop(picture, np.array([5, 10, 15, 30]), 20, margin=0.0)
    assert inside.shape == (20, 20, 3)
    assert (inside[:, 5:15] == 255).all()
    assert (inside[:, :5] == grey).all(), "the square is as long as the box is high, the rest of it is nobody's"
    assert (inside[:, 15:] == grey).all()
    with_air = square_crop(picture, np.array([5, 10, 15, 30]), 24)
    assert (with_air[2:22, 7:17] == 255).all()
    assert (with_air[2:22, 5:7] == 0).all(), "a tenth of the height around the person"
    cut_off = square_crop(picture, np.array([-10, 10, 10, 30]), 20, margin=0.0)
    assert (cut_off[:, :10] == grey).all()
    assert (cut_off[:, 15:] == 255).all()


@pytest.mark.parametrize(("box", "message"), [([np.nan] * 4, "has no area"), ([-50, 0, -20, 30], "beside the picture")])
def test_a_crop_of_nobody_is_refused(box: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        square_crop(np.zeros((8, 8, 3), np.uint8), np.array(box, dtype=np.float64), 16)
