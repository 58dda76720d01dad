"""The LightningDataModule of clips of dancers: batches of pixels or of precomputed latents in the global order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn

from datamodules.appearance_clips import Clips, Size
from datamodules.appearance_sources import AppearanceSources
from datamodules.appearance_windows import Batch, HeldOutBatches, HeldOutClips, TrainingClips, collate
from datamodules.streams.bucket_order import BucketOrder
from datamodules.streams.manifest import Manifest
from datamodules.streams.mixture import MixtureSource
from datamodules.streams.order import (
    DEFAULT_SHUFFLE_WINDOW,
    ElasticBatchSampler,
    check_ranks,
    micro_batch_size,
)
from datamodules.streams.quarantine import DEFAULT_MAX_QUARANTINED
from datamodules.streams.shard_cache import ShardCache
from datamodules.streams.shards import DEFAULT_CACHE_GB
from datamodules.streams.transport import Patience
from datamodules.streams.windows import MotionLoader
from macedance.appearance_data.latents import EncodedInfo
from macedance.appearance_data.samples import ClipFacts, RawClip
from macedance.appearance_data.windows import MAX_UPSCALE, Bucket, Window, read_window, reference_choices
from macedance.errors import ConfigError, DataError
from macedance.music.cache import cache_root
from macedance.pipelines.appearance_config import DroppedText
from macedance.rendering.pose_parts import lacking_said


@dataclass(frozen=True)
class AppearanceClip:
    """A held-out clip with its pictures, for evaluation.

    Args:
        key: Name in its shard.
        facts: Its meta.json.
        window: The first window: video, pose drawing and reference (uint8, RGB) and, where it is known, the mask.
        keypoints_TK3: (T, 20 | 62, 3) of the window in pixels of the clip and confidence, or None.
    """

    key: str
    facts: ClipFacts
    window: Window
    keypoints_TK3: np.ndarray | None


class AppearanceDataModule(pl.LightningDataModule):
    """Clips of dancers with their poses from the shards of a corpus, as pixels or as precomputed latents.

    Which of the two the corpus says. A batch holds `position` (B,) int64 global sample numbers (-1: a row that does not
    count), `keys` and `quarantined`. Of pixels: `video` and `pose_video` (B,3,T,H,W) and `reference_image` (B,3,H,W),
    float32 in [-1, 1], `prompt`, and `mask` (B,T,H,W) of 0 and 1 where the corpus has it. Of latents: `latents pose
    known blank` (B,z,t,h,w), `reference` (B,z,1,h,w), `text` (B,N,D), `image` (B,M,D) where there is an image encoder,
    and `known_frames`. Where a clip of the batch has a face video, also `face_video` (B,3,T,S,S) of pixels or, of
    latents, `face` (B,3,(t-1)*4+1,S,S), float32, -1 everywhere for clips without. Every global batch is of one size.
    Training follows the global order: endless, the same for any number of ranks and workers, continued from
    `start_position`. Held-out clips show their first window with the last of their references, in order.

    Args:
        shards: Corpus (its train split) or one split's folder: a path, or a URL of http(s), s3, gs...
        global_batch_size: Samples of one optimizer step: ranks x micro-batch x accumulated batches.
        frames: Frames of a window; None takes what the corpus's latents have.
        fps: Frames per second that the model is made for; the corpus must have them. None takes the corpus's.
        buckets: Sizes to train at. Videos are scaled to the nearest one and cropped evenly; latents must have been made
            at them. None takes the clips' own sizes.
        face_size: Pixels of one side that face videos are brought to, the transformer's `motion_encoder_size`; None:
            they are left out, and the network is shown no faces.
        max_upscale: Videos that would have to be enlarged by more for every bucket are left out.
        random_windows: Windows of longer videos begin anywhere; else at the first frame, as the first window of
            precomputed latents does.
        seed: Seed of the order, of the windows' places and of the references.
        num_workers: Loader processes; the order does not depend on them.
        shuffle_window: Samples that are shuffled together; bounds how many shards are read at a time.
        val_shards: Another corpus or split for validation; None takes the `val` split of the same corpus.
        val_batch_size: Clips of one validation batch of one rank.
        max_val_clips: Validate on this many clips, spread evenly; None takes all.
        cache_mb: Memory of each loader process for clips read before, 2^20 bytes.
        verify_shards: Compare every shard's sha256 before the start.
        mixture: Several corpora instead of `shards`, each with a weight: of the samples in a row of one size, each
            source has exactly its share.
        cache_dir: Where remote shards are kept on this machine; None takes `shards` in the cache folder.
        cache_gb: Their size together, 10^9 bytes; those used longest ago are dropped.
        fetch_tries: How often a remote read is tried.
        fetch_timeout_s: Seconds without data after which a connection counts as stalled.
        max_quarantined: Faulty training samples whose places other samples take before the run fails; 0 makes any
            fault an error. Needs a callback that records them; without one any fault is an error too.

    Raises:
        ConfigError: A size below 1, neither or both of `shards` and `mixture`.
    """

    def __init__(
        self,
        shards: str | None = None,
        global_batch_size: int = 8,
        frames: int | None = None,
        fps: float | None = None,
        buckets: list[Bucket] | None = None,
        max_upscale: float = MAX_UPSCALE,
        face_size: int | None = 512,
        random_windows: bool = True,
        seed: int = 0,
        num_workers: int = 0,
        shuffle_window: int = DEFAULT_SHUFFLE_WINDOW,
        val_shards: str | None = None,
        val_batch_size: int = 8,
        max_val_clips: int | None = None,
        cache_mb: float = 256.0,
        verify_shards: bool = False,
        mixture: list[MixtureSource] | None = None,
        cache_dir: str | None = None,
        cache_gb: float = DEFAULT_CACHE_GB,
        fetch_tries: int = 5,
        fetch_timeout_s: float = 30.0,
        max_quarantined: int = DEFAULT_MAX_QUARANTINED,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("global_batch_size", global_batch_size, 1), ("frames", 1 if frames is None else frames, 1),
            ("val_batch_size", val_batch_size, 1), ("max_val_clips", 1 if max_val_clips is None else max_val_clips, 1),
            ("shuffle_window", shuffle_window, 1), ("num_workers", num_workers, 0), ("seed", seed, 0),
            ("max_quarantined", max_quarantined, 0), ("face_size", 1 if face_size is None else face_size, 1),
        ):  # fmt: skip
            if value < least:
                raise ConfigError(f"{name} is {value}", where=f"data.{name}", expected=f"{least} or more")
        if (shards is None) == (not mixture):
            raise ConfigError(
                "both data.shards and data.mixture are given" if mixture else "no data: data.shards is not given",
                where="data.shards",
                expected="either one corpus or a mixture of at least one",
                fix="macedance data appearance-demo --out DIR makes one to try",
            )
        if not 0 < max_upscale < math.inf:
            raise ConfigError(f"max_upscale is {max_upscale}", where="data.max_upscale", expected="a number above 0")
        if not cache_gb > 0:
            raise ConfigError(f"cache_gb is {cache_gb}", where="data.cache_gb", expected="above 0")
        self.shards, self.val_shards, self.mixture = shards, val_shards, mixture
        self.global_batch_size, self.seed, self.num_workers = global_batch_size, seed, num_workers
        self.shuffle_window, self.random_windows = shuffle_window, random_windows
        self.val_batch_size, self.max_val_clips = val_batch_size, max_val_clips
        self.cache_mb, self.verify_shards, self.max_quarantined = cache_mb, verify_shards, max_quarantined
        self._frames, self._fps, self._buckets = frames, fps, list(buckets or [])
        self.max_upscale, self.face_size = max_upscale, face_size
        folder = cache_root() / "shards" if cache_dir is None else Path(cache_dir).expanduser()
        self._shard_cache = ShardCache(folder, int(cache_gb * 1e9), Patience(fetch_tries, fetch_timeout_s))
        self.start_position = 0
        self._sources: AppearanceSources | None = None
        self._order: tuple[BucketOrder, list[Size]] | None = None

    # ---------------------------------------------------------------- set-up
    def setup(self, stage: str | None = None) -> None:
        """Open the training split and check it; for `fit` also put it in order.

        Raises:
            DataError: No corpus, damaged or missing shards, clips that are shorter than a window.
            ConfigError: Another frame rate, or fewer samples of every size than one global batch.
        """
        if self._sources is None:
            mixture = [source.shards for source in self.mixture or []]
            self._sources = AppearanceSources(
                mixture or [str(self.shards)],
                fps=self._fps,
                frames=self._frames,
                buckets=self._buckets,
                cache=self._shard_cache,
                cache_mb=self.cache_mb,
                verify=self.verify_shards,
                val_shards=self.val_shards,
                max_upscale=self.max_upscale,
            )
        if stage in (None, "fit") and self._order is None:
            weights = [source.weight for source in self.mixture or [MixtureSource("")]]
            self._order = self._sources.train.order(weights, self.global_batch_size, self.seed, self.shuffle_window)
            order = self._order[0]
            if lacking := lacking_said(self._sources.pose_parts):
                rank_zero_warn(f"{', '.join(mixture or [str(self.shards)])}: {lacking}")
            dropped = order.num_samples - order.samples_per_epoch
            if dropped and self.mixture is None:
                rank_zero_info(
                    f"{order.num_samples} training clips: {order.samples_per_epoch} of them in each epoch, the last "
                    f"{dropped} do not fill a batch of {self.global_batch_size} of one size"
                )

    @property
    def sources(self) -> AppearanceSources:
        """The corpora; opened at first use."""
        self.setup("open")
        assert self._sources is not None
        return self._sources

    @property
    def order(self) -> BucketOrder:
        """The global order of the training split."""
        self.setup("fit")
        assert self._order is not None
        return self._order[0]

    @property
    def manifest(self) -> Manifest:
        """Manifest of the training corpus; of a mixture what its manifests hold together."""
        return self.sources.manifest

    @property
    def encoded(self) -> EncodedInfo | None:
        """How the corpus's latents were made; None: it holds videos."""
        return self.sources.info

    @property
    def encoder_identity(self) -> dict[str, str]:
        """Fingerprints of the encoders of the corpus's latents, by name; empty: it holds videos."""
        return {} if self.encoded is None else dict(self.encoded.encoders)

    @property
    def pose_parts(self) -> tuple[str, ...] | None:
        """What the pose drawings show, of POSE_PARTS; None: the corpora do not say."""
        return self.sources.pose_parts

    @property
    def dropped_text(self) -> DroppedText:
        """What stands for a dropped prompt in the batches: the empty prompt's embedding, where there is one."""
        return "zeros" if self.encoded is not None and self.sources.empty_text is None else "empty_prompt"

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.sources.fps

    @property
    def frames(self) -> int:
        """Frames of a window: those asked for, else what the corpus's latents have."""
        return self.sources.frames if self._frames is None else self._frames

    @property
    def window_frames(self) -> int:
        """Frames of a window, by the name that callbacks know."""
        return self.frames

    @property
    def requested_buckets(self) -> list[Bucket]:
        """The sizes of the config, without a look at the data; empty: the clips' own."""
        return list(self._buckets)

    @property
    def buckets(self) -> list[tuple[int, int, int]]:
        """(height, width, frames) of the sizes that are trained on, the smallest pictures first."""
        self.setup("fit")
        assert self._order is not None
        return [(size.height, size.width, size.frames) for size in self._order[1]]

    @property
    def samples_per_epoch(self) -> int:
        """Samples of one data epoch, in whole global batches of one size."""
        return self.order.samples_per_epoch

    def epoch_of(self, position: int) -> int:
        """Data epoch of a global position."""
        return self.order.epoch_of(position)

    def consumed_after(self, batch: Batch) -> int:
        """Global samples consumed once the optimizer step that holds this batch is done; what a checkpoint keeps."""
        return self._sampler().consumed_after(batch["position"].tolist())

    # ---------------------------------------------------------------- loaders
    def train_dataloader(self) -> MotionLoader:
        """Endless batches of this rank, from `start_position` on."""
        sources = self.sources
        rows = TrainingClips(
            sources.train,
            self.order,
            self._blanks(sources.train),
            0 if sources.info is None else sources.info.known_frames,
            self.random_windows,
            self._substitutes_faulty(),
            self.face_size,
        )
        rows.empty_text = sources.empty_text
        return self._loader(rows, batch_sampler=self._sampler())

    def val_dataloader(self) -> MotionLoader | list[MotionLoader]:
        """Each validation clip's first window once; an empty list where there is no validation split."""
        return self._held_out_loader("val")

    def test_dataloader(self) -> MotionLoader | list[MotionLoader]:
        """The same of the test split."""
        return self._held_out_loader("test")

    def _held_out_loader(self, split: str) -> MotionLoader | list[MotionLoader]:
        sources = self.sources
        clips = sources.split(split)
        if clips is None:
            return []
        known = 0 if sources.info is None else sources.info.known_frames
        rows = HeldOutClips(clips, self._blanks(clips), known, self.seed, self.face_size)
        rows.empty_text = sources.empty_text
        batches = HeldOutBatches(clips, self._numbers(split, clips), self.val_batch_size, *self._rank())
        return self._loader(rows, batch_sampler=batches)

    def _blanks(self, clips: Clips) -> dict[Size, torch.Tensor]:
        """Latents of an unknown clip of each size; nothing for videos."""
        if self.sources.info is None:
            return {}
        sizes = {size for of in clips.sizes for size in of if size is not None}
        return {size: self.sources.blank(size) for size in sizes}

    def _substitutes_faulty(self) -> bool:
        """Whether faulty samples are replaced: only where a callback of the trainer records and counts them."""
        recorders = getattr(self.trainer, "callbacks", None) or ()
        return any(getattr(callback, "records_quarantine", False) for callback in recorders)

    def check_ranks(self, world_size: int, accumulate: int = 1) -> None:
        """Refuse a number of ranks that the training split cannot feed.

        Raises:
            ConfigError: More ranks than samples, fewer samples than a global batch, or a batch that does not divide.
        """
        check_ranks(self.order.num_samples, self.global_batch_size, world_size, accumulate)

    def _loader(self, rows: TrainingClips | HeldOutClips, **options: Any) -> MotionLoader:
        trainer = self.trainer
        connector = getattr(trainer, "_accelerator_connector", None)
        if trainer is not None and trainer.world_size > 1 and getattr(connector, "use_distributed_sampler", False):
            raise ConfigError(
                "Lightning would put a sampler of its own over the global order",
                where="trainer.use_distributed_sampler",
                expected="false",
            )
        on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return MotionLoader(
            rows, num_workers=self.num_workers, pin_memory=on_gpu, seed=self.seed, collate=collate, **options
        )

    # ---------------------------------------------------------------- held-out clips
    def clip_numbers(self, split: str) -> list[int]:
        """Numbers of the clips of `train`, `val` or `test` in the corpus's order, none of which is read.

        `max_val_clips` holds for `val`. An absent split gives an empty list (said once).
        """
        clips = self.sources.split(split)
        return [] if clips is None else list(self._numbers(split, clips))

    def clips(self, split: str, numbers: Sequence[int] | None = None) -> list[AppearanceClip]:
        """Clips of a split with their pictures: those of some `clip_numbers`, or all of them.

        Raises:
            DataError: The corpus holds latents, which have no pictures.
        """
        clips = self.sources.split(split)
        if clips is None:
            return []
        return [self._clip(clips, n) for n in (self._numbers(split, clips) if numbers is None else numbers)]

    def _clip(self, clips: Clips, number: int) -> AppearanceClip:
        sample, size = clips[number], clips.size(number)
        if not isinstance(sample, RawClip):
            raise DataError(
                "the clip is latents and has no pictures", where=clips.where(number), expected="a corpus of videos"
            )
        if size is None:
            size = Size(sample.facts.height, sample.facts.width, self.frames)
        choices = reference_choices(sample.facts, 0, size.frames)
        bucket = Bucket(size.height, size.width)
        window = read_window(sample, 0, bucket, size.frames, choices[-1] if choices else None)
        points = None if sample.keypoints_TK3 is None else sample.keypoints_TK3[: size.frames]
        return AppearanceClip(sample.key, sample.facts, window, points)

    def _numbers(self, split: str, clips: Clips) -> Sequence[int]:
        """Which clips of a split: all, or `max_val_clips` of the validation split."""
        if split != "val":
            return range(len(clips))
        count = min(len(clips), self.max_val_clips or len(clips))
        # Spread over the split: neighbours are clips of one dancer.
        return [int(number) for number in np.linspace(0, len(clips) - 1, count).round()]

    def _rank(self) -> tuple[int, int]:
        """(rank, number of ranks); (0, 1) without a trainer."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _sampler(self) -> ElasticBatchSampler:
        rank, world_size = self._rank()
        accumulate = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        return ElasticBatchSampler(
            self.global_batch_size,
            start_position=self.start_position,
            rank=rank,
            world_size=world_size,
            accumulate=accumulate,
        )

    @property
    def micro_batch_size(self) -> int:
        """Samples of one forward pass of one rank."""
        accumulate = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        return micro_batch_size(self.global_batch_size, self._rank()[1], accumulate)
