"""BlazePose's geometry, decoding and tracking, with networks whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from macedance.vision.blazepose import BlazePoseKeypoints
from macedance.vision.blazepose_detector import BlazePoseDetector, Roi, anchor_centres, decoded, merged
from macedance.vision.blazepose_landmarks import COCO_LANDMARKS, BlazePoseLandmarker, refined
from macedance.vision.video import Video

GREEN, RED = np.array([0, 255, 0]), np.array([255, 0, 0])
HEIGHT, WIDTH = 200, 300


def dot_of(picture: np.ndarray, channel: int, floor: float) -> np.ndarray | None:
    """Centre (2,) of the dot of one colour in a picture (H, W, 3) in [0, 1], in units of the picture."""
    others = [c for c in range(3) if c != channel]
    weight = np.clip(picture[..., channel] - picture[..., others].max(axis=-1) - 0.3, 0, None)
    if weight.sum() < floor:
        return None
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum() / weight.shape[0]


class DotDetector:
    """A person wherever there is a green dot (the hips) and a red one (on the body's circle)."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        self.calls += 1
        assert picture.shape == (1, 224, 224, 3)
        hips, rim = dot_of((picture[0] + 1) / 2, 1, 1.0), dot_of((picture[0] + 1) / 2, 0, 1.0)
        raw, logits = np.zeros((1, 2254, 12), dtype=np.float32), np.full((1, 2254, 1), -200, dtype=np.float32)
        if hips is not None and rim is not None:
            anchor = 777
            pairs = np.stack([hips, [0.1, 0.1], hips, rim, hips, rim]) - anchor_centres()[anchor]
            pairs[1] = 0.1
            raw[0, anchor], logits[0, anchor] = (pairs * 224).reshape(-1), 3.0
        return [raw, logits]


class DotLandmarks:
    """Every landmark on the green dot but the one on the body's circle, which is on the red one."""

    def __init__(self) -> None:
        self.squares = 0

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        self.squares += 1
        assert picture.shape == (1, 256, 256, 3)
        hips, rim = dot_of(picture[0], 1, 3.0), dot_of(picture[0], 0, 3.0)
        raw = np.zeros((39, 5), dtype=np.float32)
        raw[:, 3:] = 4.0
        if hips is not None and rim is not None:
            raw[:, :2] = hips * 256
            raw[[0, 34], :2] = rim * 256
        score = 0.9 if hips is not None and rim is not None else 0.1
        heat = np.full((1, 64, 64, 39), -10, dtype=np.float32)
        return [raw.reshape(1, 195), np.array([[score]]), np.zeros(1), heat, np.zeros((1, 117))]


def source() -> tuple[BlazePoseKeypoints, DotDetector, DotLandmarks]:
    detector, landmarks = DotDetector(), DotLandmarks()
    return (
        BlazePoseKeypoints(BlazePoseDetector(detector), BlazePoseLandmarker(landmarks), weights={"dots": "00"}),
        detector,
        landmarks,
    )


def picture_of(hips: np.ndarray | None, rim: np.ndarray | None, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    frame = np.full((height, width, 3), 90, dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for point, colour in ((hips, GREEN), (rim, RED)):
        if point is not None:
            frame[(columns - point[0]) ** 2 + (rows - point[1]) ** 2 < 26] = colour
    return frame


@pytest.mark.parametrize(("height", "width"), [(200, 300), (300, 200), (240, 240)])
def test_a_turning_dancer_is_followed_to_where_the_picture_shows_them(height: int, width: int) -> None:
    hips = [np.array([width / 2 + 3 * t - 20, height / 2 + 2 * t - 10]) for t in range(13)]
    rims = [hip + 45 * np.array([math.sin(0.5 * t), -math.cos(0.5 * t)]) for t, hip in enumerate(hips)]
    find, detector, landmarks = source()
    frames = np.stack([picture_of(*pair, height, width) for pair in zip(hips, rims, strict=True)])
    progress: list[int] = []
    found = find(Video.from_frames(frames, 30.0, "turn"), progress.append)
    np.testing.assert_allclose(found.keypoints[:, 1:, :2], np.repeat(np.array(hips)[:, None], 16, axis=1), atol=1.0)
    np.testing.assert_allclose(found.keypoints[:, 0, :2], rims, atol=1.0)
    assert np.allclose(found.keypoints[..., 2], 1 / (1 + math.exp(-4)))
    assert found.persons.tolist() == [1] * 13
    # One square for each frame: tracked, not detected anew; the detector only counts.
    assert (landmarks.squares, detector.calls, sum(progress)) == (13, 13, 13)
    assert (found.boxes[:, :2] <= found.boxes[:, 2:]).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [width, height, width, height]).all()


def test_a_dancer_who_leaves_is_missing_and_one_who_appears_elsewhere_is_found_in_that_frame() -> None:
    here, there = np.array([60.0, 100.0]), np.array([240.0, 90.0])
    up = np.array([0.0, -40.0])
    frames = [picture_of(here, here + up)] * 3 + [picture_of(None, None)] * 2 + [picture_of(there, there + up)] * 3
    find, _, _ = source()
    found = find(Video.from_frames(np.stack(frames), 30.0))
    assert found.missing.tolist() == [False] * 3 + [True] * 2 + [False] * 3
    assert np.isnan(found.boxes[3:5]).all()
    assert found.persons.tolist() == [1, 1, 1, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(found.keypoints[5:, 5, :2], np.tile(there, (3, 1)), atol=1.0)


def test_a_jump_out_of_the_square_is_found_in_the_same_frame() -> None:
    here, there, up = np.array([50.0, 100.0]), np.array([250.0, 100.0]), np.array([0.0, -30.0])
    find, _, landmarks = source()
    found = find(Video.from_frames(np.stack([picture_of(p, p + up) for p in (here, there)]), 30.0))
    np.testing.assert_allclose(found.keypoints[:, 5, :2], [here, there], atol=1.0)
    assert landmarks.squares == 3  # the old square, in vain, and the new one


def test_the_largest_of_several_is_the_dancer() -> None:
    find, _, _ = source()
    small, large = (np.array([[x, 100.0], [x, 100.0 - r]] * 2) for x, r in ((60, 20), (200, 60)))
    seen: list[Roi] = []

    class Two:
        threshold = 0.5

        def __call__(self, frame: np.ndarray) -> list[object]:
            from macedance.vision.blazepose_detector import Detection

            return [Detection(0.9, np.zeros(4), small), Detection(0.6, np.zeros(4), large)]

    class Seen:
        def __call__(self, frame: np.ndarray, roi: Roi) -> object:
            seen.append(roi)
            return BlazePoseLandmarker(DotLandmarks())(frame, roi)

    find = BlazePoseKeypoints(Two(), Seen(), weights={})  # type: ignore[arg-type]
    found = find(Video.from_frames(picture_of(large[0], large[1])[None], 30.0))
    assert seen[0].side == pytest.approx(150)  # 2 x 1.25 x 60
    assert found.persons.tolist() == [2]


def test_anchors_are_those_of_the_released_network() -> None:
    anchors = anchor_centres()
    assert anchors.shape == (2254, 2)
    np.testing.assert_allclose(anchors[:3], [[0.5 / 28, 0.5 / 28], [0.5 / 28, 0.5 / 28], [1.5 / 28, 0.5 / 28]])
    np.testing.assert_allclose(anchors[1568], [0.5 / 14, 0.5 / 14])
    # Three layers of stride 32: six anchors in each of 7 x 7 cells.
    np.testing.assert_allclose(anchors[1960:1966], np.full((6, 2), 0.5 / 7))
    np.testing.assert_allclose(anchors[-1], [6.5 / 7, 6.5 / 7])


def test_boxes_are_decoded_from_their_anchors() -> None:
    raw, logits = np.zeros((2254, 12)), np.full(2254, -9.0)
    raw[100] = [22.4, 0, 44.8, 89.6, *[11.2, -22.4] * 4]
    logits[100] = 0.0
    anchor = anchor_centres()[100]
    scores, values = decoded(raw, logits, anchor_centres(), 0.5)
    assert scores.tolist() == [0.5]
    x, y = anchor[0] + 0.1, anchor[1]
    np.testing.assert_allclose(values[0, :4], [x - 0.1, y - 0.2, x + 0.1, y + 0.2])
    np.testing.assert_allclose(values[0, 4:6], (anchor[0] + 0.05, anchor[1] - 0.1))
    assert len(decoded(raw, logits, anchor_centres(), 0.51)[0]) == 0


def test_overlapping_detections_are_averaged_by_score_and_others_kept() -> None:
    a, b, far = np.full(12, 0.5), np.full(12, 0.5), np.full(12, 0.1)
    a[:4], b[:4], far[:4] = (0.4, 0.4, 0.6, 0.6), (0.42, 0.4, 0.62, 0.6), (0.05, 0.05, 0.15, 0.15)
    b[4:] = 0.8
    people = merged(np.array([0.9, 0.7, 0.6]), np.stack([a, far, b]))
    assert [score for score, _ in people] == [0.9, 0.7]
    np.testing.assert_allclose(people[0][1][4:], (0.9 * 0.5 + 0.6 * 0.8) / 1.5)
    np.testing.assert_allclose(people[1][1], far)


@pytest.mark.parametrize("angle", [0.0, 0.7, math.pi / 2, -2.5, 3.1])
def test_squares_turn_with_the_body(angle: float) -> None:
    centre = np.array([120.0, 80.0])
    rim = centre + 30 * np.array([math.sin(angle), -math.cos(angle)])
    roi = Roi.around(centre, rim)
    assert roi.angle == pytest.approx(angle)
    assert roi.side == pytest.approx(75)
    # The head is up in the square, whatever way it is in the picture.
    np.testing.assert_allclose(roi.to_picture(np.array([[0.5, 0.5], [0.5, 0.1]])), [centre, rim], atol=1e-9)


def test_heat_maps_move_landmarks_to_their_centre_of_mass() -> None:
    points = np.array([[0.5, 0.25], [0.5, 0.25], [1.5, 0.5], [0.01, 0.01]])
    heat = np.full((64, 64, 4), -20.0)
    heat[17, 36, 0] = heat[18, 36, 0] = 4.0  # 4 columns and 1.5 rows away: as far as counts
    heat[16, 37, 1] = 4.0  # too far to count, and what is near is below one half
    heat[:, :, 2] = 4.0  # the landmark is outside the square
    heat[3, 2, 3] = 4.0  # at the edge
    result = refined(points, heat)
    np.testing.assert_allclose(result[0], [36 / 64, 17.5 / 64], atol=1e-6)
    np.testing.assert_allclose(result[1:3], points[1:3])
    np.testing.assert_allclose(result[3], [2 / 64, 3 / 64], atol=1e-6)


def test_landmarks_map_to_coco() -> None:
    assert len(COCO_LANDMARKS) == 17
    # Nose, eyes and ears; then pairs of shoulders, elbows, wrists, hips, knees and ankles, left before right.
    assert COCO_LANDMARKS[:5] == (0, 2, 5, 7, 8)
    assert COCO_LANDMARKS[5:] == (11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
