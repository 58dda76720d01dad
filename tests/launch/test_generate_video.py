"""`macedance generate --image`: a person of a picture dances; what it writes, says and refuses."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_appearance as tiny
import torch
from PIL import Image

from launch.generate_video import add_video_options, check_video_options
from launch.main import main
from macedance.errors import ConfigError
from macedance.motion.files import Motion, load_motion, save_motion
from macedance.pipelines.appearance_lora import LoraWeights, write_diffusers
from macedance.pipelines.motion_to_video import MotionToVideo
from macedance.rendering.probe import probe_video
from macedance.vision.keypoints import VideoKeypoints
from macedance.vision.video import Video


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that a user has."""
    folder = tmp_path_factory.mktemp("things")
    tiny.write_song(folder / "my song.wav")
    tiny.make_dancer().save_pretrained(folder / "dancer")
    MotionToVideo(*tiny.make_expert()).save_pretrained(folder / "appearance")
    pixels = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "me.png")
    time_s = np.arange(30) / 30
    poses = np.zeros((30, 24, 3), dtype=np.float32)
    poses[:, 16, 2] = np.sin(4 * time_s)
    trans = np.stack([0 * time_s, 0 * time_s + 0.95, 0 * time_s], axis=-1)
    save_motion(folder / "dance.npz", Motion(poses, trans, 30.0))
    spoil(folder)
    return folder


def spoil(folder: Path) -> None:
    """What is nearly right: models with a part that is damaged, missing or of another model, adapters, a picture."""
    for name, part in (("cut", None), ("headless", "transformer"), ("other_vae", "vae"), ("wan_vae", "vae")):
        shutil.copytree(folder / "appearance", folder / name)
        if part is not None:
            shutil.rmtree(folder / name / part)
    config = (folder / "cut" / "config.json").read_text()
    (folder / "cut" / "config.json").write_text(config[:200])
    tiny.make_vae(seed=5).save_pretrained(folder / "other_vae" / "vae")
    tiny.make_vae(tiny.WAN_VAE).save_pretrained(folder / "wan_vae" / "vae")
    for name, width, value in (("wide", 48, 1.0), ("holes", 24, float("nan"))):
        sides = {"lora_A": torch.ones(2, width), "lora_B": torch.full((width, 2), value)}
        tensors = {f"blocks.0.attn1.to_q.{side}.weight": weight for side, weight in sides.items()}
        write_diffusers(folder / f"{name}.safetensors", LoraWeights(tensors, 2, 2.0))
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(folder / "tiny.png")


def generate(things: Path, out: Path, *extra: str, source: tuple[str, str] | None = None) -> int:
    which, name = source or ("--motion", "dance.npz")
    return main(
        ["generate", "--music", str(things / "my song.wav"), which, str(things / name), "--out", str(out), *extra]
    )


def with_image(things: Path, *extra: str, appearance: str | None = "appearance") -> list[str]:
    model = [] if appearance is None else ["--appearance", str(things / appearance)]
    return ["--image", str(things / "me.png"), *model, *extra]


def test_a_song_and_a_picture(things: Path, tmp_path: Path, capsys: Any) -> None:
    options = ["--num-dances", "2", "--steps", "2", "--genre", "house", "--video-steps", "1", "--json"]
    source = ("--model", "dancer")
    assert generate(things, tmp_path / "out", *with_image(things, *options), source=source) == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    names = {f"my_song-{k}{end}" for k in (0, 1) for end in (".npz", ".bvh", ".glb", ".mp4", "-driving.mp4")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert {Path(file).name for file in result["files"]} == names
    for k in (0, 1):
        motion = load_motion(tmp_path / "out" / f"my_song-{k}.npz")
        facts = probe_video(tmp_path / "out" / f"my_song-{k}.mp4")
        assert facts.num_frames == round(motion.duration_s * 15)
        assert (facts.width, facts.height) == (32, 48)  # upright, as the picture is
        assert abs(facts.duration_s - (facts.audio_duration_s or 0)) < 1 / 15
        driving = probe_video(tmp_path / "out" / f"my_song-{k}-driving.mp4")
        assert (driving.num_frames, driving.width, driving.height) == (facts.num_frames, 32, 48)
        video = result["videos"][k]
        assert video["frames"] == facts.num_frames
        assert video["settings"]["steps"] == 1
        assert video["settings"]["size"] == video["size"] == [32, 48]
        assert set(video["weights"]) == {"appearance_expert", "vae", "text_encoder"}
        assert video["person_found"] is False
    assert "nobody looks for the person" in told.err
    one, two = (Video.open(tmp_path / "out" / f"my_song-{k}.mp4").frames() for k in (0, 1))
    assert not np.array_equal(one, two)


def test_without_an_appearance_model_a_mannequin_dances_and_it_is_said(
    things: Path, tmp_path: Path, capsys: Any
) -> None:
    options = with_image(things, "--size", "96", "--formats", "mp4", "--json", appearance=None)
    assert generate(things, tmp_path / "out", *options) == 0
    told = capsys.readouterr()
    assert "there is no model that could show the person" in told.err
    result = json.loads(told.out)
    assert result["videos"][0]["model"] is None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"my_song-0.mp4", "my_song-0-driving.mp4"}
    facts = probe_video(tmp_path / "out" / "my_song-0.mp4")
    assert (facts.num_frames, facts.width, facts.audio_codec) == (30, 96, "aac")
    assert probe_video(tmp_path / "out" / "my_song-0-driving.mp4").num_frames == 30


