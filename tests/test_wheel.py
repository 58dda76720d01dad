"""The wheel works where the checkout is not: templates, configs and all packages are in it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(command: list[str], cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done


@pytest.mark.slow
def test_the_wheel_runs_from_an_empty_folder(tmp_path: Path, tiny_corpus: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment["MACEDANCE_QUIET"] = "1"
    run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)],
        tmp_path, environment,
    )  # fmt: skip
    wheel = next(tmp_path.glob("macedance-*.whl"))

    # The dependencies of this environment without the editable install of the checkout.
    seen = tmp_path / "dependencies"
    seen.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "macedance" not in entry.name.lower() and not entry.name.startswith("__editable__"):
            (seen / entry.name).symlink_to(entry)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(f"{seen}\n", encoding="utf-8")
    run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], tmp_path, environment)

    empty = tmp_path / "empty"
    empty.mkdir()
    command = str(tmp_path / "venv" / "bin" / "macedance")
    assert "generate" in run([command, "--help"], empty, environment).stdout
    where = run([str(python), "-c", "import launch, macedance; print(launch.__file__)"], empty, environment).stdout
    assert str(ROOT) not in where
    assert "parameters" in run([command, "summary", "--config", "mace_motion_demo"], empty, environment).stdout
    run(
        [command, "fit", "--config", "mace_motion_demo", "--config", "debug/mace_motion_cpu",
         "--data.shards", str(tiny_corpus), "--trainer.fast_dev_run", "true"],
        empty, environment,
    )  # fmt: skip
    assert "--reference" in run([command, "evaluate", "motion", "--help"], empty, environment).stdout
    # The batch script's template is a file of the package.
    submit = ["submit", "--config", "mace_motion_demo", "--data.shards", str(tiny_corpus), "--dry-run"]
    assert run([command, *submit], empty, environment).stdout.startswith("#!/bin/bash")
    code = "from macedance.report.page import Page; print(Page('t').html('.')[:15])"
    assert "<!doctype html>" in run([str(python), "-c", code], empty, environment).stdout.lower()
