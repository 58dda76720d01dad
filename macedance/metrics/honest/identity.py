"""Whether the person in a video stays the same person: by the look of the whole body, and by the face.

Shapes: t frames of a portion, T frames of the video, H rows, W columns, N compared frames, D features.

Both compare with the reference image where there is one, else with the first frame that shows what is compared; five
frames of a second are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from macedance.errors import DataError
from macedance.metrics.appearance.consistency import FrameFeatures
from macedance.metrics.videos import FrameScorer, PerVideoMetric
from macedance.vision.crops import BoxSource, box_of_frame, boxes_of, square_crop
from macedance.vision.faces import FaceDetector, FaceEmbedder, aligned_face, head_yaw_deg, main_face
from macedance.vision.video import Video

SAMPLES_PER_S = 5.0
CROP_SIDE = 224
#: A head that is turned further shows too little of its face to be compared.
MAX_YAW_DEG = 60.0
_LOW_QUANTILE = 0.1
_IDENTITY, _IDENTITY_P10 = "person_identity", "person_identity_p10"
_SIMILARITY, _SIMILARITY_P10, _RATE, _DRIFT = "face_similarity", "face_similarity_p10", "face_rate", "face_drift"
_MIN_FOR_DRIFT = 3

#: A feature (D,) of a picture (H, W, 3) with the person in a box (4,), or None where it does not show what is compared.
Describe = Callable[[np.ndarray, "np.ndarray | None"], "np.ndarray | None"]


def reference_of(references: Mapping[str, np.ndarray] | None, video: Video) -> np.ndarray | None:
    """The reference image (H, W, 3) of a video, by its name; None where there are none at all.

    Raises:
        DataError: Others have one and this video has not: they would not be comparable; or it is no picture.
    """
    if references is None:
        return None
    picture = references.get(video.name)
    if picture is None:
        raise DataError(f"no reference image of {video.name!r}", expected="one for every video, or none at all")
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise DataError(
            f"the reference image of {video.name!r} is {picture.dtype} of shape {picture.shape}",
            expected="(height, width, 3) uint8, RGB",
        )
    return picture


class PersonIdentity(PerVideoMetric):
    """How alike the person is throughout: cosine in [-1, 1] of DINO features of crops of the person.

    VBench's subject consistency has the whole background in it; this has what the person's box shows of it.
    ``person_identity`` is the mean over frames, ``person_identity_p10`` their tenth percentile. Without reference
    images the first frame is the reference and is not compared with itself.

    Args:
        boxes: Says where the dancer is.
        features: DINO, or any network that gives features of pictures.
        references: Video name -> picture (H, W, 3) uint8 RGB that shows the person whole; None: each video's first
            frame with the person in it.
        samples_per_s: Frames looked at in a second.
        options: As PerVideoMetric.
    """

    keys = (_IDENTITY, _IDENTITY_P10)
    undefined = dict.fromkeys(keys, "no person to compare in the reference image or in two frames")

    def __init__(
        self,
        boxes: BoxSource,
        features: FrameFeatures,
        *,
        references: Mapping[str, np.ndarray] | None = None,
        samples_per_s: float = SAMPLES_PER_S,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.boxes, self.features = boxes, features
        self.references, self.samples_per_s = references, samples_per_s

    @property
    def weights(self) -> dict[str, str]:
        """Of what finds the person and what describes it."""
        return {**self.boxes.weights, self.features.name: self.features.fingerprint}

    @property
    def settings(self) -> dict[str, Any]:
        """What the values depend on."""
        return super().settings | {
            "person": self.boxes.name,
            "identity_samples_per_s": self.samples_per_s,
            "identity_reference": "first frame" if self.references is None else "reference image",
        }

    def scorer(self, video: Video) -> FrameScorer:
        """A scorer of this video; finds the dancer in it and in its reference image first.

        Raises:
            DataError: It alone has no reference image.
        """
        picture = reference_of(self.references, video)
        reference = None if picture is None else self._of_reference(picture, video.name)
        boxes = boxes_of(self.boxes, video)
        found = _Likeness(
            video.fps, self.samples_per_s, boxes, self._describe, reference, own_reference=picture is None
        )
        return _IdentityScorer(found)

    def _of_reference(self, picture_HW3: np.ndarray, name: str) -> np.ndarray | None:
        still = Video.from_frames(picture_HW3[None], 1.0, name)
        return self._describe(picture_HW3, boxes_of(self.boxes, still)[0])

    def _describe(self, picture_HW3: np.ndarray, box: np.ndarray | None) -> np.ndarray | None:
        if box is None or not np.isfinite(box).all():
            return None
        crop = torch.from_numpy(square_crop(picture_HW3, box, CROP_SIDE)).permute(2, 0, 1)[None]
        feature = self.features.to(self.device)(crop.to(self.device))[0].double().cpu().numpy()
        return feature / np.linalg.norm(feature)


class FaceSimilarity(PerVideoMetric):
    """How alike the face is to the reference: cosine in [-1, 1] of face features, and how often there is a face.

    ``face_similarity`` is the mean over frames with a face that is turned less than 60 degrees away,
    ``face_similarity_p10`` their tenth percentile, ``face_drift`` the slope over time (per second, below 0 where the
    face is lost). ``face_rate`` in [0, 1] is the share of the looked-at frames with a face at all: a dancer who turns
    has less, and so has one whose face has melted. A video without a usable face has a rate and no similarity.

    Args:
        detector: Finds faces.
        embedder: Describes them.
        boxes: Says where the dancer is, so that no other face counts; None: the largest face of the picture counts.
        references: Video name -> picture (H, W, 3) uint8 RGB whose largest face is the person's; None: each video's
            first usable face, which is not compared with itself.
        samples_per_s: Frames looked at in a second.
        options: As PerVideoMetric.
    """

    keys = (_SIMILARITY, _SIMILARITY_P10, _RATE, _DRIFT)
    undefined = {
        _SIMILARITY: "no usable face in the reference image or in two frames",
        _SIMILARITY_P10: "no usable face in the reference image or in two frames",
        _RATE: "no frame",
        _DRIFT: "fewer than three frames with a usable face",
    }

    def __init__(
        self,
        detector: FaceDetector,
        embedder: FaceEmbedder,
        *,
        boxes: BoxSource | None = None,
        references: Mapping[str, np.ndarray] | None = None,
        samples_per_s: float = SAMPLES_PER_S,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.detector, self.embedder, self.boxes = detector, embedder, boxes
        self.references, self.samples_per_s = references, samples_per_s

    @property
    def weights(self) -> dict[str, str]:
        """Of the networks."""
        people = {} if self.boxes is None else self.boxes.weights
        return {**people, **self.detector.weights, **self.embedder.weights}

    @property
    def settings(self) -> dict[str, Any]:
        """What the values depend on."""
        return super().settings | {
            "face_of": "largest in the picture" if self.boxes is None else self.boxes.name,
            "face_samples_per_s": self.samples_per_s,
            "face_max_yaw_deg": MAX_YAW_DEG,
            "face_reference": "first usable face" if self.references is None else "reference image",
        }

    def scorer(self, video: Video) -> FrameScorer:
        """A scorer of this video; describes its reference image first.

        Raises:
            DataError: It alone has no reference image.
        """
        picture = reference_of(self.references, video)
        faces = _FaceReader(self.detector, self.embedder)
        reference = None if picture is None else faces(picture, None)
        faces.with_face = 0
        boxes = None if self.boxes is None else boxes_of(self.boxes, video)
        found = _Likeness(video.fps, self.samples_per_s, boxes, faces, reference, own_reference=picture is None)
        return _FaceScorer(found, faces)


@dataclass
class _FaceReader:
    """Describes the face in a picture, and counts the pictures that have one."""

    detector: FaceDetector
    embedder: FaceEmbedder
    with_face: int = 0

    def __call__(self, picture_HW3: np.ndarray, box: np.ndarray | None) -> np.ndarray | None:
        if box is not None and not np.isfinite(box).all():
            return None
        face = main_face(self.detector.detect(picture_HW3), box)
        if face is None:
            return None
        self.with_face += 1
        if abs(head_yaw_deg(face.points_52)) >= MAX_YAW_DEG:
            return None
        return self.embedder.embed(aligned_face(picture_HW3, face.points_52)[None])[0]


@dataclass
class _Likeness:
    """Cosines of the frames of a video with its reference, a few of every second."""

    fps: float
    samples_per_s: float
    boxes_T4: np.ndarray | None
    describe: Describe
    reference_D: np.ndarray | None
    own_reference: bool
    frames: int = field(default=0, init=False)
    looked_at: int = field(default=0, init=False)
    times_s: list[float] = field(default_factory=list, init=False)
    cosines: list[float] = field(default_factory=list, init=False)

    def add(self, frames_TCHW: Tensor) -> None:
        stride = max(1, round(self.fps / self.samples_per_s))
        for frame_CHW in frames_TCHW:
            number = self.frames
            self.frames += 1
            if number % stride == 0:
                self.looked_at += 1
                self._look(frame_CHW.permute(1, 2, 0).to("cpu", torch.uint8).numpy(), number)

    def _look(self, picture_HW3: np.ndarray, number: int) -> None:
        box = None if self.boxes_T4 is None else box_of_frame(self.boxes_T4, number)
        feature = self.describe(picture_HW3, box)
        if feature is None:
            return
        if self.reference_D is not None:
            self.times_s.append(number / self.fps)
            self.cosines.append(float(np.clip(feature @ self.reference_D, -1.0, 1.0)))
        elif self.own_reference:
            self.reference_D = feature

    def mean_and_low(self) -> tuple[tuple[float, int], tuple[float, int]]:
        """Mean and tenth percentile of the cosines, each with their number."""
        n = len(self.cosines)
        if not n:
            return (float("nan"), 0), (float("nan"), 0)
        return (float(np.mean(self.cosines)), n), (float(np.quantile(self.cosines, _LOW_QUANTILE)), n)


@dataclass
class _IdentityScorer:
    likeness: _Likeness

    def add(self, frames_TCHW: Tensor) -> None:
        self.likeness.add(frames_TCHW)

    def result(self) -> dict[str, tuple[float, int]]:
        mean, low = self.likeness.mean_and_low()
        return {_IDENTITY: mean, _IDENTITY_P10: low}


@dataclass
class _FaceScorer:
    likeness: _Likeness
    faces: _FaceReader

    def add(self, frames_TCHW: Tensor) -> None:
        self.likeness.add(frames_TCHW)

    def result(self) -> dict[str, tuple[float, int]]:
        mean, low = self.likeness.mean_and_low()
        looked_at, n = self.likeness.looked_at, len(self.likeness.cosines)
        rate = self.faces.with_face / looked_at if looked_at else float("nan")
        slope = float("nan")
        if n >= _MIN_FOR_DRIFT:
            slope = float(np.polyfit(self.likeness.times_s, self.likeness.cosines, 1)[0])
        return {_SIMILARITY: mean, _SIMILARITY_P10: low, _RATE: (rate, looked_at), _DRIFT: (slope, n)}
