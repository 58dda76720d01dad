"""Weights in safetensors: read with no second copy in memory, shared with the file, exactly those of the module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from appearance_fakes import TRANSFORMER, VAE, save_base
from diffusers import WanAnimateTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import nn

from macedance.errors import CheckpointError
from macedance.models.appearance_expert.network import AppearanceExpert
from macedance.nn import stored_weights
from macedance.nn.stored_weights import StoredWeights, give_weights, transformer_files
from macedance.pipelines.appearance_config import AppearanceModelConfig
from macedance.pipelines.appearance_weights import load_source

#: Of many tensors none of which is large beside the whole, as the 14B network is.
DEEP = {**TRANSFORMER, "num_attention_heads": 16, "attention_head_dim": 24, "ffn_dim": 1536, "num_layers": 10}


def model_folder(folder: Path, transformer: dict[str, Any], max_shard_size: str = "10GB") -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AppearanceExpert(transformer, VAE)
    network.transformer.save_pretrained(folder / "transformer", max_shard_size=max_shard_size)
    config = AppearanceModelConfig(transformer, VAE, fps=15.0, frames=3, size=(16, 16), num_steps=2, known_frames=1)
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_no_weight_is_in_memory_twice(tmp_path: Path) -> None:
    """100 MB in float32, read in bfloat16: diffusers' own reading takes three times what the network holds."""
    folder, small = model_folder(tmp_path / "deep", DEEP), model_folder(tmp_path / "small", TRANSFORMER)
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    assert 90e6 < size < 150e6
    # As of large tensors: a freed one goes back to the system at once.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "100000", "OMP_NUM_THREADS": "1"}
    program = [sys.executable, str(Path(__file__).with_name("stored_memory.py")), str(folder), str(small)]
    told = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr
    reading, starting = map(float, told.stdout.split())
    assert 0.8 < reading < 1.3, "of the network's bytes, the base read"
    # Beside a small network the temporaries of checking one tensor count.
    assert starting < 1.6, "and a model folder taken over it, which took five times as much before"


@pytest.mark.parametrize("shards", ["10GB", "20KB"], ids=["one", "many"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_base_is_what_diffusers_loads(
    precision: Any, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_weights, "PORTION", 3000)
    folder = model_folder(tmp_path, TRANSFORMER, shards)
    assert (len(transformer_files(folder / "transformer")) > 1) == (shards == "20KB")
    theirs = WanAnimateTransformer3DModel.from_pretrained(
        str(folder), subfolder="transformer", torch_dtype=getattr(torch, precision)
    )
    network = AppearanceExpert(TRANSFORMER, VAE, str(folder), precision)
    ours, expected = network.transformer.state_dict(), theirs.state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(v, expected[n]) and v.dtype == expected[n].dtype for n, v in ours.items())
    assert all(p.requires_grad for p in network.parameters())
    other = dict(theirs.named_buffers())
    assert all(torch.equal(v, other[n].to(v)) for n, v in network.transformer.named_buffers())
    drawn = AppearanceExpert(TRANSFORMER, VAE, None, precision)
    taken = load_source(drawn, folder)
    assert all(torch.equal(v, expected[n]) for n, v in drawn.transformer.state_dict().items())
    assert taken.replaced == drawn.state_dict().keys()
    assert not taken.content.tensors, "what was taken stands in the network alone"


def test_training_on_a_base_writes_nothing_into_its_file(tmp_path: Path) -> None:
    file = save_base(tmp_path) / "transformer" / stored_weights.SINGLE
    before = file.read_bytes()
    network = AppearanceExpert(TRANSFORMER, VAE, str(tmp_path))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert file.read_bytes() == before
    again = AppearanceExpert(TRANSFORMER, VAE, str(tmp_path)).transformer.proj_out.weight
    assert torch.equal(network.transformer.proj_out.weight, again + 1.0)


def test_weights_of_another_module_or_damaged_are_refused(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    good = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    path = tmp_path / "a.safetensors"
    for change, told in (
        ({"weight": torch.ones(3, 2)}, "1 missing or of another shape, 0 unknown, the first is weight"),
        ({"more": torch.ones(1)}, "0 missing or of another shape, 1 unknown, the first is more"),
    ):
        save_file({**good, **change}, path)
        with pytest.raises(CheckpointError, match=f"another architecture: {told}"):
            give_weights(module, StoredWeights([path]), torch.float32, path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=r"cannot read the weights.*a\.safetensors"):
        StoredWeights([path])
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        StoredWeights([tmp_path / "missing.safetensors"])


def test_a_model_folder_with_numbers_that_are_not_finite_is_no_start(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, TRANSFORMER)
    file = folder / "transformer" / stored_weights.SINGLE
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    tensors["proj_out.bias"][0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"not finite, the first is proj_out\.bias"):
        load_source(AppearanceExpert(TRANSFORMER, VAE), folder)
