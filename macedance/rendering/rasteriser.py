"""Choosing what draws the frames: OpenGL where a context can be made, the software rasteriser elsewhere."""

from __future__ import annotations

import logging
from typing import Literal, Protocol

import numpy as np

from macedance.errors import ConfigError
from macedance.rendering.body import Body
from macedance.rendering.camera import View
from macedance.rendering.opengl import OpenGlRasteriser, gl_report
from macedance.rendering.scene import FrameScene, Stage
from macedance.rendering.software import SoftwareRasteriser

Backend = Literal["auto", "egl", "software"]

logger = logging.getLogger(__name__)


class Rasteriser(Protocol):
    """Draws one frame of a body on a stage."""

    @property
    def name(self) -> str:
        """``egl`` or ``software``."""

    def draw(self, scene: FrameScene, view: View) -> np.ndarray:
        """One frame (H, W, 3), uint8."""

    def close(self) -> None:
        """Free what the rasteriser holds."""


def make_rasteriser(
    backend: Backend, body: Body, stage: Stage, width: int, height: int, *, samples: int = 2
) -> Rasteriser:
    """The rasteriser for ``backend``; ``auto`` falls back to software and logs why.

    Raises:
        ConfigError: an unknown backend.
        DependencyError: ``egl`` was asked for and no context can be made.
    """
    if backend == "software":
        return SoftwareRasteriser(body, stage, width, height, samples=samples)
    if backend == "egl":
        return OpenGlRasteriser(body, stage, width, height, samples=samples)
    if backend != "auto":
        raise ConfigError(f"unknown rendering backend {backend!r}", expected="auto, egl or software")
    report = gl_report()
    reason = report.reason
    if report.available:
        try:
            return OpenGlRasteriser(body, stage, width, height, samples=samples)
        except Exception as error:  # a driver may fail in many ways once it has been loaded
            reason = str(error)
    logger.info("frames are drawn in software, because OpenGL is not available: %s", reason)
    return SoftwareRasteriser(body, stage, width, height, samples=samples)
