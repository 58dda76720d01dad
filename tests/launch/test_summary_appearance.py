"""`macedance summary` of the Appearance Expert: the published architecture counted without weights, hub or memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from launch.config_files import resolve_arguments
from launch.main import main
from launch.summary import summarise
from launch.summary_appearance import RESERVE_GB, accumulation, rank_memory
from launch.training_cli import ParsingCLI, build_cli
from lightning_modules.strategies.sizes import zero_sizes
from macedance.errors import ConfigError
from macedance.models.appearance_expert.costs import parameter_counts
from macedance.models.appearance_expert.encoder_sizes import encoder_sizes
from macedance.models.appearance_expert.memory import state_bytes

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--config=appearance_kinematic480_madata", "--config=debug/appearance_cpu"]
SIZED = [*SMALL, "--data.frames=5", "--data.buckets=[{height: 64, width: 64}]"]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """The command's JSON and the most memory that it took, in an empty folder, far from any hub."""
    empty = tmp_path_factory.mktemp("empty")
    command = [
        sys.executable, "-m", "launch.main", "summary", "--config", "appearance_kinematic480_madata",
        "--json", "out.json",
    ]  # fmt: skip
    away = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(empty / "hub"), "PYTHONPATH": str(ROOT)}
    with (empty / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=empty, env={**os.environ, **away, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (empty / "log").read_text()
    assert "ZeRO-3 plan" in (empty / "log").read_text()
    return json.loads((empty / "out.json").read_text()), usage.ru_maxrss * 1024


def test_it_takes_less_than_two_gigabytes(released: tuple[dict[str, Any], int]) -> None:
    assert released[1] < 2e9


def test_the_released_architecture_is_counted(released: tuple[dict[str, Any], int]) -> None:
    result = released[0]
    assert result["parameters"] == 17_274_816_884
    assert result["trainable_parameters"] == 332_800
    assert result["vae_parameters"] == 126_892_531
    assert result["text_encoder_parameters"] == pytest.approx(5.68e9, rel=0.01)
    assert result["image_encoder_parameters"] == pytest.approx(0.631e9, rel=0.01)


def test_the_released_model_costs_what_arithmetic_says(released: tuple[dict[str, Any], int]) -> None:
    result = released[0]
    tokens = result["tokens_per_sample"]
    assert tokens == (21 + 1) * 30 * 52  # 81 frames are 21 of latents, and the reference's
    # By hand: 4 N^2 d a layer for attention, and 2 N for each weight that every token meets: q, k, v, o of the first
    # attention, q, o of the second, and the feed-forward pair.
    attention = 4 * tokens**2 * 5120 * 40
    products = 2 * tokens * 40 * (6 * 5120**2 + 2 * 5120 * 13824)
    assert result["forward_flops_per_sample"] == pytest.approx(attention + products, rel=0.05)
    # Backward with frozen weights: the products once more, attention two and a half times. Then the blocks again.
    assert result["flops_per_sample"] == pytest.approx(3.5 * attention + 2 * products, rel=0.05)
    assert result["executed_flops_per_sample"] == pytest.approx(4.5 * attention + 3 * products, rel=0.05)
    # Kept: the inputs of 40 blocks and 8 face adapters, in bfloat16; at the peak one block of some 10 GB besides.
    inputs = 48 * tokens * 5120 * 2
    memory = result["activation_bytes_per_sample"]
    assert inputs < memory["checkpointed_kept"] < 1.1 * inputs
    assert 8e9 < memory["checkpointed_peak"] - memory["checkpointed_kept"] < 12e9
    assert memory["kept"] > 10 * memory["checkpointed_peak"]


def test_the_plan_is_divided_over_the_ranks(released: tuple[dict[str, Any], int]) -> None:
    result = released[0]
    assert list(result["bytes_per_rank"]) == ["8", "16", "64"]
    for ranks, rows in result["bytes_per_rank"].items():
        assert list(rows) == ["ddp", "zero1", "zero2", "zero3"]
        assert rows["zero3"]["weights"] == -(-2 * 17_274_816_884 // int(ranks))
        assert rows["zero2"]["weights"] == 2 * 17_274_816_884
        for row in rows.values():
            parts = (row[k] for k in ("weights", "gradients", "optimizer", "buffers", "gathered", "activations"))
            assert row["total"] == sum(parts)
    plan = result["zero3_plan"]
    # The frozen base is gathered ahead although next to nothing trains.
    assert plan["prefetch_elements"] == 200_000_000
    assert plan["bucket_elements"] == 332_800
    assert plan["whole_parameters"] + plan["divided_parameters"] == result["parameters"]


def test_the_config_says_what_the_summary_says(released: tuple[dict[str, Any], int]) -> None:
    text = (ROOT / "configs" / "experiments" / "appearance_kinematic480_madata.yaml").read_text(encoding="utf-8")
    told = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))
    page = (ROOT / "docs" / "appearance.md").read_text(encoding="utf-8")
    for rows in released[0]["bytes_per_rank"].values():
        for strategy in ("zero2", "zero3"):
            assert f"{rows[strategy]['total'] / 1e9:.1f}" in told
            assert f"{rows[strategy]['total'] / 1e9:.1f}" in page


def test_adapters_count_as_what_trains() -> None:
    cli = build_cli(resolve_arguments(["--config=appearance_aesthetic720_madata"]), kind=ParsingCLI)
    cli.model.init_from = None
    with torch.device("meta"):
        cli.model.configure_model()
    # Rank 32: 32 (in + out) for eight projections of width 5120 and the feed-forward pair, in 40 blocks.
    adapters = 40 * 32 * (8 * 2 * 5120 + 2 * (5120 + 13824))
    assert parameter_counts(cli.model.built_network) == (17_274_816_884 + adapters, adapters)
    assert adapters == 153_354_240


def test_a_small_one_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", *SIZED, "--ranks", "2", "--gpu-gb", "24"]) == 0
    page = capsys.readouterr().out
    assert "at a time fit into 24" in page
    assert [line.split()[:2] for line in page.splitlines() if line.startswith("2 ")] == [
        ["2", "ddp"], ["2", "zero1"], ["2", "zero2"], ["2", "zero3"],
    ]  # fmt: skip


def test_the_costliest_bucket_is_counted_and_a_wrong_one_refused() -> None:
    two = "--data.buckets=[{height: 64, width: 64}, {height: 64, width: 96}]"
    result = summarise([*SIZED, two], ranks=[1])
    assert (result["height"], result["width"]) == (64, 96)
    with pytest.raises(ConfigError, match="does not divide into tokens"):
        summarise([*SIZED, "--data.buckets=[{height: 66, width: 64}]"])


def test_frames_of_a_bucket_stand_before_those_of_the_data() -> None:
    def summary(*options: str) -> dict[str, Any]:
        return summarise([*SMALL, *options])

    nine = summary("--data.frames=9", "--data.buckets=[{height: 64, width: 64}]")
    own = "--data.buckets=[{height: 64, width: 64, frames: 9}]"
    for options in (["--data.frames=5", own], [own]):
        result = summary(*options)
        assert (result["frames_per_sample"], result["flops_per_sample"]) == (9, nine["flops_per_sample"])


def test_without_a_size_and_a_corpus_it_says_so() -> None:
    with pytest.raises(ConfigError, match="nothing says how large a clip is"):
        summarise(SMALL)


def test_encoders_of_another_transformer() -> None:
    wan = {"z_dim": 16, "scale_factor_spatial": 8, "scale_factor_temporal": 4}
    words = encoder_sizes({"text_dim": 16, "image_dim": None}, wan, has_image=False)
    assert (words.vae, words.text_encoder, words.image_encoder) == (126_892_531, 0, 0)
    small = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1], "temperal_downsample": [False], "num_res_blocks": 1,
             "scale_factor_spatial": 2, "scale_factor_temporal": 1}  # fmt: skip
    unknown = encoder_sizes({"text_dim": 16, "image_dim": 7}, {**small, "scale_factor_spatial": 4}, has_image=True)
    assert (unknown.vae, unknown.image_encoder) == (None, None)
    assert 0 < (encoder_sizes({"text_dim": 16}, small, has_image=False).vae or 0) < 100_000


