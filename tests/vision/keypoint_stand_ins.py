"""Networks and sources whose answers are known, in the place of pretrained ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from macedance.rendering.video import VideoWriter
from macedance.vision.keypoints import KeypointRows, Progress, VideoKeypoints
from macedance.vision.video import Video


class FixedPeople:
    """A PersonDetector that finds what it was told, frame after frame, again for each reading of the video."""

    name = "fixed"

    def __init__(self, people: Sequence[Sequence[Sequence[float]]]) -> None:
        self.people = [np.array(rows, dtype=np.float32).reshape(-1, 5) for rows in people]
        self.weights = {"people": "00"}
        self._next = 0

    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        found = [self.people[(self._next + i) % len(self.people)] for i in range(len(frames))]
        self._next += len(frames)
        return found


#: Colours that a dot can have, far apart after any normalisation; one for each of 17 keypoints would be too many, so
#: keypoint k is the dot of colour k modulo 3.
DOT_COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)


class DotFinder(nn.Module):
    """In the place of ViTPose: heat maps with a peak where the crop's red, green or blue dot is."""

    def __init__(self, cells: tuple[int, int] = (64, 48)) -> None:
        super().__init__()
        self.cells = cells
        self.config = SimpleNamespace(num_labels=17, backbone_config=SimpleNamespace(num_experts=1))

    def forward(self, pixel_values: Tensor, dataset_index: Tensor | None = None) -> Any:
        rows, columns = self.cells
        batch, _, height, width = pixel_values.shape
        heat = torch.zeros(batch, 17, rows, columns)
        row_grid, column_grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        for keypoint in range(17):
            mine = pixel_values[:, keypoint % 3]
            others = pixel_values[:, [c for c in range(3) if c != keypoint % 3]].amax(dim=1)
            weight = torch.clamp(mine - others - 1.0, min=0)
            total = weight.sum(dim=(1, 2)).clamp(min=1e-6)
            y = (weight.sum(dim=2) * torch.arange(height)).sum(dim=1) / total * (rows - 1) / (height - 1)
            x = (weight.sum(dim=1) * torch.arange(width)).sum(dim=1) / total * (columns - 1) / (width - 1)
            distance = (row_grid - y[:, None, None]) ** 2 + (column_grid - x[:, None, None]) ** 2
            heat[:, keypoint] = 0.9 * torch.exp(-distance / 8.0) * (total > 1e-3)[:, None, None]
        return SimpleNamespace(heatmaps=heat)


class CountingSource:
    """A KeypointSource that puts a standing body where the picture says, and counts how often it looks.

    The body stands at the red level of the first pixel; a frame whose first pixel is black shows nobody, one whose
    green level is above 128 two people.
    """

    name = "counting"
    layout = "coco_17"
    weights: dict[str, str]

    def __init__(self, setting: int = 0) -> None:
        self.weights = {"counting": "12" * 32}
        self.settings: dict[str, float | int | str] = {"setting": setting}
        self.read: list[str] = []

    def __call__(self, video: Video, progress: Progress | None = None) -> VideoKeypoints:
        self.read.append(video.name)
        rows = KeypointRows(17)
        for frames in video.chunks():
            for frame in frames:
                red, green, _ = (int(value) for value in frame[0, 0])
                if red < 40:
                    rows.add_nobody()
                else:
                    rows.add(standing_body(red), np.array([0, 0, 30, 40]), 2 if green > 128 else 1)
            if progress is not None:
                progress(len(frames))
        return rows.of(video, self.layout)


def standing_body(x: float) -> np.ndarray:
    """COCO's 17 (17, 3) of a person of 80 pixels whose middle is at x."""
    sides = np.array([0, 3, -3, 6, -6, 12, -12, 14, -14, 15, -15, 8, -8, 8, -8, 8, -8])
    heights = np.array([10, 8, 8, 9, 9, 22, 22, 34, 34, 45, 45, 46, 46, 63, 63, 80, 80])
    return np.stack([x + sides, heights, np.full(17, 0.9)], axis=1)


def grey_video(path: Path, levels: Sequence[tuple[int, int]], fps: float = 25.0, size: int = 48) -> Path:
    """An mp4 of plain pictures of these red and green levels."""
    with VideoWriter(path, fps, size, size) as writer:
        for red, green in levels:
            writer.add(np.full((size, size, 3), (red, green, 60), dtype=np.uint8))
    return path
