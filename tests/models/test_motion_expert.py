"""The Motion Expert: the released shapes, what conditions it, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from macedance.errors import ConfigError, DataError
from macedance.models.checkpoint_import import RELEASED_NETWORK
from macedance.models.motion_expert import MotionExpert

SMALL: dict[str, Any] = {
    "latent_dim": 16,
    "num_dance_layers": 2,
    "num_music_layers": 1,
    "num_heads": 2,
    "feedforward_dim": 24,
    "state_dim": 4,
    "dropout": 0.0,
}
FRAMES = 12


def make(**options: Any) -> MotionExpert:
    torch.manual_seed(0)
    network = MotionExpert(**{**SMALL, **options})
    torch.nn.init.normal_(network.null_cond_embed)
    return network


def draw(batch: int = 2, frames: int = FRAMES) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(5)
    xt, music = torch.randn(batch, frames, 151, generator=g), torch.randn(batch, frames, 35, generator=g)
    return xt, torch.arange(batch) * 100, torch.linspace(0.2, 1.0, batch), music


def test_released_configuration_has_the_released_names_shapes_and_count(project_root: Path) -> None:
    golden = json.loads((project_root / "tests/golden/mace_motion_released_keys.json").read_text())
    assert golden["parameters"] == 66_680_983
    with torch.device("meta"):
        network = MotionExpert(num_genres=16, null_condition="add")
        released = MotionExpert(**RELEASED_NETWORK)
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == golden["shapes"]
    assert {name: list(value.shape) for name, value in network.named_parameters()} == golden["shapes"]
    assert sum(p.numel() for p in network.parameters()) == golden["parameters"]
    assert released.config == network.config


@pytest.mark.parametrize("mixer", ["bimamba", "mamba", "transformer"])
@pytest.mark.parametrize("frame_music", [False, True])
def test_every_variant_predicts_trains_and_rebuilds_from_its_config(mixer: str, frame_music: bool) -> None:
    network = make(mixer=mixer, frame_music=frame_music, num_genres=3)
    xt, t, beta, music = draw()
    genre, keep = torch.tensor([0, 2]), torch.tensor([True, False])
    x0 = network(xt, t, beta, music, genre, keep)
    assert x0.shape == xt.shape
    x0.square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []
    again = MotionExpert(**json.loads(json.dumps(network.config)))
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again(xt, t, beta, music, genre, keep), x0)


def test_forward_is_denoise_of_encoded_music() -> None:
    network = make(num_genres=3)
    xt, t, beta, music = draw()
    genre = torch.tensor([1, 2])
    tokens = network.encode_music(music, genre)
    assert tokens.shape == (2, FRAMES, 16)
    assert torch.equal(network(xt, t, beta, music, genre), network.denoise(xt, t, beta, tokens))


@pytest.mark.parametrize("frame_music", [False, True])
@pytest.mark.parametrize("null_condition", ["substitute", "add"])
@torch.no_grad()
def test_null_condition_hides_music_and_genre(null_condition: str, frame_music: bool) -> None:
    network = make(num_genres=3, null_condition=null_condition, frame_music=frame_music)
    xt, t, beta, music = draw()
    dropped, kept = torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    genres = torch.tensor([0, 1]), torch.tensor([2, 0])

    def predict(music: Tensor, genre: Tensor, keep: Tensor) -> Tensor:
        return network(xt, t, beta, music, genre, keep)

    assert torch.equal(predict(music, genres[0], dropped), predict(music * 2 + 1, genres[1], dropped))
    for other in (predict(music * 2 + 1, genres[0], kept), predict(music, genres[1], kept)):
        assert float((predict(music, genres[0], kept) - other).abs().max()) > 1e-5
    torch.testing.assert_close(predict(music, genres[0], kept), network(xt, t, beta, music, genres[0]))


def test_null_vector_reaches_kept_samples_only_when_added() -> None:
    for null_condition, reaches in (("substitute", False), ("add", True)):
        network = make(null_condition=null_condition)
        music = draw()[3]
        before = network.encode_music(music)
        with torch.no_grad():
            network.null_cond_embed += 1.0
        assert torch.allclose(network.encode_music(music), before) != reaches


def test_mixed_batch_equals_rows_alone() -> None:
    network = make(num_genres=3, frame_music=True).eval()
    xt, t, beta, music = draw(3)
    genre, keep = torch.tensor([0, 1, 2]), torch.tensor([True, False, True])
    whole = network(xt, t, beta, music, genre, keep)
    for i in range(3):
        row = slice(i, i + 1)
        alone = network(xt[row], t[row], beta[row], music[row], genre[row], keep[row])
        torch.testing.assert_close(alone, whole[row], rtol=1e-4, atol=1e-5)


def test_time_and_guidance_strength_change_the_prediction() -> None:
    network = make()
    xt, t, beta, music = draw()
    base = network(xt, t, beta, music)
    assert float((network(xt, t + 500, beta, music) - base).abs().max()) > 1e-4
    assert float((network(xt, t, beta * 0.5, music) - base).abs().max()) > 1e-4


def test_frame_music_moves_the_frame_it_belongs_to_most() -> None:
    """Without it, shuffling the music in time is almost invisible; with it, a frame follows its own music."""
    xt, t, beta, music = draw(1, 40)
    nudged = music.clone()
    nudged[:, 20] += 5.0
    network = make(frame_music=True, mixer="mamba", num_music_layers=0)
    change = (network(xt, t[:1], beta[:1], nudged) - network(xt, t[:1], beta[:1], music)).norm(dim=-1)[0]
    assert int(change.argmax()) == 20


def test_any_length_from_one_frame_up() -> None:
    network = make(frame_music=True)
    for frames in (1, 2, 31):
        xt, t, beta, music = draw(1, frames)
        assert network(xt, t, beta, music).shape == (1, frames, 151)


def test_length_mismatch_states_both_lengths() -> None:
    network = make()
    xt, t, beta, music = draw()
    with pytest.raises(DataError, match=r"12 frames .* music 10 "):
        network(xt, t, beta, music[:, :10])


def test_wrong_widths_are_refused() -> None:
    network = make()
    xt, t, beta, music = draw()
    with pytest.raises(DataError, match="music features"):
        network(xt, t, beta, music[..., :34])
    with pytest.raises(DataError, match="motion of shape"):
        network(xt[..., :139], t, beta, music)


def test_genres_are_checked() -> None:
    network = make(num_genres=3)
    xt, t, beta, music = draw()
    with pytest.raises(ConfigError, match="3 genres and none was given"):
        network(xt, t, beta, music)
    for bad in ([0, 3], [-1, 0]):
        with pytest.raises(DataError, match="unknown"):
            network(xt, t, beta, music, torch.tensor(bad))
    with pytest.raises(DataError, match="one per sample"):
        network(xt, t, beta, music, torch.tensor([0]))
    torch.testing.assert_close(
        make()(xt, t, beta, music, torch.tensor([7, 9])), make()(xt, t, beta, music), msg="genres ignored when off"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim"),
        ({"latent_dim": 15}, "width"),
        ({"num_heads": 3}, "3 heads"),
        ({"num_dance_layers": 0}, "num_dance_layers"),
        ({"num_music_layers": -1}, "num_music_layers"),
        ({"num_genres": -1}, "num_genres"),
        ({"dropout": 1.0}, "dropout"),
        ({"mixer": "lstm"}, "bimamba or mamba or transformer"),
        ({"null_condition": "zero"}, "substitute or add"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_autocast_prediction_is_close_to_float32() -> None:
    network = make(num_genres=3, frame_music=True)
    xt, t, beta, music = draw()
    genre = torch.tensor([0, 1])
    full = network(xt, t, beta, music, genre)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(xt, t, beta, music, genre)
    assert float((half.float() - full).norm() / full.norm()) < 0.05
