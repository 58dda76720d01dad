"""Videos of what the model dances, during training."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from callbacks.ema import EmaCallback
from callbacks.run_files import find_callback
from lightning_modules.motion_expert import MotionExpertModule
from macedance.errors import ConfigError
from macedance.rendering.video import render_dance


class SampleVideos(pl.Callback):
    """Every k steps: ``samples/step-<n>-<k>.mp4``, dances to the first validation clips with their music.

    Args:
        every_n_steps: Optimizer steps between two sets.
        num_videos: Videos of a set.
        sampler: ``ddim`` or ``dpmpp``; None: the model's own.
        num_steps: Sampling steps; None: the sampler's own number.
        seed: Of the sampling noise.
        size: Width and height in pixels.
    """

    def __init__(
        self,
        every_n_steps: int = 1000,
        num_videos: int = 1,
        sampler: str | None = None,
        num_steps: int | None = None,
        seed: int = 0,
        size: int = 320,
    ) -> None:
        if every_n_steps < 1 or num_videos < 1:
            raise ConfigError("every_n_steps and num_videos count from 1", where="SampleVideos")
        self.every_n_steps, self.num_videos = every_n_steps, num_videos
        self.sampler, self.num_steps, self.seed, self.size = sampler, num_steps, seed, size
        self._last_step = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Make the videos when the step is due."""
        step = trainer.global_step
        if step == self._last_step or step % self.every_n_steps or not trainer.is_global_zero:
            return
        self._last_step = step
        assert isinstance(pl_module, MotionExpertModule)
        data = trainer.datamodule  # type: ignore[attr-defined]
        clips = data.clips("val")[: self.num_videos]
        if not clips:
            return
        averaged = find_callback(trainer, EmaCallback)
        with averaged.applied(pl_module) if averaged else nullcontext():
            pipeline = pl_module.pipeline()
            motions = pipeline.generate_batch(
                [clip.music for clip in clips],
                genres=[clip.genre if clip.genre in pipeline.genres else None for clip in clips],
                seed=self.seed,
                sampler=self.sampler,
                num_steps=self.num_steps,
                music_beats_s=[clip.beats_s for clip in clips],
            )
        folder = Path(trainer.default_root_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        for k, (motion, clip) in enumerate(zip(motions, clips, strict=True)):
            song = data.music_file(clip.song)
            render_dance(
                motion,
                motion.fps,
                folder / f"step-{step:08d}-{k}.mp4",
                music=song,
                music_start_s=clip.start_s,
                width=self.size,
                height=self.size,
            )
