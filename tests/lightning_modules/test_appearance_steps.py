"""The training step of the Appearance Expert and of its autoencoder, term by term."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from appearance_fakes import SMALL_VAE, TRANSFORMER, VAE, FakeClips, clip, pixels, run_config, save_base, write_config
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from launch.training import train
from lightning_modules.appearance_expert import AppearanceExpertModule
from lightning_modules.video_vae import VideoVaeModule
from macedance.diffusion.flow_matching import FlowDraws, FlowMatching, draw_flow
from macedance.errors import CheckpointError, ConfigError, DataError
from macedance.models.appearance_expert.codec import LatentCodec
from macedance.models.appearance_expert.conditions import Conditions, known_mask
from macedance.models.appearance_expert.encoders import AppearanceEncoders, HashedText
from macedance.models.appearance_expert.geometry import LatentGeometry
from macedance.models.appearance_expert.network import AppearanceExpert
from macedance.models.appearance_expert.training import encode_batch, training_conditions, velocity_loss
from macedance.models.appearance_expert.vae_training import (
    VaeDraws,
    VaeLosses,
    check_crop,
    counted_mean,
    dilated,
    draw_vae,
    psnr,
    training_pixels,
    with_person,
)
from macedance.models.appearance_expert.video_vae import Reconstruction, VideoVae
from macedance.pipelines.appearance_config import AppearanceModelConfig
from macedance.pipelines.export import export_checkpoint
from macedance.pipelines.vae_weights import load_vae_source

SHAPE = (4, 4, 4, 4)


def batch(*numbers: int) -> dict[str, Any]:
    return FakeClips().batch(list(numbers))


class Remembers(nn.Module):
    """A network that predicts a constant and keeps what it was told."""

    def forward(self, noisy: Tensor, sigma_B: Tensor, conditions: Conditions) -> Tensor:
        self.told = (noisy, sigma_B, conditions)
        return torch.full_like(noisy, 0.5)


# ---------------------------------------------------------------- conditions and loss
def test_rows_know_their_first_frames_or_nothing_and_drop_text_and_face() -> None:
    clips = batch(*range(8))
    clips["known_frames"] = 2
    draws = draw_flow(1, range(8), SHAPE, drop_probability=0.4, known_probability=0.5)
    assert 0 < int(draws.drop_B.sum()) < 8
    assert 0 < int(draws.known_B.sum()) < 8
    told = training_conditions(clips, draws, 16)
    assert isinstance(told.known_frames, Tensor)
    assert told.face.shape == (8, 3, 9, 16, 16)
    for row in range(8):
        known, dropped = bool(draws.known_B[row]), bool(draws.drop_B[row])
        assert torch.equal(told.known[row], clips["known" if known else "blank"][row])
        assert int(told.known_frames[row]) == (2 if known else 0)
        assert torch.equal(told.text[row], torch.zeros_like(told.text[row]) if dropped else clips["text"][row])
    empty = torch.randn(3, 6)
    shown = training_conditions({**clips, "empty_text": empty.expand(8, -1, -1)}, draws, 16).text
    for row in range(8):
        assert torch.equal(shown[row], empty if bool(draws.drop_B[row]) else clips["text"][row])
    with pytest.raises(DataError, match="no pose, text"):
        training_conditions({**clips, "pose": None, "text": None}, draws, 16)


def test_the_mask_of_each_row_is_that_of_its_own_known_frames() -> None:
    geometry = LatentGeometry(4, 8, 4)
    many = known_mask(geometry, 3, 4, 2, 2, torch.tensor([0, 1, 6]))
    for row, known in enumerate((0, 1, 6)):
        assert torch.equal(many[row], known_mask(geometry, 1, 4, 2, 2, known)[0])


@pytest.mark.parametrize("exclude", [True, False])
def test_the_loss_is_the_velocity_s_squared_error_over_the_clip_s_frames(exclude: bool) -> None:
    clips, network = batch(0, 1, 2), Remembers()
    draws = draw_flow(1, range(3), SHAPE)
    flow = FlowMatching(5.0, "bell")
    told = training_conditions(clips, draws, 16)
    loss = velocity_loss(network, flow, clips["latents"], told, draws, exclude)
    noisy, sigma_B, _ = network.told
    rows = []
    for row in range(3):
        x0 = torch.cat([clips["reference"][row], clips["latents"][row]], dim=1)
        sigma = float(flow.sigma(draws.u_B)[row])
        torch.testing.assert_close(noisy[row], (1 - sigma) * x0 + sigma * draws.noise[row])
        error = (0.5 - (draws.noise[row] - x0)) ** 2
        rows.append((error[:, 1:] if exclude else error).mean() * flow.loss_weight(sigma_B)[row])
    torch.testing.assert_close(loss, torch.stack(rows).mean())
    some = velocity_loss(network, flow, clips["latents"], told, draws, exclude, torch.tensor([True, False, True]))
    torch.testing.assert_close(some, (rows[0] + rows[2]) / 2)


def test_rows_draw_the_same_whatever_stands_beside_them() -> None:
    one, both = draw_flow(1, [7], SHAPE, 0.5, 0.5), draw_flow(1, [6, 7], SHAPE, 0.5, 0.5)
    for name in ("u_B", "noise", "drop_B", "known_B"):
        assert torch.equal(getattr(one, name)[0], getattr(both, name)[1])
    assert abs(float(draw_flow(1, range(4000), (1,), known_probability=0.3).known_B.float().mean()) - 0.3) < 0.03


# ---------------------------------------------------------------- pixels and latents
def encoders() -> AppearanceEncoders:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKLWan(**SMALL_VAE)
    return AppearanceEncoders(LatentCodec(vae), HashedText(6, 3), None, 16)


def expert(weights: Path | None = None, **more: Any) -> AppearanceExpertModule:
    source = None if weights is None else str(weights)
    return AppearanceExpertModule(
        partial(AppearanceExpert, TRANSFORMER, VAE, source), partial(torch.optim.AdamW, lr=1e-3), known_frames=2, **more
    )


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bf16-mixed"])
def test_pixels_and_latents_encoded_before_give_the_same_loss(mixed: bool) -> None:
    raw = FakeClips(as_pixels=True).batch([0, 1])
    from_pixels, from_latents = expert(encoders=encoders), expert()
    before = encode_batch(raw, encoders(), 2)
    assert {"video", "pose_video", "prompt"}.isdisjoint(before)
    assert before["latents"].shape == (2, 4, 5, 4, 4)
    assert torch.equal(before["position"], raw["position"])
    assert torch.equal(before["empty_text"], encoders().text(["", ""]))
    with_face = encode_batch({**raw, "face_video": torch.rand(2, 3, 5, 16, 16)}, encoders(), 2)
    assert with_face["face"].shape == (2, 3, 17, 16, 16)
    assert torch.equal(training_conditions(with_face, draw_flow(0, [0, 1], SHAPE), 16).face, with_face["face"])
    losses = []
    for module, clips in ((from_pixels, raw), (from_latents, before)):
        module.configure_model()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            losses.append(module._loss(clips, clips["position"]))
    assert torch.equal(losses[0], losses[1])
    assert from_pixels.state_dict().keys() == from_latents.state_dict().keys(), "encoders are no part of what is saved"
    with pytest.raises(ConfigError, match=r"no encoders.*data encode"):
        from_latents._loss(raw, raw["position"])
    with pytest.raises(ConfigError, match="encoded with 1 known frames and the model trains on 2"):
        from_latents._loss(batch(0, 1), torch.tensor([0, 1]))


def test_no_more_is_encoded_than_a_step_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    made, clips = encoders(), FakeClips(as_pixels=True).batch([0, 1, 2])
    whole = encode_batch(clips, made, 2)
    asked: list[int] = []
    encode = made.codec.encode
    monkeypatch.setattr(made.codec, "encode", lambda pixels: asked.append(len(pixels)) or encode(pixels))
    for known, rows in (([False, True, False], [1]), ([False] * 3, []), ([True] * 3, [3])):
        asked.clear()
        some = encode_batch(clips, made, 2, torch.tensor(known))
        assert sorted(asked) == sorted([3, 3, 3, *rows]), "clips, poses, references, and what is known"
        draws = FlowDraws(torch.rand(3), torch.zeros(3, *SHAPE), torch.tensor([False] * 3), torch.tensor(known))
        torch.testing.assert_close(
            training_conditions(some, draws, 16).known, training_conditions(whole, draws, 16).known
        )
    torch.testing.assert_close(whole["blank"], made.codec.encode(torch.zeros_like(clips["video"])))


def test_a_blank_clip_of_a_validation_serves_the_training() -> None:
    codec = encoders().codec
    with torch.inference_mode():
        first = codec.blank(1, 5, 16, 16)
    assert not first.is_inference()
    assert codec.blank(2, 5, 16, 16).data_ptr() == first.data_ptr()
    assert codec.blank(1, 9, 16, 16).shape != first.shape


def test_a_step_s_operations_are_those_of_the_summary() -> None:
    from macedance.models.appearance_expert.costs import step_costs

    counts = {}
    for stage in ("kinematic", "full"):
        module = expert(stage=stage, activation_checkpointing=["transformer.blocks.*"])
        module.configure_model()
        module.frames, module.size = 5, (16, 16)
        counts[stage] = module.step_flops()
        with torch.device("meta"):
            network = AppearanceExpert(TRANSFORMER, VAE)
        for (_, twin), (_, own) in zip(
            network.named_parameters(), module.built_network.named_parameters(), strict=True
        ):
            twin.requires_grad_(own.requires_grad)
        assert counts[stage] == step_costs(network, 5, 16, 16).step_flops
    assert 0 < counts["kinematic"] < counts["full"]


@pytest.mark.parametrize(("chance", "kept", "expected"), [
    (0.1, "zeros", "zeros"), (0.1, "empty_prompt", "empty_prompt"), (0.0, "zeros", "empty_prompt"),
])  # fmt: skip
def test_a_model_says_what_stood_for_dropped_prompts_and_how_it_is_sampled(
    chance: float, kept: str, expected: str
) -> None:
    module, data = expert(drop_probability=chance, sampler="unipc"), FakeClips()
    data.dropped_text = kept
    module.adopt_corpus(data)
    module.configure_model()
    config = AppearanceModelConfig.from_dict(module.describe(), "here")
    assert (config.sampler, config.dropped_text) == ("unipc", expected)


@pytest.mark.parametrize(("chance", "expected"), [(0.0, "zeros"), (0.1, "empty_prompt")])
def test_a_model_that_serves_as_the_base_passes_on_what_its_dropped_prompts_were(
    tmp_path: Path, chance: float, expected: str
) -> None:
    base, told = save_base(tmp_path), expert()
    told.adopt_corpus(FakeClips())
    told.configure_model()
    older = {**told.describe(), "dropped_text": "zeros"}
    (base / "config.json").write_text(json.dumps(older), encoding="utf-8")
    module, data = expert(drop_probability=chance, weights=base), FakeClips()
    data.dropped_text = "empty_prompt"
    module.adopt_corpus(data)
    module.configure_model()
    assert module.describe()["dropped_text"] == expected


def test_gradients_of_a_fused_optimizer_are_clipped_under_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning alone refuses the two together."""
    monkeypatch.setattr("launch.training_cli.cpu_multiplies_bf16", lambda: True)
    config = run_config("full")
    config["trainer"] |= {"max_steps": 1, "limit_val_batches": 0, "precision": "bf16-mixed", "gradient_clip_val": 0.01}
    config["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1, "fused": True}}
    trained = train([write_config(tmp_path, config), f"--run_dir={tmp_path / 'run'}"]).model.built_network
    torch.manual_seed(config["seed_everything"])
    before = AppearanceExpert(TRANSFORMER, VAE)
    moved = [(new - old).detach() for new, old in zip(trained.parameters(), before.parameters(), strict=True)]
    assert float(torch.cat([change.flatten() for change in moved]).norm()) == pytest.approx(0.01, rel=1e-3)


def test_chances_outside_0_to_1_are_refused() -> None:
    for name in ("drop_probability", "known_probability"):
        with pytest.raises(ConfigError, match=name):
            expert(**{name: 1.5})


# ---------------------------------------------------------------- the autoencoder
def test_the_autoencoder_s_loss_counts_the_person_twice() -> None:
    clips = torch.zeros(1, 3, 1, 2, 2)
    made = Reconstruction(clips.clone(), torch.full((1, 2), 2.0), torch.zeros(1, 2))
    made.pixels[..., 0, 0] = 1.0
    mask = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    mask[..., 0, 0] = True
    plain = VaeLosses(l1_weight=0.5, kl_weight=0.1)
    # One of four pixels is off by 1; the posterior's mean is 2 with variance 1, 2 nats from N(0, 1).
    assert float(plain(made, clips)) == pytest.approx((1 + 0.5) / 4 + 0.1 * 2)
    assert float(plain(made, clips, mask)) == pytest.approx((1 + 0.5) * 2 / 5 + 0.1 * 2)
    with pytest.raises(ConfigError, match="l1_weight"):
        VaeLosses(l1_weight=-1)


def test_crops_hold_the_person_and_rows_may_be_pose_drawings() -> None:
    clips = {name: torch.stack([pixels(n)[name] for n in range(4)]) for name in pixels(0)}
    draws = draw_vae(0, range(4), (4, 5, 2, 2), 0.5)
    seen, mask = training_pixels(clips, draws, (8, 8))
    assert mask is not None
    assert seen.shape == (4, 3, 5, 8, 8)
    for row in range(4):
        assert int(mask[row].sum()) > 0
        whole = clips["pose_video" if bool(draws.pose_B[row]) else "video"][row]
        places = whole.unfold(2, 8, 1).unfold(3, 8, 1).permute(2, 3, 0, 1, 4, 5).flatten(0, 1)
        assert any(torch.equal(place, seen[row]) for place in places)
    everything = VaeDraws(torch.zeros(4, dtype=torch.bool), draws.place_B2, draws.noise)
    assert training_pixels(clips, everything, (16, 16))[0] is clips["video"]
    with pytest.raises(ConfigError, match="a crop of 32"):
        check_crop(LatentGeometry(4, 4, 1), 32, 5, 16, 16)
    with pytest.raises(ConfigError, match="does not divide"):
        check_crop(LatentGeometry(4, 4, 1), 10, 5, 16, 16)


def test_psnr_is_of_the_whole_and_of_the_mask() -> None:
    clips, made = torch.zeros(2, 3, 1, 4, 4), torch.zeros(2, 3, 1, 4, 4)
    made[0, ..., 0] = 0.2
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[0, ..., :2] = True
    assert float(psnr(made, clips)[0]) == pytest.approx(10 * torch.tensor(4 / (0.04 / 4)).log10().item(), abs=1e-4)
    over_mask = psnr(made, clips, mask)
    assert float(over_mask[0]) == pytest.approx(10 * torch.tensor(4 / (0.04 / 2)).log10().item(), abs=1e-4)
    assert bool(over_mask[1].isnan()), "no person: no number"
    both = torch.tensor([True, True])
    assert with_person(mask, both).tolist() == [True, False]
    assert counted_mean(over_mask, with_person(mask, both)) == (over_mask[0], 1)
    assert counted_mean(over_mask, ~both) == (0.0, 0)
    assert bool(counted_mean(over_mask, both)[0].isnan()), "a loss that is not a number is not passed over"
    assert counted_mean(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, False, True])) == (3.5, 2)
    point = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    point[0, 0, 4, 4] = True
    assert int(dilated(point).sum()) == 25


