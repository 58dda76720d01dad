"""The motion metrics of dances generated for held-out songs, during training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from callbacks.previews import Preview, averaged_dances
from callbacks.run_files import MetricsCsv, find_callback, write_json
from lightning_modules.motion_expert import MotionExpertModule
from macedance.errors import ConfigError
from macedance.metrics.motion import evaluate_clips
from macedance.motion.files import JointClip
from macedance.report.progress import Progress


class MotionProtocol(Preview):
    """Every k steps: a dance for each validation clip from the averaged weights, judged against the clips themselves.

    Values go to the logger, to ``metrics_val.csv`` (``val/fid_k``, ``val/bas``, ...) and to ``protocol/step-<n>.json``.

    Args:
        every_n_steps: Optimizer steps between two evaluations.
        max_clips: Clips at most, spread over the split by their order; None: all.
        sampler: ``ddim`` or ``dpmpp``; None: the model's own.
        num_steps: Sampling steps; None: the sampler's own number.
        beta: Temperature; None: the objective's default.
        seed: Of the sampling noise.
        allow_small_n: Report Frechet distances below the feature dimension too.
    """

    def __init__(
        self,
        every_n_steps: int = 1000,
        max_clips: int | None = None,
        sampler: str | None = None,
        num_steps: int | None = None,
        beta: float | None = None,
        seed: int = 0,
        allow_small_n: bool = False,
    ) -> None:
        if every_n_steps < 1 or (max_clips is not None and max_clips < 1):
            raise ConfigError("every_n_steps and max_clips count from 1", where="MotionProtocol")
        super().__init__(every_n_steps)
        self.max_clips = max_clips
        self.sampler, self.num_steps, self.beta, self.seed = sampler, num_steps, beta, seed
        self.allow_small_n = allow_small_n
        self._said_refusal = False

    def preview(self, trainer: pl.Trainer, module: MotionExpertModule) -> dict[str, dict[str, Any]]:
        """Evaluate."""
        return self.evaluate(trainer, module)

    def evaluate(self, trainer: pl.Trainer, module: MotionExpertModule) -> dict[str, dict[str, Any]]:
        """Generate, judge, write; returns metric name -> {value, n, ...}, empty without a validation split."""
        clips = trainer.datamodule.clips("val")  # type: ignore[attr-defined]
        if self.max_clips is not None:
            clips = clips[:: max(1, -(-len(clips) // self.max_clips))]
        if not clips:
            return {}
        with Progress("validation dances", 1) as bar:
            motions = averaged_dances(
                trainer,
                module,
                clips,
                beta=self.beta,
                seed=self.seed,
                sampler=self.sampler,
                num_steps=self.num_steps,
                progress=bar,
            )
        generated = [JointClip.from_motion(m, c.key) for m, c in zip(motions, clips, strict=True)]
        reference = [JointClip.from_motion(replace(c.motion, song=c.song), c.key) for c in clips]
        metrics = evaluate_clips(generated, reference, allow_small_n=self.allow_small_n)
        refused = {str(m["reason"]) for m in metrics.values() if m.get("reason")}
        if refused and not self._said_refusal:
            self._said_refusal = True
            rank_zero_info(f"validation numbers left out: {'; '.join(sorted(refused))}")
        values = {f"val/{k}": float(m["value"]) for k, m in metrics.items() if m.get("value") is not None}
        csv_file = find_callback(trainer, MetricsCsv)
        if csv_file is not None:
            csv_file.write_validation(trainer.global_step, values)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        folder = Path(trainer.default_root_dir) / "protocol"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / f"step-{trainer.global_step:08d}.json",
            {"schema": 1, "step": trainer.global_step, "presets": {"clean": metrics}},
        )
        return metrics
