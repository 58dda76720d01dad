"""The rasteriser that needs no graphics driver: a z-buffer with several samples a pixel, in compiled loops.

Shapes: V vertices, F triangles, H rows, W columns.
"""

from __future__ import annotations

import math

import numpy as np

from macedance.rendering.body import Body
from macedance.rendering.camera import View
from macedance.rendering.scene import FrameScene, Stage


def stage_parameters(stage: Stage) -> np.ndarray:
    """The stage as the vector (28,) that kernels.py indexes; light strengths act on squared colours."""
    scalars = (
        stage.spot, stage.tile_m, stage.fog_start_m, stage.fog_end_m, stage.vignette, stage.shadow, stage.contact,
        stage.key, stage.sky, stage.ground, stage.rim, stage.specular, stage.fill,
    )  # fmt: skip
    rim = tuple(value * value for value in stage.rim_colour)
    colours = (*stage.floor_light, *stage.floor_dark, *stage.backdrop_low, *stage.backdrop_high, *rim)
    return np.array([*colours, *scalars], dtype=np.float32)


class SoftwareRasteriser:
    """Draws frames with the processor alone.

    Args:
        body: The body whose triangles and colours are drawn.
        stage: Floor, background and light.
        width: Picture width in pixels. ``height`` likewise.
        height: Picture height.
        samples: Samples along each side of a pixel: 2 gives four samples a pixel.
    """

    name = "software"

    def __init__(self, body: Body, stage: Stage, width: int, height: int, *, samples: int = 2) -> None:
        self._faces_F3 = np.ascontiguousarray(body.faces_F3, dtype=np.int32)
        self._colours_V3 = np.ascontiguousarray(body.colours_V3, dtype=np.float32) ** 2
        self._parameters = stage_parameters(stage)
        self._samples = samples
        self._size = (height, width)
        self._depth = np.empty((height * samples, width * samples), dtype=np.float32)
        self._face = np.empty((height * samples, width * samples), dtype=np.int32)

    def draw(self, scene: FrameScene, view: View) -> np.ndarray:
        """One frame (H, W, 3), uint8."""
        from macedance.rendering import kernels

        (height, width), samples = self._size, self._samples
        image = np.empty((height, width, 3), dtype=np.uint8)
        (origin_x, origin_z), (centre_x, centre_z) = scene.map_origin, scene.centre
        kernels.draw_stage(
            self._parameters, view.eye, view.right, view.up, view.forward, view.tan_half,
            scene.shadow_SS3, origin_x, origin_z, scene.texel_m, centre_x, centre_z, image,
        )  # fmt: skip
        pixels, depth = view.project(scene.positions_V3, width, height)
        screen_V3 = np.empty_like(scene.positions_V3)
        screen_V3[:, :2] = pixels * samples
        screen_V3[:, 2] = np.where(depth > 0.05, 1.0 / np.maximum(depth, 0.05), -1.0)
        row_0, row_1 = self._span(pixels[:, 1], height)
        column_0, column_1 = self._span(pixels[:, 0], width)
        if row_1 > row_0 and column_1 > column_0:
            window = (
                slice(row_0 * samples, row_1 * samples),
                slice(column_0 * samples, column_1 * samples),
            )
            depth_HW, face_HW = self._depth[window], self._face[window]
            depth_HW[:] = 0.0
            face_HW[:] = -1
            corner = (row_0 * samples, column_0 * samples)
            kernels.rasterise(screen_V3, self._faces_F3, *corner, depth_HW, face_HW)
            kernels.shade(
                self._parameters, scene.positions_V3, scene.normals_V3, self._colours_V3, screen_V3, self._faces_F3,
                face_HW, *corner, samples, view.eye, scene.to_light, scene.shadow_SS3, origin_x, origin_z,
                scene.texel_m, image,
            )  # fmt: skip
        return image

    @staticmethod
    def _span(values: np.ndarray, limit: int) -> tuple[int, int]:
        """The pixels that the body may touch along one direction."""
        low = min(max(math.floor(float(values.min())) - 1, 0), limit)
        return low, max(min(math.ceil(float(values.max())) + 1, limit), low)

    def close(self) -> None:
        """Nothing to free."""
