"""Every file of a checkpoint truncated, bit-flipped or removed in turn: detected, said, and the one before it used."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import MakeRun
from dist_runs import DistRun, Stop, assert_same_result, error_lines
from zygote import Launch

from macedance.errors import MaceDanceError
from macedance.pipelines.checkpoint_folder import verify

STEPS, SAVED = 7, (3, 6)


def arguments() -> list[str]:
    return [
        f"--trainer.max_steps={STEPS}",
        "--trainer.val_check_interval=6",
        "--checkpoint_every_n_steps=3",
        "--model.network.init_args.dropout=0.1",
    ]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bit(path: Path) -> None:
    """One bit in the middle: same size, and often still readable."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def remove(path: Path) -> None:
    path.unlink()


DAMAGES: dict[str, Callable[[Path], None]] = {"truncated": truncate, "flipped": flip_bit, "removed": remove}


@dataclass
class Stopped:
    """A run that was killed after its second checkpoint, and the one that was not."""

    reference: DistRun
    killed: DistRun
    make: Callable[..., DistRun]
    kind: str

    def copy(self, folder: Path) -> DistRun:
        """The killed run's directory once more, to be damaged."""
        other = self.make(folder, self.kind, arguments=arguments())
        shutil.copytree(self.killed.directory, other.directory, symlinks=True)
        return other

    @property
    def files(self) -> list[str]:
        """Every file of the newest checkpoint."""
        newest = self.killed.newest()
        return sorted(p.relative_to(newest).as_posix() for p in newest.rglob("*") if p.is_file())


def stopped(kind: str, make_run: MakeRun, folder: Path) -> Stopped:
    reference = make_run(folder / "whole", kind, arguments=arguments())
    reference.run()
    killed = make_run(folder / "killed", kind, arguments=arguments())
    killed.die(Stop("backward", SAVED[-1]))
    assert killed.newest().name == f"step-{SAVED[-1]:08d}.ckpt"
    return Stopped(reference, killed, make_run, kind)


@pytest.fixture(scope="module", params=["single", "zero2"])
def stopped_run(request: pytest.FixtureRequest, make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    return stopped(request.param, make_run, tmp_path_factory.mktemp(request.param))


def warnings_of(launch: Launch) -> list[str]:
    """Lines of all ranks that speak of a checkpoint that is not used."""
    said = [line for rank in range(len(launch.pids)) for line in launch.stderr(rank).splitlines()]
    return [line for line in said if "not used" in line]


def test_every_file_counts_and_no_damage_passes(stopped_run: Stopped, tmp_path: Path) -> None:
    files = stopped_run.files
    assert "manifest.json" in files
    assert len(files) >= (3 if stopped_run.kind == "single" else 8), files
    run = stopped_run.copy(tmp_path / "run")
    verify(run.newest())
    for name, (damage, apply) in itertools.product(files, DAMAGES.items()):
        path = run.newest() / name
        content = path.read_bytes()
        apply(path)
        with pytest.raises(MaceDanceError, match=re.escape(name) + "|manifest"):
            pytest.fail(f"{name} {damage}: {verify(run.newest())}")
        path.write_bytes(content)
    verify(run.newest())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_detected_and_the_checkpoint_before_used(
    damage: str, stopped_run: Stopped, tmp_path: Path
) -> None:
    """Every file is hit; a sharded checkpoint's many files by one kind of damage each."""
    turn, step = (0, 1) if stopped_run.kind == "single" else (list(DAMAGES).index(damage), len(DAMAGES))
    for number, name in enumerate(stopped_run.files[turn::step]):
        run = stopped_run.copy(tmp_path / str(number))
        DAMAGES[damage](run.newest() / name)
        launch = run.run()
        told = warnings_of(launch)
        assert len(told) == 1, f"{name} {damage}: {told}\n{launch.said()}"
        assert "step-00000006.ckpt" in told[0]
        assert name in told[0] or "manifest" in told[0], f"{name}: {told[0]}"
        assert run.marks("start") == [SAVED[0]], name
        assert_same_result(stopped_run.reference, run)


def test_a_file_too_many_is_no_checkpoint_of_ours(stopped_run: Stopped, tmp_path: Path) -> None:
    run = stopped_run.copy(tmp_path / "run")
    (run.newest() / "extra.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    launch = run.run()
    (told,) = warnings_of(launch)
    assert "extra.pt" in told
    assert run.marks("start") == [SAVED[0]]


def test_a_shard_of_another_checkpoint_is_noticed(stopped_run: Stopped, tmp_path: Path) -> None:
    """Whole, readable, of the right size, and of another step."""
    run = stopped_run.copy(tmp_path / "run")
    name = next(f for f in stopped_run.files if f.endswith(("rank-0000.pt", "rank_0_mp_rank_00_optim_states.pt")))
    shutil.copy(run.checkpoints / "step-00000003.ckpt" / name, run.newest() / name)
    launch = run.run()
    (told,) = warnings_of(launch)
    assert name in told
    assert_same_result(stopped_run.reference, run)


def test_with_every_checkpoint_damaged_nothing_is_started_or_lost(stopped_run: Stopped, tmp_path: Path) -> None:
    run = stopped_run.copy(tmp_path / "run")
    for folder in run.checkpoints.glob("step-*.ckpt"):
        truncate(folder / "manifest.json")
    before = (run.directory / "metrics.csv").read_bytes()
    launch = run.run(expect=2)
    (line,) = error_lines(launch)
    assert "step-00000003.ckpt" in line
    assert "step-00000006.ckpt" in line
    assert (run.directory / "metrics.csv").read_bytes() == before


def test_a_save_that_was_cut_short_is_no_checkpoint(stopped_run: Stopped, tmp_path: Path) -> None:
    """What a kill leaves behind under the temporary name is not used, and gone after the next start."""
    run = stopped_run.copy(tmp_path / "run")
    half = run.checkpoints / ".step-00000006.ckpt.tmp"
    run.newest().rename(half)
    (half / "manifest.json").unlink()
    run.run()
    assert run.marks("start") == [SAVED[0]]
    assert not half.exists()
    assert_same_result(stopped_run.reference, run)
