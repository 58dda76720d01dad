"""Fine-tuning under ZeRO from the checkpoint of a one-rank run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import MakeRun
from dist_runs import DistRun, Stop, assert_close_losses, assert_same_run

#: Sums over two ranks are taken in another order.
TOLERANCE = 1e-5


def arguments(*more: str) -> list[str]:
    return [
        "--trainer.max_steps=6",
        "--trainer.val_check_interval=3",
        "--checkpoint_every_n_steps=2",
        "--model.network.init_args.dropout=0.0",
        "--model.losses.rebalance_below=0",
        *more,
    ]


@pytest.fixture(scope="module")
def base(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> DistRun:
    """Four steps on one rank."""
    run = make_run(tmp_path_factory.mktemp("base"), arguments=[*arguments(), "--trainer.max_steps=4"])
    run.run()
    return run


def weights_of(run: DistRun) -> dict[str, torch.Tensor]:
    """The weights at the end of a one-rank run."""
    content = torch.load(run.newest() / "state.ckpt", weights_only=True)
    return {k: v for k, v in content["state_dict"].items() if k.startswith("network.")}


@pytest.mark.parametrize("kind", ["zero2", "zero3"])
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_two_ranks_go_on_from_one_rank_s_weights(
    kind: str, lora: bool, base: DistRun, make_run: MakeRun, tmp_path: Path
) -> None:
    more = [f"--init_from={base.newest()}", *(["--model.lora.rank=4"] if lora else [])]
    single = make_run(tmp_path / "single", arguments=arguments(*more))
    single.run()
    whole = make_run(tmp_path / "whole", kind, arguments=arguments(*more))
    whole.run()
    assert_close_losses(single, whole, TOLERANCE)

    killed = make_run(tmp_path / "killed", kind, arguments=arguments(*more))
    killed.die(Stop("update", 3, 1))
    killed.run()
    assert killed.marks("start") == [2]
    assert_same_run(whole, killed)

    from macedance.pipelines.checkpoint_folder import assemble_fragments

    trained = assemble_fragments(whole.newest(), "weights")
    before, alone = weights_of(base), weights_of(single)
    if lora:
        # The frozen base is that of --init_from: the checkpoint holds the adapters only.
        parameters = [name for name in trained if name in before and before[name].is_floating_point()]
        assert not [n for n in parameters if before[n].numel() > 64], "the frozen base is saved again"
        assert any("lora_" in name for name in trained)
    else:
        assert any(not torch.equal(trained[name], before[name]) for name in before if name in trained)
    for name, tensor in trained.items():
        if name in alone and alone[name].is_floating_point():
            torch.testing.assert_close(tensor, alone[name].float(), rtol=1e-3, atol=2e-4)


def test_the_average_starts_from_the_source(base: DistRun, make_run: MakeRun, tmp_path: Path) -> None:
    """Validation at the first step judges weights near the source's, not near an initialisation's."""
    tuned = make_run(
        tmp_path / "tuned",
        "zero2",
        arguments=arguments(f"--init_from={base.newest()}", "--trainer.val_check_interval=1"),
    )
    tuned.run()
    values = [float(row["value"]) for row in tuned.csv_rows("metrics_val.csv") if row["name"] == "val/loss"]
    before = [float(row["value"]) for row in base.csv_rows("metrics_val.csv") if row["name"] == "val/loss"]
    assert len(values) == 6
    assert values[0] < 1.5 * before[-1]
