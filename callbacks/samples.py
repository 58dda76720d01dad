"""Videos of what the model dances, during training."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl

from callbacks.agreement import agreed_evaluation
from callbacks.ema import preview_network
from callbacks.previews import Preview, averaged_dances, beating, share_of
from lightning_modules.motion_expert import MotionExpertModule
from macedance.rendering.video import render_dance


class SampleVideos(Preview):
    """Every k steps: ``samples/step-<n>-<k>.mp4``, dances to the first validation clips with their music.

    The ranks share the videos.

    Args:
        every_n_steps: Optimizer steps between two sets; see Preview.
        num_videos: Videos of a set.
        sampler: ``ddim`` or ``dpmpp``; None: the model's own.
        num_steps: Sampling steps; None: the sampler's own number.
        seed: Of the sampling noise.
        size: Width and height in pixels.
        every_n_epochs: Data epochs between two sets.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        num_videos: int = 1,
        sampler: str | None = None,
        num_steps: int | None = None,
        seed: int = 0,
        size: int = 320,
        every_n_epochs: int | None = None,
    ) -> None:
        super().__init__(every_n_steps, every_n_epochs)
        self.check_counts(num_videos=num_videos)
        self.num_videos = num_videos
        self.sampler, self.num_steps, self.seed, self.size = sampler, num_steps, seed, size

    def preview(self, trainer: pl.Trainer, module: MotionExpertModule) -> None:
        """Make the videos."""
        folder = Path(trainer.default_root_dir) / "samples"
        with preview_network(trainer, module):
            agreed_evaluation("making videos", lambda: self._make(trainer, module, folder), where=folder)

    def _make(self, trainer: pl.Trainer, module: MotionExpertModule, folder: Path) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        chosen = data.clip_numbers("val")[: self.num_videos]
        own = share_of(len(chosen), trainer.global_rank, trainer.world_size)
        numbers = [chosen[k] for k in own]
        if not numbers:
            return
        clips = data.clips("val", numbers)
        motions = averaged_dances(
            trainer, module, clips, numbers, seed=self.seed, sampler=self.sampler, num_steps=self.num_steps
        )
        folder.mkdir(parents=True, exist_ok=True)
        for k, motion, clip in zip(own, motions, clips, strict=True):
            render_dance(
                motion,
                motion.fps,
                folder / f"step-{trainer.global_step:08d}-{k}.mp4",
                music=data.music_file(clip.song),
                music_start_s=clip.start_s,
                width=self.size,
                height=self.size,
                progress=beating(trainer, None),
            )
