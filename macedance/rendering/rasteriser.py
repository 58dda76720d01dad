"""Choosing what draws the frames: OpenGL on a graphics card, the software rasteriser elsewhere."""

from __future__ import annotations

import logging
from typing import Literal, Protocol, get_args

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


def check_backend(backend: str) -> None:
    """Raise ConfigError for an unknown backend."""
    if backend not in get_args(Backend):
        raise ConfigError(f"unknown rendering backend {backend!r}", expected=", ".join(get_args(Backend)))


def make_rasteriser(
    backend: Backend, body: Body, stage: Stage, width: int, height: int, *, samples: int = 2
) -> Rasteriser:
    """The rasteriser for ``backend``.

    ``auto`` takes OpenGL where a graphics card draws, and else our own, saying why in the log: no context can be made,
    or the driver emulates OpenGL on the processor, which takes about twice the time.

    Raises:
        ConfigError: an unknown backend.
        DependencyError: ``egl`` was asked for and no context can be made.
    """
    check_backend(backend)
    if backend == "software":
        return SoftwareRasteriser(body, stage, width, height, samples=samples)
    if backend == "egl":
        return OpenGlRasteriser(body, stage, width, height, samples=samples)
    report = gl_report()
    reason = report.reason
    if report.available and report.on_processor:
        reason = f"{report.renderer} emulates it on the processor"
    elif report.available:
        try:
            return OpenGlRasteriser(body, stage, width, height, samples=samples)
        except Exception as error:  # a driver may fail in many ways once it has been loaded
            reason = str(error)
    logger.info("frames are drawn in software, not by OpenGL: %s", reason)
    return SoftwareRasteriser(body, stage, width, height, samples=samples)
