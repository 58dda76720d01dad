"""The training of a video autoencoder: pixels -> latents -> pixels, for the Appearance Expert's own small one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

from torch import Tensor, nn

from lightning_modules.base import ExpertModule, OptimizerFactory
from lightning_modules.schedules import WarmupCosine
from macedance.errors import ConfigError, DataError
from macedance.metrics.weighted_mean import WeightedMean
from macedance.models.appearance_expert.training import check_probability
from macedance.models.appearance_expert.vae_training import (
    VaeLosses,
    check_crop,
    counted_mean,
    dilated,
    draw_vae,
    first_pixels,
    psnr,
    training_pixels,
    with_person,
)
from macedance.models.appearance_expert.video_vae import VideoVae
from macedance.pipelines.motion_weights import Weights
from macedance.pipelines.vae_weights import load_vae_source, vae_config

_VALIDATION_OFFSET = 2**40


class VideoVaeModule(ExpertModule):
    """Trains a video autoencoder on the clips and pose drawings of an appearance corpus.

    Args:
        network: Makes the autoencoder: a VideoVae.
        optimizer: Makes the optimizer.
        losses: Terms and their weights.
        pose_probability: Chance that a clip's pose drawing is trained on in its place.
        crop: Pixels of the square that is trained on, placed round the person where there is a mask; null: whole.
        linear_start_clips: Begin as the principal components of the patches of this many training clips and as many
            pose drawings, for an autoencoder made of patches alone, without ``init_from``; 0: by the seed.
        sample_weights: Which weights of this run's checkpoints are exported by default, ``ema`` or ``raw``.
        lr_schedule: See :class:`ExpertModule`, as the following.
        seed: Seeds initialisation and draws.
        init_from: Folder or checkpoint to take the weights from.
        init_weights: ``ema``, ``raw`` or ``auto``.
        train_only: Name patterns of what trains.
        freeze: Name patterns of what does not.
        activation_checkpointing: Name patterns of the submodules that compute their activations twice, to keep less.

    Raises:
        ConfigError: A chance outside 0 .. 1 or a crop below 1.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        optimizer: OptimizerFactory,
        losses: VaeLosses | None = None,
        pose_probability: float = 0.25,
        crop: int | None = None,
        linear_start_clips: int = 0,
        sample_weights: Literal["ema", "raw"] = "ema",
        lr_schedule: WarmupCosine | None = None,
        seed: int = 0,
        init_from: str | None = None,
        init_weights: Weights = "auto",
        train_only: list[str] | None = None,
        freeze: list[str] | None = None,
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
            None,
            activation_checkpointing,
        )
        check_probability("pose_probability", pose_probability)
        if crop is not None and crop < 1:
            raise ConfigError(f"crop is {crop}", where="model.crop", expected="1 or more, or null")
        if linear_start_clips < 0:
            raise ConfigError(
                f"linear_start_clips is {linear_start_clips}", where="model.linear_start_clips", expected="0 or more"
            )
        self.losses = losses or VaeLosses()
        self.pose_probability, self.crop = pose_probability, crop
        self.linear_start_clips = linear_start_clips
        self._start_pixels: Tensor | None = None
        self.sample_weights: Literal["ema", "raw"] = sample_weights
        self.val_loss, self.val_psnr, self.val_psnr_mask = WeightedMean(), WeightedMean(), WeightedMean()

    def adopt_corpus(self, data: Any) -> None:
        """Read the identity of the corpus from the data module, and the clips that the network begins as."""
        self.manifest_sha256 = data.manifest.sha256
        if self.network is None and self.linear_start_clips and self.init_from is None:
            self._start_pixels = first_pixels(data, self.linear_start_clips)

    def setup(self, stage: str) -> None:
        """Know the corpus before the network is built."""
        if self.network is None:
            self.adopt_corpus(self.trainer.datamodule)  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Build the network once; without ``init_from`` it may begin as principal components of the data."""
        built = self.network is not None
        super().configure_model()
        if not built and self._start_pixels is not None:
            cast(VideoVae, self.built_network).start_linear(self._start_pixels)
        self._start_pixels = None

    def load_source(self, network: nn.Module, source: str) -> None:
        """Load the weights of an autoencoder's folder or checkpoint."""
        load_vae_source(cast(VideoVae, network), source, self.init_weights)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of a batch; its draws are keyed by (seed, global sample number)."""
        network = self._network(batch)
        frames, height, width = batch["video"].shape[2:]
        size = check_crop(network.geometry, self.crop, frames, height, width)
        shape = network.geometry.latent_shape(frames, *size)
        draws = draw_vae(self.seed, batch["position"], shape, self.pose_probability)
        pixels, mask = training_pixels(batch, draws, size)
        loss = self.losses(network(pixels, draws.noise.to(self.device)), pixels, mask).mean()
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=False)
        self.position = self.trainer.datamodule.consumed_after(batch)  # type: ignore[attr-defined]
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss and PSNR (whole clips, and over the dilated person) of held-out clips from the posterior's mean.

        Means are over the clips of all ranks: a row with position -1 stands where a rank has no clip left.
        """
        made, video, mask = self._network(batch)(batch["video"]), batch["video"], batch.get("mask")
        real_B = batch["position"] >= 0
        found = [
            ("val/loss", self.val_loss, counted_mean(self.losses(made, video, mask), real_B)),
            ("val/psnr", self.val_psnr, counted_mean(psnr(made.pixels, video), real_B)),
        ]
        if mask is not None:
            values = counted_mean(psnr(made.pixels, video, dilated(mask)), with_person(mask, real_B))
            found.append(("val/psnr_mask", self.val_psnr_mask, values))
        for name, metric, (mean, count) in found:
            metric.update(mean, count)
            self.log(name, metric, on_step=False, on_epoch=True)

    def _network(self, batch: dict[str, Any]) -> VideoVae:
        if "video" not in batch:
            raise DataError(
                "the batch holds latents, and an autoencoder learns from pixels",
                where="data.shards",
                expected="a corpus that is not encoded",
            )
        return cast(VideoVae, self.built_network)

    def describe(self) -> dict[str, Any]:
        """See :class:`ExpertModule`."""
        return vae_config(cast(VideoVae, self.built_network), self.sample_weights)

    def normalizer_dict(self) -> dict[str, Any]:
        """See :class:`ExpertModule`: there is none."""
        return {}
