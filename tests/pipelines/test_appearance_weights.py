"""Base weights of the Appearance Expert: from folders and from the cache of a hub, whole or in pieces."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from appearance_fakes import TRANSFORMER, VAE, run_config, save_base, write_config

from launch.run import Run
from launch.training import train
from macedance.errors import CheckpointError
from macedance.models.appearance_expert.network import AppearanceExpert
from macedance.pipelines.appearance_folder import load_network
from macedance.pipelines.appearance_weights import load_source
from macedance.pipelines.base_weights import PRETRAINED, BaseWeights
from macedance.pipelines.checkpoint_content import read_content
from macedance.pipelines.export import export_checkpoint
from macedance.pipelines.pretrained import read_transformer, transformer_folder
from macedance.pipelines.whole_checkpoint import read_checkpoint

NAME = "somebody/tiny-animate"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An id whose files lie in the cache of a machine without a network."""
    cache = tmp_path / "hub"
    folder = cache / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(base, folder / "snapshots" / ("a" * 40))
    (folder / "snapshots" / ("a" * 40) / "vae").mkdir()
    (folder / "snapshots" / ("a" * 40) / "vae" / "config.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return NAME


def fit(folder: Path, weights: Path | str, stage: str = "kinematic", init_from: Path | None = None) -> Run:
    config = run_config(stage, weights, init_from=init_from)
    return train([write_config(folder, config), f"--run_dir={folder / 'run'}"])


def newest(run: Run) -> Path:
    return (run.directory / "checkpoints" / "last.ckpt").resolve()


def test_a_base_from_a_hub_is_named_not_copied(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fit(tmp_path / "first", hub)
    content = read_content(newest(first))
    assert len(content.tensors) == 2
    assert content.ours["base"]["source"] == hub
    assert content.ours["base"]["weights"] == PRETRAINED
    whole = read_checkpoint(newest(first)).weights("raw")
    own = first.model.built_network.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in whole.items())

    second = fit(tmp_path / "second", hub, "aesthetic", newest(first))
    folder = export_checkpoint(second.directory, tmp_path / "model")
    assert (folder / "vae" / "config.json").is_file(), "the autoencoder that lies beside the base"
    loaded = load_network(folder).transformer.state_dict()
    trained = second.model.built_network.transformer.state_dict()
    assert all(torch.equal(value, trained[name.replace("default_0", "default")]) for name, value in loaded.items())

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(CheckpointError, match=rf"weights of {hub} are not on this machine.*download"):
        export_checkpoint(first.directory, tmp_path / "other")
    moved = export_checkpoint(first.directory, tmp_path / "other", base=save_base(tmp_path / "again"))
    assert torch.equal(
        load_network(moved).state_dict()["transformer.pose_patch_embedding.bias"],
        own["transformer.pose_patch_embedding.bias"],
    )


def test_pieces_are_read_as_one(base: Path, tmp_path: Path) -> None:
    network = AppearanceExpert(TRANSFORMER, VAE, str(base))
    network.transformer.save_pretrained(tmp_path / "transformer", max_shard_size="40KB")
    index = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    assert len(set(json.loads(index.read_text())["weight_map"].values())) > 2
    for source in (tmp_path, tmp_path / "transformer"):
        assert transformer_folder(source) == tmp_path / "transformer"
        found, own = read_transformer(source), network.state_dict()
        assert found.keys() == own.keys()
        assert all(torch.equal(value, own[name]) for name, value in found.items())

    piece = next((tmp_path / "transformer").glob("*-00002-*.safetensors"))
    piece.write_bytes(piece.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        read_transformer(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match="secret"):
        read_transformer(tmp_path)
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="cannot read"):
        read_transformer(tmp_path)


def test_what_is_no_transformer_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no transformer"):
        read_transformer(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        read_transformer(tmp_path / "missing")


def test_a_base_is_the_same_in_another_precision_that_holds_it(base: Path) -> None:
    half = AppearanceExpert(TRANSFORMER, VAE, str(base), "bfloat16")
    half.requires_grad_(False)
    half.transformer.pose_patch_embedding.requires_grad_(True)
    known = BaseWeights.of(half, str(base), PRETRAINED, False)
    assert known is not None
    assert set(known.types.values()) == {"bfloat16"}
    norms = [name for name in known.names if ".norm2." in name]
    assert norms
    assert not any(name in known.types for name in norms), "diffusers keeps these in float32"
    assert known.found_in(half.state_dict()) is not None
    # The file holds float32: rounded as it was when it was loaded, it is the same.
    found = known.found_in(read_transformer(base))
    assert found is not None
    assert found["transformer.patch_embedding.weight"].dtype == torch.bfloat16
    other = {name: value + (name.endswith("proj_out.bias")) for name, value in read_transformer(base).items()}
    assert known.found_in(other) is None
    assert BaseWeights.from_dict(known.to_dict(), base) == known
    with pytest.raises(CheckpointError, match="damaged"):
        BaseWeights.from_dict({**known.to_dict(), "types": {"a": "os.system"}}, base)


def test_a_default_written_out_is_the_same_architecture(base: Path, tmp_path: Path) -> None:
    first = fit(tmp_path / "first", base)
    written = {**TRANSFORMER, "cross_attn_norm": True, "eps": 1e-6, "patch_size": (1, 2, 2), "latent_channels": 4}
    network = AppearanceExpert(written, VAE, str(base))
    load_source(network, first.directory)
    own = first.model.built_network.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())
    for change in ({"eps": 1e-5}, {"qk_norm": None}):
        with pytest.raises(CheckpointError, match=rf"another network: transformer\.{next(iter(change))} "):
            load_source(AppearanceExpert({**TRANSFORMER, **change}, VAE), first.directory)


def test_the_network_downloads_nothing(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object, **__: object) -> None:
        pytest.fail("the hub was asked for a file")

    monkeypatch.setattr("huggingface_hub.file_download._get_metadata_or_catch_error", asked)
    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.repo_info", asked)
    own = AppearanceExpert(TRANSFORMER, VAE, hub).state_dict()
    assert own.keys() == AppearanceExpert(TRANSFORMER, VAE).state_dict().keys()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(CheckpointError, match=rf"files of {hub} are not on this machine.*hf download {hub}"):
        AppearanceExpert(TRANSFORMER, VAE, hub)


def test_a_stage_before_may_be_removed_where_nothing_of_it_is_frozen(hub: str, tmp_path: Path) -> None:
    first = fit(tmp_path / "1", hub)
    second = fit(tmp_path / "2", hub, init_from=newest(first))
    third = fit(tmp_path / "3", hub, "aesthetic", newest(second))
    sources = [read_content(newest(run)).ours["base"]["source"] for run in (first, second, third)]
    assert sources == [hub, hub, str(newest(second))]
    shutil.rmtree(first.directory)
    loaded = load_network(export_checkpoint(third.directory, tmp_path / "model")).transformer.state_dict()
    trained = third.model.built_network.transformer.state_dict()
    assert all(torch.equal(value, trained[name.replace("default_0", "default")]) for name, value in loaded.items())
    shutil.rmtree(second.directory)
    with pytest.raises(CheckpointError, match=r"trained on are gone.*--base"):
        export_checkpoint(third.directory, tmp_path / "gone")


@pytest.mark.parametrize("by_id", [False, True], ids=["folder", "hub"])
def test_the_base_of_the_first_of_a_chain_of_stages_may_lie_elsewhere(
    by_id: bool, hub: str, base: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "before"
    shutil.copytree(base, moved)
    first = fit(tmp_path / "1", moved)
    second = fit(tmp_path / "2", moved, "aesthetic", newest(first))
    third = fit(tmp_path / "3", moved, "aesthetic", newest(second))
    shutil.rmtree(moved)
    with pytest.raises(CheckpointError, match="no such folder"):
        export_checkpoint(third.directory, tmp_path / "model")
    folder = export_checkpoint(third.directory, tmp_path / "model", base=hub if by_id else base)
    loaded = load_network(folder).transformer.state_dict()
    trained = third.model.built_network.transformer.state_dict()
    assert all(torch.equal(value, trained[name.replace("default_0", "default")]) for name, value in loaded.items())
    with pytest.raises(CheckpointError, match="not what it was trained on"):
        export_checkpoint(third.directory, tmp_path / "other", base=save_base(tmp_path / "another", seed=7))
