"""What a training step asks the network for, and how a dance is guided: guidance-free training, or two passes.

Shapes: B batch, T frames, C motion channels (151), M music channels (35), D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from macedance.diffusion.draws import StepDraws
from macedance.errors import ConfigError

#: Predicts x0_BTC from (xt_BTC, t_B).
Denoiser = Callable[[Tensor, Tensor], Tensor]

# Not 1: kernels on accelerators have a smallest length.
_NULL_FRAMES = 8


class MotionNetwork(Protocol):
    """What the objectives and the sampler need of a network; `MotionExpert` has it."""

    def encode_music(self, music_BTM: Tensor, genre_B: Tensor | None = None, keep_B: Tensor | None = None) -> Tensor:
        """Condition tokens (B, T, D); the null token, the same in every frame, where `keep_B` is False."""
        ...

    def denoise(self, xt_BTC: Tensor, t_B: Tensor, beta_B: Tensor, tokens_BTD: Tensor) -> Tensor:
        """The clean motion x0_BTC."""
        ...


class Guidance(Protocol):
    """An objective: how the network is trained with the condition, and how strongly a dance follows it."""

    drop_probability: float
    beta_min: float
    default_strength: float

    def init_args(self) -> dict[str, Any]:
        """The constructor's arguments, plain values."""
        ...

    def check_strength(self, strength: float | None) -> float:
        """The strength to sample with; raises ConfigError where it is out of range."""
        ...

    def training_prediction(
        self, network: MotionNetwork, xt_BTC: Tensor, draws: StepDraws, music_BTM: Tensor, genre_B: Tensor | None
    ) -> Tensor:
        """The prediction x0_BTC that the loss compares with the clean motion."""
        ...

    def denoiser(
        self, network: MotionNetwork, music_BTM: Tensor, genre_B: Tensor | None, strength: float | None = None
    ) -> Denoiser:
        """The guided denoiser of a set of dances; the music is encoded once, here."""
        ...


@contextmanager
def evaluation_mode(network: object) -> Iterator[None]:
    """Dropout off inside, and every submodule's own mode restored after."""
    modules = list(network.modules()) if isinstance(network, nn.Module) else []
    training = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode


