"""Keypoints of a video's dancer by ViTPose (Xu et al., ViTPose: Simple Vision Transformer Baselines, 2022), Apache-2.0.

Top-down: a detector says where people are, the dancer is chosen over the whole video, and the network looks at the
dancer's box alone. Crops and sub-pixel decoding (unbiased data processing, DARK) are those of transformers' processor.

Shapes: t frames of a portion, T frames in all, K = 17 keypoints of COCO.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from macedance.errors import CheckpointError
from macedance.vision.frozen import FrozenNetwork, judging
from macedance.vision.image_processors import processor_of
from macedance.vision.keypoints import KeypointRows, Progress, VideoKeypoints
from macedance.vision.people import PersonDetector, dancer_boxes
from macedance.vision.transformers_folder import load_whole, read_config
from macedance.vision.video import Video
from macedance.vision.weights import fingerprint

NUM_KEYPOINTS = 17
#: Of the experts of ViTPose+, the one for COCO's keypoints.
_COCO_EXPERT = 0
_CODE_VERSION = 1


class ViTPoseKeypoints:
    """COCO's 17 keypoints of the dancer by ViTPose; a KeypointSource.

    Reads a video twice: once for its people, once for the dancer's keypoints.

    Args:
        detector: Finds people.
        network: VitPoseForPoseEstimation.
        processor: Its image processor, the one without torchvision.
        experts: Experts of the network; 1 for plain ViTPose.
        batch: Crops at once.
        device: Where the network runs.
    """

    name = "vitpose"
    layout = "coco_17"

    def __init__(
        self,
        detector: PersonDetector,
        network: FrozenNetwork,
        processor: Any,
        *,
        experts: int = 1,
        batch: int = 16,
        device: str = "cpu",
    ) -> None:
        self._detector, self._network, self._processor = detector, network, processor
        self._experts, self._batch, self._device = experts, batch, device
        self.weights = {**detector.weights, network.name: network.fingerprint}
        self.settings: dict[str, float | int | str] = {
            "code": _CODE_VERSION,
            "detector": detector.name,
        }

    @classmethod
    def from_folder(
        cls, folder: str | Path, detector: PersonDetector, *, batch: int = 16, device: str = "cpu"
    ) -> ViTPoseKeypoints:
        """With the network of a local folder, as save_pretrained writes it; ViTPose or ViTPose+.

        Raises:
            CheckpointError: Files that are missing, damaged or of another network, or one without COCO's 17 keypoints.
        """
        from transformers import VitPoseForPoseEstimation

        folder = Path(folder)
        read_config(folder, ("vitpose",))
        module = load_whole(VitPoseForPoseEstimation, folder)
        if module.config.num_labels != NUM_KEYPOINTS:
            raise CheckpointError(
                f"the network has {module.config.num_labels} keypoints", where=folder, expected="COCO's 17"
            )
        return cls(
            detector,
            FrozenNetwork(module, name="vitpose_base", fingerprint=fingerprint(folder)),
            processor_of("VitPoseImageProcessor", folder),
            experts=int(getattr(module.config.backbone_config, "num_experts", 1)),
            batch=batch,
            device=device,
        )

    def __call__(self, video: Video, progress: Progress | None = None) -> VideoKeypoints:
        """The dancer's keypoints in every frame.

        Raises:
            DataError: The video cannot be decoded.
        """
        both = _TwoReadings(progress)
        detections: list[np.ndarray] = []
        for frames in video.chunks():
            detections += self._detector.detect(frames)
            both.add(len(frames))
        boxes_T4, persons_T = dancer_boxes(detections)
        rows = KeypointRows(NUM_KEYPOINTS)
        done = 0
        for frames in video.chunks(self._batch):
            part = slice(done, done + len(frames))
            points_tK3 = self._keypoints(frames, boxes_T4[part])
            for points_K3, box_4, persons in zip(points_tK3, boxes_T4[part], persons_T[part], strict=True):
                rows.add(points_K3, box_4, int(persons))
            done += len(frames)
            both.add(len(frames))
        return rows.of(video, self.layout)

    def _keypoints(self, frames: np.ndarray, boxes_t4: np.ndarray) -> np.ndarray:
        """Keypoints (t, 17, 3) of frames (t, H, W, 3) with one box each; zeros where the box is NaN."""
        points = np.zeros((len(frames), NUM_KEYPOINTS, 3))
        here = np.flatnonzero(~np.isnan(boxes_t4).any(axis=1))
        if len(here):
            points[here] = self._keypoints_in(frames[here], boxes_t4[here])
        return points

    def _keypoints_in(self, frames: np.ndarray, boxes_n4: np.ndarray) -> np.ndarray:
        import torch

        # COCO's boxes: left, top, width, height.
        boxes = [[[*map(float, box[:2]), *map(float, box[2:] - box[:2])]] for box in boxes_n4]
        inputs = self._processor(
            images=list(frames), boxes=boxes, return_tensors="pt", input_data_format="channels_last"
        )
        expert = torch.full((len(frames),), _COCO_EXPERT, device=self._device) if self._experts > 1 else None
        with judging(self._device):
            pixels = inputs["pixel_values"].to(self._device)
            outputs = self._network.to(self._device).module(pixels, dataset_index=expert)
        results = self._processor.post_process_pose_estimation(outputs, boxes=boxes)
        points = np.stack([result[0]["keypoints"].numpy() for result in results])
        scores = np.stack([result[0]["scores"].numpy() for result in results])
        found = np.concatenate([points, np.clip(scores, 0, 1)[..., None]], axis=-1).astype(np.float64)
        # A heat map without a peak is decoded to anywhere.
        found[~np.isfinite(found).all(axis=-1) | (scores <= 0)] = 0
        return found


class _TwoReadings:
    """Tells a progress of T frames from two readings of T frames each."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._read, self._told = progress, 0, 0

    def add(self, frames: int) -> None:
        self._read += frames
        if self._progress is not None:
            self._progress(self._read // 2 - self._told)
            self._told = self._read // 2
