"""Videos of what the model dances, during training."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl

from callbacks.previews import Preview, averaged_dances
from lightning_modules.motion_expert import MotionExpertModule
from macedance.errors import ConfigError
from macedance.rendering.video import render_dance


class SampleVideos(Preview):
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
        super().__init__(every_n_steps)
        self.num_videos = num_videos
        self.sampler, self.num_steps, self.seed, self.size = sampler, num_steps, seed, size

    def preview(self, trainer: pl.Trainer, module: MotionExpertModule) -> None:
        """Make the videos."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        clips = data.clips("val")[: self.num_videos]
        if not clips:
            return
        motions = averaged_dances(
            trainer, module, clips, seed=self.seed, sampler=self.sampler, num_steps=self.num_steps
        )
        folder = Path(trainer.default_root_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        for k, (motion, clip) in enumerate(zip(motions, clips, strict=True)):
            song = data.music_file(clip.song)
            render_dance(
                motion,
                motion.fps,
                folder / f"step-{trainer.global_step:08d}-{k}.mp4",
                music=song,
                music_start_s=clip.start_s,
                width=self.size,
                height=self.size,
            )
