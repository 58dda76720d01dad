from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from macedance.diffusion.guidance import ClassifierFreeGuidance, Guidance, GuidanceFreeTraining
from macedance.diffusion.samplers import DdimSampler
from macedance.errors import CheckpointError, ConfigError, DataError, NumericsError
from macedance.models.motion_expert import MotionExpert
from macedance.motion.files import Motion
from macedance.motion.normalizer import MinMaxNormalizer
from macedance.motion.representation import encode_motion
from macedance.motion.skeleton import TOE_HEIGHT_M
from macedance.music.audio import write_audio
from macedance.pipelines.motion_config import MotionModelConfig
from macedance.pipelines.music_to_motion import MusicToMotion, model_config, prepare_music

GENRES = ("house", "popping", "waltz")
WINDOW = 40


def make_network(**options: Any) -> MotionExpert:
    torch.manual_seed(0)
    network = MotionExpert(
        latent_dim=32,
        num_dance_layers=1,
        num_music_layers=1,
        num_heads=2,
        feedforward_dim=32,
        state_dim=4,
        **{"num_genres": 3, "frame_music": True, **options},
    )
    nn.init.normal_(network.null_cond_embed)
    return network


def make_normalizers() -> tuple[MinMaxNormalizer, MinMaxNormalizer]:
    generator = torch.Generator().manual_seed(0)
    motion, music = MinMaxNormalizer(151), MinMaxNormalizer(35)
    poses = 0.5 * torch.randn(200, 24, 3, generator=generator)
    trans = torch.rand(200, 3, generator=generator) + torch.tensor([0.0, 0.5, 0.0])
    motion.update(encode_motion(poses, trans, 30.0))
    music.update(10 * torch.randn(200, 35, generator=generator))
    return motion, music


def make_pipeline(network: MotionExpert | None = None, objective: Guidance | None = None) -> MusicToMotion:
    network = network or make_network()
    objective = objective or GuidanceFreeTraining()
    genres = GENRES if network.num_genres else ()
    config = model_config(network, objective, 30.0, WINDOW, genres)
    return MusicToMotion(network.eval(), objective, MotionModelConfig.from_dict(config, "here"), *make_normalizers())


@pytest.fixture(scope="module")
def pipeline() -> MusicToMotion:
    return make_pipeline()


def music(frames: int, seed: int = 0) -> np.ndarray:
    return 10 * np.random.default_rng(seed).standard_normal((frames, 35), dtype=np.float32)


def same(a: Motion, b: Motion) -> bool:
    return np.array_equal(a.poses, b.poses) and np.array_equal(a.trans, b.trans) and a.genre == b.genre


def close(a: Motion, b: Motion) -> bool:
    return bool(np.allclose(a.joint_positions(), b.joint_positions(), atol=1e-3))


@pytest.mark.parametrize("frames", [1, 2, 17, WINDOW, WINDOW + 1, 130])
def test_dance_has_the_length_of_its_music(pipeline: MusicToMotion, frames: int) -> None:
    (motion,) = pipeline.generate(music(frames), num_steps=2)
    assert motion.num_frames == frames
    assert motion.fps == 30
    assert np.isfinite(motion.joint_positions()).all()
    toes = motion.joint_positions()[:, [10, 11], 1].min(axis=1)
    assert np.percentile(toes, 1) == pytest.approx(TOE_HEIGHT_M, abs=1e-4)


def test_seed_decides_the_dance(pipeline: MusicToMotion) -> None:
    torch.manual_seed(1)
    first = pipeline.generate(music(60), genre="waltz", seed=4, num_steps=4)[0]
    torch.manual_seed(2)
    assert same(first, pipeline.generate(music(60), genre="waltz", seed=4, num_steps=4)[0])
    assert not close(first, pipeline.generate(music(60), genre="waltz", seed=5, num_steps=4)[0])


