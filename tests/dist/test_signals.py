"""SIGUSR1 and SIGTERM at every place of a run: exit 75, no lost step, no hang, and a resume that nobody notices."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from conftest import MakeRun
from dist_runs import DistRun, Stop, assert_same_run

PREEMPTED = 75
STEPS = 10
#: where -> (place, micro-step, step at which the run is to be resumed); validation at 4 and 8, checkpoints at 3, 6, 9.
PLACES: dict[str, tuple[str, int, int]] = {
    "before the first step": ("train_start", 0, 0),
    "set-up": ("fit_start", 0, 0),
    "forward": ("forward", 4, 5),
    "backward": ("backward", 7, 8),
    "optimizer step": ("update", 4, 5),
    "validation": ("validation", 4, 4),
    "last of a validation": ("validation_end", 4, 5),
    "save": ("save_files", 5, 6),
    "after the rename": ("save_link", 5, 6),
}


def arguments(workers: int = 0) -> list[str]:
    return [
        f"--trainer.max_steps={STEPS}",
        "--trainer.val_check_interval=4",
        "--checkpoint_every_n_steps=3",
        "--model.network.init_args.dropout=0.1",
        f"--data.num_workers={workers}",
    ]


@pytest.fixture(scope="module")
def references(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DistRun]:
    """The runs that no signal reaches."""
    runs = {}
    for kind in ("single", "ddp"):
        runs[kind] = make_run(tmp_path_factory.mktemp("reference") / kind, kind, arguments=arguments())
        runs[kind].run()
    return runs


def interrupted_at(run: DistRun) -> int:
    """Last step that the start before completed, by its own records."""
    return max([line["step"] for line in run.records()], default=0)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM], ids=["USR1", "TERM"])
@pytest.mark.parametrize("kind", ["single", "ddp"])
def test_a_signal_anywhere_saves_the_step_and_ends_with_75(
    kind: str, number: signal.Signals, make_run: MakeRun, references: dict[str, DistRun], tmp_path: Path
) -> None:
    """One rank gets the signal; a second, of the other kind, follows while the checkpoint is written."""
    other = signal.SIGTERM if number == signal.SIGUSR1 else signal.SIGUSR1
    # Every place meets both signals, one of them with one rank and the other with two.
    places = list(PLACES)[int((number == signal.SIGUSR1) == (kind == "single")) :: 2]
    for count, where in enumerate(places):
        place, micro, step = PLACES[where]
        rank = count % 2 if kind == "ddp" and place != "save_link" else 0
        run = make_run(tmp_path / where.replace(" ", "-"), kind, arguments=arguments())
        stops = [Stop(place, micro, rank, number), Stop("save_begin", micro, "all", other)]
        run.run(expect=PREEMPTED, stops=stops, timeout_s=60)
        assert (interrupted_at(run), where) == (step, where)
        run.run(timeout_s=60)
        assert (run.marks("start"), where) == ([step], where), "a step was lost or repeated"
        assert_same_run(references[kind], run)


def test_a_signal_while_a_rank_still_imports_its_libraries(
    make_run: MakeRun, references: dict[str, DistRun], tmp_path: Path
) -> None:
    """On a busy file system that takes longer than the scheduler's warning leads: no crash, nothing trained, 75."""
    run = make_run(tmp_path / "run", "ddp", arguments=arguments())
    early = {"MACEDANCE_TEST_EARLY_SIGNAL": str(int(signal.SIGUSR1))}
    launch = run.run(expect=PREEMPTED, rank_environments=[{}, early])
    assert interrupted_at(run) == 0
    assert "preempted" in launch.stderr()
    run.run()
    assert_same_run(references["ddp"], run)


def test_all_ranks_and_their_loaders_signalled_at_any_time(make_run: MakeRun, tmp_path: Path) -> None:
    """As a scheduler does: every process of the job, whenever it likes, more than once."""
    reference = make_run(tmp_path / "whole", "ddp", arguments=arguments(workers=1))
    reference.run()
    draw = random.Random(0)
    run = make_run(tmp_path / "run", "ddp", arguments=arguments(workers=1))
    codes: list[int] = []
    for _ in range(6):
        launch = run.start()
        waited = time.monotonic() + 60
        while not (run.starts[-1] / "rank-1.jsonl").exists() and time.monotonic() < waited and not launch.codes:
            run.zygote.poll(0.01)
        time.sleep(draw.uniform(0.0, 0.15))
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
            launch.kill(number, children=True)
        codes = launch.finish(60)
        assert codes in ([PREEMPTED, PREEMPTED], [0, 0]), f"{codes}\n{launch.said()}"
        if codes == [0, 0]:
            break
    if codes != [0, 0]:
        run.run()
    assert len(run.starts) > 1
    assert_same_run(reference, run)


def test_a_signal_at_the_last_step_lets_the_run_end(
    make_run: MakeRun, references: dict[str, DistRun], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", arguments=arguments())
    run.run(stops=[Stop("backward", STEPS - 1, 0, signal.SIGTERM)])
    assert_same_run(references["single"], run)


def test_zero_saves_its_shards_on_a_signal(make_run: MakeRun, tmp_path: Path) -> None:
    for kind in ("zero2", "zero3"):
        reference = make_run(tmp_path / kind / "whole", kind, arguments=arguments())
        reference.run()
        run = make_run(tmp_path / kind / "run", kind, arguments=arguments())
        run.run(expect=PREEMPTED, stops=[Stop("backward", 4, 1, signal.SIGUSR1)])
        run.run(expect=PREEMPTED, stops=[Stop("validation", 8, 0, signal.SIGTERM)])
        run.run()
        assert run.marks("start") == [8]
        assert_same_run(reference, run)
