"""Faces: where they are, how far they are turned away, and how alike two of them are.

Shapes: H rows, W columns, n faces, D features. Pixels, x to the right and y down.

Sources: YuNet, Wu et al. (Machine Intelligence Research 2023), as OpenCV's FaceDetectorYN runs it; AuraFace-v1, an
ArcFace ResNet-100 (Deng et al., CVPR 2019) under Apache-2.0, on faces aligned to ArcFace's five points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from macedance.errors import CheckpointError, DataError
from macedance.vision.weights import KNOWN, fingerprint

if TYPE_CHECKING:
    from typing_extensions import Self

#: Side of an aligned face.
FACE_SIDE = 112
#: Where an aligned face has the eye, the other eye, the tip of the nose and the corners of the mouth; the person's
#: right first, which is on the left of the picture.
ALIGNED_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
# The same points of a head, x to the person's left, y down, z forward; the tip of the nose is the origin.
_HEAD_POINTS = np.array(
    [
        [-225.0, -170.0, -135.0],
        [225.0, -170.0, -135.0],
        [0.0, 0.0, 0.0],
        [-150.0, 150.0, -125.0],
        [150.0, 150.0, -125.0],
    ]
)
#: Score from which a found face counts: FaceDetectorYN's default.
FACE_SCORE = 0.9
_NMS_OVERLAP = 0.3
_TOP_K = 5000
#: Larger pictures are reduced to this longer side before faces are searched for.
_LONGER_SIDE = 1280


@dataclass(frozen=True)
class Face:
    """A face in a picture.

    Attributes:
        box: Left, top, right, bottom in pixels.
        points_52: Eyes, tip of the nose, corners of the mouth (5, 2), the person's right ones first.
        score: In [0, 1].
    """

    box: np.ndarray
    points_52: np.ndarray
    score: float

    @property
    def area(self) -> float:
        """Of its box, pixels."""
        return float(max(0.0, self.box[2] - self.box[0]) * max(0.0, self.box[3] - self.box[1]))


class FaceDetector(Protocol):
    """Finds faces in a picture."""

    @property
    def weights(self) -> dict[str, str]:
        """Model -> sha256."""
        ...

    def detect(self, picture_HW3: np.ndarray) -> list[Face]:
        """The faces in a picture (H, W, 3) uint8 RGB, in any order."""
        ...


class FaceEmbedder(Protocol):
    """Describes a face by a direction: the cosine of two faces says how alike they are."""

    @property
    def weights(self) -> dict[str, str]:
        """Model -> sha256."""
        ...

    def embed(self, faces_nSS3: np.ndarray) -> np.ndarray:
        """Unit vectors (n, D) of aligned faces (n, 112, 112, 3) uint8 RGB."""
        ...


class YuNet:
    """OpenCV's face detector. A copy of a metric shares it.

    Args:
        path: The ONNX file.
        score: Score from which a face counts.

    Raises:
        CheckpointError: No such network there.
    """

    def __init__(self, path: str | Path, *, score: float = FACE_SCORE) -> None:
        self._path = Path(path)
        self.weights = {"yunet": fingerprint(self._path)}
        import cv2

        try:
            with _without_warnings():
                self._net = cv2.FaceDetectorYN.create(str(self._path), "", (320, 320), score, _NMS_OVERLAP, _TOP_K)
        except cv2.error as error:
            raise _unreadable(self._path, "YuNet", error) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """The network of a folder that macedance.vision.weights knows as ``yunet``.

        Raises:
            CheckpointError: It is not there, or not YuNet.
        """
        return cls(Path(folder) / KNOWN["yunet"].files[0])

    def detect(self, picture_HW3: np.ndarray) -> list[Face]:
        """The faces in a picture (H, W, 3) uint8 RGB, of which the longer side is reduced to 1280.

        Raises:
            CheckpointError: The network gives no faces: another one than YuNet of 2023.
        """
        import cv2

        height, width = picture_HW3.shape[:2]
        scale = min(1.0, _LONGER_SIDE / max(height, width))
        picture = cv2.cvtColor(np.ascontiguousarray(picture_HW3), cv2.COLOR_RGB2BGR)
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        self._net.setInputSize((picture.shape[1], picture.shape[0]))
        try:
            found = self._net.detect(picture)[1]
        except cv2.error as error:
            raise _unreadable(self._path, "YuNet", error) from error
        shrink = np.array([width / picture.shape[1], height / picture.shape[0]])
        return [] if found is None else [_face(row, shrink) for row in np.asarray(found, dtype=np.float64)]


class AuraFace:
    """ArcFace features of aligned faces by an ONNX network; RGB, (x - 127.5) / 127.5. A copy of a metric shares it.

    Args:
        path: The ONNX file: input (1, 3, 112, 112), output (1, D).

    Raises:
        CheckpointError: No such network there.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.weights = {"auraface": fingerprint(self._path)}
        import cv2

        try:
            with _without_warnings():
                self._net: Any = cv2.dnn.readNetFromONNX(str(self._path))
        except cv2.error as error:
            raise _unreadable(self._path, "AuraFace", error) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """The network of a folder that macedance.vision.weights knows as ``auraface``.

        Raises:
            CheckpointError: It is not there, or cannot be read.
        """
        return cls(Path(folder) / KNOWN["auraface"].files[0])

    def embed(self, faces_nSS3: np.ndarray) -> np.ndarray:
        """Unit vectors (n, D) float64 of aligned faces (n, 112, 112, 3) uint8 RGB.

        Raises:
            CheckpointError: The network does not take such faces, or gives no direction for one.
        """
        import cv2

        out = []
        for face in faces_nSS3:
            pixels = (np.asarray(face, dtype=np.float32) - 127.5) / 127.5
            self._net.setInput(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
            try:
                features = np.asarray(self._net.forward(), dtype=np.float64).ravel()
            except cv2.error as error:
                raise _unreadable(self._path, "AuraFace", error) from error
            length = float(np.linalg.norm(features))
            if not 0 < length < math.inf:
                raise CheckpointError("the network gives a face no direction", where=self._path, expected="AuraFace")
            out.append(features / length)
        return np.stack(out) if out else np.zeros((0, 0))


def main_face(faces: Sequence[Face], box: np.ndarray | None = None) -> Face | None:
    """The largest face, weighted by its score, of those whose middle is in the person's box (4,); None without one.

    Args:
        faces: Faces of a picture.
        box: Left, top, right, bottom; None: anywhere.
    """
    inside = [face for face in faces if box is None or _holds(box, face)]
    return max(inside, key=lambda face: face.area * face.score, default=None)


def similarity_transform(points_N2: np.ndarray, onto_N2: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift (2, 3) that brings points closest onto others, in least squares (Umeyama 1991).

    Raises:
        DataError: Points that all coincide.
    """
    here, there = np.asarray(points_N2, dtype=np.float64), np.asarray(onto_N2, dtype=np.float64)
    mean_here, mean_there = here.mean(axis=0), there.mean(axis=0)
    a, b = here - mean_here, there - mean_there
    spread = float((a**2).sum())
    if spread < 1e-9:
        raise DataError("the points of a face all coincide", expected="eyes, nose and mouth apart")
    # A rotation with scale is [[p, -q], [q, p]]: linear least squares, and never a reflection.
    p = float((a * b).sum()) / spread
    q = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / spread
    matrix = np.array([[p, -q], [q, p]])
    return np.concatenate([matrix, (mean_there - matrix @ mean_here)[:, None]], axis=1)


def aligned_face(picture_HW3: np.ndarray, points_52: np.ndarray) -> np.ndarray:
    """A face (112, 112, 3) uint8 with eyes, nose and mouth where ArcFace expects them; black beyond the picture.

    Raises:
        DataError: Points that all coincide.
    """
    import cv2

    transform = similarity_transform(points_52, ALIGNED_POINTS)
    return cv2.warpAffine(np.ascontiguousarray(picture_HW3), transform, (FACE_SIDE, FACE_SIDE), flags=cv2.INTER_LINEAR)


def head_yaw_deg(points_52: np.ndarray) -> float:
    """How far a head is turned from the camera about its own vertical axis, degrees in [-180, 180]; 0 faces it.

    From its five points by an orthographic camera in least squares; positive when it turns to its left. Rough (some
    10 degrees, more for other head shapes): good for telling a profile from a face.
    """
    head = _HEAD_POINTS - _HEAD_POINTS.mean(axis=0)
    points = np.asarray(points_52, dtype=np.float64)
    camera, *_ = np.linalg.lstsq(head, points - points.mean(axis=0), rcond=None)
    right, down = camera.T
    # In the head's axes: what is right, what is down, and hence where the camera is.
    towards = np.cross(right, down)
    return math.degrees(math.atan2(-towards[0], towards[2]))


@contextmanager
def _without_warnings() -> Iterator[None]:
    """OpenCV 5 warns of the target that its own face detector asks for, and prints the file it could not read."""
    import cv2

    logging = cv2.utils.logging
    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


def _holds(box: np.ndarray, face: Face) -> bool:
    middle = (face.box[:2] + face.box[2:4]) / 2
    return bool((middle >= box[:2]).all() and (middle <= box[2:4]).all())


def _face(row_15: np.ndarray, scale: np.ndarray) -> Face:
    corner, size = row_15[:2] * scale, row_15[2:4] * scale
    return Face(np.concatenate([corner, corner + size]), row_15[4:14].reshape(5, 2) * scale, float(row_15[14]))


def _unreadable(path: Path, name: str, error: Exception) -> CheckpointError:
    told = str(getattr(error, "err", None) or error).strip().splitlines() or [type(error).__name__]
    return CheckpointError(f"no {name}: OpenCV cannot run it ({told[0]})", where=path, expected="the published file")
