"""Wrong requests of runs with several ranks: one line, the exit code, nothing half-written, nobody left waiting."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeRun
from dist_runs import DistRun, Stop, assert_same_run, error_lines
from zygote import Launch

USERS_MISTAKE = 2


def arguments(steps: int = 6) -> list[str]:
    return [
        f"--trainer.max_steps={steps}",
        "--trainer.val_check_interval=3",
        "--checkpoint_every_n_steps=2",
        "--model.network.init_args.dropout=0.1",
    ]


def refused(run: DistRun, *more: str, **options: Any) -> tuple[str, Launch]:
    """Start a request that must be refused on every rank; returns the one line."""
    launch = run.start(*more, **options)
    codes = launch.finish(60)
    assert set(codes) == {USERS_MISTAKE}, f"{codes}\n{launch.said()}"
    lines = error_lines(launch)
    assert len(lines) == 1, "\n".join(lines)
    assert lines[0].startswith("macedance fit: error: ")
    assert "Traceback" not in launch.said()
    return lines[0], launch


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--data.global_batch_size=3"], ["global_batch_size", "2 ranks", "set it to 2 or 4"]),
        (["--data.global_batch_size=40"], ["36 training samples", "one global batch of 40"]),
        (["--trainer.accumulate_grad_batches=4"], ["global_batch_size", "2 ranks x 4"]),
        (["--resume=must"], ["no checkpoint to resume from"]),
        (["--resume=/no/such/place"], ["/no/such/place"]),
        (["--resume=sometimes"], ["sometimes", "auto, never, must"]),
        (["--data.shards=/no/such/corpus"], ["/no/such/corpus"]),
    ],
)
def test_a_request_that_cannot_be_met(extra: list[str], expected: list[str], make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path, "ddp", arguments=[*arguments(), *extra])
    line, _ = refused(run)
    for part in expected:
        assert part in line
    assert not run.directory.exists()


def test_more_ranks_than_samples(make_run: MakeRun, tmp_path: Path) -> None:
    """Two training clips, four ranks."""
    from datamodules.streams.manifest import load_manifest

    corpus = two_clips(tmp_path / "corpus")
    assert load_manifest(corpus).splits["train"].samples == 2
    for batch in (4, 2):
        run = make_run(
            tmp_path / str(batch), "ddp", ranks=4,
            arguments=[*arguments(), f"--data.shards={corpus}", f"--data.global_batch_size={batch}"],
        )  # fmt: skip
        line, _ = refused(run)
        assert ("2 training samples" in line) if batch == 4 else ("4 ranks" in line)
        assert not run.directory.exists()


def two_clips(folder: Path) -> Path:
    """A corpus with two training clips."""
    import numpy as np

    from datamodules.streams.samples import ClipMeta
    from datamodules.streams.writer import CorpusWriter
    from macedance.motion.files import Motion

    draw = np.random.default_rng(0)
    with CorpusWriter(folder, fps=30.0, genres=["breaking"]) as writer:
        for number in range(2):
            poses = draw.normal(0, 0.1, (60, 24, 3)).astype(np.float32)
            trans = draw.normal(0, 0.1, (60, 3)).astype(np.float32)
            motion = Motion(poses=poses, trans=trans, fps=30.0, genre="breaking")
            music = draw.normal(0, 1, (60, 35)).astype(np.float32)
            writer.add("train", f"clip-{number}", motion, music, ClipMeta(song=f"song-{number}", start_s=0.0))
    return folder


def test_an_unknown_stage_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    strategy = tmp_path / "zero5.yaml"
    strategy.write_text(
        "trainer: {strategy: {class_path: lightning_modules.strategies.ZeroStrategy, init_args: {stage: 5}}}\n",
        encoding="utf-8",
    )
    run = make_run(tmp_path / "run", "ddp", arguments=[*arguments(), f"--config={strategy}"])
    line, _ = refused(run)
    assert "stage" in line
    assert "5" in line
    assert "1, 2" in line
    assert not run.directory.exists()


@pytest.mark.parametrize("kind", ["zero2", "zero3"])
def test_an_optimizer_of_whole_matrices_under_zero(kind: str, make_run: MakeRun, tmp_path: Path) -> None:
    """Its pieces are flat; stage 3's weights are no matrices from the start."""
    muon = "--model.optimizer={class_path: lightning_modules.optimizers.Muon, init_args: {smallest_side: 8}}"
    line, _ = refused(make_run(tmp_path, kind, arguments=[*arguments(), muon]))
    assert "Muon" in line


@pytest.mark.parametrize("rank", [0, 1])
def test_a_directory_that_one_rank_cannot_write_to(rank: int, make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path, "ddp", arguments=arguments())
    deny = {"MACEDANCE_TEST_DENY": str(run.directory)}
    line, _ = refused(run, rank_environments=[deny if r == rank else {} for r in range(2)])
    assert str(run.directory) in line
    assert f"rank {rank}" in line or rank == 0
    assert "write" in line or "lock" in line
    left = [p.name for p in run.directory.rglob("*")] if run.directory.exists() else []
    assert not left, left


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_keeps_the_checkpoint_before(rank: int, make_run: MakeRun, tmp_path: Path) -> None:
    """One rank's files may not grow beyond what its share of a checkpoint needs."""
    kind = "zero2"
    reference = make_run(tmp_path / "whole", kind, arguments=arguments())
    reference.run()
    run = make_run(tmp_path / "run", kind, arguments=arguments())
    run.die(Stop("backward", 3))
    assert run.newest().name == "step-00000002.ckpt"
    limit = {"MACEDANCE_TEST_FILE_LIMIT": "40000"}
    launch = run.start(rank_environments=[limit if r == rank else {} for r in range(2)])
    codes = launch.finish(60)
    assert 0 not in codes
    assert codes[0] == USERS_MISTAKE, launch.said()
    lines = [line for line in error_lines(launch) if line.startswith("macedance fit: error: ")]
    assert len(lines) == 1, launch.said()
    assert "step-00000004" in lines[0]
    assert [p.name for p in sorted(run.checkpoints.glob("step-*"))] == ["step-00000002.ckpt"]
    run.run()
    assert_same_run(reference, run)


