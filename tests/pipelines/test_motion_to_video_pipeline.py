"""From a dance and a picture to a video, against the published pipeline and at every length."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_appearance as tiny
import torch

from macedance.diffusion.flow_matching import sampling_noise
from macedance.errors import CheckpointError, ConfigError, DataError, NumericsError
from macedance.models.appearance_expert.codec import LatentCodec
from macedance.models.appearance_expert.encoders import AppearanceEncoders
from macedance.motion.files import JointClip, Motion
from macedance.pipelines.appearance_config import AppearanceModelConfig
from macedance.pipelines.appearance_folder import read_config
from macedance.pipelines.appearance_pretrained import released_config
from macedance.pipelines.motion_to_video import MotionToVideo
from macedance.pipelines.renderers import appearance_expert
from macedance.pipelines.video_settings import VideoSettings
from macedance.rendering.mesh_driver import MeshDriver
from macedance.rendering.motion_to_video import KeypointRenderer, MotionRenderer
from macedance.vision.keypoints import VideoKeypoints
from macedance.vision.video import Video


def dance(frames: int = 20, fps: float = 30.0) -> Motion:
    time_s = np.arange(frames) / fps
    poses = np.zeros((frames, 24, 3), dtype=np.float32)
    poses[:, 16, 2] = -1.0 + 0.5 * np.sin(4 * time_s)
    poses[:, 17, 2] = 1.0 + 0.5 * np.sin(4 * time_s)
    trans = np.stack([0.3 * np.sin(2 * time_s), np.full(frames, 0.95), 0 * time_s], axis=-1)
    return Motion(poses, trans, fps)


def picture(height: int = 32, width: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pipeline(**options: Any) -> MotionToVideo:
    return MotionToVideo(*tiny.make_expert(), **options)


@pytest.fixture(scope="module")
def toy() -> MotionToVideo:
    return pipeline()


# ---------------------------------------------------------------- the published pipeline
@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, MotionToVideo]:
    """diffusers' pipeline of a toy with Wan's factors, and ours with the same weights."""
    from diffusers import UniPCMultistepScheduler, WanAnimatePipeline

    folder = tmp_path_factory.mktemp("wan")
    tiny.write_text_encoder(folder)
    tiny.write_image_encoder(folder)
    network, _, config = tiny.make_expert(tiny.make_vae(tiny.WAN_VAE), frames=17, size=(32, 48), image=True)
    with torch.no_grad():
        for block in network.transformer.blocks:  # freshly made, it hardly heeds what it is told
            block.attn2.to_v.weight.mul_(30.0)
            block.attn2.norm_k.weight.mul_(30.0)  # nor one word among 512 places
    tiny.make_vae(tiny.WAN_VAE).save_pretrained(folder / "vae")
    encoders = AppearanceEncoders.from_folder(folder, face_size=16, with_image=True)
    clip, text = encoders.image_encoder, encoders.text_encoder
    assert clip is not None
    theirs: Any = WanAnimatePipeline(
        text.tokenizer, text.encoder, encoders.codec.vae,
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
        clip.processor, clip.encoder, network.transformer,
    )  # fmt: skip
    theirs.set_progress_bar_config(disable=True)
    return theirs, MotionToVideo(network, encoders, config, settings=VideoSettings(match_colours=False))


def even_euler() -> Any:
    """diffusers' Euler at noise levels that are even before the shift, down to 0, as Wan's own code has them."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    class EvenEuler(FlowMatchEulerDiscreteScheduler):
        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            sigmas = np.linspace(1, 0, num_inference_steps + 1)[:-1]
            super().set_timesteps(sigmas=sigmas, device=device)  # type: ignore[misc]

    return EvenEuler(shift=5.0)


PROMPT = "a person dancing in rain"


