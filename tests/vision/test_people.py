"""Who the dancer is, and people by RT-DETR."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from macedance.errors import CheckpointError
from macedance.vision.people import dancer_boxes, overlap, without_doubles
from macedance.vision.rtdetr import RTDetrPeople

NOBODY = np.zeros((0, 5), dtype=np.float32)


def person(x: float, y: float = 10.0, width: float = 20.0, height: float = 60.0, score: float = 0.9) -> list[float]:
    return [x, y, x + width, y + height, score]


def people(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32).reshape(-1, 5)


def test_overlap() -> None:
    box = np.array([0.0, 0, 10, 10])
    others = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]])
    np.testing.assert_allclose(overlap(box, others), [1, 50 / 150, 0, 0])


def test_the_dancer_moves_and_the_poster_stays() -> None:
    poster = person(150, width=15, height=40, score=0.99)
    detections = [people(poster, person(4.0 * t)) for t in range(20)]
    boxes, count = dancer_boxes(detections)
    np.testing.assert_allclose(boxes[:, 0], 4.0 * np.arange(20), atol=1e-4)
    assert count.tolist() == [2] * 20
    assert boxes.dtype == np.float32


def test_two_who_cross_are_not_exchanged() -> None:
    # The larger one goes right, the smaller one left; the detector's order is by chance.
    rng = np.random.default_rng(0)
    detections = []
    for t in range(40):
        both = [person(3.0 * t, width=24, height=80), person(120 - 3.0 * t, y=40, width=16, height=50)]
        rng.shuffle(both)
        detections.append(people(*both))
    boxes, _ = dancer_boxes(detections)
    np.testing.assert_allclose(boxes[:, 0], 3.0 * np.arange(40), atol=1e-4)


def test_a_dancer_who_is_lost_and_found_is_one_person_and_the_gap_is_nobody() -> None:
    poster = person(200, width=15, height=40)
    detections = [people(person(10), poster)] * 5 + [people(poster)] * 3 + [people(person(90), poster)] * 5
    boxes, count = dancer_boxes(detections)
    assert boxes[:5, 0].tolist() == [10] * 5
    assert boxes[8:, 0].tolist() == [90] * 5
    assert np.isnan(boxes[5:8]).all()  # and not the poster
    assert count.tolist() == [2] * 5 + [1] * 3 + [2] * 5


def test_a_false_alarm_of_another_size_does_not_fill_a_gap() -> None:
    speck = person(100, width=5, height=12)
    boxes, _ = dancer_boxes([people(person(10))] * 5 + [people(speck)] * 2 + [people(person(10))] * 5)
    assert np.isnan(boxes[5:7]).all()
    assert not np.isnan(boxes[7:]).any()


def test_after_too_long_a_gap_a_person_is_a_new_track_but_still_the_dancer() -> None:
    detections = [people(person(10))] * 4 + [NOBODY] * 30 + [people(person(10))] * 4
    boxes, count = dancer_boxes(detections, max_gap=2)
    assert np.isnan(boxes[4:34]).all()
    assert not np.isnan(boxes[34:]).any()
    assert count.sum() == 8


def test_nobody_at_all() -> None:
    boxes, count = dancer_boxes([NOBODY] * 3)
    assert np.isnan(boxes).all()
    assert boxes.shape == (3, 4)
    assert count.tolist() == [0, 0, 0]


def test_doubles_of_one_person_are_one() -> None:
    rows = people(person(0, score=0.9), person(1, score=0.8), person(60, score=0.7))
    assert without_doubles(rows)[:, 4].tolist() == pytest.approx([0.9, 0.7])
    assert without_doubles(NOBODY).shape == (0, 5)


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RT-DETR with random weights and three classes, the person being the second."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessorPil, RTDetrResNetConfig

    torch.manual_seed(0)
    labels = {0: "dog", 1: "person", 2: "car"}
    config = RTDetrConfig(
        backbone_config=RTDetrResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        encoder_hidden_dim=16, encoder_in_channels=[8, 16, 16], encoder_layers=1, encoder_ffn_dim=16,
        encoder_attention_heads=2, d_model=16, num_queries=12, decoder_in_channels=[16, 16, 16], decoder_ffn_dim=16,
        decoder_layers=1, decoder_attention_heads=2, id2label=labels, label2id={v: k for k, v in labels.items()},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("rtdetr")
    RTDetrForObjectDetection(config).save_pretrained(folder)
    RTDetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_people_are_the_networks_boxes_of_that_class(detector_folder: Path) -> None:
    from PIL import Image
    from transformers import RTDetrForObjectDetection

    frames = np.random.default_rng(0).integers(0, 255, (3, 60, 100, 3), dtype=np.uint8)
    detector = RTDetrPeople.from_folder(detector_folder, threshold=0.0, batch=2)
    found = detector.detect(frames)
    network = RTDetrForObjectDetection.from_pretrained(detector_folder).eval()
    for frame, rows in zip(frames, found, strict=True):
        small = np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BILINEAR), dtype=np.float32) / 255
        with torch.no_grad():
            out = network(torch.from_numpy(small).permute(2, 0, 1)[None])
        scores = out.logits[0].sigmoid()[:, 1]
        best = int(scores.argmax())
        x, y, w, h = (out.pred_boxes[0, best] * torch.tensor([100, 60, 100, 60])).tolist()
        expected = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, [100, 60, 100, 60])
        np.testing.assert_allclose(rows[0, :4], expected, atol=1e-3)
        assert rows[0, 4] == pytest.approx(float(scores[best]), abs=1e-5)
        assert (np.diff(rows[:, 4]) <= 0).all()
        assert rows.dtype == np.float32
    assert detector.weights.keys() == {"rtdetr_r50"}
    assert detector.name == "rtdetr_r50 from 0"


def test_below_the_threshold_there_is_nobody(detector_folder: Path) -> None:
    frames = np.zeros((2, 40, 40, 3), dtype=np.uint8)
    found = RTDetrPeople.from_folder(detector_folder, threshold=0.999).detect(frames)
    assert [rows.shape for rows in found] == [(0, 5), (0, 5)]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"id2label": {"0": "dog"}}, "no persons"),
        ("config.json", {"model_type": "detr"}, "detr"),
        ("preprocessor_config.json", None, "lacks preprocessor_config.json"),
        ("model.safetensors", None, "weights"),
    ],
)
def test_folders_that_are_no_detector_are_refused(
    detector_folder: Path, tmp_path: Path, file: str, change: dict[str, object] | None, message: str
) -> None:
    for path in detector_folder.iterdir():
        if path.name != file:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    if change is not None:
        content = json.loads((detector_folder / file).read_text()) | change
        (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        RTDetrPeople.from_folder(tmp_path)
