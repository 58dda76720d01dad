"""From a song to dances: the Motion Expert with everything that it needs to run.

Shapes: B dances, T frames, C = 151 motion channels, M = 35 music channels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from macedance.diffusion.draws import RowNoise, choose
from macedance.diffusion.guidance import Denoiser, Guidance, MotionNetwork, evaluation_mode, guidance_from_config
from macedance.diffusion.samplers import Progress, Sampler
from macedance.diffusion.schedule import CosineSchedule
from macedance.diffusion.windows import WindowedDenoiser
from macedance.errors import ConfigError
from macedance.motion.files import Motion
from macedance.motion.normalizer import MinMaxNormalizer
from macedance.motion.representation import REPRESENTATION_DIM, decode_motion
from macedance.pipelines.folder import write_folder
from macedance.pipelines.genres import is_unused
from macedance.pipelines.motion_config import MotionModelConfig, model_config, prepare_music
from macedance.pipelines.motion_options import (
    Features,
    check_features,
    check_genre,
    check_num_dances,
    check_seconds,
    resolve_sampler,
    resolve_strength,
)
from macedance.pipelines.motion_weights import LoadedModel, Weights, load_checkpoint, load_folder, load_model

_LOG = logging.getLogger(__name__)

SOURCE = "macedance"

__all__ = ["MusicInput", "MusicToMotion", "model_config", "prepare_music"]


@dataclass(frozen=True)
class MusicInput:
    """A song as the pipeline reads it.

    Attributes:
        features: Raw music features (T, 35), float32, at the model's fps.
        beats_s: Beats (N,), seconds from the first frame.
        name: The file's name without its ending.
        duration_s: Length, seconds.
    """

    features: np.ndarray
    beats_s: np.ndarray
    name: str
    duration_s: float


class MusicToMotion:
    """Generates dances with a trained Motion Expert.

    Args:
        network: The network, on the device to run on. Its mode (training or evaluation) is left as it is.
        objective: The objective it was trained with; it decides how dances are guided.
        config: The rest of ``config.json``.
        motion_normalizer: The motion's normaliser of training.
        music_normalizer: The music's, or None where the network reads raw features.
        max_windows: Windows that run through the network at once: bounds its memory, changes nothing else.

    A dance is determined by (music, genre, strength, seed, its number k, sampler): not by the dances made beside it,
    up to rounding.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Guidance,
        config: MotionModelConfig,
        motion_normalizer: MinMaxNormalizer,
        music_normalizer: MinMaxNormalizer | None = None,
        *,
        max_windows: int = 16,
    ) -> None:
        self.network = network
        self.objective = objective
        self.config = config
        self.motion_normalizer = motion_normalizer
        self.music_normalizer = music_normalizer
        self.max_windows = max_windows
        self.schedule = CosineSchedule()

    @classmethod
    def load(cls, path: str | Path, *, weights: Weights = "auto", device: torch.device | str = "cpu") -> MusicToMotion:
        """A model from a pretrained folder or a training checkpoint, whichever `path` is.

        Args:
            path: Folder of `save_pretrained`, or a checkpoint of `macedance fit`.
            weights: For a checkpoint: its average (``ema``), its last weights (``raw``), or the average where there is
                one (``auto``). A folder has one set.
            device: Where to run.

        Raises:
            CheckpointError: Missing, foreign, damaged, or of another representation or normaliser.
        """
        return cls._from_loaded(load_model(path, weights), device)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str = "cpu") -> MusicToMotion:
        """A model from the folder of `save_pretrained`.

        Raises:
            CheckpointError: Missing, foreign, damaged, or of another representation or normaliser.
        """
        return cls._from_loaded(load_folder(Path(folder)), device)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, weights: Weights = "ema", device: torch.device | str = "cpu"
    ) -> MusicToMotion:
        """A model from a training checkpoint.

        Raises:
            CheckpointError: Missing, foreign, damaged, of another representation or normaliser, or without an average
                where one is asked for.
        """
        return cls._from_loaded(load_checkpoint(Path(path), weights), device)

    @classmethod
    def _from_loaded(cls, model: LoadedModel, device: torch.device | str) -> MusicToMotion:
        network = model.network.to(device).eval()
        music = None if model.music_normalizer is None else model.music_normalizer.to(device)
        return cls(network, model.objective, model.config, model.motion_normalizer.to(device), music)

    def with_default_beta(self, beta: float) -> MusicToMotion:
        """The same model with another default temperature, above 0 and at most 1, which `save_pretrained` keeps."""
        resolve_strength(self.objective, beta, None)
        objective = dict(self.config.objective)
        objective["init_args"] = {**(objective.get("init_args") or {}), "default_beta": beta}
        config, guidance = replace(self.config, objective=objective), guidance_from_config(objective)
        return MusicToMotion(self.network, guidance, config, self.motion_normalizer, self.music_normalizer)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``model.safetensors``, ``config.json`` and ``normalizer.json``; all of them or none.

        Raises:
            ConfigError: The folder cannot be written.
            CheckpointError: A weight is not finite.
        """
        normalizers = {
            "motion": self.motion_normalizer.to_dict(),
            "music": None if self.music_normalizer is None else self.music_normalizer.to_dict(),
        }
        return write_folder(folder, self.config.to_dict(), normalizers, self.network.state_dict())

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.network.parameters()).device

    @property
    def fps(self) -> float:
        """Frames per second of the dances."""
        return self.config.fps

    @property
    def genres(self) -> tuple[str, ...]:
        """The genres that may be asked for; empty where the model takes none."""
        return tuple(name for name in self.config.genres if not is_unused(name))

    def __call__(
        self,
        music: str | Path,
        *,
        seconds: float | None = None,
        start_s: float = 0.0,
        cache_dir: Path | None = None,
        **options: Any,
    ) -> list[Motion]:
        """Dances to a sound file.

        Args:
            music: The file, in any format that `load_audio` reads.
            seconds: Length, above 0; None is the whole song. A longer wish than the song ends with it, with a warning.
            start_s: Where in the song to begin, seconds.
            cache_dir: Where features are kept; None computes them.
            options: As of `generate`.

        Returns:
            The dances, with the song's beats.

        Raises:
            ConfigError: As of `generate`, or `seconds` not above 0.
            DataError: The file is no usable sound.
        """
        self.check_options(**options)
        song = self.read_music(music, seconds=seconds, start_s=start_s, cache_dir=cache_dir)
        return self.generate(song.features, music_beats_s=song.beats_s, songs=[song.name], **options)

    def read_music(
        self,
        music: str | Path,
        *,
        seconds: float | None = None,
        start_s: float = 0.0,
        cache_dir: Path | None = None,
    ) -> MusicInput:
        """What `generate` needs of a sound file; arguments as those of a call.

        Raises:
            ConfigError: `seconds` is not above 0.
            DataError: The file is no usable sound.
        """
        check_seconds(seconds)
        from macedance.music.audio import load_audio
        from macedance.music.beats import beats_of_features
        from macedance.music.features import music_features

        music = Path(music)
        if seconds is None and start_s == 0:
            # The whole file: its features may lie in the cache already.
            features_TM = music_features(music, self.fps, cache_dir=cache_dir)
        else:
            audio = load_audio(music, start_s=start_s, duration_s=seconds)
            features_TM = music_features(audio, self.fps, cache_dir=cache_dir)
        duration_s = len(features_TM) / self.fps
        if seconds is not None and duration_s < seconds - 1 / self.fps:
            _LOG.warning("%s lasts %.2f s: the dance ends with it, not after %.2f s", music, duration_s, seconds)
        return MusicInput(features_TM, beats_of_features(features_TM, self.fps), music.stem, duration_s)

    def generate(
        self,
        features: Features | Sequence[Features],
        *,
        genre: str | None = None,
        beta: float | None = None,
        guidance_weight: float | None = None,
        seed: int = 0,
        sampler: str | Sampler | None = None,
        num_steps: int | None = None,
        eta: float | None = None,
        num_dances: int = 1,
        overlap_frames: int | None = None,
        ground: bool = True,
        music_beats_s: np.ndarray | Sequence[np.ndarray | None] | None = None,
        songs: Sequence[str | None] | None = None,
        progress: Progress | None = None,
    ) -> list[Motion]:
        """Dances to music features of any length.

        Args:
            features: Raw music features (T, 35) at the model's fps, or a list of them, of any lengths.
            genre: One of `genres`; None draws one by the seed (`Motion.genre` names it).
            beta: Temperature above 0 and at most 1 of a guidance-free model; None is its default, 0.75.
            guidance_weight: Weight of a model trained with classifier-free guidance; None is its default.
            seed: Decides everything that is drawn.
            sampler: ``ddim``, ``dpmpp``, an instance, or None for the model's own default.
            num_steps: Sampling steps, 1 or more; None is the sampler's default.
            eta: Noise of ``ddim``, 0 .. 1.
            num_dances: Dances per song, 1 or more.
            overlap_frames: Frames that windows share; None is a third of a window.
            ground: Shift each dance vertically so that its lowest toe stands on the floor.
            music_beats_s: Beats of the song in seconds (N,), or of each song, for the motions.
            songs: Name of each song, for the motions.
            progress: Told (steps done, steps in all).

        Returns:
            num_dances motions of the first song, then of the second, and so on.

        Raises:
            ConfigError: An unknown genre (the known ones are listed) or a value out of range.
            DataError: Features of the wrong shape or not finite.
            NumericsError: The network gave NaN.
        """
        if isinstance(features, np.ndarray | Tensor):
            features = [features]
        check_num_dances(num_dances)
        genre = self.choose_genre(genre, seed)
        beats = [music_beats_s] if isinstance(music_beats_s, np.ndarray) else music_beats_s
        if any(rows is not None and len(rows) != len(features) for rows in (beats, songs)):
            raise ConfigError(f"beats or names not of {len(features)} songs", expected="one of each for each song")
        repeat = [song for song in range(len(features)) for _ in range(num_dances)]
        return self.generate_batch(
            [features[song] for song in repeat],
            genres=[genre] * len(repeat),
            beta=beta,
            guidance_weight=guidance_weight,
            seeds=[seed] * len(repeat),
            numbers=[song * 1_000_000 + k for song in range(len(features)) for k in range(num_dances)],
            sampler=sampler,
            num_steps=num_steps,
            eta=eta,
            overlap_frames=overlap_frames,
            ground=ground,
            music_beats_s=None if beats is None else [beats[song] for song in repeat],
            songs=None if songs is None else [songs[song] for song in repeat],
            progress=progress,
        )

    def generate_batch(
        self,
        features: Sequence[Features] | Features,
        *,
        genres: Sequence[str | None] | None = None,
        beta: float | None = None,
        guidance_weight: float | None = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        numbers: Sequence[int] | None = None,
        sampler: str | Sampler | None = None,
        num_steps: int | None = None,
        eta: float | None = None,
        overlap_frames: int | None = None,
        ground: bool = True,
        music_beats_s: Sequence[np.ndarray | None] | None = None,
        songs: Sequence[str | None] | None = None,
        progress: Progress | None = None,
    ) -> list[Motion]:
        """One dance for each of many clips, as an evaluation wants them: each with its own genre and seed.

        Args:
            features: Raw music features, (B, T, 35) or B arrays (T, 35); clips of one length run together.
            genres: Genre of each clip; None (or a None in it) draws one by the clip's seed.
            beta: As of `generate`.
            guidance_weight: As of `generate`.
            seed: Seed of all clips, where `seeds` is None.
            seeds: Seed of each clip.
            numbers: Number of each clip under its seed; None counts from 0.
            sampler: As of `generate`.
            num_steps: As of `generate`.
            eta: As of `generate`.
            overlap_frames: As of `generate`.
            ground: As of `generate`.
            music_beats_s: Beats of each clip.
            songs: Name of each clip's song.
            progress: Told (steps done, steps in all), over all lengths.

        Returns:
            B motions in the order of `features`.

        Raises:
            ConfigError: As of `generate`, or lists of different lengths.
            DataError: As of `generate`.
            NumericsError: As of `generate`.
        """
        strength = resolve_strength(self.objective, beta, guidance_weight)
        solver = resolve_sampler(self.config.sampler, sampler, num_steps, eta)
        music = [check_features(clip, self.config.music_dim, index) for index, clip in enumerate(features)]
        count = len(music)
        row_seeds = [seed] * count if seeds is None else list(seeds)
        row_numbers = list(range(count)) if numbers is None else list(numbers)
        wanted = [None] * count if genres is None else list(genres)
        beats = [None] * count if music_beats_s is None else list(music_beats_s)
        names = [None] * count if songs is None else list(songs)
        if any(len(rows) != count for rows in (row_seeds, row_numbers, wanted, beats, names)):
            raise ConfigError(
                f"{count} clips with {len(wanted)} genres, {len(row_seeds)} seeds, {len(row_numbers)} numbers, "
                f"{len(beats)} beats and {len(names)} songs",
                expected="one of each for each clip",
            )
        labels = [self.choose_genre(wanted[row], row_seeds[row], row_numbers[row]) for row in range(count)]

        by_length: dict[int, list[int]] = {}
        for row, clip in enumerate(music):
            by_length.setdefault(len(clip), []).append(row)
        motions: dict[int, Motion] = {}
        for group, rows in enumerate(by_length.values()):
            done = group * solver.num_steps
            noise = RowNoise(0, [row_numbers[row] for row in rows], seeds=[row_seeds[row] for row in rows])
            x_BTC = self.sample(
                torch.stack([music[row] for row in rows]),
                self._genre_labels([labels[row] for row in rows]),
                noise,
                strength=strength,
                sampler=solver,
                overlap_frames=overlap_frames,
                progress=_shifted(progress, done, len(by_length) * solver.num_steps),
            )
            for row, x_TC in zip(rows, x_BTC, strict=True):
                motions[row] = self._motion(x_TC, labels[row], beats[row], names[row], ground)
        return [motions[row] for row in range(count)]

    def sample(
        self,
        music_BTM: Tensor,
        genre_B: Tensor | None,
        noise: RowNoise,
        *,
        strength: float | None,
        sampler: Sampler,
        overlap_frames: int | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """The un-normalised representation of dances of one length.

        Args:
            music_BTM: Raw music features.
            genre_B: Genre labels int64, or None.
            noise: The noise of each dance.
            strength: beta or weight, as the objective takes it.
            sampler: The sampler.
            overlap_frames: As of `generate`.
            progress: Told after each step.

        Returns:
            x_BTC, 151 channels, z-up, on the network's device.
        """
        device = self.device
        num_frames = music_BTM.shape[1]
        network = cast(MotionNetwork, self.network)
        # The tables follow the network wherever it was moved. Outside inference mode: training may share the
        # normalisers, and an inference tensor cannot take part in a backward pass.
        self.schedule.to(device)
        self.motion_normalizer.to(device)
        if self.music_normalizer is not None:
            self.music_normalizer.to(device)
        with evaluation_mode(self.network), torch.inference_mode():
            music_BTM = prepare_music(music_BTM.to(device), self.music_normalizer)

            def factory(window_BWM: Tensor, genre_N: Tensor | None) -> Denoiser:
                return self.objective.denoiser(network, window_BWM, genre_N, strength)

            denoise = WindowedDenoiser(
                factory,
                music_BTM,
                None if genre_B is None else genre_B.to(device),
                window=self.config.window_frames,
                overlap=overlap_frames,
                max_batch=self.max_windows,
            )
            start_BTC = noise.normal(num_frames, REPRESENTATION_DIM, device)
            x0_BTC = sampler.sample(denoise, start_BTC, self.schedule, noise, progress)
            return self.motion_normalizer.unnormalize(x0_BTC)

    def check_options(self, **options: Any) -> None:
        """Raise what `generate` would raise for these options, before any music is read."""
        self.check_genre(options.get("genre"))
        resolve_strength(self.objective, options.get("beta"), options.get("guidance_weight"))
        resolve_sampler(self.config.sampler, options.get("sampler"), options.get("num_steps"), options.get("eta"))
        check_num_dances(options.get("num_dances", 1))

    def check_genre(self, genre: str | None) -> str | None:
        """The genre, if the model knows it.

        Raises:
            ConfigError: An unknown genre (the known ones are listed), or any where the model takes none.
        """
        return check_genre(genre, self.genres)

    def choose_genre(self, genre: str | None, seed: int, number: int = 0) -> str | None:
        """The genre asked for, or one drawn by (seed, number); None where the model takes none.

        Raises:
            ConfigError: As of `check_genre`.
        """
        if genre is None and self.genres:
            return self.genres[choose(seed, number, len(self.genres))]
        return self.check_genre(genre)

    def _genre_labels(self, genres: Sequence[str | None]) -> Tensor | None:
        names = self.config.genres
        if not names:
            return None
        # A model of a corpus without genres trained every clip under its first label.
        return torch.tensor([0 if genre is None else names.index(genre) for genre in genres])

    def _motion(
        self, x_TC: Tensor, genre: str | None, beats_s: np.ndarray | None, song: str | None, ground: bool
    ) -> Motion:
        poses_TJ3, trans_T3 = decode_motion(x_TC.float().cpu())
        if beats_s is not None:
            beats_s = beats_s[(beats_s >= 0) & (beats_s < len(x_TC) / self.fps)]
        motion = Motion(
            poses=poses_TJ3.numpy(),
            trans=trans_T3.numpy(),
            fps=self.fps,
            genre=genre,
            source=SOURCE,
            music_beats_s=beats_s,
            song=song,
        )
        return motion.grounded() if ground else motion


def _shifted(progress: Progress | None, done: int, total: int) -> Progress | None:
    """Progress of one group of clips as part of all of them."""
    if progress is None:
        return None
    report = progress
    return lambda step, _: report(done + step, total)
