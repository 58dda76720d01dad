"""BlazePose's networks are taken out of a wheel, checked, and only then written."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from macedance.errors import CheckpointError, DependencyError, TransportError
from macedance.vision import blazepose_weights
from macedance.vision.blazepose import BlazePoseKeypoints, LiteRTNetwork
from macedance.vision.blazepose_weights import DETECTION, LANDMARKS, SHA256, extract_blazepose, fetch_blazepose

CONTENT = {DETECTION: b"first network", LANDMARKS: b"second network"}
MEMBERS = {
    DETECTION: f"mediapipe/modules/pose_detection/{DETECTION}",
    LANDMARKS: f"mediapipe/modules/pose_landmark/{LANDMARKS}",
}


def wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(MEMBERS[name], CONTENT[name])
        archive.writestr("../../evil.py", "raise SystemExit")
    return path


def test_the_two_members_are_written_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    monkeypatch.setattr(blazepose_weights, "SHA256", hashes)
    extract_blazepose(wheel(tmp_path / "a.whl", DETECTION, LANDMARKS), tmp_path / "out" / "in")
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written == CONTENT


def test_another_network_than_the_published_one_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=SHA256[DETECTION]):
        extract_blazepose(wheel(tmp_path / "a.whl", DETECTION, LANDMARKS), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wheels_that_lack_a_network_or_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks a network: .*pose_landmark_full"):
        extract_blazepose(wheel(tmp_path / "a.whl", DETECTION), tmp_path / "out")
    (tmp_path / "b.whl").write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match="no readable wheel"):
        extract_blazepose(tmp_path / "b.whl", tmp_path / "out")


def test_without_an_index_pip_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(TransportError, match=r"mediapipe==0\.10\.14"):
        fetch_blazepose(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="another file"):
        BlazePoseKeypoints.from_folder(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        BlazePoseKeypoints.from_folder(tmp_path / "nowhere")
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        LiteRTNetwork(tmp_path / DETECTION)


def test_without_litert_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(DependencyError, match="pip install ai-edge-litert"):
        LiteRTNetwork(tmp_path / DETECTION)