def test_dance_does_not_depend_on_how_many_are_made(pipeline: MusicToMotion) -> None:
    three = pipeline.generate(music(60), seed=4, num_steps=4, num_dances=3)
    one = pipeline.generate(music(60), seed=4, num_steps=4)
    assert close(three[0], one[0])
    assert three[0].genre == one[0].genre
    assert not close(three[0], three[1])


def test_songs_of_different_lengths_keep_their_order(pipeline: MusicToMotion) -> None:
    songs = [music(50, 1), music(30, 2), music(50, 3)]
    beats = [np.array([0.1 * (song + 1), 99.0]) for song in range(3)]
    motions = pipeline.generate(songs, num_dances=2, num_steps=2, music_beats_s=beats, songs=["a", "b", "c"])
    assert [motion.num_frames for motion in motions] == [50, 50, 30, 30, 50, 50]
    assert [motion.song for motion in motions] == ["a", "a", "b", "b", "c", "c"]
    for motion, song in zip(motions, [0, 0, 1, 1, 2, 2], strict=True):
        np.testing.assert_allclose(motion.music_beats_s, [0.1 * (song + 1)])


def test_evaluation_batch_gives_each_clip_its_genre_and_seed(pipeline: MusicToMotion) -> None:
    clips = np.stack([music(WINDOW, index) for index in range(3)])
    batch = pipeline.generate_batch(
        clips, genres=["waltz", "house", None], seeds=[3, 4, 5], numbers=[0, 0, 0], num_steps=3
    )
    alone = pipeline.generate(clips[1], genre="house", seed=4, num_steps=3)[0]
    assert close(batch[1], alone)
    assert [motion.genre for motion in batch[:2]] == ["waltz", "house"]
    assert batch[2].genre == pipeline.choose_genre(None, 5)


def test_genre_and_music_and_beta_change_the_dance(pipeline: MusicToMotion) -> None:
    options: dict[str, Any] = {"seed": 1, "num_steps": 3, "sampler": "dpmpp"}
    base = pipeline.generate(music(30), genre="waltz", beta=0.75, **options)[0]
    assert not close(base, pipeline.generate(music(30), genre="house", beta=0.75, **options)[0])
    assert not close(base, pipeline.generate(music(30, 9), genre="waltz", beta=0.75, **options)[0])
    assert not same(base, pipeline.generate(music(30), genre="waltz", beta=0.3, **options)[0])


def test_genre_is_drawn_by_the_seed_and_named(pipeline: MusicToMotion) -> None:
    drawn = [pipeline.generate(music(5), seed=seed, num_steps=1)[0].genre for seed in range(12)]
    assert set(drawn) == set(GENRES)
    assert drawn == [pipeline.choose_genre(None, seed) for seed in range(12)]


def test_model_without_genres_takes_none() -> None:
    pipeline = make_pipeline(make_network(num_genres=0))
    assert pipeline.generate(music(10), num_steps=1)[0].genre is None
    with pytest.raises(ConfigError, match="without genres"):
        pipeline.generate(music(10), genre="waltz")


def test_progress_covers_all_lengths(pipeline: MusicToMotion) -> None:
    told: list[tuple[int, int]] = []
    pipeline.generate([music(10), music(12)], num_steps=3, progress=lambda *step: told.append(step))
    assert told == [(step, 6) for step in range(1, 7)]


class Recorder(nn.Module):
    """Notes the batch sizes and lengths that reach the network."""

    def __init__(self, network: MotionExpert) -> None:
        super().__init__()
        self.network, self.sizes = network, []

    def encode_music(self, *arguments: Any) -> Tensor:
        return self.network.encode_music(*arguments)

    def denoise(self, xt: Tensor, *arguments: Any) -> Tensor:
        self.sizes.append(tuple(xt.shape[:2]))
        return self.network.denoise(xt, *arguments)


