"""ViTPose's keypoints are put where the picture shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from keypoint_stand_ins import DOT_COLOURS, DotFinder, FixedPeople

from macedance.errors import CheckpointError
from macedance.vision.frozen import FrozenNetwork
from macedance.vision.video import Video
from macedance.vision.vitpose import ViTPoseKeypoints

FRAMES = 7


def processor(height: int = 256, width: int = 192) -> Any:
    from transformers import VitPoseImageProcessorPil

    return VitPoseImageProcessorPil(size={"height": height, "width": width})


def dotted(centres_T32: np.ndarray, height: int = 200, width: int = 320) -> Video:
    """Grey pictures with a red, a green and a blue dot."""
    rows, columns = np.mgrid[:height, :width]
    frames = np.full((len(centres_T32), height, width, 3), 60, dtype=np.uint8)
    for frame, centres in zip(frames, centres_T32, strict=True):
        for (x, y), colour in zip(centres, DOT_COLOURS, strict=True):
            frame[(columns - x) ** 2 + (rows - y) ** 2 < 30] = colour
    return Video.from_frames(frames, 25.0, "dots")


def dots(seed: int = 0) -> np.ndarray:
    """Where the three dots are in each frame, inside the box of ``walker``."""
    start = np.array([[100.0, 60], [125, 90], [110, 140]])
    return start + np.arange(FRAMES)[:, None, None] * np.array([8.0, 1.0])


def walker(frame: int) -> list[float]:
    return [80.0 + 8 * frame, 40 + frame, 150 + 8 * frame, 160 + frame, 0.9]


def source(people: list[list[list[float]]], **options: Any) -> ViTPoseKeypoints:
    network = FrozenNetwork(DotFinder(), name="dots", fingerprint="11" * 32)
    return ViTPoseKeypoints(FixedPeople(people), network, processor(), **options)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_keypoints_come_back_to_where_the_picture_has_them(batch: int) -> None:
    """Crop, heat map and the way back: left is not right, x is not y, and the box need not have the crop's shape."""
    centres = dots()
    progress: list[int] = []
    found = source([[walker(t)] for t in range(FRAMES)], batch=batch)(dotted(centres), progress.append)
    assert found.keypoints.shape == (FRAMES, 17, 3)
    assert found.keypoints.dtype == np.float32
    for keypoint in range(17):
        np.testing.assert_allclose(found.keypoints[:, keypoint, :2], centres[:, keypoint % 3], atol=0.8)
    assert (found.keypoints[..., 2] > 0.5).all()
    assert (found.keypoints[..., 2] <= 1).all()
    np.testing.assert_allclose(found.boxes, [walker(t)[:4] for t in range(FRAMES)])
    assert sum(progress) == FRAMES
    assert found.persons.tolist() == [1] * FRAMES
    assert (found.fps, found.name, found.layout, found.width, found.height) == (25.0, "dots", "coco_17", 320, 200)


def test_frames_without_the_dancer_are_zeros_and_counted() -> None:
    people = [[walker(t)] if t not in (2, 3) else [] for t in range(FRAMES)]
    people[5].append([0, 0, 20, 30, 0.8])
    found = source(people, batch=3)(dotted(dots()))
    assert found.missing.tolist() == [t in (2, 3) for t in range(FRAMES)]
    assert not found.keypoints[2:4].any()
    assert np.isnan(found.boxes[2:4]).all()
    assert found.crowded.tolist() == [t == 5 for t in range(FRAMES)]
    assert (found.keypoints[[0, 1, 4, 5, 6], :, 2] > 0).all()


def test_nobody_in_the_whole_video() -> None:
    found = source([[] for _ in range(FRAMES)])(dotted(dots()))
    assert found.missing.all()
    assert not found.keypoints.any()


def test_a_keypoint_that_is_not_seen_has_no_confidence_and_no_place() -> None:
    """Without a green dot the heat maps of a third of the keypoints are flat: decoded, they would be anywhere."""
    video = dotted(dots())
    frames = video.frames().copy()
    frames[(frames == DOT_COLOURS[1]).all(axis=-1)] = 60
    found = source([[walker(t)] for t in range(FRAMES)])(Video.from_frames(frames, 25.0))
    assert not found.keypoints[:, 1::3].any()
    assert (found.keypoints[:, 0::3, 2] > 0.5).all()


def test_what_it_depends_on_is_named() -> None:
    finder = source([[]])
    assert finder.weights == {"people": "00", "dots": "11" * 32}
    assert finder.settings["detector"] == "fixed"


def tiny(folder: Path, *, experts: int = 1, keypoints: int = 17) -> Path:
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    torch.manual_seed(1)
    backbone = VitPoseBackboneConfig(
        image_size=[64, 48], patch_size=[16, 16], hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        mlp_ratio=2, num_experts=experts, part_features=4, out_indices=[2],
    )  # fmt: skip
    names = {number: str(number) for number in range(keypoints)}
    config = VitPoseConfig(backbone_config=backbone, id2label=names, label2id={v: k for k, v in names.items()})
    VitPoseForPoseEstimation(config).save_pretrained(folder)
    processor(64, 48).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("experts", [1, 3])
def test_a_folder_gives_the_networks_own_heat_maps(tmp_path: Path, experts: int) -> None:
    """The highest cell of the network's heat maps, and ViTPose+ asked for COCO's expert."""
    from transformers import VitPoseForPoseEstimation

    folder = tiny(tmp_path, experts=experts)
    video = dotted(dots())
    people = [[walker(t)] for t in range(FRAMES)]
    found = ViTPoseKeypoints.from_folder(folder, FixedPeople(people), batch=4)(video)
    network = VitPoseForPoseEstimation.from_pretrained(folder).eval()
    left, top, right, bottom = walker(0)[:4]
    pixels = processor(64, 48)(
        [video.frames()[0]], boxes=[[[left, top, right - left, bottom - top]]], return_tensors="pt"
    )["pixel_values"]
    with torch.no_grad():
        heat = network(pixels, dataset_index=torch.zeros(1, dtype=torch.long)).heatmaps[0].numpy()
    highest = np.clip(heat.reshape(17, -1).max(axis=1), 0, 1)
    np.testing.assert_allclose(found.keypoints[0, :, 2], highest, atol=1e-5)
    assert set(found.missing.tolist()) == {False}


def test_networks_of_other_keypoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="133 keypoints"):
        ViTPoseKeypoints.from_folder(tiny(tmp_path, keypoints=133), FixedPeople([[]]))
