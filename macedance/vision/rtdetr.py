"""People in pictures by RT-DETR (Zhao et al., DETRs Beat YOLOs on Real-time Object Detection, 2024), Apache-2.0.

Shapes: t frames, n people; boxes are left, top, right, bottom in pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from macedance.errors import CheckpointError
from macedance.vision.frozen import FrozenNetwork, judging
from macedance.vision.image_processors import processor_of
from macedance.vision.people import without_doubles
from macedance.vision.transformers_folder import load_whole, read_config
from macedance.vision.weights import fingerprint

_PERSON = "person"
_NAME = "rtdetr_r50"


class RTDetrPeople:
    """Finds people with an RT-DETR of transformers; a PersonDetector.

    Args:
        network: RTDetrForObjectDetection.
        processor: Its image processor, the one without torchvision.
        person: Number of the class.
        threshold: Score from which on a box is a person's.
        batch: Pictures at once.
        device: Where the network runs.
    """

    def __init__(
        self,
        network: FrozenNetwork,
        processor: Any,
        *,
        person: int = 0,
        threshold: float = 0.5,
        batch: int = 8,
        device: str = "cpu",
    ) -> None:
        self._network, self._processor, self._person = network, processor, person
        self._threshold, self._batch, self._device = threshold, batch, device
        self.name = f"{network.name} from {threshold:g}"
        self.weights = {network.name: network.fingerprint}

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, threshold: float = 0.5, batch: int = 8, device: str = "cpu"
    ) -> RTDetrPeople:
        """With the network of a local folder, as save_pretrained writes it.

        Raises:
            CheckpointError: Files that are missing, damaged or of another network, or one that knows no persons.
        """
        from transformers import RTDetrForObjectDetection

        folder = Path(folder)
        labels = read_config(folder, ("rt_detr",)).get("id2label") or {}
        people = [int(number) for number, label in labels.items() if label == _PERSON]
        if not people:
            raise CheckpointError("the detector knows no persons", where=folder, expected=f"a class named {_PERSON}")
        return cls(
            FrozenNetwork(load_whole(RTDetrForObjectDetection, folder), name=_NAME, fingerprint=fingerprint(folder)),
            processor_of("RTDetrImageProcessor", folder),
            person=people[0],
            threshold=threshold,
            batch=batch,
            device=device,
        )

    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        """For each of the frames (t, H, W, 3) uint8 RGB the people in it (n, 5) float32: box and score, best first."""
        found: list[np.ndarray] = []
        for start in range(0, len(frames), self._batch):
            found += self._detect(frames[start : start + self._batch])
        return found

    def _detect(self, frames: np.ndarray) -> list[np.ndarray]:
        height, width = frames.shape[1:3]
        inputs = self._processor(images=list(frames), return_tensors="pt", input_data_format="channels_last")
        with judging(self._device):
            outputs = self._network.to(self._device).module(inputs["pixel_values"].to(self._device))
            results = self._processor.post_process_object_detection(
                outputs, threshold=self._threshold, target_sizes=[(height, width)] * len(frames)
            )
        return [self._people(result, width, height) for result in results]

    def _people(self, result: dict[str, Any], width: int, height: int) -> np.ndarray:
        mine = result["labels"] == self._person
        boxes = result["boxes"][mine].float().cpu().numpy()
        scores = result["scores"][mine].float().cpu().numpy()
        inside = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
        rows = np.concatenate([inside, scores[:, None]], axis=1).astype(np.float32)
        rows = rows[((rows[:, 2:4] - rows[:, :2]) > 0).all(axis=1)]
        return without_doubles(rows[np.argsort(-rows[:, 4], kind="stable")])
