"""AnimationProtocol in one process: what a network that listens shows, one that does not, and a perfect one."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from callbacks.animation_judging import WRONG_POSE
from callbacks.animation_making import ClipAnimator, plan_tasks
from callbacks.animation_protocol import AnimationProtocol
from callbacks.ema import EmaCallback
from callbacks.samples import SampleVideos
from datamodules.appearance import AppearanceDataModule
from datamodules.appearance_clips import Size
from datamodules.appearance_encoding import EncodeSettings, encode_corpus
from launch.run import Run
from launch.training import train
from lightning_modules.appearance_expert import AppearanceExpertModule
from macedance.appearance_data.media import decode_mp4
from macedance.errors import CheckpointError, ConfigError
from macedance.metrics.animation.bundle import AnimationMetrics, find_judges
from macedance.metrics.animation.person import person_psnr
from macedance.metrics.animation.presets import STYLEGANV
from macedance.metrics.animation.video_sets import Reporting
from macedance.metrics.animation.windows import WindowSampling
from macedance.metrics.protocol import ProtocolResult, read_protocol
from macedance.models.appearance_expert.conditions import Conditions
from macedance.models.appearance_expert.encoders import AppearanceEncoders
from macedance.pipelines.appearance_sampling import as_frames, as_pixels
from macedance.rendering.clip_rows import clip_row, stacked_rows
from macedance.vision.i3d import InceptionI3d
from macedance.vision.perceptual import ALEX
from macedance.vision.video import Video
from tests.appearance_fakes import run_config, save_base, write_config
from tests.data import small_clips
from tests.data.small_clips import FRAMES

TEXT_DIM, TOKENS = 6, 16
#: The place of three clips of one size and one of another.
SIZES = ((16, 16), (16, 16), (16, 16), (16, 24))


def squares(number: int, frames: int, height: int, width: int) -> np.ndarray:
    """Coloured squares of 4 x 4 pixels, others for each clip and frame."""
    drawn = np.random.default_rng(number).integers(0, 256, (frames, height // 4, width // 4, 3), dtype=np.uint8)
    return drawn.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "corpus"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_clips, "pictures", squares)
        return small_clips.write_clips(folder, train=8, val=4, sizes=SIZES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and its encoders."""
    folder = save_base(tmp_path_factory.mktemp("model"))
    vae = small_clips.tiny_vae()
    vae.decoder.conv_out.weight.data *= 20  # or all that it draws would be the same grey
    vae.save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def encoders(model: Path) -> AppearanceEncoders:
    return AppearanceEncoders.from_folder(model, text_dim=TEXT_DIM, text_tokens=TOKENS, face_size=16)


