"""The frozen encoders of the Appearance Expert, against diffusers' own pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_appearance as tiny
import torch

from macedance.errors import CheckpointError, ConfigError, DataError
from macedance.models.appearance_expert.codec import LatentCodec
from macedance.models.appearance_expert.encoders import AppearanceEncoders, HashedText
from macedance.models.appearance_expert.text_encoders import clean_prompt


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    tiny.make_vae(tiny.WAN_VAE).save_pretrained(folder / "vae")
    tiny.write_text_encoder(folder)
    tiny.write_image_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def toy() -> AppearanceEncoders:
    return AppearanceEncoders(LatentCodec(tiny.make_vae()), HashedText(6, 5), face_size=16)


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_words_are_embedded_the_same_everywhere() -> None:
    text = HashedText(4, 6)
    embedded = text(["A dancer, in the rain", "the rain", ""])
    assert embedded.shape == (3, 6, 4)
    assert torch.equal(embedded[0, 3:5], embedded[1, :2])
    assert embedded[2].abs().sum() > 0
    assert not embedded[1, 3:].any()
    # Drawn by the word alone: these numbers stand for every machine.
    assert text(["RAIN!"])[0, 0].tolist() == pytest.approx([0.81173, -0.5501, -1.22975, 0.42499], abs=1e-5)
    assert torch.equal(text(["rain"]), HashedText(4, 6)(["rain"]))
    assert not torch.equal(text(["rain"]), text(["sun"]))
    assert text([" ".join("abcdefghij")]).shape == (1, 6, 4)


def test_conditions_of_a_toy(toy: AppearanceEncoders) -> None:
    told = toy.conditions(pixels(2, 3, 5, 16, 24), pixels(2, 3, 16, 24), None, ["one", "two"])
    assert told.pose.shape == told.known.shape == (2, 4, 5, 4, 6)
    assert told.reference.shape == (2, 4, 1, 4, 6)
    assert told.face.shape == (2, 3, 17, 16, 16)
    assert (told.face == -1).all()
    assert told.text.shape == (2, 5, 6)
    assert told.image is None
    assert told.known_frames == 0
    assert torch.equal(told.known, toy.codec.blank(2, 5, 16, 24))
    again = toy.conditions(pixels(2, 3, 5, 16, 24), pixels(2, 3, 16, 24), None, ["one", "two"], pixels(2, 3, 2, 16, 24))
    assert again.known_frames == 2
    assert not torch.allclose(again.known[:, :, :2], told.known[:, :, :2])
    assert torch.equal(again.pose, told.pose)


def test_sizes_that_do_not_belong_together_are_refused(toy: AppearanceEncoders) -> None:
    pose, picture = pixels(1, 3, 5, 16, 24), pixels(1, 3, 16, 24)
    with pytest.raises(DataError, match="reference image"):
        toy.conditions(pose, pixels(1, 3, 16, 16))
    with pytest.raises(DataError, match="2 prompts for 1"):
        toy.conditions(pose, picture, None, ["a", "b"])
    with pytest.raises(DataError, match="face video"):
        toy.conditions(pose, picture, pixels(1, 3, 5, 8, 8))
    with pytest.raises(ConfigError, match="30 x 16"):
        toy.conditions(pixels(1, 3, 5, 16, 30), pixels(1, 3, 16, 30))


def test_a_face_video_is_spread_over_the_face_encoders_frames(toy: AppearanceEncoders) -> None:
    face = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 3, 5, 16, 16)
    spread = toy.face(face, 1, 5)
    assert spread.shape[2] == 17
    assert spread[0, 0, :, 0, 0].diff().ge(0).all()
    assert spread[0, 0, [0, 4, 8, 12, 16], 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_folder_of_wans_layout_gives_what_the_published_pipeline_computes(wan_folder: Path) -> None:
    from diffusers import WanAnimatePipeline
    from PIL import Image
    from transformers import AutoTokenizer

    encoders = AppearanceEncoders.from_folder(wan_folder, face_size=16)
    picture = (torch.rand(32, 48, 3, generator=torch.Generator().manual_seed(3)) * 255).to(torch.uint8)
    image = picture.permute(2, 0, 1)[None].float() / 127.5 - 1
    video = pixels(1, 3, 5, 32, 48)
    told = encoders.conditions(video, image, None, ["a  person dancing &amp; “rain”"], video[:, :, :1])

    vae, text, clip = encoders.codec.vae, encoders.text_encoder, encoders.image_encoder
    assert clip is not None
    theirs: Any = SimpleNamespace(
        vae=vae, vae_scale_factor_spatial=8, vae_scale_factor_temporal=4, tokenizer=text.tokenizer,
        text_encoder=text.encoder, image_encoder=clip.encoder, image_processor=clip.processor,
        _execution_device=torch.device("cpu"),
        get_i2v_mask=lambda b, t, h, w, *_, **__: torch.zeros(b, 4, t, h, w),
    )  # fmt: skip
    pipeline = WanAnimatePipeline
    pose = pipeline.prepare_pose_latents(theirs, video, sample_mode="argmax", device="cpu")
    assert torch.allclose(told.pose, pose, atol=1e-6)
    reference = pipeline.prepare_reference_image_latents(theirs, image[:, :, None], sample_mode="argmax", device="cpu")
    assert torch.allclose(told.reference, reference[:, 4:], atol=1e-6)
    known = pipeline.prepare_prev_segment_cond_latents(
        theirs, video[:, :, :1], segment_frame_length=5, start_frame=4, height=32, width=48, device="cpu",
        sample_mode="argmax",
    )  # fmt: skip
    assert torch.allclose(told.known, known[:, 4:], atol=1e-6)
    features = pipeline.encode_image(theirs, Image.fromarray(picture.numpy()))
    assert torch.equal(told.image, features)
    assert AutoTokenizer.from_pretrained(wan_folder / "tokenizer")("a person").input_ids[-1] == 1
    mask = text.tokenizer([clean_prompt("a person")]).attention_mask[0]
    alone = text.encoder(torch.tensor([[3, 4, 1]])).last_hidden_state
    embedded = encoders.text(["a person"])
    assert len(mask) == 3
    assert embedded.shape == (1, 512, 32)
    assert torch.allclose(embedded[0, :3], alone[0], atol=1e-5)
    assert not embedded[0, 3:].any()


def test_a_prompt_is_read_as_wan_reads_it() -> None:
    assert clean_prompt(" a\n  “person” &amp;amp; cafe\u0301 ") == 'a "person" & caf\u00e9'


def test_the_same_weights_are_the_same_in_every_precision(wan_folder: Path) -> None:
    first = AppearanceEncoders.from_folder(wan_folder, face_size=16)
    second = AppearanceEncoders.from_folder(wan_folder, precision="bfloat16", vae_precision="bfloat16")
    assert first.fingerprint == second.fingerprint
    assert set(first.fingerprint) == {"vae", "text_encoder", "image_encoder"}
    same = LatentCodec(tiny.make_vae(tiny.WAN_VAE)).identity()
    assert same == first.fingerprint["vae"]
    assert LatentCodec(tiny.make_vae(tiny.WAN_VAE, seed=1)).identity() != same
    # The same weights, latents standardised by other numbers.
    assert LatentCodec(tiny.make_vae({**tiny.WAN_VAE, "latents_std": [2.0] * 16})).identity() != same
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert not any(module.training for module in first.train().modules())


def test_a_folder_without_text_encoder_needs_the_width(tmp_path: Path) -> None:
    tiny.make_vae().save_pretrained(tmp_path / "vae")
    with pytest.raises(ConfigError, match="text_dim"):
        AppearanceEncoders.from_folder(tmp_path)
    assert AppearanceEncoders.from_folder(tmp_path, text_dim=7).text(["a b"]).shape == (1, 16, 7)


def test_encoders_of_another_transformer_are_named(wan_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(wan_folder, folder)
    (folder / "transformer").mkdir()
    config = {"out_channels": 4, "latent_channels": 16, "text_dim": 32, "image_dim": 32, "motion_encoder_size": 16}
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="out_channels 16, not 4"):
        AppearanceEncoders.from_folder(folder)
    shutil.rmtree(folder / "image_encoder")
    (folder / "transformer" / "config.json").write_text(json.dumps({**config, "out_channels": 16}))
    with pytest.raises(CheckpointError, match="image_dim None, not 32"):
        AppearanceEncoders.from_folder(folder)


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./nothing", "just-a-name", "owner/not-in-the-cache"])
def test_what_is_not_there_is_named(source: str) -> None:
    with pytest.raises(CheckpointError, match=source):
        AppearanceEncoders.from_folder(source)


def test_damaged_folders_are_named(wan_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="autoencoder"):
        AppearanceEncoders.from_folder(tmp_path)
    tiny.make_vae().save_pretrained(tmp_path / "vae")
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="autoencoder"):
        AppearanceEncoders.from_folder(tmp_path, text_dim=4)


@pytest.mark.parametrize("frames", [1, 4, 9])
def test_latents_are_the_numbers_of_diffusers_pieces(frames: int) -> None:
    """Which take four frames after the first and would lose a rest: a held last frame fills them up."""
    codec, vae, video = LatentCodec(tiny.make_vae()), tiny.make_vae(), pixels(2, 3, frames, 16, 24)
    held = torch.cat([video, video[:, :, -1:].expand(-1, -1, -(frames - 1) % 4, -1, -1)], dim=2)
    with torch.no_grad():
        expected = vae.encode(held).latent_dist.mode()[:, :, :frames]
    latents = codec.encode(video)
    assert (latents - codec.standardised(expected)).abs().max() < 2e-6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec.vae, "encode", None)  # not gone through
        assert torch.equal(codec.encode(video), latents)


def test_the_autoencoder_lies_channels_last_on_a_cpu(tmp_path: Path) -> None:
    codec = LatentCodec(tiny.make_vae())
    before = codec.identity()
    codec.encode(pixels(1, 3, 2, 16, 16))
    kinds = [m for m in codec.vae.modules() if isinstance(m, torch.nn.Conv3d) and m.weight[0, 0].numel() > 1]
    assert kinds
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last_3d) for m in kinds)
    assert codec.identity() == before
    codec.vae.save_pretrained(tmp_path / "vae")
    loaded = AppearanceEncoders.from_folder(tmp_path, text_dim=4)
    assert all(torch.equal(v, codec.vae.state_dict()[k]) for k, v in loaded.codec.vae.state_dict().items())


def test_the_precision_of_every_encoder_is_told(wan_folder: Path, toy: AppearanceEncoders) -> None:
    assert toy.compute_dtype == {"vae": "float32"}
    made = AppearanceEncoders.from_folder(wan_folder, precision="bfloat16", vae_precision="float32")
    assert made.compute_dtype == {"vae": "float32", "text_encoder": "bfloat16", "image_encoder": "bfloat16"}
    half = AppearanceEncoders.from_folder(wan_folder, vae_precision="bfloat16")
    assert half.compute_dtype == {"vae": "bfloat16", "text_encoder": "float32", "image_encoder": "float32"}


def test_no_frame_of_a_clip_is_dropped() -> None:
    """diffusers encodes four frames at a time and forgets a rest."""
    codec = LatentCodec(tiny.make_vae())
    video = pixels(1, 3, 9, 16, 16)
    whole = codec.encode(video)
    for frames in range(1, 10):
        latents = codec.encode(video[:, :, :frames])
        assert torch.allclose(latents, whole[:, :, :frames], atol=1e-5)
        assert codec.decode(latents).shape[2] == frames
