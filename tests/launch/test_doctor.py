"""What the doctor must find: a torchvision and a mamba-ssm that are there and do not import, a missing compiler."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from launch import doctor


def fake_package(folder: Path, name: str, body: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(body, encoding="utf-8")


@pytest.fixture
def extra_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_an_unimportable_torchvision_is_found(extra_path: Path) -> None:
    fake_package(extra_path, "torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    finding = doctor.check_torchvision()
    assert finding.status == "broken"
    assert "nms does not exist" in finding.detail
    assert "torchmetrics" in finding.disables or "metrics" in finding.disables
    assert "pip uninstall torchvision" in finding.fix


def test_a_mamba_without_its_extension_is_found(extra_path: Path) -> None:
    fake_package(extra_path, "mamba_ssm", "import selective_scan_cuda")
    finding = doctor.check_mamba()
    assert finding.status == "broken"
    assert "selective_scan_cuda" in finding.detail
    assert "our own scan" in finding.disables


def test_missing_compiler_and_headers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    finding = doctor.check_deepspeed()
    assert finding.status == "broken"
    assert "no C++ compiler" in finding.detail
    assert "Python headers" in finding.detail
    assert "apt-get install g++" in finding.fix


def test_missing_encoders_make_the_machine_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    from macedance.rendering import probe

    monkeypatch.setattr(probe, "codec_report", lambda: probe.CodecReport(None, "aac", "no h264 encoder"))
    finding = doctor.check_codecs()
    assert finding.status == "broken"
    assert finding.required


def test_an_unwritable_cache_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("", encoding="utf-8")
    monkeypatch.setenv("MACEDANCE_CACHE", str(blocker / "cache"))
    finding = doctor.check_cache()
    assert finding.status == "broken"
    assert "MACEDANCE_CACHE" in finding.fix


def test_a_failing_check_is_itself_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_nothing() -> doctor.Check:
        raise ValueError("surprise")

    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_python, check_nothing))
    findings = doctor.run_checks()
    assert [f.status for f in findings] == ["ok", "broken"]
    assert sys.version.split()[0] == findings[0].detail