@pytest.mark.parametrize(
    ("frames", "known", "choices"),
    [
        (17, 1, {"sampler": "euler"}),
        (33, 1, {"sampler": "euler"}),
        (29, 5, {"sampler": "unipc"}),
        (17, 1, {"sampler": "unipc", "num_steps": 5}),
        (17, 1, {"sampler": "unipc", "num_steps": 1}),
        (17, 1, {"sampler": "euler", "guidance_scale": 2.5}),
        (29, 5, {"sampler": "unipc", "guidance_scale": 2.5, "negative_prompt": "in rain"}),
    ],
)
def test_it_samples_what_the_published_pipeline_samples(
    published: tuple[Any, MotionToVideo],
    frames: int,
    known: int,
    choices: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from PIL import Image

    theirs, ours = published
    calls: list[int] = []

    def noise(*_: Any, **__: Any) -> torch.Tensor:
        calls.append(len(calls))
        return sampling_noise(5, calls[-1], (1, 16, 6, 4, 6))

    monkeypatch.setattr(theirs, "prepare_latents", noise)
    if choices["sampler"] == "euler":
        monkeypatch.setattr(theirs, "scheduler", even_euler())
    # diffusers cleans prompts with a package that it does not declare, and that is not installed here.
    monkeypatch.setattr("diffusers.pipelines.wan.pipeline_wan_animate.prompt_clean", lambda text: text)
    driving = Video.from_frames(np.stack([picture(seed=100 + i) for i in range(frames)]), 15.0)
    reference = picture()
    choices = {"num_steps": 3, "known_frames": known, "prompt": PROMPT, **choices}
    expected = theirs(
        image=Image.fromarray(reference),
        pose_video=[Image.fromarray(frame) for frame in driving.frames()],
        face_video=[Image.new("RGB", (16, 16))] * frames,
        prompt=PROMPT, negative_prompt=choices.get("negative_prompt"),
        guidance_scale=choices.get("guidance_scale", 1.0),
        height=32, width=48, segment_frame_length=17, num_inference_steps=choices["num_steps"],
        prev_segment_conditioning_frames=known, output_type="pt",
    ).frames[0]  # fmt: skip
    got = np.concatenate(list(ours.frames(driving, reference, seed=5, **choices)))
    theirs_uint8 = (expected.permute(0, 2, 3, 1) * 255).round().numpy()
    assert got.shape == theirs_uint8.shape
    assert len(calls) == (1 if frames == 17 else 2)
    assert got.std() > 10
    # Rounded to 8 bits, so that a difference of 1e-5 may show as one level in a few places.
    difference = np.abs(got.astype(int) - theirs_uint8)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_guidance_leads_away_from_what_training_dropped_prompts_to(published: tuple[Any, MotionToVideo]) -> None:
    _, ours = published
    driving = Video.from_frames(np.stack([picture(seed=100 + i) for i in range(5)]), 15.0)

    def video(model: MotionToVideo, **choices: Any) -> np.ndarray:
        choices = {"num_steps": 2, "guidance_scale": 3.0, "prompt": PROMPT, **choices}
        return np.concatenate(list(model.frames(driving, picture(), seed=5, **choices)))

    before = MotionToVideo(
        ours.network, ours.encoders, replace(ours.config, dropped_text="zeros"), settings=ours.video_settings
    )
    assert (video(before) != video(ours)).mean() > 0.01
    assert np.array_equal(video(before, negative_prompt="rain"), video(ours, negative_prompt="rain"))
    assert before.described(guidance_scale=3.0)["negative_prompt"] is None
    assert ours.described(guidance_scale=3.0)["negative_prompt"] == ""
    assert ours.described()["negative_prompt"] is None


# ---------------------------------------------------------------- length
@pytest.mark.parametrize("frames", [1, 10, 77, 78, 300])
def test_as_many_frames_as_the_motion_lasts(toy: MotionToVideo, frames: int) -> None:
    video = toy(dance(frames, fps=15.0), picture(), num_steps=1, segment_frames=77)
    assert video.num_frames == frames
    assert (video.width, video.height, video.fps) == (48, 32, 15.0)
    steps = np.abs(np.diff(video.frames().astype(int), axis=0)).max(axis=(1, 2, 3))
    assert (steps > 0).all(), f"frames {np.flatnonzero(steps == 0)} are shown twice"


@pytest.mark.parametrize("fps", [24.0, 30.0, 60.0])
def test_a_second_stays_a_second(toy: MotionToVideo, fps: float) -> None:
    assert toy.drive(dance(round(2 * fps), fps)).num_frames == 30


def test_segments_go_on_from_one_another(toy: MotionToVideo) -> None:
    motion, image = dance(20, fps=15.0), picture()
    video = toy(motion, image).frames()
    assert np.array_equal(toy(dance(20, fps=15.0), image).frames(), video)
    alone = toy(motion, image, known_frames=0, match_colours=False).frames()
    assert np.array_equal(alone[:9], video[:9])
    assert not np.array_equal(alone[9:], video[9:])


def test_a_longer_motion_begins_the_same(toy: MotionToVideo) -> None:
    frames = np.stack([picture(seed=100 + i) for i in range(30)])
    longer, shorter = (
        np.concatenate(list(toy.frames(Video.from_frames(frames[:count], 15.0), picture()))) for count in (30, 17)
    )
    assert np.array_equal(longer[:17], shorter)


def test_every_choice_counts(toy: MotionToVideo) -> None:
    motion, image = dance(9, fps=15.0), picture()
    base = toy(motion, image).frames()
    other: list[dict[str, Any]] = [
        {"seed": 1}, {"num_steps": 3}, {"prompt": "another"}, {"guidance_scale": 2.0}, {"camera": "follow"},
        {"segment_frames": 5}, {"sampler": "unipc"},
    ]  # fmt: skip
    for choice in other:
        assert not np.array_equal(toy(motion, image, **choice).frames(), base), choice
    assert not np.array_equal(toy(motion, picture(seed=3)).frames(), base)
    assert np.array_equal(toy(motion, image, prompt=None, num_steps=2).frames(), base)


def test_progress_counts_every_step(toy: MotionToVideo) -> None:
    told: list[tuple[int, int]] = []
    toy(dance(20, fps=15.0), picture(), num_steps=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(step, 6) for step in range(1, 7)]


def test_the_mode_of_the_network_is_left_alone() -> None:
    toy = pipeline()
    toy.network.train()
    first = toy(dance(9, fps=15.0), picture()).frames()
    assert toy.network.training
    toy.network.eval()
    assert np.array_equal(toy(dance(9, fps=15.0), picture()).frames(), first)


# ---------------------------------------------------------------- pictures
@pytest.mark.parametrize(
    ("height", "width", "expected"), [(300, 200, (48, 32)), (200, 300, (32, 48)), (200, 200, (32, 48))]
)
def test_the_video_of_an_upright_picture_is_upright(
    toy: MotionToVideo, height: int, width: int, expected: tuple[int, int]
) -> None:
    video = toy(dance(2, fps=15.0), picture(height, width), num_steps=1)
    assert (video.height, video.width) == expected
    fixed = toy(dance(2, fps=15.0), picture(height, width), num_steps=1, size=(32, 32))
    assert (fixed.height, fixed.width) == (32, 32)


class Finder:
    """Says where the person is, or that there is none."""

    def __init__(self, points: np.ndarray | None) -> None:
        self.points = np.zeros((17, 3)) if points is None else points

    def __call__(self, video: Video) -> VideoKeypoints:
        boxes = np.array([[0, 0, 1, 1]], dtype=np.float32)
        return VideoKeypoints(self.points[None], 1.0, video.name, boxes, np.ones(1))


def person_at(x: float, y: float, height: float) -> np.ndarray:
    """COCO's keypoints of somebody who stands upright, eyes at (x, y)."""
    across = {5: 0.12, 6: -0.12, 7: 0.16, 8: -0.16, 9: 0.18, 10: -0.18, 11: 0.07, 12: -0.07, 13: 0.07, 14: -0.07,
              15: 0.07, 16: -0.07, 1: 0.02, 2: -0.02, 3: 0.05, 4: -0.05, 0: 0.0}  # fmt: skip
    down = {0: 0.02, 1: 0, 2: 0, 3: 0.01, 4: 0.01, 5: 0.14, 6: 0.14, 7: 0.3, 8: 0.3, 9: 0.44, 10: 0.44, 11: 0.45,
            12: 0.45, 13: 0.68, 14: 0.68, 15: 0.92, 16: 0.92}  # fmt: skip
    return np.array([[x + height * across[k], y + height * down[k], 1.0] for k in range(17)])


def test_the_dancer_stands_where_the_person_stands(caplog: pytest.LogCaptureFixture) -> None:
    person = person_at(240, 20, 100)
    toy = pipeline(person=Finder(person))
    reference = toy.reference(picture(160, 320))
    assert reference.points_K3 is not None
    driving = toy.drive(dance(4, fps=15.0), reference).frames()
    drawn = np.argwhere(driving[0].max(axis=-1) > 0)
    middle = drawn[:, 1].mean()
    # Cut round the person, not at the middle of the picture.
    assert abs(middle - reference.points_K3[:, 0][reference.points_K3[:, 2] > 0].mean()) < 3
    assert abs(drawn[:, 1].mean() - 24) < 12
    assert abs(pipeline().drive(dance(4, fps=15.0)).frames()[0].max(axis=-1).sum()) > 0


def test_a_picture_without_a_person_is_one_clear_error(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(picture(100, 100)).save(tmp_path / "wall.png")
    with pytest.raises(DataError, match=r"no person is seen .*wall\.png"):
        pipeline(person=Finder(None))(dance(2), tmp_path / "wall.png")


def test_a_person_who_would_be_cut_keeps_their_feet() -> None:
    toy = pipeline(person=Finder(person_at(50, 10, 280)))
    reference = toy.reference(picture(300, 100), size=(32, 48))
    assert reference.points_K3 is not None
    seen = reference.points_K3[reference.points_K3[:, 2] > 0]
    assert (seen[:, 1] < 32).all()
    assert not reference.image_HW3[:, 0].any()  # a black bar


def test_a_picture_of_ten_pixels_is_refused(toy: MotionToVideo, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(picture(10, 10)).save(tmp_path / "dot.png")
    with pytest.raises(DataError, match=r"10 x 10 pixels; at .*dot\.png"):
        toy(dance(2), tmp_path / "dot.png")


# ---------------------------------------------------------------- a renderer of the protocol
def test_it_is_what_the_protocol_drives(toy: MotionToVideo) -> None:
    assert isinstance(toy, MotionRenderer)
    assert isinstance(toy, KeypointRenderer)
    motion = dance(6, fps=30.0)
    image = toy.reference_image(motion)
    assert image.shape == (32, 48, 3)
    video = toy.render(motion, image, seed=3)
    points = toy.driving_keypoints(motion)
    assert video.num_frames == len(points) == 3
    assert points.shape == (3, 17, 3)
    assert set(np.unique(points[..., 2])) <= {0.0, 1.0}
    drawn = toy.drive(motion).frames()[0].max(axis=-1)
    for x, y, seen in points[0]:
        assert not seen or drawn[int(y), int(x)] > 0
    joints = JointClip(motion.joint_positions(), 30.0)
    assert toy.render(joints, image).num_frames == 3
    assert toy.settings["size"] == [48, 32]
    assert toy.settings["steps"] == 2
    assert set(toy.weights) == {"appearance_expert", "vae", "text_encoder"}
    assert len(toy.weights["appearance_expert"]) == 64
    tuned = pipeline()
    with torch.no_grad():
        tuned.network.transformer.pose_patch_embedding.weight.mul_(1 + 1e-6)
    assert tuned.weights["appearance_expert"] != toy.weights["appearance_expert"]
    assert tuned.weights["vae"] == toy.weights["vae"]


def test_keypoints_of_a_video_drive_it(toy: MotionToVideo) -> None:
    points = np.stack([person_at(60 + i, 5, 50) for i in range(12)])
    video = toy.render_keypoints(points, 30.0, picture(64, 96), keypoint_size=(96, 64))
    assert video.num_frames == 6
    for wrong in (points[:, :5], points[:0], np.full_like(points, np.nan)):
        with pytest.raises(DataError, match="keypoints"):
            toy.render_keypoints(wrong, 30.0, picture(), keypoint_size=(96, 64))


def test_a_solid_body_can_drive_it() -> None:
    toy = pipeline(driver=MeshDriver)
    motion = dance(6, fps=15.0)
    driving = toy.drive(motion, size=(128, 192))
    skeleton = pipeline().drive(motion, size=(128, 192))
    assert driving.num_frames == skeleton.num_frames == 6
    shown = np.abs(driving.frames()[0].astype(int) - driving.frames()[0][0, 0]).max(axis=-1) > 12
    drawn = skeleton.frames()[0].max(axis=-1) > 0
    assert shown.mean() > drawn.mean()
    assert shown[drawn].mean() > 0.6
    assert toy(motion, picture()).num_frames == 6
    assert toy.settings["driving"] == "MeshDriver"


# ---------------------------------------------------------------- bad input
def test_sizes_that_do_not_belong_together_are_named(toy: MotionToVideo) -> None:
    driving = toy.drive(dance(4))
    with pytest.raises(DataError, match="48 x 32 pixels, the reference picture 32 x 32"):
        toy.frames(driving, picture(32, 32))
    with pytest.raises(ConfigError, match="36 x 36"):
        toy(dance(4), picture(), size=(36, 36))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"num_steps": 0}, "0 sampling steps"),
        ({"guidance_scale": 0.5}, "guidance"),
        ({"negative_prompt": "rain"}, "negative_prompt without guidance"),
        ({"sampler": "heun"}, "unknown sampler 'heun'"),
        ({"lora_scale": 0.5}, "no low-rank adapters"),
        ({"segment_frames": 0}, "segments of 0"),
        ({"known_frames": 9}, "9 known frames"),
        ({"camera": "drone"}, "unknown camera"),
        ({"steps": 4}, "unknown setting steps"),
    ],
)
def test_choices_that_cannot_be(toy: MotionToVideo, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy(dance(4), picture(), **choice)


def test_a_motion_that_is_not_finite_is_refused(toy: MotionToVideo) -> None:
    joints = dance(4).joint_positions()
    joints[2, 5] = np.nan
    with pytest.raises(DataError, match="NaN"):
        toy(JointClip(joints, 30.0), picture())


def test_numbers_that_run_away_are_said() -> None:
    toy = pipeline()
    torch.nn.init.constant_(toy.network.transformer.proj_out.weight, float("nan"))
    with pytest.raises(NumericsError, match="not finite"):
        toy(dance(4), picture())


def test_an_autoencoder_of_another_model_is_named() -> None:
    network, encoders, config = tiny.make_expert()
    trained_with = AppearanceModelConfig(**{**vars(config), "encoders": encoders.fingerprint})
    MotionToVideo(network, encoders, trained_with)
    other = AppearanceEncoders(LatentCodec(tiny.make_vae(seed=9)), encoders.text_encoder, face_size=16)
    with pytest.raises(CheckpointError, match="vae: not the weights"):
        MotionToVideo(network, other, trained_with)
    wan = AppearanceEncoders(LatentCodec(tiny.make_vae(tiny.WAN_VAE)), encoders.text_encoder, face_size=16)
    with pytest.raises(CheckpointError, match="out_channels 16, not 4"):
        MotionToVideo(network, wan, config)
    wider = tiny.make_vae({**tiny.TOY_VAE, "scale_factor_temporal": 4, "temperal_downsample": [True]})
    with pytest.raises(CheckpointError, match="4 pixels and 4 frames"):
        MotionToVideo(network, AppearanceEncoders(LatentCodec(wider), encoders.text_encoder, face_size=16), config)


# ---------------------------------------------------------------- folders
def test_a_saved_model_makes_the_same_video(tmp_path: Path, toy: MotionToVideo) -> None:
    motion, image = dance(12, fps=15.0), picture()
    folder = toy.save_pretrained(tmp_path / "model")
    assert (folder / "vae" / "config.json").is_file()
    again = MotionToVideo.from_pretrained(folder)
    assert again.weights == toy.weights
    assert np.array_equal(again(motion, image).frames(), toy(motion, image).frames())
    renderer = appearance_expert(str(folder), num_steps=1, size=[32, 32])
    assert renderer.settings["steps"] == 1
    assert renderer.settings["size"] == [32, 32]
    with pytest.raises(ConfigError, match="height, width"):
        appearance_expert(str(folder), size=[32])
    with pytest.raises(ConfigError, match="exists"):
        toy.save_pretrained(folder)


def test_half_the_memory_gives_nearly_the_same_video(tmp_path: Path, toy: MotionToVideo) -> None:
    half = MotionToVideo.from_pretrained(toy.save_pretrained(tmp_path / "model"), precision="bfloat16")
    assert half.network.transformer.patch_embedding.weight.dtype == torch.bfloat16
    assert half.encoders.codec.vae.dtype == torch.float32
    assert half.weights["vae"] == toy.weights["vae"]
    videos = [which(dance(9, fps=15.0), picture()).frames().astype(float) for which in (half, toy)]
    assert 0 < np.abs(videos[0] - videos[1]).mean() < 4


def test_a_folder_without_encoders_takes_those_that_are_named(tmp_path: Path, toy: MotionToVideo) -> None:
    import shutil

    folder = toy.save_pretrained(tmp_path / "model")
    shutil.move(folder / "vae", tmp_path / "frozen" / "vae")
    with pytest.raises(CheckpointError, match="--encoders"):
        MotionToVideo.from_pretrained(folder)
    again = MotionToVideo.from_pretrained(folder, encoders=tmp_path / "frozen")
    assert again.weights == toy.weights
    with pytest.raises(CheckpointError, match="no Appearance Expert"):
        MotionToVideo.from_pretrained(tmp_path / "frozen")


def test_the_released_layout_is_read(tmp_path: Path) -> None:
    network, encoders, _ = tiny.make_expert(tiny.make_vae(tiny.WAN_VAE))
    network.transformer.save_pretrained(tmp_path / "transformer")
    encoders.codec.vae.save_pretrained(tmp_path / "vae")
    wan = MotionToVideo.from_pretrained(tmp_path)
    assert (wan.fps, wan.config.frames, wan.config.num_steps, wan.config.flow.shift) == (30.0, 77, 20, 5.0)
    assert (wan.config.sampler, wan.config.dropped_text) == ("unipc", "empty_prompt")
    assert wan(dance(2), picture(), num_steps=1, size=(32, 48)).num_frames == 2


def test_the_released_scheduler_says_how_to_sample(tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    network, encoders, _ = tiny.make_expert(tiny.make_vae(tiny.WAN_VAE))
    network.transformer.save_config(tmp_path / "transformer")
    encoders.codec.vae.save_config(tmp_path / "vae")
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    ours: list[tuple[Any, tuple[str, float]]] = [
        (UniPCMultistepScheduler(**flow, flow_shift=3.0), ("unipc", 3.0)),
        (FlowMatchEulerDiscreteScheduler(shift=7.0), ("euler", 7.0)),
    ]
    for scheduler, expected in ours:
        scheduler.save_pretrained(tmp_path / "scheduler")
        config = released_config(tmp_path)
        assert (config.sampler, config.flow.shift) == expected
    foreign: list[tuple[Any, str]] = [
        (DDIMScheduler(), "is a DDIMScheduler"), (UniPCMultistepScheduler(), "not one of a flow")
    ]  # fmt: skip
    for scheduler, message in foreign:
        scheduler.save_pretrained(tmp_path / "scheduler")
        with pytest.raises(CheckpointError, match=message):
            released_config(tmp_path)


def test_models_from_before_are_sampled_as_they_were(tmp_path: Path, toy: MotionToVideo) -> None:
    folder = toy.save_pretrained(tmp_path / "model")
    told = json.loads((folder / "config.json").read_text())
    assert (told["sampler"], told["dropped_text"]) == ("euler", "empty_prompt")
    for key, value in (("sampler", "heun"), ("dropped_text", 1)):
        (folder / "config.json").write_text(json.dumps({**told, key: value}))
        with pytest.raises(CheckpointError, match=key):
            read_config(folder)
    before = {key: value for key, value in told.items() if key not in ("sampler", "dropped_text")}
    (folder / "config.json").write_text(json.dumps(before))
    config = read_config(folder)
    assert (config.sampler, config.dropped_text) == ("euler", "zeros")


@pytest.mark.parametrize("offload", ["model", "blocks"])
def test_what_waits_elsewhere_gives_the_same_video(offload: Any, toy: MotionToVideo) -> None:
    waiting = MotionToVideo(*tiny.make_expert(), offload=offload)
    motion, image = dance(12, fps=15.0), picture()
    assert np.array_equal(waiting(motion, image).frames(), toy(motion, image).frames())
    with pytest.raises(ConfigError, match="offload"):
        pipeline(offload="disk")


def test_adapters_have_a_strength(tmp_path: Path, toy: MotionToVideo, caplog: pytest.LogCaptureFixture) -> None:
    from macedance.pipelines.appearance_lora import DIFFUSERS_FILE, LoraWeights, write_diffusers

    names = ["blocks.0.attn1.to_q", "blocks.1.ffn.net.2"]
    shapes = {names[0]: (24, 24), names[1]: (24, 32)}
    tensors = {}
    for name in names:
        rows, columns = shapes[name]
        tensors[f"{name}.lora_A.weight"] = torch.randn(2, columns)
        tensors[f"{name}.lora_B.weight"] = torch.randn(rows, 2)
    folder = toy.save_pretrained(tmp_path / "model")
    (folder / "lora").mkdir()
    write_diffusers(folder / "lora" / DIFFUSERS_FILE, LoraWeights(tensors, 2, 2.0))
    adapted = MotionToVideo.from_pretrained(folder)
    motion, image = dance(9, fps=15.0), picture()
    plain = toy(motion, image).frames()
    full = adapted(motion, image).frames()
    assert not np.array_equal(full, plain)
    assert np.array_equal(adapted(motion, image, lora_scale=0.0).frames(), plain)
    assert not np.array_equal(adapted(motion, image, lora_scale=0.5).frames(), full)
    assert np.array_equal(adapted(motion, image).frames(), full)
    copy = MotionToVideo.from_pretrained(adapted.save_pretrained(tmp_path / "copy"))
    assert np.array_equal(copy(motion, image).frames(), full)

    waiting = MotionToVideo.from_pretrained(folder, offload="blocks")
    assert np.array_equal(
        waiting(motion, image, lora_scale=0.5).frames(), adapted(motion, image, lora_scale=0.5).frames()
    )

    extra = MotionToVideo.from_pretrained(toy.save_pretrained(tmp_path / "plain"))
    with caplog.at_level(logging.WARNING):
        extra.load_lora(folder / "lora" / DIFFUSERS_FILE, name="distilled")
    assert "does not say which model" in caplog.text
    assert np.array_equal(extra(motion, image).frames(), full)
    caplog.clear()
    without = extra.save_pretrained(tmp_path / "without")
    assert "without is without the further adapters distilled" in caplog.text
    assert np.array_equal(MotionToVideo.from_pretrained(without)(motion, image).frames(), plain)
    with pytest.raises(ConfigError, match="distilled"):
        extra.load_lora(folder / "lora" / DIFFUSERS_FILE, name="distilled")
    foreign = LoraWeights({k.replace("blocks.1", "blocks.7"): v for k, v in tensors.items()}, 2, 2.0)
    write_diffusers(tmp_path / "foreign.safetensors", foreign)
    with pytest.raises(CheckpointError, match="another model"):
        extra.load_lora(tmp_path / "foreign.safetensors")


def test_a_small_picture_is_said(caplog: pytest.LogCaptureFixture) -> None:
    toy = pipeline()
    with caplog.at_level(logging.WARNING):
        toy.reference(picture(64, 64), size=(160, 160))
    assert "64 x 64 pixels" in caplog.text
