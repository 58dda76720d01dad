"""The command's front: help, verbs, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from launch.main import VERBS, main


def test_help_is_quick_and_names_every_verb() -> None:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-m", "launch.main", "--help"], capture_output=True, text=True, check=False
        )
        times.append(time.perf_counter() - started)
        assert run.returncode == 0
        assert all(verb in run.stdout for verb in VERBS)
    assert min(times) < 0.5, times


def test_help_imports_no_torch() -> None:
    code = "import sys; from launch.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("verb", [v for v in VERBS])
def test_every_verb_explains_itself(verb: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "launch.main", verb, "--help"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0
    assert f"macedance {verb}" in run.stdout


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["genrate"]) == 2
    error = capsys.readouterr().err
    assert "did you mean generate?" in error
    assert error.count("\n") == 1


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("macedance 0.")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["generate", "--music", "x"], "--out"),
        (["generate", "--music", "x", "--out", "z"], "--model"),
        (["generate", "--music", "x", "--model", "y", "--out", "z", "--beta", "0"], "--beta"),
        (["generate", "--music", "x", "--model", "y", "--out", "z", "--beta", "1.5"], "--beta"),
        (["generate", "--music", "x", "--model", "y", "--out", "z", "--seconds", "-3"], "--seconds"),
        (["generate", "--music", "x", "--model", "y", "--out", "z", "--seconds", "0"], "--seconds"),
        (["generate", "--music", "x", "--model", "y", "--out", "z", "--seconds", "nan"], "--seconds"),
        (["generate", "--music", "x", "--model", "y", "--out", "z", "--steps", "0"], "--steps"),
        (["generate", "--music", "x", "--model", "y", "--out", "z", "--formats", "npz,fbx"], "fbx"),
        (["generate", "--music", "x", "--model", "y", "--out", "z", "--size", "33"], "--size"),
        (["data", "demo", "--out", "z", "--clips", "15"], "16"),
        (["data", "demmo", "--out", "z"], "demo"),
        (["fit", "--config", "no_such_experiment"], "mace_motion"),
        (["fit", "--trainer.max_steps", "3"], "--config"),
        (["fit", "--config", "mace_motion_demo", "--trainer.max_step", "3"], "trainer.max_steps"),
        (["fit", "--config", "mace_motion_demo", "--data.shard", "3"], "data.shards"),
        (["fit", "--config", "mace_motion_demo", "--model.network.init_args.latnt_dim=8"], "latent_dim"),
        (["convert", "mace-motion", "no-such-file", "--out", "z"], "no-such-file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.strip().count("\n") == 0, error
    assert list(tmp_path.iterdir()) == [], "something was left behind"


def test_doctor_finds_this_machine_ready(capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MACEDANCE_CACHE", str(tmp_path / "cache"))
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ready"] is True
    assert {c["name"] for c in report["checks"]} >= {"torch", "torchvision", "mamba-ssm", "video codecs", "DeepSpeed"}
    assert all(c["status"] in ("ok", "absent", "broken") for c in report["checks"])
