"""ZeRO on a GPU: the programs of the tests on CPUs, with NCCL on one device, bfloat16, checkpoint and resume."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("deepspeed")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "dist" / "zero_program.py"
CASES = (
    "zero1:resume", "zero2:resume,accumulate=2", "zero3:resume", "zero3:resume,offload",
    "zero2:resume,precision=bf16-mixed", "zero3:resume,precision=bf16-mixed",
)  # fmt: skip
TALLIES = ("losses", "validated", "restored", "finite")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, own_cache: None) -> Path:
    """One rank with NCCL for every case, in one process; and the plain training beside it."""
    out = tmp_path_factory.mktemp("zero-gpu")
    launched = {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29877", "TORCHELASTIC_RUN_ID": "gpu",
        "PYTHONPATH": str(ROOT), "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }  # fmt: skip
    own = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PYTEST_")) and k != "DS_ACCELERATOR"}
    cases = [f"{case},device=cuda" for case in CASES]
    run = subprocess.run(
        [sys.executable, str(PROGRAM), str(out), "single:device=cuda", *cases],
        env={**own, **launched}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return out


def tensors(results: Path, case: str, part: str = "whole") -> dict[str, torch.Tensor]:
    name = f"{case},device=cuda".replace(":", "_").replace(",", "_").replace("=", "-")
    return load_file(results / name / f"{part}-0.safetensors")


@pytest.fixture(scope="module")
def reference(results: Path) -> dict[str, torch.Tensor]:
    return load_file(results / "single_device-cuda" / "whole-0.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_weights_and_averages_are_those_of_plain_training(
    results: Path, reference: dict[str, torch.Tensor], case: str
) -> None:
    found = tensors(results, case)
    tolerance = 2e-2 if "bf16" in case else 1e-5
    for name in reference:
        if name.startswith(("raw.", "ema.")):
            assert torch.allclose(found[name], reference[name], atol=tolerance), name


@pytest.mark.parametrize("case", CASES)
def test_a_resume_is_bit_equal(results: Path, case: str) -> None:
    through, resumed = tensors(results, case), tensors(results, case, "resumed")
    for name in through.keys() - set(TALLIES):
        assert torch.equal(through[name], resumed[name]), name
    for name in ("losses", "validated"):
        assert torch.equal(through[name][-len(resumed[name]) :], resumed[name]), name


@pytest.mark.parametrize("case", CASES)
def test_validation_and_dropped_steps(results: Path, case: str) -> None:
    found = tensors(results, case)
    assert found["restored"].tolist() == [True] * 3
    assert found["finite"].tolist() == [True, True, False, True, True, True]
    assert found["steps"].tolist() == [6, 5]
