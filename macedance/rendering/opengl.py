"""The OpenGL rasteriser: an off-screen EGL context (a GPU's, or Mesa's on the processor), no display needed.

Shapes: V vertices, F triangles, H rows, W columns.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from macedance.errors import DependencyError
from macedance.rendering.body import Body
from macedance.rendering.camera import View
from macedance.rendering.scene import FrameScene, Stage
from macedance.rendering.shaders import BODY_FRAGMENT, BODY_VERTEX, STAGE_FRAGMENT, STAGE_VERTEX
from macedance.rendering.shadow import MAP_SIDE

_FIX = "pip install 'macedance[render]' and the system's EGL (Debian: libegl1 libgl1-mesa-dri), or use backend=software"
_PROBE = (
    "import moderngl\n"
    "context = moderngl.create_context(standalone=True, backend='egl', require=330)\n"
    "print(context.info['GL_RENDERER'])\n"
)


@dataclass(frozen=True)
class GlReport:
    """Whether OpenGL frames can be drawn here.

    Attributes:
        available: True when an EGL context was made.
        renderer: What draws, e.g. ``llvmpipe`` or the GPU's name; empty when not available.
        reason: Why not; empty when available.
    """

    available: bool
    renderer: str
    reason: str

    @property
    def on_processor(self) -> bool:
        """True when OpenGL is emulated on the processor, where our own rasteriser is the quicker one."""
        return any(name in self.renderer.lower() for name in ("llvmpipe", "softpipe", "swrast", "software"))


@lru_cache(maxsize=1)
def gl_report(timeout_s: float = 30.0) -> GlReport:
    """Try to make an EGL context in a process of its own, so that a driver that hangs or crashes cannot take us along.

    The answer is kept for the life of the process.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return GlReport(False, "", f"making an EGL context took longer than {timeout_s:.0f} s")
    except OSError as error:
        return GlReport(False, "", f"no process could be started to try EGL: {error}")
    if done.returncode == 0:
        lines = done.stdout.strip().splitlines()
        return GlReport(True, lines[-1] if lines else "unknown", "")
    if done.returncode < 0:
        return GlReport(False, "", f"making an EGL context crashed with signal {-done.returncode}")
    lines = done.stderr.strip().splitlines()
    return GlReport(False, "", lines[-1] if lines else f"making an EGL context failed with code {done.returncode}")


class OpenGlRasteriser:
    """Draws frames with OpenGL 3.3 through EGL; arguments as SoftwareRasteriser.

    Raises:
        DependencyError: moderngl is not installed or no context can be made.
    """

    name = "egl"

    def __init__(self, body: Body, stage: Stage, width: int, height: int, *, samples: int = 2) -> None:
        try:
            import moderngl
        except ImportError as error:
            raise DependencyError(f"the OpenGL rasteriser needs moderngl: {error}", fix=_FIX) from error
        try:
            settings: Any = {"standalone": True, "backend": "egl", "require": 330}  # its stubs mistype the backend
            context = moderngl.create_context(**settings)
        except Exception as error:  # glcontext raises bare Exception for a missing library or device
            raise DependencyError(f"no EGL context can be made: {error}", fix=_FIX) from error
        # Clip y is negated by the shader, which turns every face's winding round.
        context.front_face = "cw"
        self._context = context
        self._size = (width, height)
        count = len(body.colours_V3)
        self._moving = context.buffer(reserve=count * 6 * 4)
        self._moving_V6 = np.empty((count, 6), dtype=np.float32)
        colours = context.buffer((np.asarray(body.colours_V3, dtype=np.float32) ** 2).tobytes())
        faces = context.buffer(np.ascontiguousarray(body.faces_F3, dtype=np.int32).tobytes())
        self._body = context.program(vertex_shader=BODY_VERTEX, fragment_shader=BODY_FRAGMENT)
        self._stage = context.program(vertex_shader=STAGE_VERTEX, fragment_shader=STAGE_FRAGMENT)
        self._body_array = context.vertex_array(
            self._body,
            [(self._moving, "3f 3f", "in_position", "in_normal"), (colours, "3f", "in_colour")],
            index_buffer=faces,
        )
        self._stage_array = context.vertex_array(self._stage, [])
        self._maps = context.texture((MAP_SIDE, MAP_SIDE), 3, dtype="f4")
        self._maps.filter = (moderngl.LINEAR, moderngl.LINEAR)
        self._maps.repeat_x = self._maps.repeat_y = False
        per_pixel = min(samples * samples, context.max_samples) if samples > 1 else 0
        self._multi = context.framebuffer(
            [context.renderbuffer((width, height), samples=per_pixel)],
            context.depth_renderbuffer((width, height), samples=per_pixel),
        )
        self._flat = context.framebuffer([context.renderbuffer((width, height))])
        self._set_stage(stage)

    def _set_stage(self, stage: Stage) -> None:
        rim = tuple(value * value for value in stage.rim_colour)
        self._write(
            self._stage,
            floor_light=stage.floor_light, floor_dark=stage.floor_dark, backdrop_low=stage.backdrop_low,
            backdrop_high=stage.backdrop_high, spot=stage.spot, tile=stage.tile_m,
            fog=(stage.fog_start_m, stage.fog_end_m), vignette=stage.vignette, shadow=stage.shadow,
            contact=stage.contact, maps=0,
        )  # fmt: skip
        self._write(
            self._body, light=(stage.key, stage.sky, stage.ground, stage.rim), specular=stage.specular,
            fill=stage.fill, rim_colour=rim, maps=0,
        )  # fmt: skip

    @staticmethod
    def _write(program: object, **values: object) -> None:
        for name, value in values.items():
            program[name].value = value  # type: ignore[index]

    def draw(self, scene: FrameScene, view: View) -> np.ndarray:
        """One frame (H, W, 3), uint8."""
        context, (width, height) = self._context, self._size
        self._moving_V6[:, :3] = scene.positions_V3
        self._moving_V6[:, 3:] = scene.normals_V3
        self._moving.write(self._moving_V6)
        self._maps.write(scene.shadow_SS3)
        self._maps.use(0)
        shared = {
            "eye": tuple(view.eye), "right": tuple(view.right), "up": tuple(view.up), "forward": tuple(view.forward),
            "origin": scene.map_origin, "texel": scene.texel_m, "tan_half": view.tan_half,
        }  # fmt: skip
        self._write(self._stage, **shared, centre=scene.centre, size=(float(width), float(height)))
        self._write(self._body, **shared, aspect=width / height, to_light=tuple(scene.to_light))
        self._multi.use()
        self._multi.clear(depth=1.0)
        context.disable(context.DEPTH_TEST)
        self._stage_array.render(context.TRIANGLES, vertices=3)
        context.enable(context.DEPTH_TEST | context.CULL_FACE)
        self._body_array.render()
        context.disable(context.CULL_FACE)
        context.copy_framebuffer(self._flat, self._multi)
        # The shaders turn the picture over, so that its first row in memory is the top.
        return np.frombuffer(self._flat.read(components=3, alignment=1), dtype=np.uint8).reshape(height, width, 3)

    def close(self) -> None:
        """Free the context and all that lives in it."""
        self._context.release()