class GuidanceFreeTraining:
    """Guidance-Free Training: one pass at sampling, guided by a temperature that the network is given.

    pred = beta f(xt, c, t, beta) + (1 - beta) sg[f(xt, null, t, 1)]   (MACE-Dance eq. 3; Chen et al. 2025, GFT).
    A row whose condition is dropped is fed beta = 1 while the loss mixes with the drawn beta; its two branches are
    then one and the same but for dropout, which the unconditional branch goes without: the row is computed once,
    dropout active, and its gradient is scaled by beta. That trains the null condition.

    The released MACE-Dance code differs: ``drop_probability=0, unconditional_beta="same", unconditional_dropout=True``.

    Args:
        drop_probability: Share of rows without a condition, 0 .. 1.
        beta_min: beta is drawn from (beta_min, 1].
        unconditional_beta: The temperature of the unconditional branch: 1 (``one``), or that of the row (``same``).
        unconditional_dropout: Whether dropout is active in the unconditional branch.
        mix_fraction: Share of rows that get the mixed loss; the others train at beta = 1, where the unconditional
            branch has weight 0 and is not computed. 1 is the paper; 0.5 spares half of the second forward.
        default_beta: beta of sampling where none is asked for.

    Raises:
        ConfigError: A value out of range.
    """

    def __init__(
        self,
        drop_probability: float = 0.1,
        beta_min: float = 0.0,
        unconditional_beta: Literal["one", "same"] = "one",
        unconditional_dropout: bool = False,
        mix_fraction: float = 1.0,
        default_beta: float = 0.75,
    ) -> None:
        _check_share("drop_probability", drop_probability)
        _check_share("mix_fraction", mix_fraction)
        if not 0 <= beta_min < 1:
            raise ConfigError(f"beta_min is {beta_min}", expected="0 or more and below 1")
        if unconditional_beta not in ("one", "same"):
            raise ConfigError(f"unconditional_beta is {unconditional_beta!r}", expected="'one' or 'same'")
        self.drop_probability = drop_probability
        self.beta_min = beta_min
        self.unconditional_beta = unconditional_beta
        self.unconditional_dropout = unconditional_dropout
        self.mix_fraction = mix_fraction
        self.default_strength = self.check_strength(default_beta)

    def init_args(self) -> dict[str, Any]:
        """The constructor's arguments, plain values."""
        return {
            "drop_probability": self.drop_probability,
            "beta_min": self.beta_min,
            "unconditional_beta": self.unconditional_beta,
            "unconditional_dropout": self.unconditional_dropout,
            "mix_fraction": self.mix_fraction,
            "default_beta": self.default_strength,
        }

    def check_strength(self, strength: float | None) -> float:
        """The beta to sample with, above 0 and at most 1 (None: the default); a low one follows the music more."""
        if strength is None:
            return self.default_strength
        if not 0 < strength <= 1:
            raise ConfigError(f"beta is {strength}", expected="above 0 and at most 1", fix="0.75 is the paper's value")
        return float(strength)

    def training_prediction(
        self, network: MotionNetwork, xt_BTC: Tensor, draws: StepDraws, music_BTM: Tensor, genre_B: Tensor | None
    ) -> Tensor:
        """pred_BTC of MACE-Dance eq. 3.

        Args:
            network: The network in training mode.
            xt_BTC: Noised motion at `draws.t_B`.
            draws: The step's draws, on the device of `xt_BTC`.
            music_BTM: Music features as the network takes them.
            genre_B: Genre numbers int64, or None.
        """
        mixed_B = draws.mix_B < self.mix_fraction
        beta_B = torch.where(mixed_B, draws.beta_B, torch.ones_like(draws.beta_B))
        fed_beta_B = torch.where(draws.keep_B, beta_B, torch.ones_like(beta_B))
        tokens_BTD = network.encode_music(music_BTM, genre_B, draws.keep_B)
        conditional_BTC = network.denoise(xt_BTC, draws.t_B, fed_beta_B, tokens_BTD)
        if self.mix_fraction == 0:
            return conditional_BTC

        rows_N = torch.nonzero(mixed_B & draws.keep_B).flatten()
        if rows_N.numel() == 0:
            # Every rank runs the branch in every step: under ZeRO-3 its forward is a collective.
            rows_N = rows_N.new_zeros(1)
        beta_N = beta_B[rows_N] if self.unconditional_beta == "same" else torch.ones_like(beta_B[rows_N])
        unconditional_NTC = self._unconditional(
            network, xt_BTC[rows_N], draws.t_B[rows_N], beta_N, music_BTM, genre_B, rows_N
        )
        other_BTC = conditional_BTC.detach().index_copy(0, rows_N, unconditional_NTC.to(conditional_BTC.dtype))
        weight_B11 = beta_B.view(-1, 1, 1)
        return weight_B11 * conditional_BTC + (1 - weight_B11) * other_BTC

    def _unconditional(
        self,
        network: MotionNetwork,
        xt_NTC: Tensor,
        t_N: Tensor,
        beta_N: Tensor,
        music_BTM: Tensor,
        genre_B: Tensor | None,
        rows_N: Tensor,
    ) -> Tensor:
        genre_N = None if genre_B is None else genre_B[rows_N]
        with torch.no_grad():
            if self.unconditional_dropout:
                tokens_NTD = _null_tokens(network, music_BTM[rows_N], genre_N)
                return network.denoise(xt_NTC, t_N, beta_N, tokens_NTD)
            with evaluation_mode(network):
                tokens_NTD = _null_tokens(network, music_BTM[rows_N], genre_N)
                return network.denoise(xt_NTC, t_N, beta_N, tokens_NTD)

    def denoiser(
        self, network: MotionNetwork, music_BTM: Tensor, genre_B: Tensor | None, strength: float | None = None
    ) -> Denoiser:
        """x0 = f(xt, c, t, beta), one pass.

        Args:
            network: The network in evaluation mode.
            music_BTM: Music features as the network takes them.
            genre_B: Genre numbers int64, or None.
            strength: beta in (0, 1]; None for the default.

        Raises:
            ConfigError: beta out of range.
        """
        beta = self.check_strength(strength)
        tokens_BTD = network.encode_music(music_BTM, genre_B, None)

        def denoise(xt_BTC: Tensor, t_B: Tensor) -> Tensor:
            return network.denoise(xt_BTC, t_B, xt_BTC.new_full((len(xt_BTC),), beta), tokens_BTD)

        return denoise


