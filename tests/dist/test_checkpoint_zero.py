"""Checkpoints of two ranks under ZeRO: read without DeepSpeed, cut for other numbers of ranks, refused together."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeRun
from dist_runs import DistRun, Stop, assert_close_losses, assert_same_run, error_lines

from launch.reshape import reshape
from macedance.pipelines.checkpoint_folder import list_checkpoints, read_manifest, scan_pickles, verify
from macedance.pipelines.checkpoint_fragments import assemble_fragments
from macedance.pipelines.export import export_pretrained
from macedance.pipelines.motion_weights import load_folder

STAGES = ("zero1", "zero2", "zero3")
WITNESS = "--trainer.callbacks+={class_path: checkpoint_probe.Witness}"
FULL_DISK = "--trainer.callbacks+={class_path: checkpoint_probe.FullDisk}"
ADAN = ["--model.optimizer.class_path=pytorch_optimizer.Adan", "--model.optimizer.init_args.lr=0.001"]


def arguments(steps: int = 4, *more: str) -> list[str]:
    return [f"--trainer.max_steps={steps}", "--checkpoint_every_n_steps=2", "--trainer.val_check_interval=4", *more]


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_folder(folder).network.state_dict())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module", params=STAGES)
def finished(request: pytest.FixtureRequest, make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> DistRun:
    """Four steps with Adan, which keeps three moments, saved at 2 and 4, validated at 4."""
    run = make_run(tmp_path_factory.mktemp(request.param), request.param, arguments=[*arguments(4, WITNESS), *ADAN])
    run.run()
    return run


def test_it_is_whole_safe_and_says_what_it_is(finished: DistRun) -> None:
    folder = finished.newest()
    manifest = verify(folder)
    scan_pickles(folder)
    assert (manifest.step, manifest.position, manifest.world_size) == (4, 16, 2)
    assert manifest.strategy in STAGES
    assert manifest.ended
    names = set(manifest.files)
    for rank in ("0000", "0001"):
        assert {f"rank-{rank}.pt", f"weights-{rank}.safetensors", f"ema-{rank}.safetensors"} <= names
    assert {"latest", "model.json", "config.yaml"} <= names
    assert not any(name.endswith(".py") for name in names)
    assert (finished.checkpoints / "last.ckpt").resolve() == folder.resolve()


def test_the_export_is_what_validation_saw_and_needs_no_deepspeed(
    finished: DistRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    record = finished.starts[0]
    validated = torch.load(record / "validated-4.pt", weights_only=True)
    trained = torch.load(record / "trained-4.pt", weights_only=True)
    assert same(weights_in(export_pretrained(finished.newest(), tmp_path / "ema", "ema")), validated)
    assert same(weights_in(export_pretrained(finished.directory, tmp_path / "raw", "raw")), trained)
    assert not same(validated, trained)


def flat_tensors(folder: Path) -> dict[str, Any]:
    """Every tensor and number of DeepSpeed's files of this session's own run."""
    found: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{path}/{key}")
        elif isinstance(value, list | tuple):
            for number, part in enumerate(value):
                walk(part, f"{path}/{number}")
        elif isinstance(value, torch.Tensor | int | float):
            found[path] = value

    for file in sorted((folder / "checkpoint").glob("*.pt")):
        walk(torch.load(file, weights_only=False), file.name)
    return {path: value for path, value in found.items() if "/callbacks/" not in path}


def shares_held(folder: Path) -> dict[int, torch.Tensor]:
    """Stage 3: rank -> which elements of its flat tensors are parameters, and not padding behind one of them."""
    file = folder / "checkpoint" / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    if not file.exists():
        return {}
    (shapes,) = torch.load(file, weights_only=False)["param_shapes"]
    held = {}
    for rank in (0, 1):
        parts = []
        for shape in shapes.values():
            part = -(-shape.numel() // 2)
            parts.append(torch.arange(rank * part, (rank + 1) * part) < shape.numel())
        held[rank] = torch.cat(parts)
    assert not held[1].all()
    return held


@pytest.mark.parametrize("ranks", [1, 3, 5])
def test_cut_for_other_ranks_and_back_it_is_the_same(finished: DistRun, tmp_path: Path, ranks: int) -> None:
    folder = finished.newest()
    cut = reshape(folder, tmp_path / "cut", ranks)
    manifest = verify(cut)
    scan_pickles(cut)
    assert manifest.world_size == ranks
    assert len([name for name in manifest.files if name.endswith("optim_states.pt")]) == ranks
    for kind in ("weights", "ema"):
        assert same(assemble_fragments(cut, kind), assemble_fragments(folder, kind))
    back = reshape(cut, tmp_path / "back", 2)
    before, after = flat_tensors(folder), flat_tensors(back)
    assert before.keys() == after.keys()
    assert sum(isinstance(v, torch.Tensor) and v.numel() > 1000 for v in before.values()) >= 8
    held = shares_held(folder)
    for path, value in before.items():
        if isinstance(value, torch.Tensor):
            mine, other = value.detach(), after[path].detach()
            share = held.get(int(path[13]) if path.startswith("zero_pp_rank_") else -1)
            if share is not None and mine.shape == share.shape:  # not the padding, which nobody reads
                mine, other = mine[share], other[share]
            assert torch.equal(mine, other), path
        else:
            assert value == after[path], path


@pytest.mark.parametrize("kind", ["zero2", "zero3"])
def test_a_run_goes_on_with_fewer_ranks_whatever_its_optimizer_keeps(
    make_run: MakeRun, tmp_path: Path, kind: str
) -> None:
    """Adan's third moment and last gradient too."""
    whole = make_run(tmp_path / "whole", kind, arguments=[*arguments(5), *ADAN])
    whole.run()
    part = make_run(tmp_path / "part", kind, arguments=[*arguments(5), *ADAN])
    part.die(Stop("forward", 3))
    launch = part.run(ranks=1)
    assert "cut for 1" in launch.said()
    assert part.marks("start") == [2]
    assert_close_losses(whole, part, 1e-5)
    assert not list(part.checkpoints.glob(".*.ranks-*")), "the copy goes with the next save"