def test_two_jobs_on_one_directory(make_run: MakeRun, tmp_path: Path) -> None:
    """The second is refused while the first lives, and takes over once it was killed."""
    reference = make_run(tmp_path / "whole", "ddp", arguments=arguments())
    reference.run()
    run = make_run(tmp_path / "run", "ddp", arguments=arguments())
    first = run.start(stops=[Stop("backward", 3, 0, signal.SIGSTOP)])
    sent = time.monotonic() + 60
    while not list(run.starts[0].glob("sent-*")) and time.monotonic() < sent:
        run.zygote.poll(0.05)
    try:
        line, _ = refused(run)
        assert socket.gethostname() in line
        assert str(first.pids[0]) in line
    finally:
        first.kill()
        first.wait(30)
    launch = run.run()
    assert "taken over" in launch.stderr()
    assert_same_run(reference, run)


@pytest.mark.parametrize(
    ("holder", "environment", "free"),
    [
        ({"host": "elsewhere", "pid": 1, "age_s": 5}, {}, False),
        ({"host": "elsewhere", "pid": 1, "age_s": 61}, {}, True),
        ({"host": "elsewhere", "pid": 1, "age_s": 5, "slurm_job_id": "77"}, {"SLURM_JOB_ID": "77"}, True),
        ({"host": "elsewhere", "pid": 1, "age_s": 5, "slurm_job_id": "77"}, {}, False),
    ],
)
def test_whose_lock_counts(
    holder: dict[str, Any], environment: dict[str, str], free: bool, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(tmp_path, arguments=arguments(steps=2))
    run.directory.mkdir(parents=True)
    content = {**holder, "heartbeat": time.time() - holder["age_s"], "token": "another", "process_start": 1}
    (run.directory / ".lock").write_text(json.dumps({"slurm_job_id": None, **content}), encoding="utf-8")
    if free:
        launch = run.run(environment=environment)
        assert "taken over" in launch.stderr()
        assert not (run.directory / ".lock").exists()
    else:
        line, _ = refused(run, environment=environment)
        assert "elsewhere" in line
        assert [p.name for p in run.directory.iterdir()] == [".lock"]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        p.relative_to(folder).as_posix(): (p.stat().st_mtime_ns, p.read_bytes())
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_a_finished_run_is_left_alone(make_run: MakeRun, tmp_path: Path) -> None:
    for kind in ("single", "ddp", "zero2"):
        run = make_run(tmp_path / kind, kind, arguments=arguments(steps=2))
        run.run()
        before = snapshot(run.directory)
        launch = run.run()
        assert "finished" in launch.stderr()
        assert snapshot(run.directory) == before


@pytest.mark.parametrize("kind", ["ddp", "zero2"])
def test_a_changed_run_is_not_resumed(kind: str, make_run: MakeRun, tmp_path: Path) -> None:
    """What changed is listed, all of it; and the run's files stay as they were."""
    from datamodules.corpora import cached_demo_corpus

    run = make_run(tmp_path / "run", kind, arguments=arguments())
    run.die(Stop("backward", 3))
    before = snapshot(run.checkpoints)
    line, _ = refused(run, "--model.optimizer.lr=0.01", "--data.window_frames=50")
    assert "model.init_args.optimizer.init_args.lr: 0.003 -> 0.01" in line
    assert "data.init_args.window_frames: 60 -> 50" in line
    other = cached_demo_corpus(num_clips=16, seed=0, workers=1)
    line, _ = refused(run, f"--data.shards={other}")
    assert "the corpus (manifest.json) is another" in line
    assert "the normaliser is another" in line
    stranger = make_run(tmp_path / "stranger", kind, arguments=[*arguments(), "--seed_everything=5"])
    line, _ = refused(stranger, f"--resume={run.newest()}")
    assert "another experiment" in line
    assert "seed_everything: 0 -> 5" in line
    assert not stranger.directory.exists()
    assert snapshot(run.checkpoints) == before


def test_a_checkpoint_of_another_sharding_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "zero2", arguments=arguments())
    run.die(Stop("backward", 3))
    from dist_runs import STRATEGIES

    run.arguments = [*run.arguments, *STRATEGIES["ddp"]]
    line, _ = refused(run)
    assert "zero2" in line
    assert "ddp" in line


def test_resume_never_and_by_path(make_run: MakeRun, tmp_path: Path) -> None:
    reference = make_run(tmp_path / "whole", "ddp", arguments=arguments())
    reference.run()
    run = make_run(tmp_path / "run", "ddp", arguments=arguments())
    run.die(Stop("backward", 5))
    line, _ = refused(run, "--resume=never")
    assert "already holds a run" in line
    run.run(f"--resume={run.checkpoints / 'step-00000002.ckpt'}")
    assert run.marks("start") == [2]
    assert_same_run(reference, run)