def test_a_motion_of_another_length_than_the_song(things: Path, tmp_path: Path, capsys: Any) -> None:
    assert generate(things, tmp_path / "out", *with_image(things, "--formats", "mp4", "--video-steps", "1")) == 0
    assert "the motion lasts 1.00 s, the song 1.50 s: the rest of the song is cut off" in capsys.readouterr().err
    facts = probe_video(tmp_path / "out" / "my_song-0.mp4")
    assert facts.num_frames == 15
    assert abs((facts.audio_duration_s or 0) - 1.0) < 0.07
    long = load_motion(things / "dance.npz")
    save_motion(tmp_path / "long.npz", Motion(np.tile(long.poses, (2, 1, 1)), np.tile(long.trans, (2, 1)), 30.0))
    source = ("--motion", str(tmp_path / "long.npz"))
    assert generate(things, tmp_path / "two", *with_image(things, "--formats", "mp4"), source=source) == 0
    assert "the end is silent" in capsys.readouterr().err
    assert abs((probe_video(tmp_path / "two" / "my_song-0.mp4").audio_duration_s or 0) - 2.0) < 0.07


class Corner:
    """Sees a person in the lower right corner of every picture."""

    name, layout = "corner", "coco_17"
    weights: dict[str, str] = {}
    settings: dict[str, Any] = {}

    def __call__(self, video: Video, progress: object = None) -> VideoKeypoints:
        points = np.ones((1, 17, 3))
        points[0, :, 0], points[0, :, 1] = 70 + np.arange(17) % 2 * 8, 60 + 3 * np.arange(17)
        return VideoKeypoints(points, 1.0, video.name, np.zeros((1, 4)), np.ones(1))


