"""What a Motion Expert's ``config.json`` and ``normalizer.json`` say, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from macedance.diffusion.guidance import Guidance, guidance_to_config
from macedance.errors import CheckpointError, DataError
from macedance.motion.normalizer import MinMaxNormalizer
from macedance.motion.representation import NAME, REPRESENTATION_DIM
from macedance.pipelines.folder import FORMAT, VERSION, check_config, check_normalizer

#: Arguments of the network that the rest of the pipeline relies on, with the defaults of `MotionExpert`.
MUSIC_DIM = 35


@dataclass(frozen=True)
class MotionModelConfig:
    """A Motion Expert without its weights.

    Attributes:
        network: Constructor arguments of `MotionExpert`.
        objective: ``{"class_path", "init_args"}`` of the training objective; it decides how dances are guided.
        fps: Frames per second of the motions.
        window_frames: Frames of a training window.
        genres: Names of the genres, in the order of the network's labels; empty where it takes none.
        sampler: ``{"name": "ddim" | "dpmpp", "num_steps": int, "eta": float}``, what to sample with by default.
        sample_weights: Which weights of a checkpoint to sample with, ``ema`` or ``raw``.
    """

    network: dict[str, Any]
    objective: dict[str, Any]
    fps: float
    window_frames: int
    genres: tuple[str, ...] = ()
    sampler: dict[str, Any] = field(default_factory=dict)
    sample_weights: str = "ema"

    @property
    def music_dim(self) -> int:
        """Channels of the music features."""
        return int(self.network.get("music_dim", MUSIC_DIM))

    def to_dict(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "representation": NAME,
            "network": self.network,
            "objective": self.objective,
            "fps": self.fps,
            "window_frames": self.window_frames,
            "genres": list(self.genres),
            "sampler": self.sampler,
            "sample_weights": self.sample_weights,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str | Path) -> MotionModelConfig:
        """The checked content of a ``config.json``.

        Args:
            values: The content.
            where: The file, for the message.

        Raises:
            CheckpointError: Another format, version or representation, or a value that makes no sense.
        """
        check_config(values, where=where)
        fps, window, genres = values.get("fps"), values.get("window_frames"), values.get("genres") or []
        objective, sampler = values.get("objective"), values.get("sampler") or {}
        network = dict(values["network"])
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1000:
            raise CheckpointError(f"the model's fps is {fps!r}", where=where, expected="a number above 0")
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise CheckpointError(f"the model's window_frames is {window!r}", where=where, expected="1 or more")
        if not isinstance(genres, list | tuple) or not all(isinstance(name, str) for name in genres):
            raise CheckpointError("the model's genres are not a list of names", where=where)
        if not isinstance(objective, Mapping) or not isinstance(sampler, Mapping):
            raise CheckpointError("the model's objective or sampler is not an object", where=where)
        if network.get("motion_dim", REPRESENTATION_DIM) != REPRESENTATION_DIM:
            raise CheckpointError(
                f"the model's motion has {network['motion_dim']} channels",
                where=where,
                expected=f"{REPRESENTATION_DIM}",
            )
        num_genres = network.get("num_genres", 0)
        if not isinstance(num_genres, int) or num_genres < 0 or (num_genres and not 1 <= len(genres) <= num_genres):
            raise CheckpointError(
                f"the network knows {num_genres} genres and the configuration names {len(genres)}",
                where=where,
                expected="1 to as many names",
            )
        # Names without labels in the network would be offered and then ignored.
        return cls(
            network=network,
            objective=dict(objective),
            fps=float(fps),
            window_frames=window,
            genres=tuple(genres) if num_genres else (),
            sampler=dict(sampler),
            sample_weights="raw" if values.get("sample_weights") == "raw" else "ema",
        )


def read_normalizers(
    values: Mapping[str, Any], config: MotionModelConfig, where: str | Path
) -> tuple[MinMaxNormalizer, MinMaxNormalizer | None]:
    """The motion's and the music's normaliser (None: raw features) of a ``normalizer.json``.

    Raises:
        CheckpointError: Damaged, not fitted, or made for another representation or other features.
    """
    check_normalizer(values, where=where)
    motion = _read_normalizer(values["motion"], "motion", REPRESENTATION_DIM, where)
    music = values.get("music")
    return motion, None if music is None else _read_normalizer(music, "music", config.music_dim, where)


def _read_normalizer(values: Mapping[str, Any], name: str, channels: int, where: str | Path) -> MinMaxNormalizer:
    try:
        normalizer = MinMaxNormalizer.from_dict(values)
    except DataError as error:
        raise CheckpointError(f"the {name} normaliser: {error.what}", where=where, expected=error.expected) from error
    if not normalizer.fitted or normalizer.num_channels != channels:
        raise CheckpointError(
            f"the {name} normaliser has {normalizer.num_channels} channels of {normalizer.count} frames",
            where=where,
            expected=f"{channels} channels, fitted",
        )
    return normalizer


def prepare_music(music_BTM: Tensor, normalizer: MinMaxNormalizer | None) -> Tensor:
    """Music features as the network takes them: min-max normalised, or as they are where the normaliser is None.

    Training and sampling both call this, so that they cannot differ.

    Args:
        music_BTM: Features (..., T, 35).
        normalizer: The music's normaliser, or None (the released MACE-Dance model reads raw features).
    """
    return music_BTM if normalizer is None else normalizer.normalize(music_BTM)


def model_config(
    network: nn.Module,
    objective: Guidance,
    fps: float,
    window_frames: int,
    genres: Sequence[str],
    sample_weights: str = "ema",
    sampler: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of ``config.json`` for a network at hand.

    Args:
        network: A network whose ``config`` holds its constructor's arguments, as `MotionExpert`'s does.
        objective: Its training objective.
        fps: Frames per second of its motions.
        window_frames: Frames of a training window.
        genres: Names of its genres, in the order of its labels.
        sample_weights: Which weights of a checkpoint to sample with, ``ema`` or ``raw``.
        sampler: ``{"name", "num_steps", "eta"}`` to sample with by default.
    """
    return MotionModelConfig(
        network=dict(cast(Mapping[str, Any], network.config)),
        objective=guidance_to_config(objective),
        fps=fps,
        window_frames=window_frames,
        genres=tuple(genres),
        sampler=dict(sampler or {}),
        sample_weights=sample_weights,
    ).to_dict()
