"""The LightningDataModule of motion and music: training windows in the global order, validation clips, whole clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from datamodules.corpora import cached_demo_corpus
from datamodules.sources import CorpusSources
from datamodules.streams.dataset import Samples
from datamodules.streams.manifest import Manifest
from datamodules.streams.mixture import MixtureOrder, MixtureSource
from datamodules.streams.order import (
    DEFAULT_SHUFFLE_WINDOW,
    ElasticBatchSampler,
    GlobalOrder,
    check_ranks,
    micro_batch_size,
)
from datamodules.streams.plan import training_order
from datamodules.streams.quarantine import DEFAULT_MAX_QUARANTINED
from datamodules.streams.samples import genre_label
from datamodules.streams.shard_cache import ShardCache
from datamodules.streams.shards import DEFAULT_CACHE_GB
from datamodules.streams.transport import Patience
from datamodules.streams.windows import MotionBatch, MotionLoader, TrainingWindows, ValidationWindows
from macedance.errors import ConfigError
from macedance.motion.files import Motion
from macedance.motion.normalizer import MinMaxNormalizer
from macedance.music.cache import cache_root


@dataclass(frozen=True)
class Clip:
    """A whole clip of a split, for evaluation and generation.

    Args:
        key: Name in its shard.
        song: Name of its music.
        genre: Genre, or None.
        genre_label: Its number in the manifest's list; 0 where there is none.
        fps: Frames per second.
        poses: (T,24,3) float32 axis-angle, radians.
        trans: (T,3) float32, metres.
        music: (T,35) float32 features.
        beats_s: (N,) seconds from the clip's start; empty where unknown.
        start_s: Start in the song, seconds.
        motion: The same dance with its methods.
    """

    key: str
    song: str
    genre: str | None
    genre_label: int
    fps: float
    poses: np.ndarray
    trans: np.ndarray
    music: np.ndarray
    beats_s: np.ndarray
    start_s: float
    motion: Motion


class MotionDataModule(pl.LightningDataModule):
    """Motion and music from the shards of a corpus.

    Training batches follow the global order of `datamodules.streams.order`: endless, the same for any number of
    ranks and workers, continued from `start_position`. Validation takes each clip's first window once, in order.

    Args:
        shards: Corpus (its train split) or one split's folder: a path, or a URL of http(s), s3, gs... None makes the
            built-in corpus once in the cache folder, unless there is a mixture.
        global_batch_size: Samples of one optimizer step: ranks x micro-batch x accumulated batches.
        window_frames: Frames of a training window; shorter clips are padded and masked.
        fps: Frames per second that the model is made for; the corpus must have them.
        seed: Seed of the order and of the windows' places.
        num_workers: Loader processes; the order does not depend on them.
        shuffle_window: Samples that are shuffled together; bounds how many shards are read at a time.
        val_shards: Another corpus or split for validation; None takes the `val` split of the same corpus.
        val_batch_size: Clips of one validation batch of one rank.
        max_val_clips: Validate on this many clips, spread evenly; None takes all.
        cache_mb: Memory of each loader process for decoded clips, 2^20 bytes.
        verify_shards: Compare every shard's sha256 before the start.
        demo_clips: Clips of the built-in corpus, where that is used.
        demo_seed: Its seed.
        mixture: Several corpora instead of `shards`, each with a weight: of the samples in a row, each source has
            exactly its share. Genres are united by name, the normalisers cover all.
        cache_dir: Where remote shards are kept on this machine; None takes `shards` in the cache folder.
        cache_gb: Their size together, 10^9 bytes; those used longest ago are dropped.
        fetch_tries: How often a remote read is tried.
        fetch_timeout_s: Seconds without data after which a connection counts as stalled.
        max_quarantined: Faulty training samples whose places other samples take before the run fails; 0 makes any
            fault an error. Needs a callback that records them; without one any fault is an error too.

    Raises:
        ConfigError: A size below 1, a batch that does not divide, or both `shards` and `mixture`.
    """

    def __init__(
        self,
        shards: str | None = None,
        global_batch_size: int = 16,
        window_frames: int = 150,
        fps: float = 30.0,
        seed: int = 0,
        num_workers: int = 0,
        shuffle_window: int = DEFAULT_SHUFFLE_WINDOW,
        val_shards: str | None = None,
        val_batch_size: int = 16,
        max_val_clips: int | None = None,
        cache_mb: float = 512.0,
        verify_shards: bool = False,
        demo_clips: int = 400,
        demo_seed: int = 0,
        mixture: list[MixtureSource] | None = None,
        cache_dir: str | None = None,
        cache_gb: float = DEFAULT_CACHE_GB,
        fetch_tries: int = 5,
        fetch_timeout_s: float = 30.0,
        max_quarantined: int = DEFAULT_MAX_QUARANTINED,
    ) -> None:
        super().__init__()
        for name, value in (
            ("global_batch_size", global_batch_size),
            ("window_frames", window_frames),
            ("val_batch_size", val_batch_size),
            ("max_val_clips", 1 if max_val_clips is None else max_val_clips),
            ("shuffle_window", shuffle_window),
        ):
            if value < 1:
                raise ConfigError(f"{name} is {value}", where=f"data.{name}", expected="at least 1")
        for name, value in (("num_workers", num_workers), ("seed", seed), ("max_quarantined", max_quarantined)):
            if value < 0:
                raise ConfigError(f"{name} is {value}", where=f"data.{name}", expected="0 or more")
        if mixture is not None and (shards is not None or not mixture):
            raise ConfigError(
                "both data.shards and data.mixture are given" if mixture else "data.mixture is empty",
                where="data.mixture",
                expected="either one corpus or a mixture of at least one",
            )
        if not cache_gb > 0:
            raise ConfigError(f"cache_gb is {cache_gb}", where="data.cache_gb", expected="above 0")
        self.shards, self.val_shards, self.mixture = shards, val_shards, mixture
        self.global_batch_size, self.window_frames, self.fps, self.seed = global_batch_size, window_frames, fps, seed
        self.num_workers, self.shuffle_window = num_workers, shuffle_window
        self.val_batch_size, self.max_val_clips = val_batch_size, max_val_clips
        self.cache_mb, self.verify_shards = cache_mb, verify_shards
        self.demo_clips, self.demo_seed = demo_clips, demo_seed
        self.max_quarantined = max_quarantined
        folder = cache_root() / "shards" if cache_dir is None else Path(cache_dir).expanduser()
        self._shard_cache = ShardCache(folder, int(cache_gb * 1e9), Patience(fetch_tries, fetch_timeout_s))
        self.start_position = 0
        self._sources: CorpusSources | None = None
        self._order: GlobalOrder | MixtureOrder | None = None

    # ---------------------------------------------------------------- set-up
    @property
    def _uses_demo(self) -> bool:
        return self.shards is None and self.mixture is None

    def prepare_data(self) -> None:
        """Make the built-in corpus where no shards are given (one process of each machine)."""
        if self._uses_demo:
            cached_demo_corpus(self.demo_clips, self.demo_seed)

    def setup(self, stage: str | None = None) -> None:
        """Open the training split and check it; for `fit` also put it in order.

        Raises:
            DataError: No corpus, damaged or missing shards, another frame rate.
            ConfigError: Fewer samples than one global batch.
        """
        if self._sources is None:
            paths: list[str | Path] = [source.shards for source in self.mixture or []]
            if self.shards is not None:
                paths = [self.shards]
            elif self._uses_demo:
                paths = [cached_demo_corpus(self.demo_clips, self.demo_seed)]
            self._sources = CorpusSources(
                paths,
                fps=self.fps,
                cache=self._shard_cache,
                cache_mb=self.cache_mb,
                verify=self.verify_shards,
                val_shards=self.val_shards,
            )
        if stage in (None, "fit") and self._order is None:
            self._order = self._new_order(self._sources)

    def _new_order(self, sources: CorpusSources) -> GlobalOrder | MixtureOrder:
        weights = [source.weight for source in self.mixture or [MixtureSource("")]]
        indices = [part.index for part in sources.parts]
        order = training_order(indices, weights, self.global_batch_size, self.seed, self.shuffle_window)
        dropped = order.num_samples - order.samples_per_epoch
        if dropped and len(indices) == 1:
            rank_zero_info(
                f"{order.num_samples} training clips: {order.samples_per_epoch} of them in each epoch, the last "
                f"{dropped} do not fill a batch of {self.global_batch_size} (other ones each epoch)"
            )
        return order

    @property
    def sources(self) -> CorpusSources:
        """The corpora; opened at first use."""
        self.setup("open")
        assert self._sources is not None
        return self._sources

    @property
    def train_samples(self) -> Samples:
        """The training split, or those of a mixture one after another."""
        return self.sources.train

    @property
    def order(self) -> GlobalOrder | MixtureOrder:
        """The global order of the training split."""
        self.setup("fit")
        assert self._order is not None
        return self._order

    @property
    def manifest(self) -> Manifest:
        """Manifest of the training corpus; of a mixture what its manifests hold together."""
        return self.sources.manifest

    @property
    def genres(self) -> tuple[str, ...]:
        """Genre names in label order; empty where clips have none."""
        return self.manifest.genres

    @property
    def normalizers(self) -> tuple[MinMaxNormalizer, MinMaxNormalizer]:
        """New copies of the normalisers of motion and music, fitted on the training corpus's train split."""
        return self.manifest.normalizers()

    @property
    def samples_per_epoch(self) -> int:
        """Samples of one data epoch, in whole global batches: all of the corpus, or of a mixture's corpora together."""
        return self.order.samples_per_epoch

    def epoch_of(self, position: int) -> int:
        """Data epoch of a global position."""
        return self.order.epoch_of(position)

    def consumed_after(self, batch: MotionBatch) -> int:
        """Global samples consumed once the optimizer step that holds this batch is done; what a checkpoint keeps."""
        return self._sampler().consumed_after(batch["position"].tolist())

    # ---------------------------------------------------------------- loaders
    def train_dataloader(self) -> MotionLoader:
        """Endless batches of this rank, from `start_position` on."""
        windows = TrainingWindows(
            self.train_samples, self.order, self.window_frames, self.genres, self._substitutes_faulty()
        )
        return self._loader(windows, batch_sampler=self._sampler())

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

    def val_dataloader(self) -> MotionLoader | list[MotionLoader]:
        """Each validation clip's first window once; an empty list where there is no validation split."""
        return self._held_out_loader("val")

    def test_dataloader(self) -> MotionLoader | list[MotionLoader]:
        """The same of the test split."""
        return self._held_out_loader("test")

    def _held_out_loader(self, split: str) -> MotionLoader | list[MotionLoader]:
        samples = self.sources.split(split)
        if samples is None:
            return []
        rank, world_size = self._rank()
        numbers = self._numbers(split, samples)
        windows = ValidationWindows(samples, numbers, self.window_frames, self.genres, rank, world_size)
        return self._loader(windows, batch_size=self.val_batch_size)

    def _loader(self, windows: TrainingWindows | ValidationWindows, **options: Any) -> MotionLoader:
        trainer = self.trainer
        connector = getattr(trainer, "_accelerator_connector", None)
        if trainer is not None and trainer.world_size > 1 and getattr(connector, "use_distributed_sampler", False):
            raise ConfigError(
                "Lightning would put a sampler of its own over the global order",
                where="trainer.use_distributed_sampler",
                expected="false",
            )
        on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return MotionLoader(windows, num_workers=self.num_workers, pin_memory=on_gpu, seed=self.seed, **options)

    def music_file(self, song: str) -> Path | None:
        """The song's file in the corpus, for the sound of a video; None where the corpus brings none."""
        return self.sources.music_file(song)

    def clip_numbers(self, split: str) -> list[int]:
        """Numbers of the clips of `train`, `val` or `test` in the corpus's order, none of which is read.

        `max_val_clips` holds for `val`. An absent split gives an empty list (said once).
        """
        samples = self.sources.split(split)
        return [] if samples is None else list(self._numbers(split, samples))

    def clips(self, split: str, numbers: Sequence[int] | None = None) -> list[Clip]:
        """Whole clips of a split: those of some `clip_numbers`, or all of them."""
        samples = self.sources.split(split)
        if samples is None:
            return []
        return [self._clip(samples, n) for n in (self._numbers(split, samples) if numbers is None else numbers)]

    def _clip(self, samples: Samples, number: int) -> Clip:
        sample = samples[number]
        motion = sample.motion
        return Clip(
            key=sample.key,
            song=sample.meta.song,
            genre=motion.genre,
            genre_label=genre_label(motion.genre, self.genres, samples.where(number)),
            fps=motion.fps,
            poses=motion.poses,
            trans=motion.trans,
            music=sample.music_TC,
            beats_s=np.zeros(0) if motion.music_beats_s is None else motion.music_beats_s,
            start_s=sample.meta.start_s,
            motion=motion,
        )

    def _numbers(self, split: str, samples: Samples) -> Sequence[int]:
        """Which clips of a split: all, or `max_val_clips` of the validation split."""
        if split != "val":
            return range(len(samples))
        count = min(len(samples), self.max_val_clips or len(samples))
        # Spread over the split: neighbours are clips of one song.
        return [int(number) for number in np.linspace(0, len(samples) - 1, count).round()]

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
