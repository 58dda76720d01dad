"""Held-out clips animated by the Appearance Expert that a run is training: which, from what, and how on every rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl

from datamodules.appearance import AppearanceClip, AppearanceDataModule
from datamodules.appearance_clips import Size
from lightning_modules.appearance_expert import AppearanceExpertModule
from lightning_modules.strategies import ZeroStrategy
from macedance.appearance_data.windows import Bucket
from macedance.diffusion.flow_matching import FlowSampler
from macedance.errors import CheckpointError, ConfigError
from macedance.models.appearance_expert.codec import LatentCodec
from macedance.models.appearance_expert.encoder_files import VAE, load_vae, model_folder
from macedance.models.appearance_expert.encoders import AppearanceEncoders
from macedance.models.appearance_expert.network import AppearanceExpert, Precision
from macedance.models.appearance_expert.text_encoders import HashedText
from macedance.pipelines.appearance_memory import MemoryPlan
from macedance.pipelines.appearance_pretrained import check_encoders, load_encoders
from macedance.pipelines.appearance_sampling import Forward, Noise, SegmentSampler, Told, as_frames, as_pixels

#: Told the sampling steps that are done, of one clip.
StepProgress = Callable[[int], None]


@dataclass(frozen=True)
class Task:
    """A clip to animate.

    Args:
        place: In the list of all clips that are animated.
        number: Of the clip in its corpus, which with the seed decides its noise.
        driver: Number of another clip of its size, whose pose is the wrong one; None: there is none.
    """

    place: int
    number: int
    driver: int | None


def plan_tasks(numbers: Sequence[int], sizes: Sequence[Size]) -> list[Task]:
    """A task for each clip; the wrong pose comes from half of the clips of its size further on.

    Neighbours may be of one dancer.
    """
    drivers: dict[int, int] = {}
    for size in set(sizes):
        alike = [number for number, of in zip(numbers, sizes, strict=True) if of == size]
        if len(alike) > 1:
            drivers |= {n: alike[(place + len(alike) // 2) % len(alike)] for place, n in enumerate(alike)}
    return [Task(place, number, drivers.get(number)) for place, number in enumerate(numbers)]


def pictures_of(data: Any, corpus: str | None, where: str) -> AppearanceDataModule:
    """Where the clips' pictures come from: the training's own data, or the videos that its latents were made of.

    Args:
        data: The run's data module.
        corpus: Folder of those videos; None: the data holds pictures.
        where: The callback, for messages.

    Raises:
        ConfigError: The data is latents and nothing says where their videos are; or it is no such data.
        DataError: The corpus cannot be read.
    """
    if corpus is None:
        if isinstance(data, AppearanceDataModule) and data.encoded is None:
            return data
        raise ConfigError(
            "the run trains on latents, which have no pictures to animate and to be judged by",
            where=f"{where}.corpus",
            expected="the corpus of videos that they were made of, with a val split",
            fix="corpus: its folder",
        )
    buckets = [Bucket(*size) for size in data.buckets]
    own = AppearanceDataModule(
        corpus,
        global_batch_size=1,
        frames=data.frames,
        fps=data.fps,
        buckets=buckets,
        max_upscale=data.max_upscale if data.encoded is None else data.encoded.max_upscale,
        face_size=None,
        cache_mb=0.0,
    )
    if own.encoded is not None:
        raise ConfigError(
            "the corpus is latents, which have no pictures", where=f"{where}.corpus", expected="a corpus of videos"
        )
    return own


def encoders_of(module: AppearanceExpertModule, folder: str | None) -> AppearanceEncoders:
    """The frozen encoders: the run's own, or those of a folder, in the host's memory.

    Raises:
        CheckpointError: Not in the folder, or not those that the latents were made by.
    """
    if folder is None:
        return module.encoders
    config = module.model_config()
    precision: Precision = "bfloat16" if module.device.type == "cuda" else "float32"
    return load_encoders(folder, config, precision)


def check_sources(module: AppearanceExpertModule, encoders: str | None, where: str) -> None:
    """Refuse a run without its encoders at its start; of those of a folder the autoencoder alone is looked at.

    Raises:
        ConfigError: The model has none, and no folder is named.
        CheckpointError: There is no such folder, or another autoencoder in it.
    """
    if encoders is None and not module.has_encoders:
        raise ConfigError(
            "the run trains on latents and nothing says where the encoders are that made them",
            where=f"{where}.encoders",
            expected="the folder in diffusers' layout that holds vae, text_encoder, ...",
            fix="encoders: the folder that `macedance data encode --model` was given",
        )
    wanted = module.encoder_identity.get(VAE)
    if encoders is None or wanted is None:
        return
    found = LatentCodec(load_vae(model_folder(encoders))).identity()
    if found != wanted:
        raise CheckpointError(
            f"{VAE}: not the weights that made the latents",
            where=f"{where}.encoders: {encoders}",
            expected=f"{VAE} {wanted[:12]}",
            fix="name the folder that `macedance data encode --model` was given",
        )


class ClipAnimator:
    """Makes videos of held-out clips with the network in training, in the way that MotionToVideo makes one segment.

    Prompts and references are encoded once; text and image encoder are then let go where they are not the run's own.

    Args:
        trainer: Of the run.
        module: Being trained.
        encoders: Its frozen encoders.
        visiting: They wait in the host's memory, and come to the device while they work.
        num_steps: Sampling steps.
        sampler: ``euler`` or ``unipc``.
        seed: Of the noise.

    Raises:
        CheckpointError: The encoders are not those that the latents were made by.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        module: AppearanceExpertModule,
        encoders: AppearanceEncoders,
        *,
        visiting: bool,
        num_steps: int,
        sampler: FlowSampler,
        seed: int,
    ) -> None:
        self.num_steps, self.flow_sampler, self.seed = num_steps, sampler, seed
        self._network, self._flow = cast(AppearanceExpert, module.built_network), module.flow
        self._device, self._visiting = module.device, visiting
        check_encoders(encoders, self._network, module.model_config())
        self.weights = {name: sha for name, sha in encoders.fingerprint.items() if sha}
        self._forward = _network_call(trainer, module)
        self._making = self._sampler(encoders)
        self._told: dict[int, Told] = {}

    def _sampler(self, encoders: AppearanceEncoders) -> SegmentSampler:
        memory = MemoryPlan.in_training(self._network, encoders, self._device, visiting=self._visiting)
        return SegmentSampler(self._network, encoders, self._flow, memory, self._forward)

    def tell(self, clips: Sequence[tuple[int, AppearanceClip]]) -> None:
        """Encode the references and prompts of all clips, by number, that this rank will ever animate."""
        for number, clip in clips:
            self._told[number] = self._making.tell(clip.window.reference_HW3, clip.facts.prompt)
        if self._visiting:
            encoders = self._making.encoders
            text = HashedText(1, 1)  # stands where nothing is asked for any more
            self._making = self._sampler(AppearanceEncoders(encoders.codec, text, None, encoders.face_size))

    def animate(self, number: int, pose_THW3: np.ndarray, progress: StepProgress | None = None) -> np.ndarray:
        """The person of a clip moving as a pose drawing does, (T, H, W, 3) uint8; noise is the clip's, ever the same.

        Under ZeRO all ranks call it, equally often.

        Raises:
            NumericsError: The network gives numbers that are not finite.
        """
        noise = Noise(self.seed, 0, number)
        options: dict[str, Any] = {"progress": progress, "sampler": self.flow_sampler}
        return as_frames(self._making.sample(self._told[number], pose_THW3, None, noise, self.num_steps, **options))

    def reconstruct(self, video_THW3: np.ndarray) -> np.ndarray:
        """The video as the autoencoder alone gives it back: no network does better."""
        codec = self._making.encoders.codec
        with self._making.memory.using(codec):
            pixels = codec.decode(codec.encode(as_pixels(video_THW3).to(self._device)))
        return as_frames(pixels[0])


def _network_call(trainer: pl.Trainer, module: AppearanceExpertModule) -> Forward:
    """The network as the run's own steps call it: in its precision, and gathered where it is sharded."""
    strategy = trainer.strategy
    if isinstance(strategy, ZeroStrategy):
        return partial(strategy.call, "velocity")

    def call(*inputs: Any) -> Any:
        with trainer.precision_plugin.val_step_context():
            return module.velocity(*inputs)

    return call
