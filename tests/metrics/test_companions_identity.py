"""Identity of person and face, with stand-ins for the networks: a colour is a person, a bright square a face."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from macedance.errors import DataError
from macedance.metrics.honest.identity import FaceSimilarity, PersonIdentity
from macedance.metrics.statistics import Entry
from macedance.metrics.videos import PerVideoMetric, score_videos
from macedance.vision.faces import ALIGNED_POINTS, Face
from macedance.vision.video import Video

RED, BLUE, GREEN = (220, 30, 30), (30, 30, 220), (30, 220, 30)
BOX = np.array([20.0, 10.0, 44.0, 58.0])
PROFILE = np.array([[30.0, 51.0], [34.0, 51.0], [10.0, 71.0], [32.0, 92.0], [35.0, 92.0]])


class Boxes:
    name = "known boxes"
    weights = {"known": "1" * 64}

    def __init__(self, missing: Sequence[int] = (), nobody_in: Sequence[str] = ()) -> None:
        self.missing, self.nobody_in = list(missing), nobody_in

    def boxes(self, video: Video) -> np.ndarray:
        found = np.tile(BOX, (video.num_frames or 0, 1))
        if len(found) > 1:
            found[self.missing] = np.nan
        return np.full_like(found, np.nan) if video.name in self.nobody_in else found


class MeanColour:
    """Features of a picture: its mean colour, around grey."""

    name, fingerprint = "mean_colour", "2" * 64

    def to(self, device: torch.device | str) -> MeanColour:
        return self

    def __call__(self, frames: Tensor) -> Tensor:
        assert frames.shape[1:] == (3, 224, 224)
        return frames.float().mean(dim=(2, 3)) - 100.0


class WhiteMarks:
    """Finds the largest white mark in the first column's height as a face; its size is what the test paints."""

    weights = {"marks": "3" * 64}

    def __init__(self, points: np.ndarray = ALIGNED_POINTS) -> None:
        self.points = points

    def detect(self, picture_HW3: np.ndarray) -> list[Face]:
        rows, columns = np.nonzero((picture_HW3 == 255).all(axis=-1))
        if not len(rows):
            return []
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=np.float64)
        # The aligned face is twice as wide as the mark: its rim has the colour of the person.
        middle, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        return [Face(box, middle + (self.points / 112 - 0.5) * 2 * size, 0.99)]


class FaceColour:
    """Features of an aligned face: the colour of its rim."""

    weights = {"face_colour": "4" * 64}

    def embed(self, faces_nSS3: np.ndarray) -> np.ndarray:
        means = faces_nSS3[:, 100:, 4:108].mean(axis=(1, 2)) - 100.0 + 1e-9
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def picture(colour: tuple[int, int, int], *, face: bool = True) -> np.ndarray:
    frame = np.full((64, 64, 3), 100, np.uint8)
    frame[10:58, 20:44] = colour
    if face:
        frame[14:22, 28:36] = 255
    return frame


def video(*frames: np.ndarray, name: str = "clip", fps: float = 5.0) -> Video:
    return Video.from_frames(np.stack(frames), fps, name)


def judged(metric: PerVideoMetric, *videos: Video) -> dict[str, Entry]:
    score_videos([metric], videos)
    return metric.compute()


