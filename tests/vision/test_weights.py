"""Pretrained networks: listed, located, fetched only when asked for, and never mistaken for others."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.main import main
from macedance.errors import CheckpointError, DependencyError, TransportError
from macedance.vision import weights as registry
from macedance.vision.fetch import fetch, verify
from macedance.vision.weights import KNOWN, KnownWeights, fingerprint, locate, present


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, directory=str(folder), **kwargs)  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}", folder
        serving.shutdown()


def a_network(address: str, content: bytes = b"weights", digits: int = 8) -> KnownWeights:
    sha256 = {"net.pth": hashlib.sha256(content).hexdigest()[:digits]} if digits else {}
    return KnownWeights("net", "a network", "a number", "MIT", f"{address}/net.pth", ("net.pth",), sha256)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    added = {"net": a_network("http://nowhere")}
    monkeypatch.setattr(registry, "KNOWN", {**KNOWN, **added})


def test_a_file_is_fetched_whole_checked_and_pinned(server: tuple[str, Path], tmp_path: Path) -> None:
    address, served = server
    (served / "net.pth").write_bytes(b"weights")
    told: list[tuple[int, int]] = []
    folder = fetch(a_network(address), tmp_path / "w", lambda done, total: told.append((done, total)))
    assert (folder / "net.pth").read_bytes() == b"weights"
    assert told[-1] == (7, 7)
    assert json.loads((folder / "pinned.json").read_text())["net.pth"] == hashlib.sha256(b"weights").hexdigest()
    assert present("net", tmp_path / "w")
    assert locate("net", tmp_path / "w") == folder
    assert verify(a_network(address), tmp_path / "w") == "published, first digits"
    assert verify(a_network(address, digits=64), tmp_path / "w") == "published"
    assert [p.name for p in (tmp_path / "w").iterdir()] == ["net"]


def test_another_file_than_the_published_one_is_refused_and_leaves_nothing(
    server: tuple[str, Path], tmp_path: Path
) -> None:
    address, served = server
    (served / "net.pth").write_bytes(b"evil")
    with pytest.raises(CheckpointError, match="not the published file"):
        fetch(a_network(address), tmp_path / "w")
    assert not present("net", tmp_path / "w")


def test_a_file_that_changed_since_it_was_pinned_is_refused_and_the_old_one_stays(
    server: tuple[str, Path], tmp_path: Path
) -> None:
    address, served = server
    network = a_network(address, digits=0)
    (served / "net.pth").write_bytes(b"first")
    folder = fetch(network, tmp_path / "w")
    assert verify(network, tmp_path / "w") == "pinned"
    (served / "net.pth").write_bytes(b"second")
    with pytest.raises(CheckpointError, match="another file"):
        fetch(network, tmp_path / "w")
    assert (folder / "net.pth").read_bytes() == b"first"
    (folder / "net.pth").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="another file"):
        verify(network, tmp_path / "w")


def test_a_pinned_file_that_changed_is_not_used(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, served = server
    (served / "net.pth").write_bytes(b"first")
    network = a_network(address, digits=0)
    monkeypatch.setattr(registry, "KNOWN", {**KNOWN, "net": network})
    folder = fetch(network, tmp_path / "w")
    assert locate("net", tmp_path / "w") == folder
    (folder / "net.pth").write_bytes(b"swapped")
    with pytest.raises(CheckpointError, match="another file"):
        locate("net", tmp_path / "w")
    (folder / "net.pth").write_bytes(b"first")
    (folder / "pinned.json").write_text("[1")
    with pytest.raises(CheckpointError, match="pinned hashes"):
        locate("net", tmp_path / "w")


def test_a_server_without_the_file_is_said(server: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="404"):
        fetch(a_network(server[0]), tmp_path / "w")


def test_what_is_absent_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=r"subject consistency.*facebook/dino-vitb16.*--download dino_vitb16"):
        locate("dino_vitb16", tmp_path)
    folder = tmp_path / "dino_vitb16"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert not present("dino_vitb16", tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert present("dino_vitb16", tmp_path)


def test_a_published_hash_is_checked_when_weights_are_located(tmp_path: Path) -> None:
    folder = tmp_path / "alexnet"
    folder.mkdir()
    (folder / "alexnet-owt-7be5be79.pth").write_bytes(b"not AlexNet")
    with pytest.raises(CheckpointError, match="expected 7be5be79"):
        locate("alexnet", tmp_path)


def test_a_fingerprint_knows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    first = fingerprint(tmp_path / "a")
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert fingerprint(tmp_path / "a") != first
    assert fingerprint(tmp_path / "a" / "y") == hashlib.sha256(b"1").hexdigest()
    with pytest.raises(CheckpointError, match="no weights"):
        fingerprint(tmp_path / "none")


def test_the_command_lists_every_network_with_its_licence_and_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "weights", "--weights", str(tmp_path), "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)["weights"]}
    assert set(listed) >= set(KNOWN)
    for row in listed.values():
        assert row["licence"]
        assert row["source"]
        assert not row["present"]
        assert Path(row["path"]).parent == tmp_path
    assert not any(tmp_path.iterdir())


def test_the_command_verifies_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "alexnet").mkdir()
    (tmp_path / "alexnet" / "alexnet-owt-7be5be79.pth").write_bytes(b"not AlexNet")
    assert main(["evaluate", "weights", "--weights", str(tmp_path), "--verify"]) == 2
    assert "not the published file" in capsys.readouterr().err
    assert main(["evaluate", "weights", "--download", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert main(["evaluate", "nonsense"]) == 2