@pytest.fixture(scope="module")
def latents(clips: Path, encoders: AppearanceEncoders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latents") / "corpus"
    encode_corpus(clips, out, encoders, EncodeSettings(FRAMES, precision="float32"))
    return out


def fit(
    folder: Path,
    shards: Path,
    model: Path,
    *arguments: str,
    pixels: bool = True,
    ema: bool = True,
    steps: int = 1,
    **protocol: Any,
) -> Run:
    """Train with the protocol at every step."""
    source = {"source": str(model), "text_dim": TEXT_DIM, "text_tokens": TOKENS, "face_size": 16}
    path = "macedance.models.appearance_expert.encoder_source.EncodersFrom"
    more: dict[str, Any] = {"encoders": {"class_path": path, "init_args": source}} if pixels else {}
    config = run_config("kinematic", model, **more)
    data = {"shards": str(shards), "global_batch_size": 2, "shuffle_window": 4}
    config["data"] = {
        "class_path": "datamodules.appearance.AppearanceDataModule",
        "init_args": data | ({"frames": FRAMES} if pixels else {}),
    }
    settings = {"every_n_steps": 1, "num_steps": 2, "resamples": 20, "weights": "/nowhere", **protocol}
    callbacks = [{"class_path": "callbacks.animation_protocol.AnimationProtocol", "init_args": settings}]
    if ema:
        callbacks.insert(0, {"class_path": "callbacks.ema.EmaCallback", "init_args": {"decay": 0.9}})
    config["trainer"] |= {"max_steps": steps, "limit_val_batches": 0, "callbacks": callbacks}
    return train([write_config(folder, config), f"--run_dir={folder / 'run'}", *arguments])


def result_of(run: Run, step: int = 1) -> ProtocolResult:
    return read_protocol(run.directory / "protocol" / f"animation-{step:08d}.json")


def value(result: ProtocolResult, key: str) -> float:
    found = result.presets["animation"][key]["value"]
    assert found is not None, result.presets["animation"][key]
    return float(found)


@pytest.fixture(scope="module")
def judged(clips: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(tmp_path_factory.mktemp("judged"), clips, model, steps=2)


# ---------------------------------------------------------------- what is measured
def test_every_key_has_a_value_or_a_reason(judged: Run) -> None:
    result = result_of(judged)
    entries = result.presets["animation"]
    assert set(entries) == {
        "psnr_mask", "psnr", "ssim", "lpips", "fvd", "fvd_inf", "kvd", "psnr_mask_wrong_pose", "psnr_wrong_pose",
        "psnr_mask_autoencoder", "psnr_autoencoder",
    }  # fmt: skip
    for key in ("psnr_mask", "psnr", "psnr_mask_autoencoder"):
        assert entries[key]["n"] == 4
        assert len(entries[key]["ci95"]) == 2
    for key in ("lpips", "fvd", "kvd"):
        assert entries[key]["value"] is None
        assert "no weights" in entries[key]["reason"]
    assert entries["psnr_mask_wrong_pose"]["n"] == 3, "of the one clip of its size there is no other"
    assert result.inputs["kind"] == "animation"
    assert result.inputs["clips"] == {"generated": 4, "reference": 4}
    assert result.inputs["training"]["step"] == 1
    assert result.inputs["settings"]["num_steps"] == 2
    assert result.weights.keys() >= {"vae"}
    assert list(result.per_clip["animation"]["psnr_mask"]) == [f"val-{n:03d}" for n in range(8, 12)]
    assert result.hash == result_of(judged, 2).hash


def test_values_are_in_the_table(judged: Run) -> None:
    with (judged.directory / "metrics_val.csv").open(encoding="utf-8") as file:
        rows = {(row["step"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}
    for step in (1, 2):
        for key in ("psnr_mask", "psnr", "ssim", "psnr_mask_wrong_pose"):
            assert rows[str(step), f"val/{key}"] == value(result_of(judged, step), key)
    assert not any("lpips" in name for _, name in rows)


def test_the_video_shows_reference_pose_ours_and_truth(judged: Run, clips: Path) -> None:
    shown = decode_mp4((judged.directory / "samples" / "animation-00000001.mp4").read_bytes(), "shown")
    assert shown.shape == (FRAMES, 4 * 16, 4 * 24, 3)
    data = AppearanceDataModule(str(clips), 1, frames=FRAMES)
    for row, clip in enumerate(data.clips("val")):
        width = clip.window.video_THW3.shape[2]
        parts = [shown[:, 16 * row : 16 * row + 16, width * k : width * (k + 1)].astype(int) for k in range(4)]
        window = clip.window
        assert max(abs(parts[0] - window.reference_HW3).mean(), abs(parts[3] - window.video_THW3).mean()) < 20
        assert abs(parts[1] - window.pose_THW3).mean() < 20
        assert min(abs(part - window.video_THW3).mean() for part in parts[:3]) > 40
    assert not list((judged.directory / "samples").glob(".*"))


def test_noise_is_the_same_every_time(
    clips: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights that do not change either, nothing does."""
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: closure() if closure else None)
    run = fit(tmp_path, clips, model, steps=2, max_clips=2)
    first, second = (result_of(run, step) for step in (1, 2))
    assert first.presets == second.presets
    assert first.presets["animation"]["psnr"]["n"] == 2


def test_a_network_that_ignores_the_pose_is_seen_to(
    clips: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judged: Run
) -> None:
    def differ(result: ProtocolResult) -> list[float]:
        both = [result.per_clip["animation"][f"psnr_mask{suffix}"] for suffix in ("", WRONG_POSE)]
        return [abs(both[0][name] - wrong) for name, wrong in both[1].items()]

    listens = AppearanceExpertModule.velocity

    def deaf(self: AppearanceExpertModule, noisy: Tensor, sigma_B: Tensor, told: Conditions) -> Tensor:
        return listens(self, noisy, sigma_B, replace(told, pose=torch.zeros_like(told.pose)))

    assert len(differ(result_of(judged))) == 3
    assert min(differ(result_of(judged))) > 0
    monkeypatch.setattr(AppearanceExpertModule, "velocity", deaf)
    assert differ(result_of(fit(tmp_path, clips, model))) == [0, 0, 0]


def test_a_perfect_network_is_as_good_as_the_autoencoder(
    clips: Path, model: Path, encoders: AppearanceEncoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = AppearanceDataModule(str(clips), 1, frames=FRAMES).clips("val")
    poses = [encoders.encode_video(as_pixels(clip.window.pose_THW3)) for clip in held_out]
    truths = [encoders.encode_video(as_pixels(clip.window.video_THW3)) for clip in held_out]

    def perfect(self: AppearanceExpertModule, noisy: Tensor, sigma_B: Tensor, told: Conditions) -> Tensor:
        which = next(n for n, p in enumerate(poses) if p.shape == told.pose.shape and torch.allclose(p, told.pose))
        truth = torch.cat([told.reference, truths[which]], dim=2)
        return (noisy - truth) / sigma_B.view(-1, 1, 1, 1, 1)

    monkeypatch.setattr(AppearanceExpertModule, "velocity", perfect)
    each = result_of(fit(tmp_path, clips, model, num_steps=3)).per_clip["animation"]
    backs = [as_frames(encoders.codec.decode(truth)[0]) for truth in truths]

    def expected(made: int, true: int) -> float:
        mask = held_out[true].window.mask_THW
        assert mask is not None
        return person_psnr(backs[made], held_out[true].window.video_THW3, mask)

    own = {f"val-{8 + n:03d}": expected(n, n) for n in range(4)}
    assert each["psnr_mask_autoencoder"] == pytest.approx(own, abs=1e-4)
    assert each["psnr_mask"] == pytest.approx(own, abs=1e-3)
    assert each["psnr"] == pytest.approx(each["psnr_autoencoder"], abs=1e-3)
    others = {f"val-{8 + n:03d}": expected(driver, n) for n, driver in enumerate((1, 2, 0))}
    assert each["psnr_mask_wrong_pose"] == pytest.approx(others, abs=1e-3)
    assert max(abs(wrong - own[name]) for name, wrong in others.items()) > 0.02


def test_judging_networks_that_are_here_judge(clips: Path, model: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    (tmp_path / "weights" / "i3d_kinetics400").mkdir(parents=True)
    network = InceptionI3d(4, slimness=32)
    save_file(network.state_dict(), tmp_path / "weights" / "i3d_kinetics400" / "i3d_pretrained_400.safetensors")
    run = fit(tmp_path, clips, model, weights=str(tmp_path / "weights"), allow_small_n=True)
    entries = result_of(run).presets["animation"]
    assert entries["fvd"]["value"] is None
    assert entries["fvd"]["too_short"] == 4, "five frames are no window of sixteen"
    assert "i3d_kinetics400" in result_of(run).weights


def test_the_judging_networks_judge_what_was_made(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips given back as they are score nothing; noisy ones what the networks say of these very videos."""
    torch.manual_seed(3)
    weights = tmp_path / "weights"
    i3d = InceptionI3d(4, slimness=32)
    for name, tensor in i3d.state_dict().items():
        if name.endswith("conv3d.weight"):  # features as large as trained ones are
            tensor.normal_(0, (2.0 / tensor[0].numel()) ** 0.5)
    for folder in ("i3d_kinetics400", ALEX.weights):
        (weights / folder).mkdir(parents=True)
    save_file(i3d.state_dict(), weights / "i3d_kinetics400" / "i3d_pretrained_400.safetensors")
    torch.save({f"features.{k}": v for k, v in ALEX.build().state_dict().items()}, weights / ALEX.weights / ALEX.file)
    monkeypatch.setattr("macedance.vision.weights.check_hashes", lambda known, folder: None)  # not the published file
    frames = 17
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_clips, "pictures", squares)
        longer = small_clips.write_clips(tmp_path / "corpus", train=4, val=4, sizes=((64, 64),), frames=frames)
    true = [clip.window.video_THW3 for clip in AppearanceDataModule(str(longer), frames=frames).clips("val")]
    noise = np.random.default_rng(0).integers(-40, 41, (4, *true[0].shape))
    noisy = [(clip + off).clip(0, 255).astype(np.uint8) for clip, off in zip(true, noise, strict=True)]

    def judged(made: list[np.ndarray], name: str) -> ProtocolResult:
        monkeypatch.setattr(ClipAnimator, "animate", lambda self, number, *rest: made[number])
        options: dict[str, Any] = {"weights": str(weights), "allow_small_n": True, "max_clips": None}
        return result_of(fit(tmp_path / name, longer, model, f"--data.frames={frames}", **options))

    same, other = judged(true, "same"), judged(noisy, "noisy")
    assert same.weights.keys() == other.weights.keys() >= {"i3d_kinetics400", "lpips_alex"}
    assert value(same, "lpips") == 0.0
    assert value(same, "fvd") == pytest.approx(0.0, abs=1e-5)
    judges = find_judges(weights)
    assert judges.pictures is not None
    pairs = [torch.from_numpy(np.concatenate(of)).permute(0, 3, 1, 2).contiguous() for of in (noisy, true)]
    assert value(other, "lpips") == pytest.approx(float(judges.pictures(*pairs).mean()), rel=1e-4)
    apart = AnimationMetrics(
        judges,
        presets=[STYLEGANV],
        sampling=WindowSampling(fps=small_clips.FPS),
        reporting=Reporting(True, 0),
        skip_frames=0,
    )
    for number in range(4):
        apart.update_pair(
            *(Video.from_frames(of[number], small_clips.FPS, str(number)) for of in (noisy, true)), number
        )
    expected = apart.compute()[STYLEGANV.name]["fvd"]["value"]
    assert value(other, "fvd") == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-3


def test_clips_of_other_sizes_are_not_called_an_absent_split(
    clips: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = small_clips.write_clips(tmp_path / "small", train=1, val=4, sizes=((8, 8),))
    sizes = (
        "--data.buckets=[{height: 16, width: 16}, {height: 16, width: 24}]",
        "--data.max_upscale=1.0",
        f"--data.val_shards={small}",
    )
    with caplog.at_level("INFO"):
        run = fit(tmp_path, clips, model, *sizes)
    assert "none of the 4 clips of the val split is of a size" in caplog.text
    assert not (run.directory / "protocol").exists()


# ---------------------------------------------------------------- which weights, and whether training notices
def test_the_average_is_shown_and_training_is_left_alone(
    clips: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Tensor]] = []
    plain = AppearanceExpertModule.velocity

    def look(self: AppearanceExpertModule, *inputs: Any) -> Tensor:
        assert not self.built_network.training
        seen.append({n: p.detach().clone() for n, p in self.built_network.named_parameters() if p.requires_grad})
        return plain(self, *inputs)

    monkeypatch.setattr(AppearanceExpertModule, "velocity", look)
    with_it = fit(tmp_path / "with", clips, model, steps=2, max_clips=1)
    average = next(c for c in with_it.trainer.callbacks if isinstance(c, EmaCallback)).average  # type: ignore[attr-defined]
    assert average is not None
    shown, own = seen[-1], dict(with_it.model.built_network.named_parameters())
    assert len(seen) == 2 * 2 * 2, "two evaluations of a clip in two poses in two steps"
    for name, tensor in shown.items():
        torch.testing.assert_close(tensor, average.shadow[name])
        assert not torch.equal(tensor, own[name]), "it is not what trains"
    assert with_it.model.built_network.training
    without = fit(tmp_path / "without", clips, model, steps=2, every_n_steps=100)
    others = dict(without.model.built_network.named_parameters())
    assert all(torch.equal(p, others[name]) for name, p in own.items())


def test_a_base_in_bfloat16_is_sampled_as_it_is_trained(
    clips: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judged: Run
) -> None:
    """What trains is float32 beside it: outside autocast their products would be an error."""
    monkeypatch.setattr("launch.training_cli.cpu_multiplies_bf16", lambda: True)
    rounded = fit(tmp_path, clips, model, "--trainer.precision=bf16-mixed", "--model.network.precision=bfloat16")
    kinds = {p.dtype for p in rounded.model.built_network.parameters()}
    assert kinds == {torch.bfloat16, torch.float32}
    assert value(result_of(rounded), "psnr") == pytest.approx(value(result_of(judged), "psnr"), abs=0.5)


# ---------------------------------------------------------------- latents
def test_a_run_on_latents_shows_the_videos_that_they_are_of(
    clips: Path, latents: Path, model: Path, tmp_path: Path
) -> None:
    still = "--model.optimizer.lr=1e-9"
    pixels = fit(tmp_path / "pixels", clips, model, still, ema=False)
    sources = {"corpus": str(clips), "encoders": str(model)}
    encoded = fit(tmp_path / "latents", latents, model, still, pixels=False, ema=False, **sources)
    ours, theirs = result_of(encoded), result_of(pixels)
    assert ours.presets["animation"].keys() == theirs.presets["animation"].keys()
    assert value(ours, "psnr_autoencoder") == value(theirs, "psnr_autoencoder")
    # The base itself, since the steps are too small to see: what differs is where the encoders come from.
    for key in ("psnr_mask", "psnr", "psnr_mask_wrong_pose"):
        assert value(ours, key) == pytest.approx(value(theirs, key), abs=1e-3)


@pytest.mark.parametrize(
    ("missing", "word"), [("corpus", "latents, which have no pictures"), ("encoders", "where the encoders are")]
)
def test_what_latents_lack_is_asked_for_before_training(
    clips: Path, latents: Path, model: Path, tmp_path: Path, missing: str, word: str
) -> None:
    sources: dict[str, Any] = {"corpus": str(clips), "encoders": str(model)}
    del sources[missing]
    with pytest.raises(ConfigError, match=word) as caught:
        fit(tmp_path, latents, model, pixels=False, **sources)
    assert f"AnimationProtocol.{missing}" in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints").exists() or not list((tmp_path / "run" / "checkpoints").iterdir())


def test_latents_in_the_place_of_videos_are_refused(clips: Path, latents: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a corpus of videos"):
        fit(tmp_path, latents, model, pixels=False, corpus=str(latents), encoders=str(model))


def test_other_encoders_are_refused(clips: Path, latents: Path, model: Path, tmp_path: Path) -> None:
    small_clips.tiny_vae(seed=5).save_pretrained(tmp_path / "other" / "vae")
    with pytest.raises(CheckpointError, match="vae: not the weights that made the latents"):
        fit(tmp_path, latents, model, pixels=False, corpus=str(clips), encoders=str(tmp_path / "other"))
    assert not (tmp_path / "run" / "metrics.csv").exists(), "before anything is trained"
    with pytest.raises(CheckpointError, match="nowhere"):
        fit(tmp_path / "b", latents, model, pixels=False, corpus=str(clips), encoders="/nowhere")


def test_a_preview_of_another_model_is_refused_at_the_start() -> None:
    class Trainer:
        datamodule = None

    module = AppearanceExpertModule.__new__(AppearanceExpertModule)
    with pytest.raises(ConfigError, match="for MotionExpertModule and the run trains AppearanceExpertModule"):
        SampleVideos().on_fit_start(Trainer(), module)  # type: ignore[arg-type]


# ---------------------------------------------------------------- parts
@pytest.mark.parametrize("settings", [{"max_clips": 0}, {"num_steps": 0}, {"every_n_epochs": 0}])
def test_settings_are_checked_before_training(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        AnimationProtocol(**settings)  # type: ignore[arg-type]


def test_wrong_poses_are_those_of_clips_of_the_same_size_far_away() -> None:
    small, wide = Size(16, 16, 5), Size(16, 24, 5)
    tasks = plan_tasks([10, 11, 12, 13, 14], [small, wide, small, small, small])
    assert [task.driver for task in tasks] == [13, None, 14, 10, 12]
    assert [task.place for task in tasks] == list(range(5))
    assert plan_tasks([], []) == []


def test_rows_are_small_and_lie_below_each_other() -> None:
    video = np.full((3, 90, 160, 3), 200, np.uint8)
    row = clip_row([video[0], video], 80)
    assert row.shape == (3, 44, 160, 3)
    longer = np.full((5, 20, 40, 3), 7, np.uint8)
    grid = stacked_rows([row, longer])
    assert grid.shape == (5, 64, 160, 3)
    assert (grid[4, :44] == grid[2, :44]).all()
    assert (grid[:, 44:, 40:] == 0).all()