def cosine(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    a, b = np.array(first) - 100.0, np.array(second) - 100.0
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_same_person_is_one_and_another_one_is_not() -> None:
    same = judged(PersonIdentity(Boxes(), MeanColour()), video(*[picture(RED, face=False)] * 4))
    assert same["person_identity"]["value"] == pytest.approx(1.0, abs=1e-6)
    assert same["person_identity"]["n_frames"] == 3, "the first frame is not compared with itself"
    swapped = judged(
        PersonIdentity(Boxes(), MeanColour()), video(*[picture(RED, face=False)] * 2, *[picture(BLUE, face=False)] * 2)
    )
    other = cosine(RED, BLUE)
    assert swapped["person_identity"]["value"] == pytest.approx((1 + 2 * other) / 3, abs=0.1)
    assert swapped["person_identity_p10"]["value"] == pytest.approx(other, abs=0.1)


def test_the_background_does_not_speak_for_the_person() -> None:
    frames = [picture(RED, face=False) for _ in range(4)]
    for frame in frames[1:]:
        frame[:, 50:], frame[:, :14], frame[:4] = BLUE, BLUE, BLUE
    changed = judged(PersonIdentity(Boxes(), MeanColour()), video(*frames))
    assert changed["person_identity"]["value"] > 0.98


def test_reference_images_are_compared_with_every_frame_and_by_name() -> None:
    references = {"a": picture(RED), "b": picture(BLUE)}
    clips = [video(*[picture(RED)] * 3, name="a"), video(*[picture(RED)] * 3, name="b")]
    metric = PersonIdentity(Boxes(), MeanColour(), references=references)
    found = judged(metric, *clips)
    assert found["person_identity"]["n_frames"] == 6
    values = metric.per_video()["person_identity"]
    assert values[0] == pytest.approx(1.0, abs=1e-6)
    assert values[1] < 0.5
    assert metric.settings["identity_reference"] == "reference image"
    assert metric.weights == {"known": "1" * 64, "mean_colour": "2" * 64}


def test_a_video_without_its_reference_image_is_refused_by_name() -> None:
    metric = PersonIdentity(Boxes(), MeanColour(), references={"a": picture(RED)})
    with pytest.raises(DataError, match="no reference image of 'b'"):
        judged(metric, video(picture(RED), picture(RED), name="b"))
    grey = PersonIdentity(Boxes(), MeanColour(), references={"a": np.zeros((8, 8), np.uint8)})
    with pytest.raises(DataError, match="'a' is uint8 of shape"):
        judged(grey, video(picture(RED), picture(RED), name="a"))


def test_frames_without_the_person_do_not_count_and_videos_without_them_are_counted() -> None:
    found = judged(PersonIdentity(Boxes(missing=[0, 2]), MeanColour()), video(*[picture(RED)] * 5))
    assert found["person_identity"]["n_frames"] == 2
    metric = PersonIdentity(Boxes(nobody_in=["b"]), MeanColour(), references={"a": picture(RED), "b": picture(RED)})
    both = judged(metric, video(*[picture(RED)] * 3, name="a"), video(*[picture(RED)] * 3, name="b"))
    assert (both["person_identity"]["n"], both["person_identity"]["n_undefined"]) == (1, 1)
    assert "no person" in both["person_identity"]["reason"]


def test_five_frames_of_a_second_are_looked_at() -> None:
    slow, fast = (
        judged(PersonIdentity(Boxes(), MeanColour()), video(*[picture(RED)] * 31, fps=f)) for f in (5.0, 30.0)
    )
    assert slow["person_identity"]["n_frames"] == 30
    assert fast["person_identity"]["n_frames"] == 5


def test_the_same_face_is_one_and_its_loss_is_a_drift_and_a_rate() -> None:
    frames = [picture(RED)] * 4 + [picture(BLUE)] * 4 + [picture(BLUE, face=False)] * 2
    found = judged(FaceSimilarity(WhiteMarks(), FaceColour(), references={"clip": picture(RED)}), video(*frames))
    other = cosine(RED, BLUE)
    assert found["face_similarity"]["value"] == pytest.approx((1 + other) / 2, abs=0.15)
    assert found["face_similarity"]["n_frames"] == 8
    assert found["face_similarity_p10"]["value"] == pytest.approx(other, abs=0.2)
    assert (found["face_rate"]["value"], found["face_rate"]["n_frames"]) == (0.8, 10)
    assert found["face_drift"]["value"] < -0.5
    steady = judged(FaceSimilarity(WhiteMarks(), FaceColour()), video(*[picture(GREEN)] * 5))
    assert steady["face_similarity"]["value"] == pytest.approx(1.0)
    assert steady["face_similarity"]["n_frames"] == 4
    assert steady["face_drift"]["value"] == pytest.approx(0.0, abs=1e-9)


def test_a_profile_is_a_face_that_is_not_compared() -> None:
    found = judged(FaceSimilarity(WhiteMarks(PROFILE), FaceColour()), video(*[picture(RED)] * 4))
    assert found["face_rate"]["value"] == 1.0
    assert found["face_similarity"]["value"] is None
    assert "no usable face" in found["face_similarity"]["reason"]
    assert "three frames" in found["face_drift"]["reason"]


def test_a_face_beside_the_dancer_is_not_the_dancers() -> None:
    poster = picture(RED, face=False)
    poster[2:10, 50:58] = 255
    alone = judged(FaceSimilarity(WhiteMarks(), FaceColour()), video(*[poster] * 3))
    with_boxes = FaceSimilarity(WhiteMarks(), FaceColour(), boxes=Boxes())
    assert alone["face_rate"]["value"] == 1.0
    assert judged(with_boxes, video(*[poster] * 3))["face_rate"]["value"] == 0.0
    assert set(with_boxes.weights) == {"known", "marks", "face_colour"}


def test_no_face_in_the_reference_image_leaves_the_rate() -> None:
    metric = FaceSimilarity(WhiteMarks(), FaceColour(), references={"clip": picture(RED, face=False)})
    found = judged(metric, video(*[picture(RED)] * 3))
    assert found["face_similarity"]["value"] is None
    assert found["face_rate"]["value"] == 1.0


def test_copies_of_a_metric_share_what_judges() -> None:
    metric = PersonIdentity(Boxes(), MeanColour())
    score_videos([metric], [video(*[picture(RED)] * 3)])
    assert not metric.state_dict()
    assert metric.clone().per_video() == metric.per_video()
