"""Optical flow: known movements, the camera's share, what is covered up."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from macedance.vision.flow import (
    PairFlow,
    at_side,
    box_mask,
    camera_motion,
    pulled_back,
    visible_in_both,
)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(30, 226, (height // 5 + 2, width // 5 + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def shifted(wide: np.ndarray, dx: int, dy: int, size: int = 128) -> np.ndarray:
    """A window of a wide picture in which everything stands (dx, dy) further right and down."""
    return np.ascontiguousarray(wide[40 - dy : 40 - dy + size, 40 - dx : 40 - dx + size])


@pytest.fixture(scope="module")
def wide() -> np.ndarray:
    return texture(220, 220)


def test_a_known_shift_is_found_both_ways(wide: np.ndarray) -> None:
    frames = np.stack([shifted(wide, 0, 0), shifted(wide, 3, -2)])
    (pair,) = PairFlow(30.0, backward=True).add(frames)
    assert np.allclose(camera_motion(pair.forward_hw2) / pair.scale, (3, -2), atol=0.15)
    assert pair.backward_hw2 is not None
    assert np.allclose(np.median(pair.backward_hw2.reshape(-1, 2), axis=0) / pair.scale, (-3, 2), atol=0.15)
    assert (pair.first_frame, pair.second_frame, pair.scale) == (0, 1, 360 / 128)


def test_equal_pictures_have_no_flow_at_all(wide: np.ndarray) -> None:
    (pair,) = PairFlow(30.0).add(np.stack([shifted(wide, 0, 0)] * 2))
    assert not pair.forward_hw2.any()
    assert pair.backward_hw2 is None


def test_portions_make_no_difference_and_fast_videos_are_thinned(wide: np.ndarray) -> None:
    frames = np.stack([shifted(wide, step, 0) for step in range(9)])
    whole = list(PairFlow(60.0).add(frames))
    portioned = PairFlow(60.0)
    parts = [pair for start in (0, 2, 5) for pair in portioned.add(frames[start : {0: 2, 2: 5, 5: 9}[start]])]
    assert [(p.first_frame, p.second_frame) for p in whole] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert portioned.pairs_per_s == 30.0
    for one, other in zip(whole, parts, strict=True):
        assert np.array_equal(one.forward_hw2, other.forward_hw2)


def test_the_camera_is_what_the_edges_do_beside_the_person(wide: np.ndarray) -> None:
    flow = np.zeros((100, 60, 2), np.float32)
    flow[...] = (2.0, 0.5)
    box = np.array([0.0, 30.0, 60.0, 100.0])
    flow[30:] = (9.0, 9.0)
    assert np.allclose(camera_motion(flow, box), (2.0, 0.5))
    assert np.allclose(camera_motion(flow), (9.0, 9.0)), "without the box the dancer has most of the edges"
    everywhere = np.array([0.0, 0.0, 60.0, 100.0])
    assert np.allclose(camera_motion(flow, everywhere), camera_motion(flow)), "no edge beside the person: all of them"


def test_what_is_covered_up_is_left_out() -> None:
    # A square goes 6 pixels to the right before a background that stands still, in both directions of time.
    forward, backward = np.zeros((60, 80, 2), np.float32), np.zeros((60, 80, 2), np.float32)
    forward[20:40, 20:40] = (6, 0)
    backward[20:40, 26:46] = (-6, 0)
    both = visible_in_both(forward, backward)
    hidden = np.zeros((60, 80), bool)
    hidden[20:40, 40:46] = True
    assert np.array_equal(both, ~hidden)
    leaving = np.full((60, 80, 2), (30.0, 0.0), np.float32)
    assert visible_in_both(leaving, -leaving).sum() == 60 * 50


def test_pulling_back_brings_what_both_pictures_show_together(wide: np.ndarray) -> None:
    background, dancer = shifted(wide, 0, 0), texture(40, 40, seed=9)
    frames = np.stack([background.copy(), background.copy()])
    frames[0, 40:80, 40:80] = dancer
    frames[1, 40:80, 46:86] = dancer
    (pair,) = PairFlow(30.0, backward=True).add(frames)
    assert pair.backward_hw2 is not None
    both = visible_in_both(pair.forward_hw2, pair.backward_hw2)
    error = np.abs(pulled_back(pair.second_hw3, pair.forward_hw2) - pair.first_hw3).mean(axis=-1)
    assert 0.9 < both.mean() < 1.0
    assert error[both].mean() < 0.25 * error[~both].mean()
    inside = slice(round(44 * pair.scale), round(76 * pair.scale))
    assert error[inside, inside].mean() < 4.0


@pytest.mark.parametrize(("side", "scale"), [(16, 22.5), (90, 4.0), (360, 1.0), (720, 0.5)])
def test_pictures_of_any_size_are_looked_at_in_one(side: int, scale: float) -> None:
    picture, found = at_side(texture(side, 2 * side))
    assert found == scale
    assert picture.shape == (360, 720, 3)


def test_boxes_are_cut_at_the_edges_and_nobody_is_nowhere() -> None:
    assert box_mask((10, 8), np.array([-5.0, 4.2, 3.1, 99.0])).sum() == 6 * 4
    assert not box_mask((10, 8), np.array([np.nan] * 4)).any()
    assert not box_mask((10, 8), None).any()
    assert not box_mask((10, 8), np.array([-9.0, -9.0, -2.0, -2.0])).any()
