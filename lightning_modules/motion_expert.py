"""The Motion Expert's training: music -> 3D dance by diffusion (MACE-Dance, sections on the Motion Expert)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from lightning_modules.base import ExpertModule, OptimizerFactory
from lightning_modules.schedules import WarmupCosine
from macedance.diffusion.draws import StepDraws, draw_step
from macedance.diffusion.guidance import ClassifierFreeGuidance, GuidanceFreeTraining, MotionNetwork
from macedance.diffusion.losses import MotionLosses
from macedance.diffusion.schedule import CosineSchedule
from macedance.errors import ConfigError
from macedance.metrics.weighted_mean import WeightedMean
from macedance.motion.normalizer import MinMaxNormalizer
from macedance.motion.representation import encode_motion
from macedance.nn.trainable import LoraSettings
from macedance.pipelines.genres import label_genres, relabel, unused_genre
from macedance.pipelines.motion_config import MotionModelConfig, model_config, prepare_music
from macedance.pipelines.motion_weights import LoadedModel, Weights
from macedance.pipelines.music_to_motion import MusicToMotion

#: Validation draws use sample numbers from here on, so that they never repeat a training step's.
_VALIDATION_OFFSET = 2**40


class MotionExpertModule(ExpertModule):
    """Trains a Motion Expert on clips of dance and music.

    Args:
        network: Makes the network: ``forward(xt, t, beta, music, genre, keep) -> x0``.
        objective: Guidance-free training (eq. 3) or classifier-free guidance.
        losses: Terms of eq. 4-5 and their weights.
        optimizer: Makes the optimizer; Adan (lr 4e-4, weight decay 0.02) in the paper.
        schedule: Noise schedule.
        normalize_music: Min-max the 35 music channels to [-1, 1] by the corpus's normaliser; off in the released code.
        sample_weights: Which weights of this run's checkpoints are sampled with, ``ema`` or ``raw``.
        sampler: ``{name: ddim | dpmpp, num_steps, eta}``, what the model samples with by default.
        lr_schedule: See :class:`ExpertModule`, as the following.
        seed: Seeds initialisation and draws.
        init_from: Folder or checkpoint to take the weights from.
        init_weights: ``ema``, ``raw`` or ``auto``.
        train_only: Name patterns of what trains.
        freeze: Name patterns of what does not.
        lora: Low-rank adapters.
        activation_checkpointing: Name patterns of the submodules that compute their activations twice, to keep less.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        objective: GuidanceFreeTraining | ClassifierFreeGuidance,
        losses: MotionLosses,
        optimizer: OptimizerFactory,
        schedule: CosineSchedule | None = None,
        normalize_music: bool = True,
        sample_weights: Literal["ema", "raw"] = "ema",
        sampler: dict[str, Any] | None = None,
        lr_schedule: WarmupCosine | None = None,
        seed: int = 0,
        init_from: str | None = None,
        init_weights: Weights = "auto",
        train_only: list[str] | None = None,
        freeze: list[str] | None = None,
        lora: LoraSettings | None = None,
        activation_checkpointing: list[str] | None = None,
    ) -> None:
        super().__init__(
            network,
            optimizer,
            lr_schedule,
            seed,
            init_from,
            init_weights,
            train_only,
            freeze,
            lora,
            activation_checkpointing,
        )
        self.objective = objective
        self.losses = losses
        self.schedule = schedule or CosineSchedule()
        self.normalize_music = normalize_music
        self.sample_weights: Literal["ema", "raw"] = sample_weights
        self.sampler = sampler
        self.motion_normalizer = MinMaxNormalizer(151)
        self.music_normalizer: MinMaxNormalizer | None = None
        #: Names of the network's labels, those of the corpus, and the label of each of the corpus's genres.
        self.genres: list[str] = []
        self.corpus_genres: tuple[str, ...] = ()
        self.genre_labels: tuple[int, ...] | None = None
        self.fps = 30.0
        self.window_frames = 0
        self.val_loss = WeightedMean()

    def set_corpus(
        self,
        normalizers: tuple[MinMaxNormalizer, MinMaxNormalizer],
        genres: Sequence[str],
        fps: float,
        window_frames: int,
    ) -> None:
        """Take from the corpus what the model must know of it: called by ``setup``, or by hand outside a Trainer."""
        motion, music = normalizers
        self.motion_normalizer = motion.to(self.device)
        self.music_normalizer = music.to(self.device) if self.normalize_music else None
        self.corpus_genres, self.genres = tuple(genres), list(genres)
        self.fps, self.window_frames = fps, window_frames

    def adopt_corpus(self, data: Any) -> None:
        """Read the corpus's normalisers, genres, frame rate and identity from the data module."""
        self.set_corpus(data.normalizers, data.genres, data.fps, data.window_frames)
        self.manifest_sha256 = data.manifest.sha256

    def setup(self, stage: str) -> None:
        """Know the corpus before the network is built."""
        if self.network is None:
            self.adopt_corpus(self.trainer.datamodule)  # type: ignore[attr-defined]

    def adopt_source(self, source: LoadedModel) -> None:
        """Keep the source's normalisers and genre labels: its weights mean nothing under others.

        Raises:
            ConfigError: The corpus has a genre for which the source has no label left.
        """
        self.motion_normalizer = source.motion_normalizer.to(self.device)
        self.music_normalizer = None if source.music_normalizer is None else source.music_normalizer.to(self.device)
        labels = label_genres(self.corpus_genres, source.config.genres)
        self.genres, self.genre_labels = labels.names, labels.of_corpus
        if labels.names and not self.corpus_genres:
            rank_zero_info(f"the corpus names no genres: its clips train under the label {labels.names[0]!r}")

    def configure_model(self) -> None:
        """Build the network and make sure that it has a label for each genre of the corpus."""
        super().configure_model()
        known = int(getattr(self.network, "num_genres", 0))
        if 0 < known < len(self.genres):
            raise ConfigError(
                f"the corpus has {len(self.genres)} genres and the network knows {known}",
                where="model.network.init_args.num_genres",
                expected=f"at least {len(self.genres)}, or 0 for a network without genres",
                fix=f"--model.network.init_args.num_genres={len(self.genres)}",
            )
        self.genres = [*self.genres, *(unused_genre(label) for label in range(len(self.genres), known))]

    def _losses_of(self, batch: dict[str, Any], draws: StepDraws, real_B: Tensor | None = None) -> dict[str, Tensor]:
        network = cast(MotionNetwork, self.built_network)
        x0 = self.motion_normalizer.normalize(encode_motion(batch["poses"], batch["trans"], self.fps))
        xt = self.schedule.add_noise(x0, draws.t_B, draws.noise_BTC)
        music = prepare_music(batch["music"], self.music_normalizer)
        genre = batch["genre"] if getattr(network, "num_genres", 0) else None
        if genre is not None and self.genre_labels is not None:
            genre = relabel(genre, self.genre_labels)
        x0_pred = self.objective.training_prediction(network, xt, draws, music, genre)
        return self.losses(x0_pred, x0, self.motion_normalizer, self.fps, batch["mask"], real_B)

    def _draws(self, sample_numbers: Tensor, frames: int) -> StepDraws:
        return draw_step(
            self.seed,
            sample_numbers,
            frames,
            151,
            self.schedule.num_steps,
            self.objective.drop_probability,
            self.device,
            beta_min=self.objective.beta_min,
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The weighted loss of a batch; its draws are keyed by (seed, global sample number)."""
        terms = self._losses_of(batch, self._draws(batch["position"], batch["poses"].shape[1]))
        for name, value in terms.items():
            self.log("train/loss" if name == "total" else f"train/{name}", value.detach(), on_step=True, on_epoch=False)
        # Here and not in on_train_batch_end: the callbacks that save checkpoints run before the module's hook.
        self.position = self.trainer.datamodule.consumed_after(batch)  # type: ignore[attr-defined]
        return terms["total"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The same loss on held-out clips with draws that are the same at every validation.

        Its mean is over the clips of all ranks: a row with position -1 stands where a rank has no clip left.
        """
        real_B = batch["position"] >= 0
        draws = self._draws(batch["position"] + _VALIDATION_OFFSET, batch["poses"].shape[1])
        terms = self._losses_of(batch, draws, real_B.to(self.device))
        self.val_loss.update(terms["total"], int(real_B.sum()))
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True)

    def describe(self) -> dict[str, Any]:
        """See :class:`ExpertModule`."""
        return model_config(
            self.built_network,
            self.objective,
            self.fps,
            self.window_frames,
            self.genres,
            sample_weights=self.sample_weights,
            sampler=self.sampler,
        )

    def pipeline(self) -> MusicToMotion:
        """The model as it stands, for previews and evaluation; it shares this module's weights."""
        config = MotionModelConfig.from_dict(self.describe(), "the model being trained")
        return MusicToMotion(self.built_network, self.objective, config, self.motion_normalizer, self.music_normalizer)

    def normalizer_dict(self) -> dict[str, Any]:
        """See :class:`ExpertModule`."""
        return {
            "motion": self.motion_normalizer.to_dict(),
            "music": self.music_normalizer.to_dict() if self.music_normalizer else None,
        }