def test_memory_of_a_rank() -> None:
    sizes = zero_sizes(1_000_000, 10_000_000_000, "cuda")
    rows = state_bytes(10_000_000_000, 1_000_000, 4)
    memory = rank_memory("zero3", rows["zero3"], 1_000_000, 4, 10**9, sizes, 2, gpu_gb=20)
    assert memory.gathered == 2 * 10**9
    assert memory.buffers == 2 * 2 * sizes.bucket + 10**6
    # 20 GB less the reserve, the quarter of 20 GB, the 2 gathered and what trains; clips of 1 GB.
    assert memory.largest_micro_batch == int(20 - RESERVE_GB - 5 - 2 - 0.1)
    whole = rank_memory("ddp", rows["ddp"], 1_000_000, 4, 10**9, sizes, 2, gpu_gb=20)
    assert (whole.gathered, whole.buffers, whole.largest_micro_batch) == (0, 0, 0)


def test_accumulation() -> None:
    assert [accumulation(64, 8, fits) for fits in (0, 1, 2, 3, 9)] == ["does not fit", "8", "4", "4", "1"]
    assert "does not divide" in accumulation(64, 24, 1)


def test_what_zero_gathers_does_not_depend_on_what_trains() -> None:
    whole, adapter = zero_sizes(10**7, 10**7, "cuda"), zero_sizes(1000, 10**7, "cuda")
    assert (adapter.prefetch, adapter.live) == (whole.prefetch, whole.live)
    assert adapter.bucket == 1024
    assert zero_sizes(10**7, 10**7, "cpu").bucket == 5_000_192
    assert zero_sizes(10**7, 10**7, "cuda", 4096).bucket == 4096


def test_the_configs_stay_what_the_summary_counts() -> None:
    for path in sorted((ROOT / "configs" / "experiments").glob("appearance_*_madata.yaml")):
        data = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["init_args"]
        assert None not in (data["frames"], data["buckets"]), path.name  # or the summary would need the corpus
