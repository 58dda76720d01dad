"""Folders that appear whole or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import tiny_appearance as tiny
import torch

from macedance.errors import CheckpointError, ConfigError
from macedance.pipelines.appearance_folder import write_model_folder
from macedance.pipelines.new_folder import new_folder
from macedance.pipelines.vae_weights import export_vae


def test_it_appears_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a" / "b") as stage:
        (stage / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o755
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"), new_folder(tmp_path / "out"):
        raise RuntimeError("broken")
    with pytest.raises(ConfigError, match=r"cannot write the folder.*free some space"), new_folder(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot write the folder"), new_folder(tmp_path / "file" / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_models_and_autoencoders_leave_nothing_either(tmp_path: Path) -> None:
    network, _, config = tiny.make_expert()
    tensors = dict(network.state_dict())
    bias = "transformer.patch_embedding.bias"
    tensors[bias] = torch.full_like(tensors[bias], torch.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        write_model_folder(tmp_path / "model", config, tensors)
    with pytest.raises(CheckpointError):
        export_vae(tmp_path / "nothing", tmp_path / "vae")
    assert not list(tmp_path.iterdir())
    (tmp_path / "vae").mkdir()
    with pytest.raises(ConfigError, match="exists"):
        export_vae(tmp_path / "nothing", tmp_path / "vae")
