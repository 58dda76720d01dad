"""Stages of the Appearance Expert under ZeRO on two ranks: what changes, what does not, what is saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from appearance_fakes import TRANSFORMER, VAE, run_config, save_base, write_config
from dist_runs import DistRun, Stop, assert_close_losses
from safetensors.torch import load_file
from zygote import Zygote

from macedance.models.appearance_expert.network import AppearanceExpert
from macedance.nn.precise import precise_names
from macedance.pipelines.checkpoint_content import read_content
from macedance.pipelines.whole_checkpoint import read_checkpoint

BLOCKS = ["transformer.blocks.*", "transformer.face_adapter.*"]
ZERO3 = ("--config=strategies/zero3", "--trainer.strategy.init_args.keep_whole_below=0")
#: Small weights stay whole, of either type.
ZERO3_SOME = ("--config=strategies/zero3", "--trainer.strategy.init_args.keep_whole_below=100")
ZERO2 = ("--config=strategies/zero2",)
#: Bytes of a checkpoint's files that are no numbers.
OVERHEAD = 150_000


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@dataclass
class Stages:
    """Finished runs of the stages, each made when it is first asked for."""

    zygote: Zygote
    base: Path
    folder: Path
    runs: dict[tuple[str, int, bool], DistRun] = field(default_factory=dict)
    bfloats: dict[tuple[str, tuple[str, ...]], DistRun] = field(default_factory=dict)

    @property
    def adapter(self) -> Path:
        """The checkpoint of a first stage on one rank, from which every second stage starts."""
        return self.run("kinematic").newest()

    def config(self, stage: str, again: bool) -> dict[str, Any]:
        source = self.adapter if stage == "aesthetic" else None
        return run_config(stage, self.base, init_from=source, activation_checkpointing=BLOCKS if again else None)

    def run(self, stage: str, ranks: int = 1, again: bool = False) -> DistRun:
        """A run; with `again` activations are computed twice."""
        key = (stage, ranks, again)
        if key not in self.runs:
            folder, config = self.folder / f"{stage}-{ranks}-{again}", self.config(stage, again)
            whole = str(folder / "whole.safetensors")
            saver = {"class_path": "tests.appearance_fakes.SaveWhole", "init_args": {"path": whole}}
            config["trainer"]["callbacks"] = [{"class_path": "dist_recorder.Recorder"}, saver]
            arguments = [write_config(folder, config), *(ZERO3 if ranks > 1 else ())]
            self.runs[key] = DistRun(self.zygote, folder, arguments, ranks=ranks, launcher=ranks > 1)
            self.runs[key].run()
        return self.runs[key]

    def bfloat16(self, stage: str, strategy: tuple[str, ...] = ()) -> DistRun:
        """A run in bf16-mixed over a base in bfloat16: two ranks, or one without a strategy."""
        key = (stage, strategy)
        if key not in self.bfloats:
            folder = self.folder / f"bfloat16-{len(self.bfloats)}"
            source = self.bfloat16("kinematic").newest() if stage == "aesthetic" else None
            config = run_config(stage, self.base, init_from=source, activation_checkpointing=BLOCKS)
            config["model"]["init_args"]["network"]["init_args"]["precision"] = "bfloat16"
            config["trainer"]["precision"] = "bf16-mixed"
            config["data"]["init_args"]["slow_bfloat16"] = True
            saver = {"class_path": "tests.appearance_fakes.SaveWhole"}
            saver["init_args"] = {"path": str(folder / "whole.safetensors")}
            config["trainer"]["callbacks"] = [{"class_path": "dist_recorder.Recorder"}, saver]
            ranks, arguments = 2 if strategy else 1, [write_config(folder, config), *strategy]
            self.bfloats[key] = DistRun(self.zygote, folder, arguments, ranks=ranks, launcher=bool(strategy))
            self.bfloats[key].run()
        return self.bfloats[key]


@pytest.fixture(scope="module")
def stages(base: Path, zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    return Stages(zygote, base, tmp_path_factory.mktemp("stages"))


@pytest.mark.parametrize("again", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("stage", ["kinematic", "aesthetic"])
def test_two_ranks_change_a_stage_s_tensors_and_no_other_bit(
    stage: str, again: bool, base: Path, stages: Stages
) -> None:
    single, sharded = stages.run(stage), stages.run(stage, 2, again)
    assert_close_losses(single, sharded, 1e-5)
    before = dict(AppearanceExpert(TRANSFORMER, VAE, weights=str(base)).state_dict())
    if stage == "aesthetic":
        before = read_checkpoint(stages.adapter).weights("raw")
    after = load_file(sharded.folder / "whole.safetensors")
    mark = ".lora_" if stage == "aesthetic" else "pose_patch_embedding"
    trained = {name for name in after if mark in name}
    assert len(trained) == (40 if stage == "aesthetic" else 2)
    changed = {
        n for n, v in after.items() if n in trained or not torch.equal(v, before[n.replace(".base_layer.", ".")])
    }
    assert changed == trained, "everything else is as it was, bit for bit"
    alone = load_file(single.folder / "whole.safetensors")
    for name in trained:
        assert not torch.equal(after[name], before.get(name, torch.zeros_like(after[name])))
        torch.testing.assert_close(after[name], alone[name], rtol=1e-3, atol=2e-4)

    content = read_content(sharded.newest())
    assert content.tensors.keys() == trained
    whole = read_checkpoint(sharded.newest()).trained("raw")
    assert whole.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in whole.items())
    size = sum(file.stat().st_size for file in sharded.newest().rglob("*") if file.is_file())
    numbers = sum(after[name].numel() for name in trained)
    weights, moments = 4 * numbers, 8 * numbers
    # DeepSpeed keeps its own copy of the float32 weights among the optimizer's state.
    assert size <= 2 * weights + moments + weights + OVERHEAD


@pytest.mark.parametrize(
    ("stage", "strategy"),
    [("kinematic", ZERO3), ("aesthetic", ZERO3_SOME), ("kinematic", ZERO2)],
    ids=["kinematic-zero3", "aesthetic-zero3", "kinematic-zero2"],
)
def test_in_bfloat16_two_ranks_change_a_stage_s_tensors_and_round_no_other(
    stage: str, strategy: tuple[str, ...], base: Path, stages: Stages
) -> None:
    single, sharded = stages.bfloat16(stage), stages.bfloat16(stage, strategy)
    assert_close_losses(single, sharded, 1e-2)
    before = dict(AppearanceExpert(TRANSFORMER, VAE, str(base), "bfloat16").state_dict())
    precise = precise_names(AppearanceExpert(TRANSFORMER, VAE))
    if stage == "aesthetic":
        before |= {n: v.bfloat16() for n, v in read_content(stages.bfloat16("kinematic").newest()).tensors.items()}
    after = load_file(sharded.folder / "whole.safetensors")
    plain = {name: name.replace(".base_layer.", ".") for name in after}
    mark = ".lora_" if stage == "aesthetic" else "pose_patch_embedding"
    trained = {name for name in after if mark in name}
    assert len(trained) == (40 if stage == "aesthetic" else 2)
    changed = {n for n, v in after.items() if n in trained or not torch.equal(v, before[plain[n]])}
    assert changed == trained, "everything else is as it was, bit for bit"
    assert {plain[n] for n, v in after.items() if v.dtype == torch.float32} == precise, "as diffusers has them"
    assert any(bool((v != v.bfloat16()).any()) for v in after.values()), "not rounded on the way"

    content = read_content(sharded.newest())
    assert content.tensors.keys() == trained
    masters = [value for name, value in content.tensors.items() if "lora_B" not in name]
    assert all(bool((value != value.bfloat16()).any()) for value in masters), "float32 is kept of what trains"
    whole = read_checkpoint(sharded.newest()).trained("raw")
    assert all(torch.equal(whole[name].to(value), value) for name, value in after.items())


def test_a_killed_stage_goes_on(stages: Stages, tmp_path: Path) -> None:
    """The second stage: it has both a base and a stage before it."""
    whole = stages.run("aesthetic", 2, True)
    recorder = "--trainer.callbacks+={class_path: dist_recorder.Recorder}"
    arguments = [write_config(tmp_path, stages.config("aesthetic", True)), recorder, *ZERO3]
    killed = DistRun(stages.zygote, tmp_path, arguments, ranks=2, launcher=True)
    killed.die(Stop("update", 1, 1))
    killed.run()
    assert killed.losses() == whole.losses()
    a, b = (read_content(run.newest()).tensors for run in (whole, killed))
    assert all(torch.equal(value, b[name]) for name, value in a.items())
