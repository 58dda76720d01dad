"""``macedance checkpoint``: what it exports is what was validated, what it says, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from launch import resume
from launch.main import main
from launch.reshape import reshape, reshape_for_resume
from launch.training import train
from macedance.errors import CheckpointError, ConfigError
from macedance.pipelines import checkpoint_folder
from macedance.pipelines.checkpoint_folder import read_manifest, verify, write_manifest
from macedance.pipelines.motion_weights import load_checkpoint
from macedance.pipelines.music_to_motion import MusicToMotion

SMALL = ["--config=mace_motion_demo", "--config=debug/mace_motion_cpu"]


class Watch(pl.Callback):
    """The network's weights as the last validation saw them."""

    seen: dict[str, torch.Tensor]

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen = {name: value.clone() for name, value in pl_module.built_network.state_dict().items()}


def fit(run_dir: Path, corpus: Path, *extra: str) -> Any:
    return train([*SMALL, f"--run_dir={run_dir}", f"--data.shards={corpus}", "--trainer.max_steps=4", *extra])


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("verb") / "run"
    watch = f"--trainer.callbacks+={{class_path: {__name__}.Watch}}"
    return folder, fit(folder, tiny_corpus, "--checkpoint_every_n_steps=2", watch)


def newest(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "step-00000004.ckpt"


def command(*arguments: object) -> int:
    return main(["checkpoint", *map(str, arguments)])


def same_weights(folder: Path, expected: dict[str, torch.Tensor]) -> bool:
    found = MusicToMotion.from_pretrained(folder).network.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_export_is_what_validation_saw(watched: tuple[Path, Any], tmp_path: Path, capsys: Any) -> None:
    run_dir, run = watched
    (watch,) = [callback for callback in run.trainer.callbacks if type(callback).__name__ == "Watch"]
    assert command("export", newest(run_dir), "--out", tmp_path / "ema", "--weights", "ema", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["model"] == str(tmp_path / "ema")
    assert same_weights(tmp_path / "ema", watch.seen)
    assert command("export", run_dir, "--out", tmp_path / "auto") == 0  # a run directory: its newest
    assert same_weights(tmp_path / "auto", watch.seen)
    assert command("export", run_dir / "checkpoints" / "last.ckpt", "--out", tmp_path / "raw", "--weights", "raw") == 0
    assert same_weights(tmp_path / "raw", run.model.built_network.state_dict())
    assert not same_weights(tmp_path / "raw", watch.seen)


def test_every_form_of_a_checkpoint_gives_the_same_model(watched: tuple[Path, Any], tmp_path: Path) -> None:
    run_dir, _ = watched
    shutil.copy(newest(run_dir) / "state.ckpt", tmp_path / "old.ckpt")
    forms = [
        newest(run_dir),
        newest(run_dir).with_name("last.ckpt"),
        newest(run_dir) / "state.ckpt",
        tmp_path / "old.ckpt",
    ]
    models = [load_checkpoint(path, "ema").network.state_dict() for path in forms]
    for model in models[1:]:
        assert all(torch.equal(model[name], models[0][name]) for name in models[0])


def test_inspect_says_what_a_checkpoint_is(watched: tuple[Path, Any], capsys: Any, tmp_path: Path) -> None:
    run_dir, run = watched
    epoch = 16 // run.data.samples_per_epoch
    assert command("inspect", newest(run_dir), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["step"], found["position"], found["epoch"], found["ranks"]) == (4, 16, epoch, 1)
    assert (found["strategy"], found["verified"], found["ended"]) == ("single", True, True)
    assert found["bytes"] == sum(found["files"].values())
    assert found["weights"] == found["averaged"] > 10_000
    assert found["trained_with"]["data.init_args.global_batch_size"] == 4
    assert found["model"]["network"]["latent_dim"] == 32
    assert command("inspect", newest(run_dir)) == 0
    text = capsys.readouterr().out
    assert "single, 1 rank" in text
    assert f"data epoch {epoch}" in text
    assert command("inspect", newest(run_dir), "--json", tmp_path / "facts.json") == 0
    assert json.loads((tmp_path / "facts.json").read_text(encoding="utf-8")) == found


def test_inspect_names_the_damaged_file(watched: tuple[Path, Any], tmp_path: Path, capsys: Any) -> None:
    copy = tmp_path / "step-00000004.ckpt"
    shutil.copytree(newest(watched[0]), copy)
    content = bytearray((copy / "state.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "state.ckpt").write_bytes(content)
    requests: list[tuple[object, ...]] = [
        ("inspect", copy),
        ("export", copy, "--out", tmp_path / "x"),
        ("reshape", copy, "--out", tmp_path / "x", "--ranks", 2),
    ]
    for arguments in requests:
        assert command(*arguments) == 2
        error = capsys.readouterr().err.strip()
        assert error.count("\n") == 0
        assert "state.ckpt" in error
    assert not (tmp_path / "x").exists()
    with pytest.raises(CheckpointError, match=r"state\.ckpt"):
        MusicToMotion.load(copy)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["export", "CKPT", "--out", "OUT", "--format", "gguf"], "pretrained"),
        (["export", "CKPT", "--out", "OUT", "--format", "lora"], "of the Appearance Expert"),
        (["export", "CKPT", "--out", "OUT", "--encoders", "EMPTY"], "of the Appearance Expert"),
        (["export", "CKPT", "--out", "OUT", "--weights", "best"], "ema"),
        (["export", "CKPT", "--out", "EXISTS"], "exists"),
        (["export", "MISSING", "--out", "OUT"], "no such checkpoint"),
        (["reshape", "CKPT", "--out", "EXISTS", "--ranks", "2"], "exists"),
        (["reshape", "CKPT", "--out", "OUT", "--ranks", "0"], "1 or more"),
        (["inspect", "EMPTY"], "manifest"),
        (["mend", "CKPT"], "mend"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(
    watched: tuple[Path, Any], tmp_path: Path, capsys: Any, arguments: list[str], expected: str
) -> None:
    places = {name: tmp_path / name.lower() for name in ("OUT", "EXISTS", "MISSING", "EMPTY")}
    for name in ("EXISTS", "EMPTY"):
        places[name].mkdir()
    places["CKPT"] = newest(watched[0])
    assert command(*(places.get(word, word) for word in arguments)) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert expected in error
    assert not places["OUT"].exists()
    assert list(places["EXISTS"].iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "exists"]


def test_one_process_needs_no_reshaping_and_gets_a_copy(watched: tuple[Path, Any], tmp_path: Path, capsys: Any) -> None:
    source = newest(watched[0])
    assert command("reshape", source, "--out", tmp_path / "copy", "--ranks", 4, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["cut"] is False
    assert "any number" in said.err
    assert verify(tmp_path / "copy").files == verify(source).files
    with pytest.raises(ConfigError, match="exists"):
        reshape(source, tmp_path / "copy", 4)


def test_a_copy_made_for_an_earlier_start_is_used_again_if_it_is_whole(
    watched: tuple[Path, Any], tmp_path: Path
) -> None:
    source = tmp_path / "step-00000004.ckpt"
    shutil.copytree(newest(watched[0]), source)
    made, told = reshape_for_resume(source, tmp_path, 3)
    assert made.name == ".step-00000004.ranks-3.ckpt"
    assert "the original stays" in told
    before = (made / "manifest.json").stat().st_mtime_ns
    assert "earlier start" not in told
    (made / "state.ckpt").unlink()
    again, _ = reshape_for_resume(source, tmp_path, 3)
    assert verify(again).step == read_manifest(source).step
    assert (again / "manifest.json").stat().st_mtime_ns != before


def test_a_checkpoint_is_read_once_before_it_is_cut(
    watched: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is hundreds of GB in a large run, and the other ranks wait."""
    source = tmp_path / "run" / "checkpoints" / "step-00000004.ckpt"
    shutil.copytree(newest(watched[0]), source)
    hashed: list[str] = []
    real = checkpoint_folder.describe_file

    def counting(path: Path, **options: Any) -> Any:
        hashed.append(path.name)
        return real(path, **options)

    monkeypatch.setattr(checkpoint_folder, "describe_file", counting)
    for name in (str(source.parent.parent), str(source)):
        hashed.clear()
        folder, verified = resume._named(Path(name))
        manifest = read_manifest(folder) if verified else verify(folder)
        made, _ = reshape_for_resume(folder, source.parent, 3, manifest)
        assert sorted(hashed) == sorted(manifest.files), name
        shutil.rmtree(made)
    made, _ = reshape_for_resume(source, source.parent, 3)
    monkeypatch.undo()
    assert verify(made).files == manifest.files


def test_a_run_killed_in_its_last_validation_is_not_finished(
    watched: tuple[Path, Any], tmp_path: Path, tiny_corpus: Path
) -> None:
    """And what its last save left behind is cleared away at the start."""
    run_dir = tmp_path / "run"
    fit(run_dir, tiny_corpus, "--trainer.val_check_interval=2")
    before = (run_dir / "metrics_val.csv").read_bytes()
    manifest = read_manifest(newest(run_dir))
    assert manifest.ended
    assert manifest.validation_due
    write_manifest(newest(run_dir), replace(manifest, ended=False))
    newest(run_dir).rename(newest(run_dir).with_name(f".{newest(run_dir).name}.old"))
    (run_dir / "metrics_val.csv").write_bytes(before[: before.index(b"4,val/loss")])
    run = fit(run_dir, tiny_corpus, "--trainer.val_check_interval=2")
    assert not run.start.finished
    assert (run_dir / "metrics_val.csv").read_bytes() == before
    assert read_manifest(newest(run_dir)).ended
    assert fit(run_dir, tiny_corpus, "--trainer.val_check_interval=2").start.finished


# ---------------------------------------------------------------- checkpoints of what was trained only
@pytest.mark.parametrize("what", ['--model.train_only=["final_layer.*"]', "--model.lora.rank=2"])
def test_fine_tuned_checkpoints_hold_what_trained_and_find_the_rest(
    watched: tuple[Path, Any], tmp_path: Path, tiny_corpus: Path, capsys: Any, what: str
) -> None:
    base = tmp_path / "base"
    assert command("export", watched[0], "--out", base) == 0
    run = fit(tmp_path / "run", tiny_corpus, f"--init_from={base}", what)
    folder = newest(tmp_path / "run")
    network = run.model.built_network
    trained = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    state = run.trainer.optimizers[0].state.values()
    optimizer = sum(v.numel() * v.element_size() for entry in state for v in entry.values() if torch.is_tensor(v))
    tensors = torch.load(folder / "state.ckpt", weights_only=True)["state_dict"]
    assert all("lora" in n or "final_layer" in n or n.startswith("losses.") for n in tensors)
    whole = sum(p.numel() * p.element_size() for p in network.parameters())
    size = stored_bytes(folder / "state.ckpt")
    assert size <= 2 * trained + optimizer + 64, (size, trained, optimizer)  # the losses' weights
    assert size < whole / 2

    capsys.readouterr()
    assert command("inspect", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["base"]["source"] == str(base)
    raw = MusicToMotion.load(folder, weights="raw").network.state_dict()
    if "lora" not in what:
        assert all(torch.equal(raw[name], value) for name, value in network.state_dict().items())
    base.rename(tmp_path / "moved")
    assert command("export", folder, "--out", tmp_path / "out") == 2
    assert "--base" in capsys.readouterr().err
    assert command("export", folder, "--out", tmp_path / "out", "--weights", "raw", "--base", tmp_path / "moved") == 0
    assert same_weights(tmp_path / "out", raw)
    assert command("export", folder, "--out", tmp_path / "other", "--base", tmp_path / "out") == (
        2 if "lora" in what else 0  # folded adapters change the base; the last layer was not of it
    )


def stored_bytes(path: Path) -> int:
    """Bytes of all tensors of a checkpoint; its names and counters do not grow with the network."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return sum(info.file_size for info in archive.infolist() if "/data/" in info.filename)