def vae_config(**more: Any) -> dict[str, Any]:
    config = run_config(None, as_pixels=True)
    config["model"] = {
        "class_path": "lightning_modules.video_vae.VideoVaeModule",
        "init_args": {
            "network": {
                "class_path": "macedance.models.appearance_expert.video_vae.VideoVae",
                "init_args": {"vae": {k: v for k, v in SMALL_VAE.items() if not k.startswith("latents_")}},
            },
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3.0e-3}},
            "crop": 8,
            **more,
        },
    }
    return config


def test_the_autoencoder_learns_and_is_exported_as_diffusers_has_it(tmp_path: Path) -> None:
    run = train([
        write_config(tmp_path, vae_config()), f"--run_dir={tmp_path / 'run'}", "--trainer.max_steps=12",
        "--checkpoint_every_n_steps=null",
    ])  # fmt: skip
    rows = [r.split(",")[1] for r in (run.directory / "metrics.csv").read_text(encoding="utf-8").splitlines()[1:]]
    assert float(rows[-1]) < float(rows[0])
    names = (run.directory / "metrics_val.csv").read_text(encoding="utf-8")
    assert "val/psnr," in names
    assert "val/psnr_mask," in names
    folder = export_checkpoint(run.directory, tmp_path / "vae")
    vae = AutoencoderKLWan.from_pretrained(folder).eval()
    network = run.model.built_network.eval()
    assert isinstance(network, VideoVae)
    clips = pixels(3)["video"][None]
    with torch.no_grad():
        found = vae.encode(clips).latent_dist.mode()
        assert torch.allclose(found, network(clips).mean, atol=1e-5)
    standardised = LatentCodec(vae).encode(torch.stack([pixels(n)["video"] for n in range(8)]))
    assert 0.3 < float(standardised.std()) < 3, "the statistics that go with it fit its latents"

    other = VideoVae(vae_config()["model"]["init_args"]["network"]["init_args"]["vae"])
    for source in (folder, run.directory):
        load_vae_source(other, source)
        assert all(torch.equal(v, network.state_dict()[k]) for k, v in other.state_dict().items() if k[:4] == "vae.")
    with pytest.raises(CheckpointError, match="another network"):
        load_vae_source(VideoVae({**SMALL_VAE, "base_dim": 4}), folder)
    with pytest.raises(ConfigError, match=r"lora is of the Appearance Expert"):
        export_checkpoint(run.directory, tmp_path / "x", "lora")


def test_an_autoencoder_does_not_learn_from_latents() -> None:
    module = VideoVaeModule(partial(VideoVae, SMALL_VAE), partial(torch.optim.AdamW, lr=1e-3))
    module.configure_model()
    with pytest.raises(DataError, match="learns from pixels"):
        module.training_step({**clip(0), "position": torch.tensor([0])}, 0)