class ClassifierFreeGuidance:
    """Classifier-free guidance, the ablation: two passes at sampling, x0 = u + w (c - u) (EDGE: w = 2, drop 0.25).

    The network is fed beta = 1 throughout.

    Args:
        drop_probability: Share of training rows without a condition, 0 .. 1.
        weight: w at sampling, 0 or more; 1 is the plain conditional model and needs one pass.

    Raises:
        ConfigError: A value out of range.
    """

    def __init__(self, drop_probability: float = 0.25, weight: float = 2.0) -> None:
        _check_share("drop_probability", drop_probability)
        self.drop_probability = drop_probability
        self.beta_min = 0.0
        self.default_strength = self.check_strength(weight)

    def init_args(self) -> dict[str, Any]:
        """The constructor's arguments, plain values."""
        return {"drop_probability": self.drop_probability, "weight": self.default_strength}

    def check_strength(self, strength: float | None) -> float:
        """The weight w to sample with: 0 or more and finite, None for the default."""
        if strength is None:
            return self.default_strength
        if not 0 <= strength < float("inf"):
            raise ConfigError(f"the guidance weight is {strength}", expected="0 or more", fix="2 is EDGE's value")
        return float(strength)

    def training_prediction(
        self, network: MotionNetwork, xt_BTC: Tensor, draws: StepDraws, music_BTM: Tensor, genre_B: Tensor | None
    ) -> Tensor:
        """f(xt, c or null, t, 1); arguments as those of `GuidanceFreeTraining.training_prediction`."""
        tokens_BTD = network.encode_music(music_BTM, genre_B, draws.keep_B)
        return network.denoise(xt_BTC, draws.t_B, torch.ones_like(draws.beta_B), tokens_BTD)

    def denoiser(
        self, network: MotionNetwork, music_BTM: Tensor, genre_B: Tensor | None, strength: float | None = None
    ) -> Denoiser:
        """x0 = u + w (c - u), both passes in one call of twice the batch.

        Args:
            network: The network in evaluation mode.
            music_BTM: Music features as the network takes them.
            genre_B: Genre numbers int64, or None.
            strength: w, 0 or more; None for the default.

        Raises:
            ConfigError: w out of range.
        """
        weight = self.check_strength(strength)
        tokens_BTD = network.encode_music(music_BTM, genre_B, None)
        if weight == 1:
            return lambda xt_BTC, t_B: network.denoise(xt_BTC, t_B, xt_BTC.new_ones(len(xt_BTC)), tokens_BTD)
        both_2BTD = torch.cat([tokens_BTD, _null_tokens(network, music_BTM, genre_B)])

        def denoise(xt_BTC: Tensor, t_B: Tensor) -> Tensor:
            ones_2B = xt_BTC.new_ones(2 * len(xt_BTC))
            x0_2BTC = network.denoise(torch.cat([xt_BTC, xt_BTC]), torch.cat([t_B, t_B]), ones_2B, both_2BTD)
            conditional_BTC, unconditional_BTC = x0_2BTC.chunk(2)
            return unconditional_BTC + weight * (conditional_BTC - unconditional_BTC)

        return denoise


#: What a model's ``config.json`` may name: a file never decides which code runs.
OBJECTIVES: dict[str, type[GuidanceFreeTraining] | type[ClassifierFreeGuidance]] = {
    f"{objective.__module__}.{objective.__name__}": objective
    for objective in (GuidanceFreeTraining, ClassifierFreeGuidance)
}


def guidance_to_config(guidance: Guidance) -> dict[str, Any]:
    """``{"class_path", "init_args"}`` of an objective, as ``config.json`` keeps it."""
    kind = type(guidance)
    return {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": guidance.init_args()}


def guidance_from_config(config: Mapping[str, Any]) -> GuidanceFreeTraining | ClassifierFreeGuidance:
    """The objective that `guidance_to_config` described.

    Raises:
        ConfigError: An unknown class or argument, or a value out of range.
    """
    objective = OBJECTIVES.get(str(config.get("class_path")))
    if objective is None:
        raise ConfigError(f"unknown objective {config.get('class_path')!r}", expected=f"one of {', '.join(OBJECTIVES)}")
    arguments = config.get("init_args") or {}
    try:
        return objective(**arguments)
    except TypeError as error:
        raise ConfigError(f"wrong arguments of {objective.__name__}: {error}") from error


def _null_tokens(network: MotionNetwork, music_BTM: Tensor, genre_B: Tensor | None) -> Tensor:
    """The null condition of each row.

    It is one learned token, masked in after the music encoder: the same for every row and frame, so that a few frames
    of one row give it and the music is not encoded for nothing.
    """
    rows, frames = music_BTM.shape[:2]
    keep_1 = torch.zeros(1, dtype=torch.bool, device=music_BTM.device)
    few_1TD = network.encode_music(music_BTM[:1, :_NULL_FRAMES], None if genre_B is None else genre_B[:1], keep_1)
    return few_1TD[:, :1].expand(rows, frames, -1)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is {value}", expected="0 to 1")