def test_a_dancer_who_leaves_the_picture_is_said(
    things: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.generate_video.keypoint_source", lambda *_: Corner())
    motion = load_motion(things / "dance.npz")
    walk = motion.trans + np.linspace(0, 6, 30)[:, None] * np.array([1.0, 0, 0])
    save_motion(tmp_path / "walk.npz", Motion(motion.poses, walk, 30.0))
    options = with_image(things, "--formats", "mp4", "--video-steps", "1", "--person", "vitpose", "--json")
    told = []
    for camera in ("fixed", "follow"):
        source = ("--motion", str(tmp_path / "walk.npz"))
        assert generate(things, tmp_path / camera, *options, "--camera", camera, source=source) == 0
        said = capsys.readouterr()
        told.append(json.loads(said.out)["videos"][0])
        if camera == "fixed":
            assert "the dancer is outside the picture in" in said.err
            assert "--camera follow" in said.err
    assert told[0]["person_found"] is True
    assert told[0]["frames_outside"] > told[1]["frames_outside"]


def test_pictures_as_users_have_them(things: Path, tmp_path: Path, capsys: Any) -> None:
    """Of every kind a video, of the same shape, whose person the model is shown upright and in 8 bits of colour."""
    picture = np.asarray(Image.open(things / "me.png"))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = {
        "grey.png": Image.fromarray(picture[..., 0]),
        "alpha.png": Image.fromarray(np.dstack([picture, picture[..., 0]])),
        "deep.png": Image.fromarray(picture[..., 0].astype(np.uint16) * 257),
        "turned.jpg": Image.fromarray(np.ascontiguousarray(np.rot90(picture))),
    }
    options = ("--formats", "mp4", "--video-steps", "1", "--json", "--appearance", str(things / "appearance"))
    for name, image in kinds.items():
        image.save(tmp_path / name, exif=turned if name == "turned.jpg" else Image.Exif())
        assert generate(things, tmp_path / f"of {name}", "--image", str(tmp_path / name), *options) == 0, name
        said = capsys.readouterr()
        assert json.loads(said.out)["videos"][0]["size"] == [32, 48], name
        assert "cut evenly" not in said.err


def test_what_is_cut_from_a_picture_of_another_shape_is_said(
    things: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = with_image(things, "--formats", "mp4", "--video-steps", "1", "--video-size", "48x32")
    assert generate(things, tmp_path / "cut", *wide) == 0
    said = capsys.readouterr().err
    # 90 x 120 shown at 48 x 32: as wide as it is, 60 of its 120 rows.
    assert (
        "the picture of 90 x 120 pixels is cut evenly to the video's 48 x 32, which leaves out 50% of its height"
        in said
    )
    monkeypatch.setattr("launch.generate_video.keypoint_source", lambda *_: Corner())
    assert generate(things, tmp_path / "whole", *wide, "--person", "vitpose") == 0
    assert "cut evenly" not in capsys.readouterr().err


class Nobody(Corner):
    """Sees no one."""

    def __call__(self, video: Video, progress: object = None) -> VideoKeypoints:
        return VideoKeypoints(np.zeros((1, 17, 3)), 1.0, video.name, np.full((1, 4), np.nan), np.zeros(1))


def test_a_picture_without_a_person_is_refused(
    things: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.generate_video.keypoint_source", lambda *_: Nobody())
    assert generate(things, tmp_path / "out", *with_image(things, "--person", "vitpose")) == 2
    assert "no person is seen in the picture; at " + str(things / "me.png") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_option_arrives(things: Path, tmp_path: Path, capsys: Any) -> None:
    options = [
        "--formats", "mp4", "--video-steps", "3", "--guidance", "2", "--prompt", "rain", "--video-size", "48x32",
        "--camera", "follow", "--driving", "mesh", "--person", "off", "--segment-frames", "5", "--known-frames", "2",
        "--no-colour-match", "--offload", "blocks", "--precision", "float32", "--json", "--device", "cpu",
        "--negative-prompt", "snow", "--video-sampler", "unipc",
    ]  # fmt: skip
    assert generate(things, tmp_path / "out", *with_image(things, *options)) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["videos"][0]["settings"] == {
        "size": [48, 32], "camera": "follow", "driving": "MeshDriver", "steps": 3, "lora_scale": None, "adapters": {},
        "guidance_scale": 2.0, "segment_frames": 5, "known_frames": 2, "match_colours": False, "prompt": "rain",
        "negative_prompt": "snow", "sampler": "unipc", "pose_parts": None,
    }  # fmt: skip
    assert "nobody looks" not in told.err


IMAGE = ("--image", "{things}/me.png")
MODEL = ("--appearance", "{things}/appearance")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--appearance", "x"], "--appearance without a picture"),
        ([*IMAGE, "--formats", "npz"], "add mp4 to --formats"),
        ([*IMAGE, "--video-steps", "4"], "--video-steps without a model"),
        ([*IMAGE, "--appearance", "/nowhere"], "no such folder"),
        ([*IMAGE, "--appearance", "{things}/dancer"], "no Appearance Expert"),
        (["--image", "{things}/none.png", "--appearance", "{things}/appearance"], "picture cannot be read"),
        (["--image", "{things}/my song.wav", "--appearance", "{things}/appearance"], "no picture"),
        ([*IMAGE, *MODEL, "--video-size", "48"], "--video-size"),
        ([*IMAGE, *MODEL, "--size", "640", "--renderer", "software"], "--size, --renderer with --appearance"),
        ([*IMAGE, *MODEL, "--size", "63"], "an even number of pixels"),
        ([*IMAGE, *MODEL, "--video-size", "50x30"], "48 x 32"),
        ([*IMAGE, *MODEL, "--lora-scale", ".5"], "no low-rank"),
        ([*IMAGE, *MODEL, "--lora", "{things}/me.png:0.5"], "adapters"),
        ([*IMAGE, *MODEL, "--lora", "{things}/wide.safetensors"], "of another model: 1 of 1 do not fit"),
        ([*IMAGE, *MODEL, "--lora", "{things}/holes.safetensors"], "1 weights are not finite"),
        ([*IMAGE, *MODEL, "--lora", "{things}/wide.safetensors:nan"], "the strength of adapters is nan"),
        ([*IMAGE, "--appearance", "{things}/cut"], "cannot read the model's configuration"),
        ([*IMAGE, "--appearance", "{things}/headless"], "holds no transformer"),
        ([*IMAGE, "--appearance", "{things}/other_vae"], "vae: not the weights that the transformer was trained with"),
        ([*IMAGE, "--appearance", "{things}/wan_vae"], "latent_channels 16, not 4"),
        (["--image", "{things}/tiny.png", *MODEL], "10 x 10 pixels"),
        ([*IMAGE, *MODEL, "--video-size", "832x480"], "at most 768 on a side"),
        ([*IMAGE, *MODEL, "--segment-frames", "300"], "at most 95"),
        ([*IMAGE, *MODEL, "--video-steps", "0"], "0 sampling"),
        ([*IMAGE, *MODEL, "--negative-prompt", "rain"], "negative_prompt without guidance"),
        ([*IMAGE, *MODEL, "--person", "vitpose"], "no weights"),
        (["--genre", "house"], "--genre with --motion"),
        (["--model", "{things}/dancer"], "either --model DIR or --motion FILE"),
    ],
)
def test_one_clear_error_and_nothing_is_left_behind(
    things: Path, tmp_path: Path, capsys: Any, extra: list[str], message: str
) -> None:
    given = [text.format(things=things) for text in extra]
    assert generate(things, tmp_path / "out", *given) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert message in told[-1]
    assert not (tmp_path / "out").exists()


#: Whose default is a choice of its own, so that "given" cannot be told from the value.
@pytest.mark.parametrize("given", [["--person", "auto"], ["--person-weights", "w"], ["--no-colour-match"]])
@pytest.mark.parametrize("picture", [False, True])
def test_options_that_nothing_would_follow_are_refused(
    things: Path, tmp_path: Path, capsys: Any, given: list[str], picture: bool
) -> None:
    image = with_image(things, appearance=None) if picture else []
    assert generate(things, tmp_path / "out", *image, *given) == 2
    lacking = "a model of a person" if picture else "a picture of the person"
    assert f"{given[0]} without {lacking}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_option_of_the_video_is_refused_without_a_picture(things: Path, tmp_path: Path, capsys: Any) -> None:
    parser = argparse.ArgumentParser()
    add_video_options(parser)
    values = {action.dest: "1" if action.nargs is None else True for action in parser._actions[1:]}
    nothing = parser.parse_args([])
    for name in values.keys() - {"image"}:
        given = argparse.Namespace(**vars(nothing) | {name: values[name]})
        with pytest.raises(ConfigError, match=f"^--{name.replace('_', '-')} without a picture"):
            check_video_options(given, ["mp4"])
    assert generate(things, tmp_path / "out", "--camera", "follow", "--no-colour-match") == 2
    assert "--camera, --no-colour-match without a picture" in capsys.readouterr().err


def test_a_motion_with_holes_is_refused(things: Path, tmp_path: Path, capsys: Any) -> None:
    motion = load_motion(things / "dance.npz")
    poses = motion.poses.copy()
    poses[3] = np.nan
    np.savez(tmp_path / "bad.npz", poses=poses, trans=motion.trans, fps=30.0)
    assert generate(things, tmp_path / "out", source=("--motion", str(tmp_path / "bad.npz"))) == 2
    assert "NaN" in capsys.readouterr().err


RENDERER = "macedance.pipelines.renderers.appearance_expert"


def test_the_cascade_is_judged_with_it(things: Path, tmp_path: Path, capsys: Any) -> None:
    motion = load_motion(things / "dance.npz").slice(0, 8)
    for which, turned in (("true", 0.0), ("ours", 0.4)):
        poses = motion.poses.copy()
        poses[:, 17, 2] += turned
        save_motion(tmp_path / which / "d0.npz", Motion(poses, motion.trans, 30.0))
    arguments = [
        "evaluate", "cascade", "--generated", str(tmp_path / "ours"), "--reference", str(tmp_path / "true"),
        "--keypoints", "none", "--no-vbench", "--resamples", "20", "--perturbations", "foot_slide", "--levels", "1",
        "--renderer", RENDERER, "--renderer-option", f"folder={things / 'appearance'}",
        "--renderer-option", "num_steps=1", "--renderer-option", "size=[32, 32]", "--json",
    ]  # fmt: skip
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["inputs"]["resolution"] == [32, 32]
    assert "appearance_expert" in result["weights"]
    assert json.dumps(result).count("match_colours") == 1


def test_a_config_can_name_it(things: Path) -> None:
    from jsonargparse import ArgumentParser

    from callbacks.cascade_gap import CascadeGap

    parser = ArgumentParser()
    parser.add_subclass_arguments(CascadeGap, "callback")
    renderer = {"class_path": RENDERER, "init_args": {"folder": str(things / "appearance"), "num_steps": 1}}
    told = {"class_path": "callbacks.cascade_gap.CascadeGap", "init_args": {"renderer": renderer}}
    made = parser.instantiate(parser.parse_object({"callback": told}))
    assert made.callback.renderer.settings["steps"] == 1
