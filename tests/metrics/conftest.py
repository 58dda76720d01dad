"""The golden motions, and this folder's helpers on the path."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

GOLDEN = Path(__file__).parents[1] / "golden" / "motion_metrics"


@pytest.fixture(scope="session")
def golden_values() -> dict[str, Any]:
    return json.loads((GOLDEN / "golden.json").read_text())


@pytest.fixture(scope="session")
def golden_motions() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "motions.npz", allow_pickle=False) as archive:
        return {key: archive[key].astype(np.float64) for key in archive.files}


@pytest.fixture(scope="session")
def golden_joints(golden_motions: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(golden_motions[f"{name}_joints"]) for name in ("gt", "generated")}