@pytest.mark.parametrize("kind", ["zero2", "zero3"])
def test_fine_tuned_checkpoints_hold_what_trained_and_go_on(make_run: MakeRun, tmp_path: Path, kind: str) -> None:
    base = make_run(tmp_path / "base", "single", arguments=arguments(2))
    base.run()
    folder = export_pretrained(base.directory, tmp_path / "model", "raw")
    tuning = [*arguments(4, WITNESS), f"--init_from={folder}", '--model.train_only=["final_layer.*"]']
    whole = make_run(tmp_path / "whole", kind, arguments=tuning)
    whole.run()
    newest = whole.newest()
    held = {name for name in assemble_fragments(newest, "weights") if name.startswith("network.")}
    assert held == {"network.final_layer.weight", "network.final_layer.bias"}
    largest = max(verify(newest).files.items(), key=lambda item: item[1].bytes)
    assert verify(newest).total_bytes < 600_000, largest
    part = make_run(tmp_path / "part", kind, arguments=tuning)
    part.die(Stop("forward", 3))
    part.run()
    assert_same_run(whole, part)
    exported = weights_in(export_pretrained(newest, tmp_path / "tuned", "raw"))
    assert same(exported, torch.load(whole.starts[0] / "trained-4.pt", weights_only=True))


@pytest.mark.parametrize(
    ("kind", "rank", "name"),
    [
        ("zero2", 1, "optim_states"),
        ("zero3", 1, "model_states"),
        ("zero2", 0, "latest"),
        ("zero3", 1, "weights-"),
        ("zero1", 1, "rank-0001"),
        ("ddp", 0, "state.ckpt"),
        ("ddp", 0, "manifest"),
    ],
)
def test_a_rank_without_space_stops_all_and_the_last_checkpoint_stays(
    make_run: MakeRun, tmp_path: Path, kind: str, rank: int, name: str
) -> None:
    run = make_run(tmp_path, kind, arguments=arguments(6, FULL_DISK))
    launch = run.run(expect=2, environment={"MACEDANCE_TEST_FULL": f"{rank}:4:{name}"}, timeout_s=90)
    lines = error_lines(launch)
    assert len(lines) == 1, launch.said()
    assert "No space left on device" in lines[0]
    assert f"rank {rank} of 2" in lines[0]
    assert [read_manifest(folder).step for folder in list_checkpoints(run.directory)] == [2]
    verify(run.newest())
    assert not [path for path in run.checkpoints.iterdir() if path.name.startswith(".")]
