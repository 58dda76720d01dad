"""The released checkpoint becomes a model folder; what is not that checkpoint is named; nothing in a file runs."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_checkpoints import released_state, statistics, write_released

from macedance.errors import CheckpointError, ConfigError
from macedance.models import checkpoint_import
from macedance.models.checkpoint_import import RELEASED_GENRES, import_released_motion_expert
from macedance.motion.normalizer import MinMaxNormalizer
from macedance.pipelines.convert import convert_mace_motion
from macedance.pipelines.music_to_motion import MusicToMotion


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


SMALL = {
    "latent_dim": 16,
    "num_dance_layers": 2,
    "num_music_layers": 1,
    "num_heads": 2,
    "feedforward_dim": 24,
    "state_dim": 4,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of the released make, but small: the files are then written and read in no time."""
    monkeypatch.setattr(checkpoint_import, "RELEASED_NETWORK", {**checkpoint_import.RELEASED_NETWORK, **SMALL})


@pytest.fixture
def plain_file(tmp_path: Path, small: None) -> Path:
    return write_released(tmp_path / "plain.pt")


def test_import_reads_the_released_size(tmp_path: Path) -> None:
    state, network, _ = import_released_motion_expert(write_released(tmp_path / "train.pt", prefix="module."))
    assert sum(value.numel() for value in state.values()) == 66_680_983
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert (network["num_genres"], network["null_condition"], network["frame_music"]) == (16, "add", False)


@pytest.mark.parametrize(("weights", "seed"), [("raw", 1), ("ema", 2)])
def test_import_takes_the_asked_weights_and_the_normaliser(plain_file: Path, weights: Any, seed: int) -> None:
    state, network, normalizer = import_released_motion_expert(plain_file, weights)
    expected = released_state(seed)
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], expected[name].float()) for name in expected)
    assert network == checkpoint_import.RELEASED_NETWORK
    assert normalizer["music"] is None
    low, high = statistics()
    fitted = MinMaxNormalizer.from_dict(normalizer["motion"])
    ends = fitted.normalize(torch.tensor(np.stack([low, high])))
    torch.testing.assert_close(ends, torch.tensor([[-1.0], [1.0]]).expand(2, 151), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "variant",
    [
        {"prefix": "model."},
        {"prefix": "module."},
        {"prefix": "module.model."},
        {"prefix": "model.module.", "nested": False},
        {"as_tensor": False},
        {"legacy": True},
        {"change": lambda content: content.update(normalizer={"deep": [(content["normalizer"],)]})},
    ],
    ids=lambda variant: "-".join(variant),
)
def test_import_reads_every_variant_of_the_file(tmp_path: Path, plain_file: Path, variant: dict[str, Any]) -> None:
    state, _, normalizer = import_released_motion_expert(write_released(tmp_path / "train.pt", **variant))
    state_plain, _, normalizer_plain = import_released_motion_expert(plain_file)
    assert list(state) == list(state_plain)
    assert all(torch.equal(state[name], state_plain[name]) for name in state)
    assert normalizer == normalizer_plain


def test_hostile_object_is_not_run_and_is_reported(
    tmp_path: Path, small: None, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "owned"
    path = write_released(tmp_path / "train.pt", extra=Hostile(target))
    with caplog.at_level(logging.WARNING):
        import_released_motion_expert(path)
    assert not target.exists()
    assert "posix.system: left inert, not run" in caplog.text


def test_honest_file_reports_nothing(plain_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        import_released_motion_expert(plain_file)
    assert caplog.text == ""


def test_convert_writes_a_folder_that_the_pipeline_loads_and_dances_with(tmp_path: Path, plain_file: Path) -> None:
    folder = convert_mace_motion(plain_file, tmp_path / "out" / "mace")
    config = json.loads((folder / "config.json").read_text())
    assert config["genres"] == list(RELEASED_GENRES)
    assert len(set(RELEASED_GENRES)) == 16
    assert (config["fps"], config["window_frames"], config["sample_weights"]) == (30.0, 1200, "raw")
    assert config["objective"]["init_args"]["unconditional_beta"] == "same"
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors", "normalizer.json"]
    pipeline = MusicToMotion.from_pretrained(folder)
    assert torch.equal(pipeline.network.state_dict()["null_cond_embed"], released_state(1)["null_cond_embed"].float())
    features = torch.randn(8, 35, generator=torch.Generator().manual_seed(0)).numpy()
    motion = pipeline.generate(features, genre="Popping", seed=1, num_steps=2)[0]
    assert motion.num_frames == 8
    assert np.isfinite(motion.trans).all()


def _drop(content: dict[str, Any]) -> None:
    del content["model_state_dict"]["final_layer.weight"]
    content["model_state_dict"]["somebody.elses"] = torch.ones(1)
    content["model_state_dict"]["final_layer.bias"] = torch.ones(139)


def test_foreign_weights_are_listed(tmp_path: Path, small: None) -> None:
    path = write_released(tmp_path / "train.pt", change=_drop)
    with pytest.raises(CheckpointError) as error:
        convert_mace_motion(path, tmp_path / "out")
    message = str(error.value)
    assert "1 missing (final_layer.weight)" in message
    assert "1 unexpected (somebody.elses)" in message
    assert "final_layer.bias (139,) for (151,)" in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("normalizer"), "lacks normalizer"),
        (lambda c: c.pop("model_state_dict"), "lacks model_state_dict"),
        (lambda c: c.update(normalizer={"min_": np.zeros(3), "scale_": np.ones(3)}), "3 min and 3 scale"),
        (lambda c: c.update(normalizer={"min_": np.zeros(151), "scale_": np.zeros(151)}), "make no sense"),
        (lambda c: c.update(normalizer={"min_": "many", "scale_": "more"}), "unreadable"),
        (lambda c: c.update(normalizer=[1, 2]), "no min and scale"),
        (lambda c: c.update(model_state_dict=[1]), "not a state dict"),
    ],
)
def test_files_that_lack_a_part_are_refused_by_name(tmp_path: Path, small: None, change: Any, message: str) -> None:
    path = write_released(tmp_path / "train.pt", change=change)
    with pytest.raises(CheckpointError, match=message):
        import_released_motion_expert(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "noise.pt").write_bytes(os.urandom(64))
    (tmp_path / "empty.pt").write_bytes(b"")
    for name, message in (
        ("list.pt", "not the released"),
        ("noise.pt", "foreign or damaged|refused|not the released"),
        ("empty.pt", "foreign or damaged"),
        ("absent.pt", "No such file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            import_released_motion_expert(tmp_path / name)
    with pytest.raises(ConfigError, match="raw or ema"):
        import_released_motion_expert(tmp_path / "list.pt", "best")  # type: ignore[arg-type]