def test_network_memory_does_not_grow_with_the_length() -> None:
    recorder = Recorder(make_network())
    pipeline = make_pipeline(recorder.network)
    pipeline.network, pipeline.max_windows = recorder, 4
    pipeline.generate(music(2000), num_steps=1)
    assert max(rows for rows, _ in recorder.sizes) == 4
    assert {frames for _, frames in recorder.sizes} == {WINDOW}
    windows = sum(rows for rows, _ in recorder.sizes)
    assert windows <= 2000 / (WINDOW - WINDOW // 3) + 1


def test_long_dance_has_no_seam() -> None:
    pipeline = make_pipeline()
    (motion,) = pipeline.generate(music(600), num_steps=8, seed=2, ground=False)
    speed = np.linalg.norm(np.diff(motion.joint_positions(), axis=0), axis=-1).mean(axis=-1)
    from macedance.diffusion.windows import plan_windows

    joins = plan_windows(600, WINDOW, WINDOW // 3).joins
    near = np.zeros(len(speed), dtype=bool)
    for join in joins:
        near[join - 1 : join + 1] = True
    assert len(joins) > 15
    assert np.median(speed[near]) <= np.percentile(speed[~near], 60)
    assert speed[near].max() <= 1.1 * np.percentile(speed[~near], 99)


def test_folder_gives_the_same_dance_bit_for_bit(pipeline: MusicToMotion, tmp_path: Path) -> None:
    before = pipeline.generate(music(60), genre="popping", seed=1, num_steps=3)[0]
    pipeline.save_pretrained(tmp_path / "model")
    state = torch.get_rng_state()
    loaded = MusicToMotion.load(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), state)
    assert same(before, loaded.generate(music(60), genre="popping", seed=1, num_steps=3)[0])
    assert loaded.genres == GENRES
    assert loaded.config == pipeline.config


def write_checkpoint(path: Path, pipeline: MusicToMotion, **changes: Any) -> Path:
    network = pipeline.network
    content = {
        "state_dict": {f"network.{name}": value for name, value in network.state_dict().items()},
        "ema": {name: value * 0.5 for name, value in network.named_parameters()},
        "macedance": {
            "version": 1,
            "config": pipeline.config.to_dict(),
            "normalizer": {
                "motion": pipeline.motion_normalizer.to_dict(),
                "music": pipeline.music_normalizer.to_dict() if pipeline.music_normalizer else None,
            },
            "position": 16,
        },
        **changes,
    }
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    return path


def first_weight(pipeline: MusicToMotion) -> Tensor:
    return next(pipeline.network.parameters()).detach()


def test_checkpoint_gives_its_average_or_its_raw_weights(pipeline: MusicToMotion, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "last.ckpt", pipeline)
    raw = first_weight(pipeline)
    torch.testing.assert_close(first_weight(MusicToMotion.from_checkpoint(path)), 0.5 * raw)
    torch.testing.assert_close(first_weight(MusicToMotion.from_checkpoint(path, "raw")), raw)
    torch.testing.assert_close(first_weight(MusicToMotion.load(path)), 0.5 * raw)
    released = {**pipeline.config.to_dict(), "sample_weights": "raw"}
    ours = torch.load(path, weights_only=True)["macedance"]
    path = write_checkpoint(tmp_path / "raw.ckpt", pipeline, macedance={**ours, "config": released})
    torch.testing.assert_close(first_weight(MusicToMotion.load(path)), raw)
    path = write_checkpoint(tmp_path / "plain.ckpt", pipeline, ema=None)
    torch.testing.assert_close(first_weight(MusicToMotion.load(path)), raw)
    with pytest.raises(CheckpointError, match="average"):
        MusicToMotion.from_checkpoint(path, "ema")


def test_foreign_or_damaged_model_is_one_clear_error(pipeline: MusicToMotion, tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / "whole.ckpt", pipeline).read_bytes()
    files = {
        "text.ckpt": b"not a checkpoint",
        "empty.ckpt": b"",
        "cut.ckpt": whole[: len(whole) // 2],
        "flipped.ckpt": whole[:200] + bytes(200) + whole[400:],
    }
    paths = [tmp_path / "missing.ckpt", tmp_path]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        paths.append(tmp_path / name)
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "foreign.ckpt")
    torch.save(torch.zeros(3), tmp_path / "tensor.ckpt")
    for path in [*paths, tmp_path / "foreign.ckpt", tmp_path / "tensor.ckpt"]:
        with pytest.raises(CheckpointError) as caught:
            MusicToMotion.load(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


class Hostile:
    """Would make a folder when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_hostile_checkpoint_does_not_run(pipeline: MusicToMotion, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "bad.ckpt", pipeline, callbacks=Hostile(tmp_path / "ran"))
    with pytest.raises(CheckpointError, match="could run code"):
        MusicToMotion.load(path)
    assert not (tmp_path / "ran").exists()


def edited(folder: Path, pipeline: MusicToMotion, file: str, change: dict[str, Any]) -> Path:
    pipeline.save_pretrained(folder)
    content = json.loads((folder / file).read_text())
    for key, value in change.items():
        place = content
        *path, last = key.split("/")
        for part in path:
            place = place[part]
        place[last] = value
    (folder / file).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"representation": "finedance-139"}),
        ("config.json", {"format": "other"}),
        ("config.json", {"fps": 0}),
        ("config.json", {"window_frames": "many"}),
        ("config.json", {"genres": ["only", "two"][:0]}),
        ("config.json", {"genres": ["a", "b", "c", "d"]}),
        ("config.json", {"network/latent_dim": 64}),
        ("config.json", {"network/unheard_of": 1}),
        ("config.json", {"network/latent_dim": "wide"}),
        ("config.json", {"network/motion_dim": 139}),
        ("config.json", {"objective/class_path": "os.system"}),
        ("normalizer.json", {"motion/channels": 139}),
        ("normalizer.json", {"motion/min": [0.0] * 10}),
        ("normalizer.json", {"motion": None}),
        ("normalizer.json", {"motion/count": 0}),
        ("normalizer.json", {"music/format": "other"}),
    ],
)
def test_model_that_does_not_fit_is_refused(
    pipeline: MusicToMotion, tmp_path: Path, file: str, change: dict[str, Any]
) -> None:
    folder = edited(tmp_path / "model", pipeline, file, change)
    with pytest.raises(CheckpointError) as caught:
        MusicToMotion.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"genre": "valtz"}, "house, popping, waltz"),
        ({"beta": 0.0}, "beta"),
        ({"beta": 1.2}, "beta"),
        ({"guidance_weight": 2.0}, "guidance_weight"),
        ({"num_steps": 0}, "steps"),
        ({"num_steps": 2000}, "1000"),
        ({"num_dances": 0}, "dances"),
        ({"sampler": "euler"}, "ddim or dpmpp"),
        ({"sampler": "dpmpp", "eta": 1.0}, "eta"),
        ({"eta": 2.0}, "eta"),
        ({"sampler": DdimSampler(2), "num_steps": 3}, "num_steps"),
        ({"overlap_frames": 40}, "windows"),
        ({"music_beats_s": [None, None]}, "beats"),
    ],
)
def test_options_out_of_range_are_refused(pipeline: MusicToMotion, options: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        pipeline.generate(music(50), **options)


@pytest.mark.parametrize("features", [music(5)[:, :34], music(5)[0], music(5)[:0], music(5) * np.nan])
def test_unusable_features_are_refused(pipeline: MusicToMotion, features: np.ndarray) -> None:
    with pytest.raises(DataError, match="clip 0"):
        pipeline.generate(features)


def test_nan_weights_are_an_error_and_not_a_file() -> None:
    pipeline = make_pipeline()
    with torch.no_grad():
        pipeline.network.get_parameter("final_layer.bias")[0] = torch.nan
    with pytest.raises(NumericsError):
        pipeline.generate(music(5), num_steps=1)


def test_network_in_training_goes_on_training_after_a_preview() -> None:
    pipeline = make_pipeline()
    pipeline.network.train()
    pipeline.generate(music(20), num_steps=1)
    assert all(module.training for module in pipeline.network.modules())
    network = pipeline.network
    x0 = network(
        torch.randn(2, 20, 151), torch.tensor([1, 2]), torch.ones(2), torch.randn(2, 20, 35), torch.tensor([0, 1])
    )
    x0.square().mean().backward()
    pipeline.motion_normalizer.unnormalize(x0.detach().requires_grad_()).sum().backward()


def test_classifier_free_model_takes_a_weight(tmp_path: Path) -> None:
    pipeline = make_pipeline(objective=ClassifierFreeGuidance(weight=2.0))
    two = pipeline.generate(music(20), seed=1, num_steps=2)[0]
    assert same(two, pipeline.generate(music(20), seed=1, num_steps=2, guidance_weight=2.0)[0])
    assert not close(two, pipeline.generate(music(20), seed=1, num_steps=2, guidance_weight=1.0)[0])
    with pytest.raises(ConfigError, match="guidance_weight"):
        pipeline.generate(music(20), beta=0.5)
    pipeline.save_pretrained(tmp_path / "cfg")
    assert same(two, MusicToMotion.load(tmp_path / "cfg").generate(music(20), seed=1, num_steps=2)[0])


def test_model_brings_its_own_sampler(tmp_path: Path) -> None:
    network = make_network()
    config = model_config(
        network, GuidanceFreeTraining(), 30.0, WINDOW, GENRES, sampler={"name": "dpmpp", "num_steps": 3}
    )
    pipeline = MusicToMotion(
        network, GuidanceFreeTraining(), MotionModelConfig.from_dict(config, "here"), *make_normalizers()
    )
    pipeline.save_pretrained(tmp_path / "model")
    loaded = MusicToMotion.load(tmp_path / "model")
    told: list[tuple[int, ...]] = []
    default = loaded.generate(music(20), seed=1, progress=lambda *step: told.append(step))[0]
    assert len(told) == 3
    assert same(default, loaded.generate(music(20), seed=1, sampler="dpmpp", num_steps=3)[0])
    assert not close(default, loaded.generate(music(20), seed=1, sampler="ddim", num_steps=3)[0])


def test_music_is_normalised_only_where_the_model_was_trained_so() -> None:
    _, normalizer = make_normalizers()
    features = torch.from_numpy(music(5))
    assert torch.equal(prepare_music(features, None), features)
    torch.testing.assert_close(prepare_music(features, normalizer), normalizer.normalize(features))


def test_sound_file_becomes_a_dance_with_its_beats(pipeline: MusicToMotion, tmp_path: Path) -> None:
    rate, seconds = 22_050, 4.0
    time = np.arange(int(rate * seconds)) / rate
    clicks = np.sin(2 * np.pi * 880 * time) * np.exp(-30 * (time % 0.5))
    write_audio(tmp_path / "song.wav", clicks.astype(np.float32), rate)
    (whole,) = pipeline(tmp_path / "song.wav", num_steps=1, cache_dir=tmp_path / "cache")
    assert whole.num_frames == 120
    assert whole.song == "song"
    assert whole.genre in GENRES
    assert whole.music_beats_s is not None
    assert len(whole.music_beats_s) >= 4
    (part,) = pipeline(tmp_path / "song.wav", seconds=2.0, num_steps=1, cache_dir=tmp_path / "cache")
    assert part.num_frames == 60
    with pytest.raises(ConfigError, match="seconds"):
        pipeline(tmp_path / "song.wav", seconds=-1.0)
    with pytest.raises(DataError):
        pipeline(tmp_path / "none.wav")


def test_options_are_checked_before_the_music_is_read(pipeline: MusicToMotion) -> None:
    with pytest.raises(ConfigError, match="beta"):
        pipeline("no-such-song.wav", beta=7.0)


def test_one_line_errors_name_the_known_genre(pipeline: MusicToMotion) -> None:
    with pytest.raises(ConfigError, match="did you mean waltz"):
        pipeline.check_genre("walz")
