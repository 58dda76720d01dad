"""A small dance and the two ways to draw it."""

from __future__ import annotations

import pytest
from rendering_dances import make_dance

from macedance.motion.files import Motion
from macedance.rendering import gl_report


@pytest.fixture(scope="session")
def dance() -> Motion:
    return make_dance()


@pytest.fixture(params=["software", "egl"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "egl" and not gl_report().available:
        pytest.skip(f"no EGL context can be made: {gl_report().reason}")
    return str(request.param)
