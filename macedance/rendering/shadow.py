"""The dancer's shadow on the floor and on itself, computed once a frame for either rasteriser.

Shapes: V vertices, F triangles, S side of the map. World: metres, y-up, floor at y = 0.
"""

from __future__ import annotations

import numpy as np

from macedance.rendering.camera import View
from macedance.rendering.scene import FrameScene, Stage, light_direction

#: Side of the floor map in cells, and of the square of floor that it covers.
MAP_SIDE = 256
MAP_SPAN_M = 4.0


class ShadowMapper:
    """Builds a FrameScene: the posed body with its floor maps."""

    def __init__(self, faces_F3: np.ndarray, stage: Stage) -> None:
        self._faces_F3 = np.ascontiguousarray(faces_F3, dtype=np.int32)
        self._stage = stage
        self._maps_SS3 = np.empty((MAP_SIDE, MAP_SIDE, 3), dtype=np.float32)

    def scene(self, positions_V3: np.ndarray, normals_V3: np.ndarray, view: View) -> FrameScene:
        """The scene of one frame. Its maps are overwritten by the next call."""
        from macedance.rendering import kernels

        positions_V3 = np.ascontiguousarray(positions_V3, dtype=np.float32)
        normals_V3 = np.ascontiguousarray(normals_V3, dtype=np.float32)
        to_light = light_direction(self._stage, view.right, view.forward)
        slope_x, slope_z = float(to_light[0] / to_light[1]), float(to_light[2] / to_light[1])
        texel_m = MAP_SPAN_M / MAP_SIDE
        low, high = positions_V3.min(axis=0), positions_V3.max(axis=0)
        middle_x, middle_z = 0.5 * float(low[0] + high[0]), 0.5 * float(low[2] + high[2])
        # The shadow falls away from the light by up to the body's height; cells stay put so that edges do not crawl.
        reach = 0.5 * max(float(high[1]), 0.0)
        origin_x = round((middle_x - reach * slope_x - 0.5 * MAP_SPAN_M) / texel_m) * texel_m
        origin_z = round((middle_z - reach * slope_z - 0.5 * MAP_SPAN_M) / texel_m) * texel_m
        maps = self._maps_SS3
        kernels.floor_shadow_maps(positions_V3, self._faces_F3, origin_x, origin_z, texel_m, slope_x, slope_z, maps)
        for _ in range(2):
            kernels.box_blur(maps, 1, 1)
            kernels.box_blur(maps, 2, 3)
        # Blurring a thin spot of vertices dims it: bring it back to a visible darkness.
        maps[..., 2] = np.minimum(maps[..., 2] * 2.5, 1.0)
        return FrameScene(positions_V3, normals_V3, maps, (origin_x, origin_z), texel_m, (middle_x, middle_z), to_light)
