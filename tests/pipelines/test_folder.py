"""The pretrained folder: round trip, whole-or-nothing writing, and every way in which it can be wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from macedance.errors import CheckpointError, ConfigError
from macedance.pipelines import folder as folder_module
from macedance.pipelines.folder import read_folder, write_folder

CONFIG: dict[str, Any] = {"network": {"latent_dim": 8}, "fps": 30, "genres": ["pop"]}
NORMALIZER: dict[str, Any] = {"motion": {"min": [0.0], "scale": [1.0]}, "music": None}


def weights() -> dict[str, torch.Tensor]:
    base = torch.arange(12.0).reshape(3, 4)
    return {"a.weight": base, "a.transposed": base.T, "tied": base}


def test_round_trip_keeps_config_normalizer_and_weights(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "deep" / "model", CONFIG, NORMALIZER, weights())
    config, normalizer, state = read_folder(out)
    assert config["network"] == CONFIG["network"]
    assert config["format"] == "macedance-motion-expert"
    assert config["version"] == 1
    assert config["representation"] == "edge-151-zup"
    assert normalizer == NORMALIZER
    assert {k: v.tolist() for k, v in state.items()} == {k: v.tolist() for k, v in weights().items()}
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors", "normalizer.json"]
    assert os.listdir(out.parent) == ["model"]
    assert {p.stat().st_mode & 0o777 for p in out.iterdir()} == {0o644}


def test_write_into_existing_folder_replaces_only_our_files(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    write_folder(tmp_path, CONFIG, NORMALIZER, weights())
    write_folder(tmp_path, {**CONFIG, "fps": 60}, NORMALIZER, weights())
    assert read_folder(tmp_path)[0]["fps"] == 60
    assert (tmp_path / "README.md").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 4


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "_write_files", fail)
    with pytest.raises(ConfigError, match="No space left"):
        write_folder(tmp_path / "model", CONFIG, NORMALIZER, weights())
    assert list(tmp_path.iterdir()) == []


def test_write_refuses_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        write_folder(tmp_path / "model", CONFIG, NORMALIZER, weights())
    with pytest.raises(ConfigError, match="cannot write"):
        write_folder(tmp_path / "model" / "below", CONFIG, NORMALIZER, weights())


def test_write_refuses_weights_that_are_not_finite(tmp_path: Path) -> None:
    bad = {**weights(), "tied": torch.tensor([float("nan")])}
    with pytest.raises(CheckpointError, match="not finite, the first is tied"):
        write_folder(tmp_path / "model", CONFIG, NORMALIZER, bad)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "someone-elses", "format is 'someone-elses'"),
        ("version", 2, "version is 2"),
        ("version", True, "version is True"),
        ("representation", "lodge-139", "representation is 'lodge-139'"),
        ("network", None, "no 'network' section"),
    ],
)
def test_read_refuses_a_foreign_config(tmp_path: Path, key: str, value: object, message: str) -> None:
    out = write_folder(tmp_path / "model", CONFIG, NORMALIZER, weights())
    path = out / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=message):
        read_folder(out)


def test_read_refuses_damaged_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such model folder"):
        read_folder(tmp_path / "nowhere")
    out = write_folder(tmp_path / "model", CONFIG, NORMALIZER, weights())
    whole = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        read_folder(out)
    (out / "normalizer.json").write_text('{"music": null}')
    with pytest.raises(CheckpointError, match="no 'motion' section"):
        read_folder(out)
    (out / "normalizer.json").write_text("[")
    with pytest.raises(CheckpointError, match="cannot read JSON"):
        read_folder(out)
    (out / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors"):
        read_folder(out)
