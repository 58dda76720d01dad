"""The driving video of networks that look at a body instead of a skeleton (Wan-Animate-2): the dancer as a solid mesh.

Shapes: T frames, H rows, W columns, K = 20 points of BODY_20.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from macedance.motion.files import JointClip, Motion
from macedance.rendering.body import MannequinBody, posed_meshes
from macedance.rendering.projector import CameraKind, Placement, PoseProjector
from macedance.rendering.rasteriser import Backend, check_backend, make_rasteriser
from macedance.rendering.scene import Outfit, Stage
from macedance.rendering.shadow import ShadowMapper
from macedance.vision.video import Video

_GREY = (0.5, 0.5, 0.5)
#: One tone everywhere, so that nothing but the dancer is seen.
PLAIN_STAGE = Stage(
    floor_light=_GREY, floor_dark=_GREY, backdrop_low=_GREY, backdrop_high=_GREY, spot=0.0, vignette=0.0
)


class MeshDriver:
    """Draws a dance as a mannequin before a plain background. A DrivingRenderer.

    Proportions, place and camera are PoseProjector's: both driving videos show the same limb at the same pixel.

    Args:
        width: Of the picture, pixels, even; ``height`` likewise.
        height: Of the picture.
        fps: Of the driving video; the motion is resampled to it.
        camera: ``fixed`` or ``follow``.
        reference_K3: Points (20, 3) of the person in the reference picture, or None.
        outfit: Colours of the mannequin.
        backend: What draws.

    Raises:
        ConfigError: A size that cannot be encoded, or an unknown camera or backend.
        DataError: fps not above 0, or a reference of another shape.
    """

    def __init__(
        self,
        width: int,
        height: int,
        fps: float,
        *,
        camera: CameraKind = "fixed",
        reference_K3: np.ndarray | None = None,
        outfit: Outfit | None = None,
        backend: Backend = "auto",
    ) -> None:
        self._projector = PoseProjector(width, height, fps, camera=camera, reference_K3=reference_K3)
        check_backend(backend)
        self.width, self.height, self.fps = width, height, self._projector.fps
        self._body, self._backend = MannequinBody(outfit), backend

    def render(self, motion: Motion | JointClip) -> Video:
        """The driving video, drawn as it is looked at.

        Raises:
            DataError: Joints that are not finite, or no frame.
        """
        dance, path, placement = self._projector.placed(motion)

        def draw() -> Iterator[np.ndarray]:
            rasteriser = make_rasteriser(self._backend, self._body, PLAIN_STAGE, self.width, self.height)
            try:
                shadows = ShadowMapper(self._body.faces_F3, PLAIN_STAGE)
                for frame, (positions_V3, normals_V3) in enumerate(posed_meshes(self._body, dance)):
                    view = path.view(frame)
                    picture = rasteriser.draw(shadows.scene(positions_V3, normals_V3, view), view)
                    yield _placed(picture, placement)
            finally:
                rasteriser.close()

        return Video("", self.fps, self.width, self.height, len(dance.joints_TJ3), drawn=draw)


def _placed(picture_HW3: np.ndarray, placement: Placement) -> np.ndarray:
    """The picture scaled and shifted; what comes in from outside is background."""
    if placement == Placement():
        return picture_HW3
    import cv2

    (x, y), scale = placement.shift, placement.scale
    matrix = np.array([[scale, 0.0, x], [0.0, scale, y]])
    size = picture_HW3.shape[1], picture_HW3.shape[0]
    moved = cv2.warpAffine(picture_HW3, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved)
