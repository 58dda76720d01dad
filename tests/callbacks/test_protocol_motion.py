"""MotionProtocol in one process: the file is the command's, values are logged, nothing is computed twice."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.motion_protocol import MotionProtocol
from callbacks.previews import Preview
from datamodules.motion import MotionDataModule
from launch.run import Run
from launch.training import train
from macedance.metrics.motion import MotionMetrics
from macedance.metrics.protocol import ProtocolResult, evaluate_protocol, read_protocol
from macedance.pipelines.music_to_motion import MusicToMotion

SMALL = ["--config=mace_motion_demo", "--config=debug/mace_motion_cpu", "--trainer.limit_val_batches=0"]
SETTINGS = "num_steps: 2, allow_small_n: true, resamples: 50, floor_draws: 3, seed: 5"


class Drawing(Preview):
    """Draws from every generator of the process."""

    def __init__(self) -> None:
        super().__init__(every_n_steps=1)

    def preview(self, trainer: Any, module: Any) -> None:
        torch.rand(3), np.random.rand(3), random.random(), torch.nn.Linear(3, 3)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> tuple[Run, dict[str, Any]]:
    """Two steps with the first protocol at both, and another with the same dances at the second."""
    calls: dict[str, Any] = {"reference": 0, "dances": []}
    update, generate = MotionMetrics.update, MusicToMotion.generate_batch
    with pytest.MonkeyPatch.context() as patch:

        def counted(self: MotionMetrics, clips: Any, ids: Any = None, *, reference: bool = False) -> None:
            calls["reference"] += reference
            update(self, clips, ids, reference=reference)

        def dancing(self: MusicToMotion, features: Any, **options: Any) -> Any:
            calls["dances"].append(list(options["numbers"]))
            return generate(self, features, **options)

        patch.setattr(MotionMetrics, "update", counted)
        patch.setattr(MusicToMotion, "generate_batch", dancing)
        protocol = "{class_path: callbacks.motion_protocol.MotionProtocol, init_args: "
        run = train(
            [
                *SMALL, f"--run_dir={tmp_path_factory.mktemp('judged') / 'run'}", f"--data.shards={tiny_corpus}",
                f"--trainer.callbacks+={protocol}{{every_n_steps: 1, presets: [clean, bailando_aist], {SETTINGS}}}}}",
                f"--trainer.callbacks+={protocol}{{every_n_steps: 4, {SETTINGS}}}}}",
            ]
        )  # fmt: skip
    return run, calls


def protocol_of(run: Run) -> MotionProtocol:
    found = [c for c in run.trainer.callbacks if isinstance(c, MotionProtocol)]  # type: ignore[attr-defined]
    return next(protocol for protocol in found if protocol.every_n_steps == 1)


def result_of(run: Run, step: int) -> ProtocolResult:
    return read_protocol(run.directory / "protocol" / f"step-{step:08d}.json")


def test_the_file_is_what_the_command_would_write(judged: tuple[Run, dict[str, Any]]) -> None:
    run, _ = judged
    dances = protocol_of(run).danced
    assert dances is not None
    assert dances.step == 2
    expected = evaluate_protocol(
        dances.generated(), dances.reference(), presets=("clean", "bailando_aist"), allow_small_n=True, resamples=50,
        floor_draws=3, seed=5,
    )  # fmt: skip
    found = result_of(run, 2)
    assert found.presets == expected.presets
    assert found.floor == expected.floor
    assert found.hash == expected.hash
    for preset, keys in expected.per_clip.items():
        for key, values in keys.items():
            assert found.per_clip[preset][key].keys() == values.keys()
            assert np.allclose(list(found.per_clip[preset][key].values()), list(values.values()), equal_nan=True)
    assert {k: v for k, v in found.inputs.items() if k != "training"} == expected.inputs
    assert found.inputs["training"]["step"] == 2
    assert found.inputs["training"]["position"] == 8
    assert found.inputs["training"]["dances"]["seed"] == 5


def test_reference_and_floor_are_computed_once(judged: tuple[Run, dict[str, Any]]) -> None:
    run, calls = judged
    assert calls["reference"] == 2, "one for each preset, not one for each evaluation"
    assert result_of(run, 1).floor == result_of(run, 2).floor
    assert result_of(run, 1).floor["clean"]["fid_k"]["value"] is not None
    first, second = (result_of(run, step).presets["clean"]["jerk"]["value"] for step in (1, 2))
    assert first != second, "the model moved in between"


def test_noise_is_keyed_by_the_clip_s_number(judged: tuple[Run, dict[str, Any]]) -> None:
    run, calls = judged
    numbers = run.data.clip_numbers("val")  # type: ignore[attr-defined]
    assert len(numbers) > 1
    assert calls["dances"] == [numbers, numbers]


def test_values_are_in_the_table_under_their_presets(judged: tuple[Run, dict[str, Any]]) -> None:
    run, _ = judged
    with (run.directory / "metrics_val.csv").open(encoding="utf-8") as file:
        rows = {(row["step"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}
    clean, other = (result_of(run, 2).presets[name] for name in ("clean", "bailando_aist"))
    assert rows["2", "val/fid_k"] == clean["fid_k"]["value"]
    assert rows["2", "val/bailando_aist/fid_k"] == other["fid_k"]["value"] != rows["2", "val/fid_k"]
    assert {("1", "val/jerk"), ("2", "val/bas")} <= rows.keys()


def test_protocols_of_equal_settings_share_their_dances(
    tmp_path: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    generate = MusicToMotion.generate_batch
    monkeypatch.setattr(MusicToMotion, "generate_batch", lambda *a, **k: made.append(1) or generate(*a, **k))
    protocol = "{class_path: callbacks.motion_protocol.MotionProtocol, init_args: {every_n_steps: 2, max_clips: 2, "
    arguments = [f"--trainer.callbacks+={protocol}num_steps: 2, seed: {seed}}}}}" for seed in (1, 1, 2)]
    train([*SMALL, f"--run_dir={tmp_path / 'run'}", f"--data.shards={tiny_corpus}", *arguments])
    assert len(made) == 2


def test_training_draws_the_same_numbers_with_a_preview_and_without(tmp_path: Path, tiny_corpus: Path) -> None:
    """What it builds and draws on the way leaves no trace in the generators of this process."""
    runs = []
    for name, extra in (("plain", ()), ("shown", ("--trainer.callbacks+={class_path: test_protocol_motion.Drawing}",))):
        run = train(
            [
                *SMALL, f"--run_dir={tmp_path / name}", f"--data.shards={tiny_corpus}", "--trainer.max_steps=3",
                "--model.network.init_args.dropout=0.3", *extra,
            ]
        )  # fmt: skip
        with (run.directory / "metrics.csv").open(encoding="utf-8") as file:
            runs.append([row["train/loss"] for row in csv.DictReader(file)])
    assert len(runs[0]) == 3
    assert runs[0] == runs[1]


def test_the_ends_of_data_epochs_are_judged(tmp_path: Path, tiny_corpus: Path) -> None:
    protocol = "{class_path: callbacks.motion_protocol.MotionProtocol, init_args: {every_n_epochs: 1, num_steps: 2}}"
    run = train(
        [
            *SMALL, f"--run_dir={tmp_path / 'run'}", f"--data.shards={tiny_corpus}", "--trainer.max_steps=5",
            f"--trainer.callbacks+={protocol}",
        ]
    )  # fmt: skip
    assert run.data.samples_per_epoch == 2 * run.data.global_batch_size == 8  # type: ignore[attr-defined]
    assert [p.name for p in sorted((run.directory / "protocol").iterdir())] == [
        "step-00000002.json", "step-00000004.json",
    ]  # fmt: skip
    assert [result_of(run, step).inputs["training"]["epoch"] for step in (2, 4)] == [1, 2]


def test_a_corpus_without_held_out_clips_is_not_judged_and_says_so_once(
    tmp_path: Path, tiny_corpus: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MotionDataModule, "clip_numbers", lambda self, split: [])
    protocol = "{class_path: callbacks.motion_protocol.MotionProtocol, init_args: {every_n_steps: 1}}"
    with caplog.at_level("INFO"):
        run = train(
            [
                *SMALL,
                f"--run_dir={tmp_path / 'run'}",
                f"--data.shards={tiny_corpus}",
                f"--trainer.callbacks+={protocol}",
            ]
        )
    assert run.trainer.global_step == 2
    assert caplog.text.count("no val split: there is nothing to dance to") == 1
    assert not (run.directory / "protocol").exists()
