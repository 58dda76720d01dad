"""Which parts the pose drawings of a corpus show: seen, recorded, said, and carried to the model trained on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from appearance_fakes import run_config, write_config
from small_clips import FPS, FRAMES, clip, keypoints, members, pictures, tiny_encoders, tiny_vae

from datamodules.appearance import AppearanceDataModule
from datamodules.appearance_corpora import AppearanceWriter, load_appearance_manifest
from datamodules.appearance_encoding import EncodeSettings, encode_corpus
from datamodules.streams.mixture import MixtureSource
from launch.data import main
from launch.training import train
from lightning_modules.appearance_expert import AppearanceExpertModule
from macedance.appearance_data.media import encode_mp4
from macedance.appearance_data.samples import raw_members
from macedance.errors import DataError
from macedance.rendering.pose_parts import TOES, parts_drawn, parts_united
from macedance.rendering.reference_pose import body_from_coco

SETTINGS = EncodeSettings(frames=FRAMES, precision="float32")


def coco_points(number: int) -> np.ndarray:
    """What a detector of COCO's 17 points gives."""
    coco = np.ones((9, 17, 3), np.float32)
    coco[..., :2] = np.random.default_rng(number).random((9, 17, 2)) * 31
    return body_from_coco(coco)


def write_points(folder: Path, kinds: tuple[str, ...]) -> Path:
    """Clips of COCO's points, of all points, or of a pose video, one after the other."""
    with AppearanceWriter(folder, fps=FPS, clips_per_shard=2) as writer:
        for number in range(4):
            kind = kinds[number % len(kinds)]
            told: dict[str, Any] = {"pose_parts": ("feet", "body")} if kind == "told" else {}
            facts = clip(number, song=f"s-{number}", person=f"p-{number}", **told)
            video = encode_mp4(pictures(number, 9, 32, 32), FPS)
            if kind in ("video", "told"):
                parts = raw_members(facts, video, pose=video)
            else:
                points = coco_points(number) if kind == "coco" else keypoints(number, 9, 32, 32)
                parts = raw_members(facts, video, keypoints_TK3=points)
            writer.add("train" if number < 3 else "val", f"c-{number}", facts, parts)
    return folder


def data_module(*folders: Path, **options: Any) -> AppearanceDataModule:
    mixture = [MixtureSource(str(folder)) for folder in folders]
    return AppearanceDataModule(mixture=mixture, **{"global_batch_size": 2, "frames": FRAMES} | options)


def test_what_is_drawn_is_seen() -> None:
    points = keypoints(0, 9, 32, 32)
    assert parts_drawn(points) == ("body", "feet", "hands")
    assert parts_drawn(points[:, :20]) == ("body", "feet")
    assert parts_drawn(coco_points(0)) == ("body",)
    points[..., TOES, 2] = 0.0
    points[:-1, 20:, 2] = 0.0  # hands in the last frame alone
    points[-1, 21:, 2] = 0.4
    assert parts_drawn(points) == ("body", "hands")
    assert parts_united([("hands",), ("body",)]) == ("body", "hands")
    assert parts_united([("body",), None]) is None
    assert parts_united([]) is None


@pytest.mark.parametrize(
    ("kinds", "parts"),
    [
        (("coco",), ["body"]),
        (("all",), ["body", "feet", "hands"]),
        (("coco", "all"), ["body", "feet", "hands"]),
        (("coco", "video"), None),
        (("coco", "told"), ["body", "feet"]),
    ],
)
def test_corpora_record_it_and_so_do_their_latents(tmp_path: Path, kinds: tuple[str, ...], parts: Any) -> None:
    made = write_points(tmp_path / "clips", kinds)
    assert load_appearance_manifest(made).details.get("pose_parts") == parts
    report = encode_corpus(made, tmp_path / "latents", tiny_encoders(), SETTINGS)
    assert report.pose_parts == (None if parts is None else tuple(parts))
    assert load_appearance_manifest(tmp_path / "latents").details.get("pose_parts") == parts


def test_encoding_sees_what_an_earlier_corpus_does_not_say(tmp_path: Path) -> None:
    made = write_points(tmp_path / "clips", ("coco",))
    manifest = json.loads((made / "manifest.json").read_text())
    del manifest["details"]["pose_parts"]
    (made / "manifest.json").write_text(json.dumps(manifest))
    assert data_module(made).pose_parts is None
    encode_corpus(made, tmp_path / "latents", tiny_encoders(), SETTINGS)
    assert data_module(tmp_path / "latents").pose_parts == ("body",)
    manifest["details"]["pose_parts"] = ["tail"]
    (made / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"pose_parts is \['tail'\]"):
        data_module(made).setup("fit")


def test_a_clip_of_unknown_parts_is_refused() -> None:
    with pytest.raises(DataError, match="pose_parts is"):
        members(0, clip(0, pose_parts=("tail",)))


def test_it_is_said_before_training_and_a_mixture_has_what_one_source_has(tmp_path: Path) -> None:
    coco, every = write_points(tmp_path / "coco", ("coco",)), write_points(tmp_path / "all", ("all",))
    data = data_module(coco)
    with pytest.warns(UserWarning, match="the pose drawings show no feet and no hands") as said:
        data.setup("fit")
    data.setup("fit")
    assert sum("pose drawings" in str(warning.message) for warning in said) == 1
    assert data.pose_parts == ("body",)
    assert data_module(coco, every).pose_parts == ("body", "feet", "hands")


def test_the_command_says_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = write_points(tmp_path / "clips", ("coco",))
    tiny_vae().save_pretrained(tmp_path / "model/vae")
    options = ["--model", str(tmp_path / "model"), "--text-dim", "8", "--frames", str(FRAMES), "--json"]
    assert main(["encode", "--shards", str(made), "--out", str(tmp_path / "latents"), *options]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("the pose drawings show no feet and no hands") == 1
    assert json.loads(shown.out)["pose_parts"] == ["body"]


def test_the_model_that_is_trained_carries_it(tmp_path: Path) -> None:
    encode_corpus(write_points(tmp_path / "clips", ("coco",)), tmp_path / "latents", tiny_encoders(), SETTINGS)
    config = run_config("kinematic", None, known_frames=1)
    config["data"] = {
        "class_path": "datamodules.appearance.AppearanceDataModule",
        "init_args": {"shards": str(tmp_path / "latents"), "global_batch_size": 2},
    }
    text_dim = "--model.network.init_args.transformer.text_dim=8"
    run = train([write_config(tmp_path, config), f"--run_dir={tmp_path / 'run'}", "--trainer.max_steps=1", text_dim])
    assert isinstance(run.model, AppearanceExpertModule)
    assert run.model.model_config().to_dict()["pose_parts"] == ["body"]
