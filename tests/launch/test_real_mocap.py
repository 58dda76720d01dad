"""Real motion capture: a corpus by the command, training by the same command, and back to BVH."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from launch.main import main
from macedance.motion.bvh import read_bvh, write_bvh
from macedance.motion.retarget import load_bvh_motion, retarget_to_smpl

pytestmark = pytest.mark.shared


def test_mocap_trains_for_200_steps_and_goes_back_to_bvh(shared_dir: Path, tmp_path: Path, capsys) -> None:
    source = tmp_path / "bvh"
    source.mkdir()
    files = sorted((shared_dir / "data" / "motion").glob("*/*.bvh"))
    assert len(files) == 9
    for file in files:
        (source / file.name).symlink_to(file)
    corpus = tmp_path / "corpus"
    assert main(["data", "bvh", "--bvh", str(source), "--music", "none", "--out", str(corpus)]) == 0
    run = tmp_path / "run"
    assert (
        main(
            ["fit", "--config", "mace_motion_demo", "--config", "debug/mace_motion_cpu", "--run_dir", str(run),
             "--data.shards", str(corpus), "--trainer.max_steps", "200", "--trainer.val_check_interval", "100",
             "--trainer.callbacks", "[]"]
        )
        == 0
    )  # fmt: skip
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 200
    assert np.isfinite(losses).all()
    assert np.mean(losses[-20:]) < 0.5 * losses[0]

    for file in files:
        motion = load_bvh_motion(file)
        write_bvh(tmp_path / "again.bvh", motion)
        again = retarget_to_smpl(read_bvh(tmp_path / "again.bvh"))
        assert np.abs(again.joint_positions() - motion.joint_positions()).max() < 1e-4, file.name
