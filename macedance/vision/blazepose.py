"""Keypoints of a video without a hub and without a GPU: BlazePose, its networks run by LiteRT.

Follows the released pipeline with smoothing off: a dancer is found once, and in each next frame looked for where the
last frame's landmarks were. A dancer who is lost is looked for again in the same frame, which the original does one
frame later; and the detector runs in every frame, to count the people.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from macedance.errors import CheckpointError, DependencyError
from macedance.vision.blazepose_detector import BlazePoseDetector, Detection, Roi
from macedance.vision.blazepose_landmarks import COCO_LANDMARKS, BlazePoseLandmarker, Landmarks
from macedance.vision.blazepose_weights import DETECTION, LANDMARKS, REQUIREMENT, SHA256
from macedance.vision.keypoints import KeypointRows, Progress, VideoKeypoints
from macedance.vision.video import Video
from macedance.vision.weights import file_sha256

#: Air around the landmarks' box, which ends at ankles, hands and eyes, as a share of its longer side.
_BOX_MARGIN = 0.1
_CODE_VERSION = 1


class BlazePoseKeypoints:
    """COCO's 17 keypoints of the dancer by BlazePose; a KeypointSource.

    The confidence of a keypoint is the lower of its visibility and its presence.

    Args:
        detector: Finds people.
        landmarker: Finds a person's landmarks.
        weights: Model -> sha256.
        tracking_threshold: Score of the landmarks from which on they are a person's.
    """

    name = "blazepose"
    layout = "coco_17"

    def __init__(
        self,
        detector: BlazePoseDetector,
        landmarker: BlazePoseLandmarker,
        *,
        weights: dict[str, str],
        tracking_threshold: float = 0.5,
    ) -> None:
        self._detector, self._landmarker = detector, landmarker
        self._threshold = tracking_threshold
        self.weights = weights
        self.settings: dict[str, float | int | str] = {
            "code": _CODE_VERSION,
            "detection_threshold": detector.threshold,
            "tracking_threshold": tracking_threshold,
        }

    @classmethod
    def from_folder(cls, folder: str | Path, *, threads: int = 1, threshold: float = 0.5) -> BlazePoseKeypoints:
        """With the two networks of a folder, see ``macedance.vision.weights``.

        Args:
            folder: Holds pose_detection.tflite and pose_landmark_full.tflite.
            threads: Of the CPU.
            threshold: Of the detector and of the tracking, as in the original.

        Raises:
            DependencyError: LiteRT is not installed.
            CheckpointError: A file is missing, damaged or not the published one.
        """
        folder = Path(folder)
        hashes = {name: file_sha256(folder / name) for name in SHA256}
        for name, expected in SHA256.items():
            if hashes[name] != expected:
                raise CheckpointError(
                    f"another file: its sha256 is {hashes[name]}",
                    where=folder / name,
                    expected=f"{expected} of {REQUIREMENT}",
                    fix="remove it and `macedance evaluate weights --download blazepose`",
                )
        return cls(
            BlazePoseDetector(LiteRTNetwork(folder / DETECTION, threads=threads), threshold=threshold),
            BlazePoseLandmarker(LiteRTNetwork(folder / LANDMARKS, threads=threads)),
            weights={f"blazepose/{name}": found for name, found in hashes.items()},
            tracking_threshold=threshold,
        )

    def __call__(self, video: Video, progress: Progress | None = None) -> VideoKeypoints:
        """The dancer's keypoints in every frame.

        Raises:
            DataError: The video cannot be decoded.
        """
        rows = KeypointRows(len(COCO_LANDMARKS))
        roi: Roi | None = None
        for frames in video.chunks():
            for frame in frames:
                people = self._detector(frame)
                found = self._found(frame, roi, people)
                roi = None if found is None else found.roi
                if found is None:
                    rows.add_nobody(len(people))
                else:
                    rows.add(_coco(found), _padded(found.box, video.width, video.height), max(1, len(people)))
            if progress is not None:
                progress(len(frames))
        return rows.of(video, self.layout)

    def _found(self, frame: np.ndarray, last: Roi | None, people: Sequence[Detection]) -> Landmarks | None:
        """The dancer where the last frame had them, or else the largest person in whom landmarks are found."""
        largest_first = sorted((person.roi for person in people), key=lambda roi: -roi.side)
        for roi in [last] * (last is not None) + largest_first:
            if roi is not None and roi.side > 0:
                landmarks = self._landmarker(frame, roi)
                if landmarks.score >= self._threshold:
                    return landmarks
        return None


class LiteRTNetwork:
    """A .tflite network on the CPU; one picture at a time, from one thread. A copy is the network itself.

    Args:
        path: The file.
        threads: Of the CPU.

    Raises:
        DependencyError: LiteRT is not installed.
        CheckpointError: No such file, or LiteRT does not take it.
    """

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise DependencyError(
                f"keypoints by BlazePose need LiteRT ({error})", fix="pip install ai-edge-litert"
            ) from error
        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, OSError) as error:
            raise CheckpointError("the network cannot be loaded", where=path, expected="a .tflite file") from error
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [details["index"] for details in self._interpreter.get_output_details()]

    def __deepcopy__(self, memo: dict[int, Any]) -> LiteRTNetwork:
        return self

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        """The outputs, in the order of the file, for one picture (1, H, W, 3) float32."""
        self._interpreter.set_tensor(self._input, np.ascontiguousarray(picture, dtype=np.float32))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def _coco(landmarks: Landmarks) -> np.ndarray:
    """COCO's 17 (17, 3) of the landmarks."""
    marks = list(COCO_LANDMARKS)
    confidence = np.minimum(landmarks.visibility, landmarks.presence)[marks]
    return np.concatenate([landmarks.points[marks], confidence[:, None]], axis=1)


def _padded(box_4: np.ndarray, width: int, height: int) -> np.ndarray:
    """The box with air around it, inside the picture."""
    air = _BOX_MARGIN * float((box_4[2:] - box_4[:2]).max())
    grown = box_4 + np.array([-air, -air, air, air])
    return np.clip(grown, 0, np.array([width, height, width, height]))
