"""AppearanceProtocol and CascadeGap in a Motion Expert's fit, with an Appearance Expert of toy size as renderer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_appearance as tiny
import torch
import yaml

from callbacks.appearance_protocol import AppearanceProtocol
from callbacks.cascade_gap import CascadeGap
from launch.main import main
from launch.run import Run
from launch.training import train
from macedance.metrics.protocol import ProtocolResult, read_protocol
from macedance.pipelines.motion_to_video import MotionToVideo
from macedance.pipelines.renderers import AppearanceRenderer
from macedance.rendering.probe import probe_video

SMALL = ["--config=mace_motion_demo", "--config=debug/mace_motion_cpu", "--trainer.limit_val_batches=0"]
RENDERER = "macedance.pipelines.renderers.appearance_expert"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At 4 frames a second: a clip of the corpus has few of them, and another rate than its motion."""
    expert = tiny.make_expert(fps=4.0, frames=5)
    return MotionToVideo(*expert).save_pretrained(tmp_path_factory.mktemp("expert") / "appearance")


def test_the_guide_s_config_is_one(model: Path) -> None:
    """The guide's block names options that there are; only folder and size are others."""
    from jsonargparse import ArgumentParser

    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (block,) = [part for part in text.split("```yaml\n")[1:] if RENDERER in part]
    (told,) = yaml.safe_load(block.partition("```")[0])["trainer"]["callbacks+"]
    told["init_args"]["renderer"]["init_args"] |= {"folder": str(model), "size": [48, 80]}
    parser = ArgumentParser()
    parser.add_subclass_arguments(CascadeGap, "callback")
    made = parser.instantiate(parser.parse_object({"callback": told})).callback
    assert made.renderer.settings["size"] == [80, 48]
    assert made.renderer.settings["steps"] == 8


def callbacks_of(model: Path) -> list[dict[str, Any]]:
    renderer = {"class_path": RENDERER, "init_args": {"folder": str(model), "num_steps": 1, "size": [32, 32]}}
    shared = {
        "max_clips": 2, "num_steps": 2, "resamples": 0, "weights": str(model.parent), "renderer": renderer,
        "keypoints": {"class_path": "flat_dancer.BrightSpots"},
    }  # fmt: skip
    appearance = shared | {"every_n_steps": 1, "allow_small_n": True, "floor_draws": 0}
    gap = shared | {"every_n_steps": 2, "perturbations": ["noise"], "levels": [3], "keep_videos": True}
    return [
        {"class_path": "callbacks.appearance_protocol.AppearanceProtocol", "init_args": appearance},
        {"class_path": "callbacks.cascade_gap.CascadeGap", "init_args": gap},
    ]


def options(folder: Path, corpus: Path, callbacks: list[dict[str, Any]]) -> list[str]:
    """Of a fit; the callbacks stand in a config, as users write them."""
    config = folder / "protocol.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump({"trainer": {"callbacks+": callbacks}}))
    return [*SMALL, f"--config={config}", f"--run_dir={folder / 'run'}", f"--data.shards={corpus}"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path, model: Path) -> Run:
    return train(options(tmp_path_factory.mktemp("judged"), tiny_corpus, callbacks_of(model)))


def result_of(run: Run, name: str) -> ProtocolResult:
    return read_protocol(run.directory / "protocol" / f"{name}.json")


def renderers_of(run: Run) -> list[AppearanceRenderer]:
    found = [c for c in run.trainer.callbacks if isinstance(c, AppearanceProtocol | CascadeGap)]  # type: ignore[attr-defined]
    return [callback.renderer for callback in found if isinstance(callback.renderer, AppearanceRenderer)]


def test_its_videos_are_judged(judged: Run) -> None:
    for step in (1, 2):
        result = result_of(judged, f"appearance-0000000{step}")
        assert result.presets["vbench"]["temporal_flickering"]["n"] == 2
        assert result.presets["honest"]["person_motion"]["value"] is not None
        assert result.presets["honest"]["pck_10"]["value"] is not None
    gap = result_of(judged, "cascade-00000002")
    assert gap.presets["gap_generated"]["person_motion"]["n"] == 2
    assert gap.inputs["fps"]["video"] == 4.0
    seconds = gap.inputs["seconds_per_clip"]["reference"]
    for name in ("ground_truth", "generated", "noise_3"):
        videos = [probe_video(path) for path in (judged.directory / "protocol" / "cascade" / name).glob("*.mp4")]
        assert {(facts.width, facts.height) for facts in videos} == {(32, 32)}
        assert sorted(facts.num_frames for facts in videos) == [round(4 * seconds[key]) for key in ("min", "max")]


def test_the_result_names_the_model(judged: Run, model: Path) -> None:
    appearance, gap = result_of(judged, "appearance-00000002"), result_of(judged, "cascade-00000002")
    own = MotionToVideo.from_pretrained(model).weights
    for result in (appearance, gap):
        assert own.items() <= result.weights.items()
        assert result.inputs["renderer"] == {
            "class": "AppearanceRenderer", "sources": {"appearance_expert": str(model)},
        }  # fmt: skip
    told = [appearance.inputs["settings"]["renderer"], gap.conventions["cascade"]["renderer_settings"]]
    for settings in told:
        assert (settings["steps"], settings["sampler"], settings["size"]) == (1, "euler", [32, 32])
        assert (settings["own_picture"], settings["person_found"]) == (False, False)
    assert gap.inputs["settings"]["seed"] == 0


def test_both_hold_one_copy_of_the_weights(judged: Run) -> None:
    first, second = renderers_of(judged)
    assert first.pipeline is second.pipeline


def test_no_checkpoint_holds_it(judged: Run) -> None:
    content = torch.load(judged.directory / "checkpoints" / "last.ckpt" / "state.ckpt", weights_only=True)
    assert content["state_dict"].keys() == judged.model.state_dict().keys()
    assert not any("pose_patch" in name for name in content["state_dict"])
    assert not any("Appearance" in name or "Cascade" in name for name in content["callbacks"])


def test_a_model_that_is_not_there_is_one_line_before_training(
    tiny_corpus: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = callbacks_of(model)
    arguments: dict[str, Any] = callbacks[1]["init_args"]["renderer"]["init_args"]
    for wrong, message in (
        ({"folder": str(tmp_path / "nowhere")}, "no such folder"),
        ({"num_steps": 0}, "0 sampling steps"),
        ({"device": "cuda:99"}, "the device 'cuda:99' cannot be used"),
        ({"reference_image": str(tmp_path / "none.png")}, "the picture cannot be read"),
        ({"person": "nobody", "reference_image": str(tmp_path / "none.png")}, "person is 'nobody'"),
    ):
        changed = json.loads(json.dumps(callbacks))
        changed[1]["init_args"]["renderer"]["init_args"] = arguments | wrong
        assert main(["fit", *options(tmp_path, tiny_corpus, changed)]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert message in said[-1], said
        assert not any("Traceback" in line for line in said)
        assert not (tmp_path / "run" / "checkpoints").exists()
