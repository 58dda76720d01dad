"""Training through the command: files of a run, determinism, what trains, and starting from weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from launch.main import main
from launch.training import train
from macedance.errors import ConfigError
from macedance.pipelines.music_to_motion import MusicToMotion

SMALL = ["--config=mace_motion_demo", "--config=debug/mace_motion_cpu"]


def fit(run_dir: Path, corpus: Path, *extra: str):
    return train([*SMALL, f"--run_dir={run_dir}", f"--data.shards={corpus}", *extra])


def losses(run_dir: Path) -> list[str]:
    with (run_dir / "metrics.csv").open(encoding="utf-8") as file:
        return [row["train/loss"] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("fit") / "run"
    fit(folder, tiny_corpus, "--trainer.max_steps=4", "--checkpoint_every_n_steps=2")
    return folder


def test_a_run_leaves_the_files_it_promises(finished: Path) -> None:
    assert {"config.yaml", "metrics.csv", "metrics_val.csv", "provenance.json", "checkpoints"} <= {
        p.name for p in finished.iterdir()
    }
    assert sorted(p.name for p in (finished / "checkpoints").iterdir()) == [
        "last.ckpt", "step-00000002.ckpt", "step-00000004.ckpt",
    ]  # fmt: skip
    with (finished / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert all(float(row["time/frames_per_second"]) > 0 and 0 <= float(row["time/data_stall"]) <= 1 for row in rows)
    start = json.loads((finished / "provenance.json").read_text(encoding="utf-8"))["starts"][0]
    assert start["data"] is not None
    assert start["hardware"]["cpus"] >= 1
    with (finished / "metrics_val.csv").open(encoding="utf-8") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert "val/loss" in names


def test_a_checkpoint_loads_without_running_code_and_carries_its_model(finished: Path) -> None:
    content = torch.load(finished / "checkpoints" / "last.ckpt" / "state.ckpt", weights_only=True)
    assert content["macedance"]["position"] == 16
    assert content["macedance"]["manifest_sha256"]
    halfway = torch.load(finished / "checkpoints" / "step-00000002.ckpt" / "state.ckpt", weights_only=True)
    assert halfway["macedance"]["position"] == 8
    assert content["macedance"]["config"]["genres"]
    assert content["ema"]
    pipeline = MusicToMotion.load(finished / "checkpoints" / "last.ckpt")
    assert len(pipeline.genres) == 8


def test_the_written_config_repeats_the_run(finished: Path, tmp_path: Path) -> None:
    train([f"--config={finished / 'config.yaml'}", f"--run_dir={tmp_path / 'again'}"])
    assert losses(tmp_path / "again") == losses(finished)


def test_a_directory_named_in_the_config_is_used(finished: Path) -> None:
    with pytest.raises(ConfigError, match="already holds a run"):
        train([f"--config={finished / 'config.yaml'}", "--resume=never"])


def test_the_loss_terms_at_the_start_are_said_and_kept(
    finished: Path, tmp_path: Path, tiny_corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        fit(tmp_path / "run", tiny_corpus, "--model.losses.rebalance_below=0.05")
    assert "loss at the start: rec" in caplog.text
    assert "its weight is raised" in caplog.text
    with (finished / "metrics_val.csv").open(encoding="utf-8") as file:
        shares = {row["name"]: float(row["value"]) for row in csv.DictReader(file) if row["name"].endswith("_share")}
    assert set(shares) == {"init/rec_share", "init/vel_share", "init/joint_share", "init/foot_share"}
    assert sum(shares.values()) == pytest.approx(1.0)


def test_accumulated_steps_are_rows_of_their_mean(tmp_path: Path, tiny_corpus: Path) -> None:
    """Two micro-batches of two are one step of four; re-balancing off, since it measures the first micro-batch."""
    fixed = "--model.losses.rebalance_below=0"
    fit(tmp_path / "whole", tiny_corpus, fixed)
    run = fit(tmp_path / "split", tiny_corpus, fixed, "--trainer.accumulate_grad_batches=2")
    whole, split = losses(tmp_path / "whole"), losses(tmp_path / "split")
    assert len(split) == len(whole) == 2
    assert float(split[0]) == pytest.approx(float(whole[0]), rel=1e-4)
    content = torch.load(run.directory / "checkpoints" / "last.ckpt" / "state.ckpt", weights_only=True)
    assert content["macedance"]["position"] == 8
    assert content["ema_num_updates"] == 2


def test_a_trial_run_writes_nothing(tmp_path: Path, tiny_corpus: Path, capsys) -> None:
    arguments = ["fit", *SMALL, f"--run_dir={tmp_path / 'run'}", f"--data.shards={tiny_corpus}"]
    assert main([*arguments, "--trainer.fast_dev_run=true", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] is None
    assert not (tmp_path / "run").exists()


def test_fine_tuning_keeps_the_source_s_normaliser_and_labels(
    finished: Path, tmp_path: Path, tiny_corpus: Path
) -> None:
    start = finished / "checkpoints" / "last.ckpt"
    run = train(
        ["--config=mace_motion_finetune", "--config=debug/mace_motion_cpu", f"--run_dir={tmp_path / 'run'}",
         f"--data.shards={tiny_corpus}", f"--init_from={start}"]
    )  # fmt: skip
    source = MusicToMotion.load(start)
    tuned = MusicToMotion.load(run.directory / "checkpoints" / "last.ckpt")
    assert tuned.motion_normalizer.to_dict() == source.motion_normalizer.to_dict()
    assert tuned.genres == source.genres


def test_same_seed_same_losses_and_another_seed_other_ones(finished: Path, tmp_path: Path, tiny_corpus: Path) -> None:
    fit(tmp_path / "b", tiny_corpus, "--trainer.max_steps=4", "--seed_everything=1")
    assert losses(tmp_path / "b") != losses(finished)


def test_loader_workers_change_nothing(finished: Path, tmp_path: Path, tiny_corpus: Path) -> None:
    fit(tmp_path / "w", tiny_corpus, "--trainer.max_steps=4", "--data.num_workers=2")
    assert losses(tmp_path / "w") == losses(finished)


def test_a_directory_with_a_run_is_not_overwritten(finished: Path, tiny_corpus: Path) -> None:
    before = losses(finished)
    with pytest.raises(ConfigError, match="already holds a run"):
        fit(finished, tiny_corpus, "--trainer.max_steps=4", "--resume=never")
    assert losses(finished) == before


def test_a_finished_run_is_left_as_it_is(finished: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    request = ["fit", *SMALL, f"--run_dir={finished}", f"--data.shards={tiny_corpus}", "--trainer.max_steps=4"]
    assert main([*request, "--checkpoint_every_n_steps=2", "--json"]) == 0
    told = capsys.readouterr()
    assert "the run is finished: step 4 of 4" in told.err
    assert json.loads(told.out)["finished"] is True
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_train_only_changes_exactly_what_matches(finished: Path, tmp_path: Path, tiny_corpus: Path) -> None:
    start = finished / "checkpoints" / "last.ckpt"
    run = fit(tmp_path / "part", tiny_corpus, f"--init_from={start}", '--model.train_only=["final_layer.*"]')
    before = MusicToMotion.load(start).network.state_dict()
    after = run.model.built_network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"final_layer.weight", "final_layer.bias"}
    content = torch.load(run.directory / "checkpoints" / "last.ckpt" / "state.ckpt", weights_only=True)
    assert len(content["optimizer_states"][0]["state"]) == 2
    assert set(content["ema"]) == changed


def test_freeze_keeps_what_matches(finished: Path, tmp_path: Path, tiny_corpus: Path) -> None:
    start = finished / "checkpoints" / "last.ckpt"
    run = fit(tmp_path / "frozen", tiny_corpus, f"--init_from={start}", '--model.freeze=["musiclayerstack.*"]')
    before, after = MusicToMotion.load(start).network.state_dict(), run.model.built_network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any(name.startswith("musiclayerstack") for name in changed)


def test_a_pattern_that_matches_nothing_is_named(tmp_path: Path, tiny_corpus: Path) -> None:
    with pytest.raises(ConfigError, match="final_layr"):
        fit(tmp_path / "x", tiny_corpus, '--model.train_only=["final_layr.*"]')


def test_lora_trains_adapters_only_and_folds_into_the_model(finished: Path, tmp_path: Path, tiny_corpus: Path) -> None:
    start = finished / "checkpoints" / "last.ckpt"
    run = fit(
        tmp_path / "lora", tiny_corpus, f"--init_from={start}", "--model.lora.rank=2",
        "--model.optimizer.lr=0.05", "--trainer.max_steps=3", "--model.lr_schedule=null",
    )  # fmt: skip
    network = run.model.built_network
    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    pipeline = MusicToMotion.load(run.directory / "checkpoints" / "last.ckpt", weights="raw")
    base = MusicToMotion.load(start).network.state_dict()
    merged = pipeline.network.state_dict()
    assert merged.keys() == base.keys()
    assert any(not torch.equal(base[name], merged[name]) for name in base)
    network.eval()
    generator = torch.Generator().manual_seed(0)
    xt, music = torch.randn(2, 20, 151, generator=generator), torch.randn(2, 20, 35, generator=generator)
    t, beta, genre = torch.tensor([3, 700]), torch.tensor([0.5, 1.0]), torch.tensor([1, 2])
    with torch.no_grad():
        torch.testing.assert_close(
            network(xt, t, beta, music, genre), pipeline.network(xt, t, beta, music, genre), rtol=1e-4, atol=1e-5
        )


def test_starting_from_another_network_says_what_differs(finished: Path, tmp_path: Path, tiny_corpus: Path) -> None:
    start = finished / "checkpoints" / "last.ckpt"
    arguments = [*SMALL, f"--run_dir={tmp_path / 'other'}", f"--data.shards={tiny_corpus}", f"--init_from={start}"]
    assert main(["fit", *arguments, "--model.network.init_args.latent_dim=48"]) == 2


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--data.shards=/no/such/corpus"], "/no/such/corpus"),
        (["--data.global_batch_size=1000"], "1000"),
        (["--model.network.init_args.num_genres=3"], "num_genres"),
        (["--model.objective.init_args.drop_probability=2"], "drop_probability"),
    ],
)
def test_a_wrong_request_is_one_line(
    extra: list[str], expected: str, tmp_path: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *SMALL, f"--run_dir={tmp_path / 'run'}", f"--data.shards={tiny_corpus}", *extra]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert expected in lines[0]
    assert not (tmp_path / "run").exists()


def test_a_shard_set_without_manifest_is_named(tmp_path: Path, tiny_corpus: Path, capsys) -> None:
    import shutil

    shutil.copytree(tiny_corpus / "train", tmp_path / "bare" / "train")
    assert main(["fit", *SMALL, f"--run_dir={tmp_path / 'run'}", f"--data.shards={tmp_path / 'bare'}"]) == 2
    assert "manifest" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_previews_and_protocol_are_written(tmp_path: Path, tiny_corpus: Path) -> None:
    from macedance.rendering.probe import probe_video

    fit(
        tmp_path / "run", tiny_corpus,
        "--trainer.callbacks+={class_path: callbacks.motion_protocol.MotionProtocol, "
        "init_args: {every_n_steps: 2, max_clips: 2, num_steps: 2, allow_small_n: true}}",
        "--trainer.callbacks+={class_path: callbacks.samples.SampleVideos, "
        "init_args: {every_n_steps: 2, num_steps: 2, size: 96}}",
    )  # fmt: skip
    report = json.loads((tmp_path / "run" / "protocol" / "step-00000002.json").read_text(encoding="utf-8"))
    assert report["presets"]["clean"]["bas"]["n"] >= 1
    names = (tmp_path / "run" / "metrics_val.csv").read_text(encoding="utf-8")
    assert "val/bas," in names
    facts = probe_video(tmp_path / "run" / "samples" / "step-00000002-0.mp4")
    assert facts.num_frames >= 150
    assert facts.audio_codec == "aac"
