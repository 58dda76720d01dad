"""The Motion Expert of MACE-Dance: predicts a clean dance from a noisy one, music, genre and guidance strength.

Shapes: B batch, T frames, C channels of the motion, M channels of the music, D model width.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from macedance.errors import ConfigError, DataError
from macedance.nn.attention import CrossAttentionFeedForward, SelfAttention
from macedance.nn.embeddings import SinusoidalEmbedding
from macedance.nn.film import FiLM
from macedance.nn.mamba import BiMamba

Mixer = Literal["bimamba", "mamba", "transformer"]
NullCondition = Literal["substitute", "add"]


class MusicBlock(nn.Module):
    """One layer of the music encoder: ``x + FiLM(mixer(x); MLP(genre))``; without genres ``x + mixer(x)``."""

    def __init__(self, mixer: nn.Module, dim: int, num_genres: int, feedforward_dim: int) -> None:
        super().__init__()
        self.bimamba = mixer
        if num_genres:
            self.film = FiLM(dim, dim)
            self.genre_MLP = nn.Sequential(
                nn.Embedding(num_genres, dim),
                nn.Linear(dim, feedforward_dim),
                nn.Mish(),
                nn.Linear(feedforward_dim, dim),
            )

    def forward(self, music_BTD: Tensor, genre_B: Tensor | None) -> Tensor:
        """Encode (B, T, D) music tokens, modulated by (B,) genre ids where the block knows genres."""
        mixed_BTD = self.bimamba(music_BTD)
        if genre_B is not None:
            mixed_BTD = self.film(mixed_BTD, self.genre_MLP(genre_B))
        return music_BTD + mixed_BTD


class DanceBlock(nn.Module):
    """One layer of the denoiser: a mixer over time, then cross-attention to the music, each modulated and added."""

    def __init__(self, mixer: nn.Module, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.bimamba = mixer
        self.transformer = CrossAttentionFeedForward(dim, num_heads, feedforward_dim, dropout)
        self.film1 = FiLM(dim, dim)
        self.film2 = FiLM(dim, dim)

    def forward(self, x_BTD: Tensor, music_BTD: Tensor, embedding_BD: Tensor) -> Tensor:
        """Refine (B, T, D) motion tokens by the music tokens and the embedding of time and guidance strength."""
        x_BTD = x_BTD + self.film1(self.bimamba(x_BTD), embedding_BD)
        return x_BTD + self.film2(self.transformer(x_BTD, music_BTD), embedding_BD)


class MotionExpert(nn.Module):
    """Denoiser of dances: BiMamba over time, cross-attention to BiMamba-encoded music, FiLM by time and guidance.

    The defaults are the paper's. The released checkpoint needs ``num_genres=16, null_condition="add"`` and has
    66,680,983 parameters; its parameter names are ours.

    Args:
        motion_dim: Channels C of the motion representation.
        music_dim: Channels of the music features.
        latent_dim: Model width D, even and divisible by `num_heads`.
        num_dance_layers: Layers of the denoiser.
        num_music_layers: Layers of the music encoder.
        num_heads: Heads of the cross-attention (and of the self-attention of ``mixer="transformer"``).
        feedforward_dim: Inner width of the feed-forwards.
        dropout: Share of values dropped in training, in [0, 1).
        state_dim: State size of the Mamba mixers.
        conv_width: Convolution taps of the Mamba mixers.
        expand: Inner over outer width of the Mamba mixers.
        mixer: What mixes over time, in both stacks: "bimamba", or the ablations "mamba" (forward in time only) and
            "transformer" (self-attention with rotary positions).
        num_genres: Genres that condition the music encoder; 0 leaves genre out.
        frame_music: Also add a projection of music token i to motion token i. Cross-attention alone knows no positions,
            so a short training learns to follow the beat only with this.
        null_condition: How the learned null vector stands for "no music": "substitute" replaces the tokens of dropped
            samples; "add", the released code's way, zeroes them and adds the vector to every sample's tokens.

    ``config`` holds the arguments as plain values: ``MotionExpert(**network.config)`` is the same network.

    Raises:
        ConfigError: A size or an option is out of its range.

    Source: MACE-Dance, section 3.2; released code where it goes beyond the paper.
    """

    def __init__(
        self,
        motion_dim: int = 151,
        music_dim: int = 35,
        latent_dim: int = 512,
        num_dance_layers: int = 8,
        num_music_layers: int = 2,
        num_heads: int = 8,
        feedforward_dim: int = 1024,
        dropout: float = 0.1,
        state_dim: int = 16,
        conv_width: int = 4,
        expand: int = 2,
        mixer: Mixer = "bimamba",
        num_genres: int = 0,
        frame_music: bool = False,
        null_condition: NullCondition = "substitute",
    ) -> None:
        super().__init__()
        sizes = {
            "motion_dim": motion_dim,
            "music_dim": music_dim,
            "latent_dim": latent_dim,
            "num_dance_layers": num_dance_layers,
            "num_heads": num_heads,
            "feedforward_dim": feedforward_dim,
            "state_dim": state_dim,
            "conv_width": conv_width,
            "expand": expand,
        }
        #: The constructor's arguments, as ``config.json`` stores them.
        self.config: dict[str, Any] = {
            **sizes,
            "num_music_layers": num_music_layers,
            "dropout": dropout,
            "mixer": mixer,
            "num_genres": num_genres,
            "frame_music": frame_music,
            "null_condition": null_condition,
        }
        _check_options(sizes, num_music_layers, num_genres, dropout, mixer, null_condition)
        self.motion_dim, self.music_dim, self.num_genres = motion_dim, music_dim, num_genres
        self.null_condition: NullCondition = null_condition

        def make_mixer() -> nn.Module:
            if mixer == "transformer":
                return SelfAttention(latent_dim, num_heads, dropout)
            return BiMamba(latent_dim, state_dim, conv_width, expand, dropout, bidirectional=mixer == "bimamba")

        self.null_cond_embed = nn.Parameter(torch.zeros(1, 1, latent_dim))
        self.time_mlp = _embedding_mlp(latent_dim, scale=1.0)
        self.beta_mlp = _embedding_mlp(latent_dim, scale=1000.0)
        self.input_projection = nn.Linear(motion_dim, latent_dim)
        self.cond_projection = nn.Linear(music_dim, latent_dim)
        self.frame_projection = nn.Linear(latent_dim, latent_dim) if frame_music else None
        self.dancelayerstack = nn.ModuleList(
            DanceBlock(make_mixer(), latent_dim, num_heads, feedforward_dim, dropout) for _ in range(num_dance_layers)
        )
        self.musiclayerstack = nn.ModuleList(
            MusicBlock(make_mixer(), latent_dim, num_genres, feedforward_dim) for _ in range(num_music_layers)
        )
        self.final_layer = nn.Linear(latent_dim, motion_dim)

    def encode_music(self, music_BTM: Tensor, genre_B: Tensor | None = None, keep_B: Tensor | None = None) -> Tensor:
        """Turn music features into the tokens that `denoise` reads; once per song, whatever the number of steps.

        Args:
            music_BTM: Music features, normalised as in training.
            genre_B: Genre ids; needed when the network was built with genres, and ignored when it was not.
            keep_B: False rows get the null condition, in which music and genre both vanish; None keeps all.

        Returns:
            Tokens (B, T, D).

        Raises:
            DataError: The features have another width, or a genre id is out of range.
            ConfigError: The network knows genres and none was given.
        """
        if music_BTM.dim() != 3 or music_BTM.shape[-1] != self.music_dim:
            raise DataError(f"music features of shape {tuple(music_BTM.shape)}", expected=f"(B, T, {self.music_dim})")
        genre_B = self._check_genre(genre_B, music_BTM.shape[0])
        tokens_BTD = self.cond_projection(music_BTM)
        for block in self.musiclayerstack:
            tokens_BTD = block(tokens_BTD, genre_B)
        return self._apply_null(tokens_BTD, keep_B)

    def denoise(self, xt_BTC: Tensor, t_B: Tensor, beta_B: Tensor, tokens_BTD: Tensor) -> Tensor:
        """Predict the clean motion x0 (B, T, C), normalised.

        Args:
            xt_BTC: Noisy motion, normalised.
            t_B: Diffusion step, 0 to num_steps - 1.
            beta_B: Guidance strength of Guidance-Free Training in (0, 1]; 1 asks for the plain conditional prediction.
            tokens_BTD: Tokens of `encode_music`, as many as there are frames.

        Raises:
            DataError: Motion and music differ in length or batch, or the motion has another width.
        """
        if xt_BTC.dim() != 3 or xt_BTC.shape[-1] != self.motion_dim:
            raise DataError(f"motion of shape {tuple(xt_BTC.shape)}", expected=f"(B, T, {self.motion_dim})")
        if xt_BTC.shape[:2] != tokens_BTD.shape[:2]:
            raise DataError(
                f"the motion has {xt_BTC.shape[1]} frames in a batch of {xt_BTC.shape[0]}, "
                f"the music {tokens_BTD.shape[1]} in a batch of {tokens_BTD.shape[0]}",
                expected="the same length and batch",
                fix="cut both to the shorter one",
            )
        embedding_BD = self.time_mlp(t_B) + self.beta_mlp(beta_B)
        x_BTD = self.input_projection(xt_BTC)
        if self.frame_projection is not None:
            x_BTD = x_BTD + self.frame_projection(tokens_BTD)
        for block in self.dancelayerstack:
            x_BTD = block(x_BTD, tokens_BTD, embedding_BD)
        return self.final_layer(x_BTD)

    def forward(
        self,
        xt_BTC: Tensor,
        t_B: Tensor,
        beta_B: Tensor,
        music_BTM: Tensor,
        genre_B: Tensor | None = None,
        keep_B: Tensor | None = None,
    ) -> Tensor:
        """``denoise(xt, t, beta, encode_music(music, genre, keep))``."""
        return self.denoise(xt_BTC, t_B, beta_B, self.encode_music(music_BTM, genre_B, keep_B))

    def _check_genre(self, genre_B: Tensor | None, batch: int) -> Tensor | None:
        if not self.num_genres:
            return None
        if genre_B is None:
            raise ConfigError(
                f"the network is conditioned on {self.num_genres} genres and none was given", fix="give a genre id"
            )
        if genre_B.shape != (batch,):
            raise DataError(f"genre ids of shape {tuple(genre_B.shape)}", expected=f"({batch},), one per sample")
        if genre_B.device.type != "cpu":
            return genre_B  # reading the ids would wait for the accelerator in every step
        if genre_B.is_meta:
            return genre_B
        low, high = (int(x) for x in torch.aminmax(genre_B))
        if low < 0 or high >= self.num_genres:
            raise DataError(
                f"genre id {low if low < 0 else high} is unknown", expected=f"an id from 0 to {self.num_genres - 1}"
            )
        return genre_B

    def _apply_null(self, tokens_BTD: Tensor, keep_B: Tensor | None) -> Tensor:
        null_11D = self.null_cond_embed.to(tokens_BTD.dtype)
        keep_B11 = None if keep_B is None else keep_B.view(-1, 1, 1)
        if self.null_condition == "add":
            kept_BTD = tokens_BTD if keep_B11 is None else tokens_BTD * keep_B11.to(tokens_BTD.dtype)
            return kept_BTD + null_11D
        return tokens_BTD if keep_B11 is None else torch.where(keep_B11, tokens_BTD, null_11D)


def _embedding_mlp(dim: int, scale: float) -> nn.Sequential:
    return nn.Sequential(SinusoidalEmbedding(dim, scale), nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim))


def _check_options(
    sizes: dict[str, int], num_music_layers: int, num_genres: int, dropout: float, mixer: str, null_condition: str
) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ConfigError(f"{name} of the Motion Expert is {value}", expected="1 or more")
    for name, value in (("num_music_layers", num_music_layers), ("num_genres", num_genres)):
        if value < 0:
            raise ConfigError(f"{name} of the Motion Expert is {value}", expected="0 or more")
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout of the Motion Expert is {dropout}", expected="a number in [0, 1)")
    for name, option, known in (
        ("mixer", mixer, get_args(Mixer)),
        ("null_condition", null_condition, get_args(NullCondition)),
    ):
        if option not in known:
            raise ConfigError(f"{name} of the Motion Expert is {option!r}", expected=" or ".join(known))
