"""--resume in one process: where a run goes on, what refuses it, and that its files come out the same."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from launch.main import main
from launch.resume import config_changes

SMALL = ["--config=mace_motion_demo", "--config=debug/mace_motion_cpu"]
STEPS = 4


def arguments(run_dir: Path, corpus: Path, *extra: str) -> list[str]:
    return [
        "fit", *SMALL, f"--run_dir={run_dir}", f"--data.shards={corpus}", f"--trainer.max_steps={STEPS}",
        "--trainer.val_check_interval=2", "--checkpoint_every_n_steps=1", "--keep_last_checkpoints=9",
        "--model.network.init_args.dropout=0.1", *extra,
    ]  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


def weights(run_dir: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    state = torch.load(run_dir / "checkpoints" / f"step-{step:08d}.ckpt" / "state.ckpt", weights_only=True)
    return {**state["state_dict"], **{f"ema.{k}": v for k, v in state["ema"].items()}}


def assert_same_files(a: Path, b: Path) -> None:
    for name in ("metrics.csv", "metrics_val.csv"):
        assert rows(a / name) == rows(b / name), name
    mine, other = weights(a), weights(b)
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def refused(run_dir: Path, corpus: Path, capsys: pytest.CaptureFixture[str], *extra: str) -> str:
    """Start a request that must be refused; returns its one line."""
    before = snapshot(run_dir)
    capsys.readouterr()
    assert main(arguments(run_dir, corpus, *extra)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert snapshot(run_dir) == before
    return lines[0]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "whole"
    assert main(arguments(folder, tiny_corpus)) == 0
    return folder


@pytest.fixture
def stopped(finished: Path, tmp_path: Path) -> Path:
    """The run as a kill after step 3 would have left it: rows of steps that no checkpoint holds included."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "checkpoints" / "last.ckpt").unlink()
    for step in (3, 4):
        shutil.rmtree(folder / "checkpoints" / f"step-{step:08d}.ckpt")
    return folder


def starts(run_dir: Path) -> list[int | None]:
    content = json.loads((run_dir / "provenance.json").read_text(encoding="utf-8"))
    return [start["resumed_from_step"] for start in content["starts"]]


def test_auto_goes_on_from_the_newest(stopped: Path, finished: Path, tiny_corpus: Path) -> None:
    assert main(arguments(stopped, tiny_corpus)) == 0
    assert starts(stopped) == [None, 2]
    assert_same_files(finished, stopped)


def test_auto_passes_over_a_damaged_one(
    stopped: Path, finished: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = stopped / "checkpoints" / "step-00000002.ckpt" / "state.ckpt"
    state.write_bytes(state.read_bytes()[:-1])
    assert main(arguments(stopped, tiny_corpus)) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "not used" in line]
    assert len(told) == 1
    assert "step-00000002.ckpt" in told[0]
    assert "state.ckpt" in told[0]
    assert starts(stopped) == [None, 1]
    assert_same_files(finished, stopped)


def test_a_path_goes_on_from_that_checkpoint(stopped: Path, finished: Path, tiny_corpus: Path) -> None:
    path = stopped / "checkpoints" / "step-00000001.ckpt"
    assert main(arguments(stopped, tiny_corpus, f"--resume={path}")) == 0
    assert starts(stopped) == [None, 1]
    assert_same_files(finished, stopped)


def test_a_validation_that_was_due_is_made_up_for(stopped: Path, finished: Path, tiny_corpus: Path) -> None:
    """Killed between the checkpoint of step 2 and its validation."""
    text = (stopped / "metrics_val.csv").read_text(encoding="utf-8").splitlines()
    kept = [line for line in text if not line.startswith(("2,", "4,"))]
    assert len(kept) < len(text)
    (stopped / "metrics_val.csv").write_text("\n".join(kept) + "\n", encoding="utf-8")
    assert main(arguments(stopped, tiny_corpus)) == 0
    assert_same_files(finished, stopped)


def test_must_needs_a_checkpoint(tmp_path: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(tmp_path / "new", tiny_corpus, capsys, "--resume=must")
    assert "no checkpoint to resume from" in line
    assert not (tmp_path / "new").exists()


def test_never_leaves_a_run_alone(stopped: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "already holds a run" in refused(stopped, tiny_corpus, capsys, "--resume=never")


def test_changed_keys_are_listed_and_may_be_insisted_on(
    stopped: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["--model.optimizer.lr=0.01", "--data.window_frames=50", "--seed_everything=3"]
    line = refused(stopped, tiny_corpus, capsys, *changes)
    for told in (
        "model.init_args.optimizer.init_args.lr: 0.003 -> 0.01",
        "data.init_args.window_frames: 60 -> 50",
        "seed_everything: 0 -> 3",
    ):
        assert told in line
    assert main(arguments(stopped, tiny_corpus, changes[0], "--resume_changed=true")) == 0
    assert "0.003 -> 0.01" in capsys.readouterr().err
    assert starts(stopped) == [None, 2]


def test_another_corpus_is_refused(stopped: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = stopped.parent / "other"
    shutil.copytree(tiny_corpus, other)
    content = json.loads((other / "manifest.json").read_text(encoding="utf-8"))
    content["notes"] = [*content.get("notes", []), "changed"]
    (other / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    line = refused(stopped, other, capsys)
    assert "the corpus (manifest.json) is another" in line
    assert "the normaliser is another" not in line


def test_the_checkpoint_of_another_experiment_is_refused(
    finished: Path, tmp_path: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished / "checkpoints" / "step-00000002.ckpt"
    line = refused(tmp_path / "new", tiny_corpus, capsys, f"--resume={path}", "--model.network.init_args.latent_dim=48")
    assert "another experiment" in line
    assert "latent_dim: 32 -> 48" in line
    assert not (tmp_path / "new").exists()


def test_more_steps_go_on_from_the_end(stopped: Path, tiny_corpus: Path) -> None:
    """max_steps may grow: the run is then not finished."""
    assert main(arguments(stopped, tiny_corpus)) == 0
    assert main(arguments(stopped, tiny_corpus, "--trainer.max_steps=5")) == 0
    assert starts(stopped) == [None, 2, 4]
    assert [row["step"] for row in rows(stopped / "metrics.csv")] == ["1", "2", "3", "4", "5"]


def test_config_changes_tell_what_computes_from_what_only_runs() -> None:
    then = {"seed_everything": 0, "trainer": {"devices": 1, "max_steps": 10, "gradient_clip_val": 1.0}}
    now = {"seed_everything": 0, "trainer": {"devices": 2, "max_steps": 20, "gradient_clip_val": 0.5}}
    telling, free = config_changes(then, now)
    assert telling == ["trainer.gradient_clip_val: 1.0 -> 0.5"]
    assert free == ["trainer.max_steps: 10 -> 20"]


def test_a_changed_average_is_a_changed_run_and_a_changed_preview_is_not() -> None:
    def config(decay: float, every: int) -> dict[str, object]:
        return {
            "trainer": {
                "callbacks": [
                    {"class_path": "callbacks.ema.EmaCallback", "init_args": {"decay": decay}},
                    {"class_path": "callbacks.samples.SampleVideos", "init_args": {"every_n_steps": every}},
                ]
            }
        }

    assert config_changes(config(0.9, 1), config(0.9, 2)) == ([], [])
    telling, _ = config_changes(config(0.9, 1), config(0.99, 1))
    assert len(telling) == 1
