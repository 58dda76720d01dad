"""ZeRO on two ranks against one process: weights, averages, validation, dropped steps, resume, recomputation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from zygote import ENVIRONMENT, free_port, launcher_environment

from macedance.nn.fragments import Fragment, read_fragments

pytest.importorskip("deepspeed")
PROGRAM = Path(__file__).with_name("zero_program.py")
EXACT = (
    "zero1:resume",
    "zero2:resume,accumulate=2",
    "zero3:resume",
    "zero3:resume,accumulate=2,offload",
    "zero1:resume,offload",
)
BF16 = ("zero1:resume,precision=bf16-mixed", "zero2:resume,precision=bf16-true", "zero3:resume,precision=bf16-mixed")
RECOMPUTED = ("ddp:dropout=0.2", "zero2:dropout=0.2", "zero3:dropout=0.2", "zero3:dropout=0.2,precision=bf16-mixed")
WHOLE = "zero3:resume,whole=10000"
#: Validation alone: DeepSpeed's engine without an optimizer.
VALIDATED = ("zero1:validate", "zero3:validate")
#: 1 + 2 validations of two batches, seen by the average.
TALLIES = ("losses", "validated", "restored", "finite")


def run_program(out: Path, ranks: int, cases: list[str], timeout_s: float = 300.0) -> None:
    """Run the program's cases on some ranks; what they said is in the failure."""
    port = free_port()
    own = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PYTEST_"))}
    processes, logs = [], [out / f"rank-{rank}.log" for rank in range(ranks)]
    for rank in range(ranks):
        launched = launcher_environment(rank, ranks, port, "zero") if ranks > 1 else {}
        processes.append(
            subprocess.Popen(
                [sys.executable, str(PROGRAM), str(out), *cases],
                env={**own, **ENVIRONMENT, "MACEDANCE_CACHE": os.environ["MACEDANCE_CACHE"], **launched},
                stdout=logs[rank].open("w"), stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    try:
        codes = [process.wait(timeout=timeout_s) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0] * ranks, "\n".join(log.read_text(errors="replace")[-4000:] for log in logs)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, own_cache: None) -> Path:
    """The folder of all cases' results: one process once, two ranks once."""
    out = tmp_path_factory.mktemp("zero")
    run_program(out, 1, ["single", "single:validate"])
    recomputed = [case for kind in RECOMPUTED for case in (kind, f"{kind},recompute")]
    run_program(out, 2, [*EXACT, WHOLE, *BF16, *recomputed, *VALIDATED])
    return out


def folder_of(results: Path, case: str) -> Path:
    return results / case.replace(":", "_").replace(",", "_").replace("=", "-")


def tensors(results: Path, case: str, part: str = "whole", rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder_of(results, case) / f"{part}-{rank}.safetensors")


@pytest.mark.parametrize("case", [*EXACT, WHOLE])
def test_weights_and_averages_are_those_of_one_process(results: Path, case: str) -> None:
    reference, found = tensors(results, "single"), tensors(results, case)
    for name in reference.keys() - set(TALLIES):
        assert torch.allclose(found[name], reference[name], rtol=1e-6, atol=2e-6), name
    assert torch.allclose(found["validated"], reference["validated"], rtol=1e-5)


@pytest.mark.parametrize("case", [*EXACT, WHOLE, *BF16])
def test_a_resume_is_bit_equal(results: Path, case: str) -> None:
    for rank in (0, 1):
        through, resumed = tensors(results, case, rank=rank), tensors(results, case, "resumed", rank)
        for name in through.keys() - set(TALLIES):
            assert torch.equal(through[name], resumed[name]), name
        for name in ("losses", "validated"):
            assert torch.equal(through[name][-len(resumed[name]) :], resumed[name]), name


@pytest.mark.parametrize("case", [*EXACT, WHOLE, *BF16])
def test_a_step_that_is_not_finite_on_one_rank_is_dropped_on_all(results: Path, case: str) -> None:
    for rank in (0, 1):
        found = tensors(results, case, rank=rank)
        assert found["finite"].tolist() == [True, True, False, True, True, True]
        steps, updates = found["steps"].tolist()
        assert (steps, updates) == (6, 5), "the average does not move at a dropped step"
        assert all(bool(found[name].isfinite().all()) for name in found if name.startswith(("raw.", "ema.")))
    assert tensors(results, case)["lr"].tolist() == tensors(results, "single")["lr"].tolist()


@pytest.mark.parametrize("case", [*EXACT, WHOLE, *BF16])
def test_validation_gives_the_weights_back_bit_for_bit(results: Path, case: str) -> None:
    for rank in (0, 1):
        restored = tensors(results, case, rank=rank)["restored"]
        assert restored.tolist() == [True] * 3


@pytest.mark.parametrize("case", VALIDATED)
def test_validation_alone_needs_no_optimizer(results: Path, case: str) -> None:
    expected = tensors(results, "single:validate")["validated"]
    assert len(expected) == 2
    for rank in (0, 1):
        assert torch.allclose(tensors(results, case, rank=rank)["validated"], expected, rtol=1e-6)


@pytest.mark.parametrize("case", BF16)
def test_bfloat16_stays_near_float32_and_averages_in_float32(results: Path, case: str) -> None:
    reference, found = tensors(results, "single"), tensors(results, case)
    for name in reference:
        if name.startswith(("raw.", "ema.")):
            assert torch.allclose(found[name], reference[name], atol=2e-2), name
    moved = found["ema.network.head.weight"]
    assert not torch.equal(moved, moved.bfloat16().float()), "the average has more digits than the weights"


@pytest.mark.parametrize("case", RECOMPUTED)
def test_recomputed_activations_change_no_bit(results: Path, case: str) -> None:
    for rank in (0, 1):
        kept, recomputed = tensors(results, case, rank=rank), tensors(results, f"{case},recompute", rank=rank)
        assert kept.keys() == recomputed.keys()
        for name in kept.keys() - {"losses"}:
            assert torch.equal(kept[name], recomputed[name]), name
        assert torch.equal(kept["losses"].nan_to_num(), recomputed["losses"].nan_to_num())


@pytest.mark.parametrize("case", ["zero1:resume", "zero3:resume"])
def test_averages_of_two_ranks_are_put_together(results: Path, case: str) -> None:
    """What a resume on another number of ranks reads: every parameter whole, and as it was at that step."""
    files = sorted((folder_of(results, case) / "checkpoint").glob("ema-*.safetensors"))
    assert len(files) == 2
    shapes: dict[str, tuple[int, ...]] = {"network.null": (12,), "network.encoder.weight": (12, 5)}
    whole = {name: Fragment(torch.empty(torch.Size(s).numel()), 0, s) for name, s in shapes.items()}
    values = read_fragments(files, whole)
    with safe_open(str(files[0]), framework="pt") as file:
        assert file.metadata()["num_updates"] == "3", "four steps, one of them dropped"
    other = read_fragments(
        sorted((folder_of(results, EXACT[2] if case == EXACT[0] else EXACT[0]) / "checkpoint").glob("ema-*")), whole
    )
    for name, value in values.items():
        assert torch.allclose(value, other[name], atol=2e-6), "stages 1 and 3 cut differently and mean the same"
