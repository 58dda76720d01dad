"""The offline keypoint source's networks, from this machine or from PyPI."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from macedance.errors import TransportError
from macedance.vision.blazepose_weights import fetch_blazepose
from macedance.vision.weights import present, weights_folder


@pytest.fixture(scope="session")
def blazepose_folder(own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BlazePose's two networks; skips only where neither is there nor pip can fetch them."""
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    if os.environ.get("MACEDANCE_WEIGHTS") and present("blazepose"):
        return weights_folder("blazepose")
    folder = tmp_path_factory.mktemp("blazepose")
    try:
        fetch_blazepose(folder, timeout_s=120)
    except TransportError as error:
        pytest.skip(f"pip cannot fetch BlazePose's networks: {error.what}")
    return folder
