"""`macedance evaluate cascade` with an Appearance Expert of toy size as its renderer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_appearance as tiny
import torch
from PIL import Image

from launch.main import main
from macedance.errors import ConfigError
from macedance.motion.files import Motion, save_motion
from macedance.pipelines import renderers
from macedance.pipelines.motion_to_video import MotionToVideo
from macedance.pipelines.renderers import appearance_expert, device_of_process
from macedance.rendering import MeshDancer, VideoWriter
from macedance.rendering.probe import probe_video
from macedance.vision.keypoints import VideoKeypoints
from macedance.vision.video import Video

RENDERER = "macedance.pipelines.renderers.appearance_expert"
FRAMES, FPS = 12, 30.0


class Standing:
    """Sees somebody small, at the left, in every frame of every video; in a grey one nobody."""

    name, layout = "standing", "coco_17"
    weights = {"standing": "2" * 64}
    settings: dict[str, float | int | str] = {}

    def __call__(self, video: Video, progress: object = None) -> VideoKeypoints:
        frames = video.frames()
        down = np.array([2, 0, 0, 1, 1, 14, 14, 30, 30, 44, 44, 45, 45, 68, 68, 92, 92]) / 100
        across = np.array([0, 1, -1, 2, -2, 6, -6, 8, -8, 9, -9, 4, -4, 4, -4, 4, -4]) / 100
        points = np.ones((len(frames), 17, 3), np.float32)
        points[..., 0] = video.width * (0.25 + 0.5 * across)
        points[..., 1] = video.height * (0.3 + 0.5 * down)
        there = np.array([int(frame.max()) - int(frame.min()) > 4 for frame in frames])
        boxes = np.concatenate([points[..., :2].min(axis=1), points[..., :2].max(axis=1)], axis=1)
        points[~there], boxes[~there] = 0.0, np.nan
        return VideoKeypoints(
            points, video.fps, video.name, boxes, there.astype(int), width=video.width, height=video.height
        )


def dance(seed: int) -> Motion:
    time_s = np.arange(FRAMES) / FPS
    poses = np.zeros((FRAMES, 24, 3))
    poses[:, 16, 2] = -0.9 + 0.6 * np.sin(2 * np.pi * time_s + seed)
    poses[:, 1, 0] = -0.3 - 0.2 * np.sin(2 * np.pi * time_s + 2 * seed)
    return Motion(poses, np.tile([0.0, 0.95, 0.0], (FRAMES, 1)), FPS, genre="house").grounded()


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model at half the motions' rate, two pairs of motions, their true videos of another size, a picture."""
    folder = tmp_path_factory.mktemp("things")
    MotionToVideo(*tiny.make_expert()).save_pretrained(folder / "model")
    dancer = MeshDancer(64, 64, backend="software", samples=1)
    for index in range(2):
        save_motion(folder / "true" / f"d{index}.npz", dance(index))
        save_motion(folder / "ours" / f"d{index}.npz", dance(index + 7))
        video = dancer.render(dance(index), dancer.reference_image(dance(index)))
        with VideoWriter(folder / "videos" / f"d{index}.mp4", FPS, 64, 64) as writer:
            for picture in video.pictures():
                writer.add(picture)
    Image.fromarray(MeshDancer(96, 128, backend="software").reference_image(dance(0))).save(folder / "me.png")
    Image.fromarray(np.full((128, 96, 3), 128, np.uint8)).save(folder / "nobody.png")
    return folder


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are weights that find somebody."""
    monkeypatch.setattr("launch.evaluation.cascade.keypoint_source", lambda *_: Standing())
    monkeypatch.setattr(renderers, "best_keypoint_source", lambda *_: (Standing(), ""))


Evaluated = Callable[..., dict[str, Any]]


@pytest.fixture
def evaluated(things: Path, capsys: pytest.CaptureFixture[str]) -> Evaluated:
    def run(*extra: str, code: int = 0, size: str | None = "[32, 32]", **chosen: str) -> Any:
        told = {"folder": str(things / "model"), "num_steps": "1", **({"size": size} if size else {}), **chosen}
        given = [text for key, value in told.items() for text in ("--renderer-option", f"{key}={value}")]
        capsys.readouterr()
        assert main([
            "evaluate", "cascade", "--generated", str(things / "ours"), "--reference", str(things / "true"),
            "--keypoints", "vitpose", "--no-vbench", "--resamples", "0", "--perturbations", "none", "--device", "cpu",
            "--renderer", RENDERER, *given, "--json", *extra,
        ]) == code  # fmt: skip
        said = capsys.readouterr()
        return json.loads(said.out) if code == 0 else said.err.strip().splitlines()[-1]

    return run


def test_every_arm_is_rendered_and_judged(things: Path, evaluated: Evaluated, tmp_path: Path) -> None:
    result = evaluated("--videos", str(things / "videos"), "--out", str(tmp_path / "page"))
    assert result["inputs"]["clips"]["arms"] == {
        "ground_truth": 2, "real": 2, "video_keypoints": 2, "generated": 2,
    }  # fmt: skip
    assert result["inputs"]["fps"] == {"video": 15.0, "motion": [FPS]}
    for arm in ("ground_truth", "generated", "video_keypoints"):
        assert result["presets"][arm]["pck_10"]["n"] == 2, arm
        for index in range(2):
            facts = probe_video(tmp_path / "page" / "arms" / arm / f"d{index}.mp4")
            assert (facts.num_frames, facts.fps, facts.width, facts.height) == (FRAMES // 2, 15.0, 32, 32)
    assert result["presets"]["gap_generated"]["person_motion"]["n"] == 2
    # The true videos are driven by what is seen in them, and just that is seen in the result too.
    assert result["presets"]["video_keypoints"]["pck_05"]["value"] == 1.0
    assert result["presets"]["ground_truth"]["pck_05"]["value"] < 0.5
    reason = result["presets"]["ground_truth"]["ssim"]["reason"]
    assert "64x64 at 30 fps, the arm's 32x32 at 15 fps" in reason


def test_true_videos_of_another_shape_leave_one_arm_out(things: Path, evaluated: Evaluated) -> None:
    result = evaluated("--videos", str(things / "videos"), size="[32, 48]")
    assert result["inputs"]["clips"]["arms"]["video_keypoints"] == 0
    assert (
        result["inputs"]["absent_arms"]["video_keypoints"] == "keypoints of a picture of 64 x 64 for a video of 48 x 32"
    )
    assert result["presets"]["generated"]["person_motion"]["value"] is not None


def test_the_result_names_the_model_and_only_the_model_is_hashed(
    things: Path, evaluated: Evaluated, tmp_path: Path
) -> None:
    result = evaluated("--seed", "3")
    own = MotionToVideo.from_pretrained(things / "model").weights
    assert own.items() <= result["weights"].items()
    assert result["inputs"]["renderer"] == {
        "class": "AppearanceRenderer", "sources": {"appearance_expert": str(things / "model")},
    }  # fmt: skip
    told = result["conventions"]["cascade"]["renderer_settings"]
    assert (told["steps"], told["sampler"], told["size"], told["adapters"]) == (1, "euler", [32, 32], {})
    assert result["inputs"]["settings"]["seed"] == 3
    (tmp_path / "elsewhere").symlink_to(things / "model")
    moved = evaluated("--seed", "3", folder=str(tmp_path / "elsewhere"))
    assert moved["hash"] == result["hash"]
    assert moved["inputs"]["renderer"]["sources"] != result["inputs"]["renderer"]["sources"]
    assert moved["presets"] == result["presets"]
    assert evaluated("--seed", "3", num_steps="2")["hash"] != result["hash"]


def test_a_picture_of_its_own(things: Path, evaluated: Evaluated) -> None:
    picture = {"reference_image": str(things / "me.png"), "size": None}
    placed = evaluated(**picture)
    told = placed["conventions"]["cascade"]["renderer_settings"]
    # Upright, as the picture is, with its person found by what is recorded.
    assert (told["size"], told["own_picture"], told["person_found"]) == ([32, 48], True, True)
    assert placed["inputs"]["resolution"] == [32, 48]
    assert placed["weights"]["standing"] == "2" * 64
    assert placed["inputs"]["renderer"]["sources"]["reference_image"] == str(things / "me.png")
    free = evaluated(person="off", **picture)
    assert free["conventions"]["cascade"]["renderer_settings"]["person_found"] is False
    assert "standing" not in free["conventions"]["cascade"]["renderer_settings"]
    # The judges look for the dancer where the person of the picture stands: the stand-in sees them just there.
    values = [result["presets"]["ground_truth"]["pck_10"]["value"] for result in (placed, free)]
    assert values[0] > values[1]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"folder": "/nowhere"}, "no such folder"),
        ({"size": "[30, 32]"}, "32 x 32"),
        ({"size": "[32]"}, "[height, width]"),
        ({"device": "cuda:99"}, "the device 'cuda:99' cannot be used"),
        ({"reference_image": "{things}/nobody.png"}, "no person is seen in the picture"),
        ({"reference_image": "{things}/none.png"}, "picture cannot be read"),
        ({"reference_image": "{things}/me.png", "person": "me"}, "auto or off or blazepose or vitpose"),
        ({"lora": '["{things}/me.png:0.5"]'}, "adapters"),
        ({"driving": "song"}, "pose or mesh"),
        ({"wings": "2"}, "cannot be made of these options"),
    ],
)
def test_one_clear_error(evaluated: Evaluated, things: Path, chosen: dict[str, str], message: str) -> None:
    filled = {key: value.format(things=things) for key, value in chosen.items()}
    assert message in evaluated(code=2, **filled)


def test_who_dances_is_said_once(things: Path, evaluated: Evaluated) -> None:
    given = ("--reference-images", str(things / "me.png"))
    assert "own_picture" in json.dumps(evaluated(*given))
    said = evaluated(*given, code=2, reference_image=str(things / "me.png"))
    assert "another picture of who dances than its own" in said


def test_a_person_of_the_picture_lends_their_place(things: Path) -> None:
    placed, free = (
        appearance_expert(str(things / "model"), num_steps=1, reference_image=str(things / "me.png"), person=who)
        for who in ("auto", "off")
    )
    assert placed.pipeline is free.pipeline
    points = [one.driving_keypoints(dance(0)) for one in (placed, free)]
    assert points[0][0, :, 0].mean() < points[1][0, :, 0].mean() - 4
    video = placed.render(dance(0), placed.reference_image(dance(0)))
    assert (video.num_frames, video.width, video.height) == (len(points[0]), 32, 48)
    with pytest.raises(ConfigError, match="another picture"):
        placed.render(dance(0), np.zeros((48, 32, 3), np.uint8))


def test_it_draws_no_numbers_that_training_draws_from(things: Path) -> None:
    before = torch.get_rng_state(), str(np.random.get_state())
    one = appearance_expert(str(things / "model"), num_steps=1, reference_image=str(things / "me.png"))
    videos = [one.render(dance(0), one.reference_image(dance(0)), seed=seed).frames() for seed in (0, 0, 1)]
    assert np.array_equal(videos[0], videos[1])
    assert not np.array_equal(videos[0], videos[2])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]


def test_weights_are_shared_while_they_are_held_and_read_again_when_replaced(things: Path, tmp_path: Path) -> None:
    import gc
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(things / "model", folder)
    first = appearance_expert(str(folder), num_steps=1)
    assert appearance_expert(str(folder), num_steps=2).pipeline is first.pipeline
    assert (first.settings["steps"], appearance_expert(str(folder), num_steps=2).settings["steps"]) == (1, 2)
    assert appearance_expert(str(folder), driving="mesh").pipeline is not first.pipeline
    shutil.rmtree(folder)
    network, encoders, config = tiny.make_expert()
    with torch.no_grad():
        network.transformer.proj_out.weight.mul_(2)
    MotionToVideo(network, encoders, config).save_pretrained(folder)
    assert appearance_expert(str(folder)).weights != first.weights
    held = len(renderers._HELD)
    del first
    gc.collect()
    assert len(renderers._HELD) < held


def test_each_rank_of_a_machine_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    for variable in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(variable, raising=False)
    assert device_of_process(None) == "cuda:0"
    monkeypatch.setenv("SLURM_LOCALID", "2")
    assert device_of_process("cuda") == "cuda:2"
    monkeypatch.setenv("LOCAL_RANK", "5")
    assert device_of_process("cuda") == "cuda:1"
    assert device_of_process("cuda:3") == "cuda:3"
    assert device_of_process("cpu") == "cpu"
