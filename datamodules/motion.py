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
from datamodules.streams.dataset import MotionSamples
from datamodules.streams.manifest import MANIFEST_NAME, Manifest, ShardSet, open_shards
from datamodules.streams.order import ElasticBatchSampler, GlobalOrder, micro_batch_size
from datamodules.streams.samples import genre_label
from datamodules.streams.windows import MotionBatch, MotionLoader, TrainingWindows, ValidationWindows
from macedance.errors import ConfigError
from macedance.motion.files import Motion
from macedance.motion.normalizer import MinMaxNormalizer


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
        shards: Corpus folder (its train split) or one split's folder; None makes the built-in corpus once in the
            cache folder.
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

    Raises:
        ConfigError: A size below 1, or a batch that does not divide.
    """

    def __init__(
        self,
        shards: str | None = None,
        global_batch_size: int = 16,
        window_frames: int = 150,
        fps: float = 30.0,
        seed: int = 0,
        num_workers: int = 0,
        shuffle_window: int = 4096,
        val_shards: str | None = None,
        val_batch_size: int = 16,
        max_val_clips: int | None = None,
        cache_mb: float = 512.0,
        verify_shards: bool = False,
        demo_clips: int = 400,
        demo_seed: int = 0,
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
        if num_workers < 0 or seed < 0:
            raise ConfigError(f"num_workers {num_workers} and seed {seed}", where="data", expected="0 or more")
        self.shards, self.val_shards = shards, val_shards
        self.global_batch_size, self.window_frames, self.fps, self.seed = global_batch_size, window_frames, fps, seed
        self.num_workers, self.shuffle_window = num_workers, shuffle_window
        self.val_batch_size, self.max_val_clips = val_batch_size, max_val_clips
        self.cache_mb, self.verify_shards = cache_mb, verify_shards
        self.demo_clips, self.demo_seed = demo_clips, demo_seed
        self.start_position = 0
        self._train: MotionSamples | None = None
        self._order: GlobalOrder | None = None
        self._held_out: dict[str, MotionSamples | None] = {}

    # ---------------------------------------------------------------- set-up
    def prepare_data(self) -> None:
        """Make the built-in corpus where no shards are given (one process of each machine)."""
        if self.shards is None:
            cached_demo_corpus(self.demo_clips, self.demo_seed)

    def setup(self, stage: str | None = None) -> None:
        """Open the training split and check it; for `fit` also put it in order.

        Raises:
            DataError: No corpus, damaged or missing shards, another frame rate.
            ConfigError: Fewer samples than one global batch.
        """
        if self._train is None:
            folder = cached_demo_corpus(self.demo_clips, self.demo_seed) if self.shards is None else self.shards
            shards = self._opened(open_shards(folder, verify=self.verify_shards))
            self._train = MotionSamples(shards, cache_mb=self.cache_mb)
        if stage in (None, "fit") and self._order is None:
            self._order = self._new_order(self._train)

    def _new_order(self, samples: MotionSamples) -> GlobalOrder:
        order = GlobalOrder(samples.index.starts_S1, self.global_batch_size, self.seed, self.shuffle_window)
        if order.dropped_per_epoch:
            rank_zero_info(
                f"{order.num_samples} training clips: {order.samples_per_epoch} of them in each epoch, the last "
                f"{order.dropped_per_epoch} do not fill a batch of {self.global_batch_size} (other ones each epoch)"
            )
        return order

    def _opened(self, shards: ShardSet) -> ShardSet:
        if abs(shards.manifest.fps - self.fps) > 1e-6:
            raise ConfigError(
                f"data.fps is {self.fps} and the corpus has {shards.manifest.fps} frames per second",
                where=shards.folder,
                fix="set data.fps to the corpus's or make the corpus anew",
            )
        return shards

    @property
    def train_samples(self) -> MotionSamples:
        """The training split; opened at first use."""
        self.setup("open")
        assert self._train is not None
        return self._train

    @property
    def order(self) -> GlobalOrder:
        """The global order of the training split."""
        self.setup("fit")
        assert self._order is not None
        return self._order

    @property
    def manifest(self) -> Manifest:
        """Manifest of the training corpus."""
        return self.train_samples.shards.manifest

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
        """Samples of one data epoch: whole global batches."""
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
        windows = TrainingWindows(self.train_samples, self.order, self.window_frames, self.genres)
        return self._loader(windows, batch_sampler=self._sampler())

    def val_dataloader(self) -> MotionLoader | list[MotionLoader]:
        """Each validation clip's first window once; an empty list where there is no validation split."""
        return self._held_out_loader("val")

    def test_dataloader(self) -> MotionLoader | list[MotionLoader]:
        """The same of the test split."""
        return self._held_out_loader("test")

    def _held_out_loader(self, split: str) -> MotionLoader | list[MotionLoader]:
        samples = self._split(split)
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
        folder = self.train_samples.shards.folder / "music"
        return next((path for path in sorted(folder.glob(f"{song}.*")) if path.stem == song), None)

    def clips(self, split: str) -> list[Clip]:
        """Whole clips of `train`, `val` or `test`, in the corpus's order.

        `max_val_clips` holds for `val`. An absent split gives an empty list (said once).
        """
        samples = self._split(split)
        if samples is None:
            return []
        return [self._clip(samples, number) for number in self._numbers(split, samples)]

    def _clip(self, samples: MotionSamples, number: int) -> Clip:
        sample = samples[number]
        motion = sample.motion
        return Clip(
            key=sample.key,
            song=sample.meta.song,
            genre=motion.genre,
            genre_label=genre_label(motion.genre, self.genres, samples.index.where(number)),
            fps=motion.fps,
            poses=motion.poses,
            trans=motion.trans,
            music=sample.music_TC,
            beats_s=np.zeros(0) if motion.music_beats_s is None else motion.music_beats_s,
            start_s=sample.meta.start_s,
            motion=motion,
        )

    def _split(self, split: str) -> MotionSamples | None:
        """Samples of a split; None, said once, where the corpus has none."""
        if split == self.train_samples.shards.split and not (split == "val" and self.val_shards):
            return self.train_samples
        if split not in self._held_out:
            self._held_out[split] = self._open_split(split)
        return self._held_out[split]

    def _open_split(self, split: str) -> MotionSamples | None:
        corpus = self.train_samples.shards
        if split == "val" and self.val_shards is not None:
            return MotionSamples(self._opened(open_val_shards(self.val_shards)), cache_mb=self.cache_mb)
        if split not in corpus.manifest.splits:
            reason = corpus.manifest.absent_splits.get(split, "the manifest does not name it")
            consequence = "; validation is skipped" if split == "val" else ""
            rank_zero_info(f"the corpus {corpus.folder} has no {split!r} split ({reason}){consequence}")
            return None
        shards = open_shards(corpus.folder, split=split, verify=self.verify_shards)
        return MotionSamples(shards, cache_mb=self.cache_mb)

    def _numbers(self, split: str, samples: MotionSamples) -> Sequence[int]:
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


def open_val_shards(path: str) -> ShardSet:
    """The `val` split of a corpus folder, or the split that the path names.

    Raises:
        DataError: As `open_shards`.
    """
    folder = Path(path).expanduser()
    return open_shards(folder, split="val" if (folder / MANIFEST_NAME).is_file() else None)
